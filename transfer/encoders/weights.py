"""Reading weight files of strangers: tensors by dotted name, and nothing else of what lies in the file."""

import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch.serialization import safe_globals

from results.errors import UserError

OBJECTS = (
    "argparse.Namespace",
    "builtins.dict", "builtins.getattr", "builtins.int", "builtins.list",
    "mmengine.logging.history_buffer.HistoryBuffer",
    "numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar", "numpy.dtype", "numpy.ndarray",
    "omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig", "omegaconf.listconfig.ListConfig",
    "omegaconf.nodes.AnyNode", "omegaconf.nodes.BooleanNode", "omegaconf.nodes.FloatNode", "omegaconf.nodes.IntegerNode",
    "omegaconf.nodes.StringNode",
    "pathlib.Path", "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib._local.PosixPath",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "typing.Any",
)  # fmt: skip
"""Names that trainers put beside their weights. Nothing of that name is looked up or made: an empty stand-in takes its place."""
MAPPINGS = (
    "easydict.EasyDict", "lightning.fabric.utilities.data.AttributeDict", "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict", "yacs.config.CfgNode",
)  # fmt: skip
"""The same for kinds of dict, which become plain ones."""
DEPTH = 8
"""How many mappings deep weights are looked for."""
INFLATION = 2
"""A torch file is stored, not compressed: one that says it grows by more than this when read was made by something else."""
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
"""How torch files from before 1.6 begin: a pickled magic number."""
DAMAGE = (
    RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError, AssertionError, MemoryError, OverflowError, RecursionError,
    struct.error,
)  # fmt: skip
"""What torch's reader dies of on damaged bytes."""
STRIP = "where you trust it, save its weights alone with torch.save(model.state_dict(), FILE) or as .safetensors"


class _Forgotten:
    """Takes the place of an object of `OBJECTS`; whatever it is made of is dropped."""

    def __new__(cls, *content: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *content: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Drop it."""


def _plain_dict(*content: Any) -> dict[Any, Any]:
    """Take the place of `collections.defaultdict`, which is made by a call."""
    return {}


STAND_INS = [
    *((_Forgotten, name) for name in OBJECTS),
    *((OrderedDict, name) for name in MAPPINGS),
    (_plain_dict, "collections.defaultdict"),
]


@dataclass(frozen=True)
class WeightFile:
    """What a weight file holds.

    Attributes:
        path: of the file.
        tensors: by name; the keys of nested mappings are joined by dots (`teacher.backbone.conv1.weight`).
        keys: the outermost keys of the file, those without tensors too.
    """

    path: Path
    tensors: dict[str, torch.Tensor]
    keys: frozenset[str]


def require_file(path: Path) -> None:
    """Raise a UserError where there is no file to read weights from."""
    if not path.is_file():
        missing = "there is no such file" if not path.exists() else "it is no plain file"
        raise UserError(f"{path} cannot be read as weights, {missing}: give a .safetensors or torch file.")


def read_weights(path: Path) -> WeightFile:
    """Read the tensors of a safetensors or torch file of any nesting; no object in it is ever made.

    Raises:
        UserError: the file is not there, damaged, no weight file, holds objects other than `OBJECTS`, or no named tensors.
    """
    require_file(path)
    content = _read(path)
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds a {type(content).__name__} instead of tensors by name: save model.state_dict() alone."
        )
    tensors = _flatten(content)
    if not tensors:
        kinds = ", ".join(sorted({type(key).__name__ for key in content})) or "no"
        raise UserError(f"{path} holds no named tensors ({kinds} keys): save model.state_dict() alone.")
    hollow = next((name for name, value in tensors.items() if value.is_meta or value.is_nested), None)
    if hollow is not None:
        raise UserError(
            f"{path} has no plain numbers in {hollow}: save the model's weights again with all tensors on the CPU."
        )
    return WeightFile(path, tensors, frozenset(key for key in content if isinstance(key, str)))


def _read(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            start = file.read(16)
        if not start:
            raise _unreadable(path, "the file is empty")
        if path.suffix == ".safetensors" or start[8:9] == b"{":
            with safe_open(path, "pt") as file:
                if (file.metadata() or {}).get("made_by") == "sgcl-bench":
                    raise UserError(
                        f"{path} is an export of ours without its card.json, which says how tiles are resized and normalised: keep "
                        "the card beside it."
                    )
            return load_file(path)
        if start.startswith(b"PK"):
            _refuse_bombs(path)
        elif start.startswith(b"\x80") and not start.startswith(LEGACY):
            raise UserError(
                f"{path} is a plain pickle (as Detectron2's .pkl), which can run code and is refused: {STRIP}."
            )
        with safe_globals(STAND_INS), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is None:
            raise _unreadable(path, "damaged, or objects among its tensors") from error
        raise UserError(f"{path} holds objects of {named[1]}, which can run code and are refused: {STRIP}.") from error
    except (OSError, SafetensorError, zipfile.BadZipFile, *DAMAGE) as error:
        raise _unreadable(path, str(error)) from error


def _unreadable(path: Path, reason: str) -> UserError:
    reason = " ".join(reason.split())[:120].rstrip(".") or "damaged"
    return UserError(f"{path} cannot be read as weights ({reason}): give a whole .safetensors or torch file.")


def _refuse_bombs(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > INFLATION * path.stat().st_size + 2**20:
        raise UserError(
            f"{path} would grow to {size / 2**20:.0f} MiB when read: torch stores its files uncompressed, unpack this one first."
        )


def _flatten(content: dict[Any, Any]) -> dict[str, torch.Tensor]:
    """Join the keys of nested mappings; lists, numbers, objects and what lies under keys that are no text are left out."""
    tensors: dict[str, torch.Tensor] = {}
    level, seen = [("", content)], {id(content)}
    for _ in range(DEPTH):
        deeper = []
        for prefix, mapping in level:
            for key, value in mapping.items():
                if not isinstance(key, str):
                    continue
                if isinstance(value, torch.Tensor):
                    tensors[prefix + key] = value.detach()
                elif isinstance(value, dict) and id(value) not in seen:
                    seen.add(id(value))
                    deeper.append((f"{prefix}{key}.", value))
        level = deeper
    return tensors
