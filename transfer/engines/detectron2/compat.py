"""Detectron2 v0.6 on today's torch, NumPy and Pillow, and what a record says about the copy that is installed.

v0.6 was written for Pillow < 10 and NumPy < 1.24 and imports its compiled module `detectron2._C` without need. What the installed
Python files name and this environment lacks is put in their place; a newer Detectron2 names none of it and is left alone.
"""

import functools
import hashlib
import importlib
import importlib.machinery
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from results.errors import UserError

V06_DIGEST = "46417bf696099e9276fcda76fa5a32505044ec525ad3b13020b8f040d45dabd8"
"""`source_digest` of tag v0.6; the copy on the package index has the same Python files."""
NUMPY_NAMES = {"int": int, "float": float, "bool": bool, "object": object, "str": str}
"""What NumPy's old names of Python types stood for; removed in NumPy 1.24."""
OUTSIDE = ("projects/", "model_zoo/configs/")
"""Folders that lie elsewhere in a checkout and are linked in when a package is built."""


def prepare() -> None:
    """Make `import detectron2` and all that we use of it work; call it before any other import of Detectron2.

    A compiled `detectron2._C` is used where there is one. Calling it again changes nothing.

    Raises:
        UserError: when Detectron2 is not installed.
    """
    root = installed()
    used = _names_used(root)
    _prepare_pillow(used)
    _prepare_numpy(used)
    if not compiled() and _wants_compiled(root):
        _stand_in("detectron2._C", _Absent("detectron2._C"))
        _stand_in("detectron2.evaluation.fast_eval_api", _PlainEvaluation("detectron2.evaluation.fast_eval_api"))


def installed() -> Path:
    """Return the folder of the installed `detectron2` package without importing it; a UserError where there is none."""
    spec = importlib.util.find_spec("detectron2")
    if spec is None or not spec.origin:
        raise UserError(
            "Detectron2 is not installed in this environment: run 'make setup', or use the transfer-det image "
            "(docs/install.md says how to put your own Detectron2 in its place)."
        )
    return Path(spec.origin).parent


def version() -> str:
    """Name the installed Detectron2 for records: release or snapshot, digest of its Python files, compiled or not.

    Upstream's main branch still calls itself 0.6, so the files tell them apart.
    """
    root = installed()
    digest = source_digest(root)
    number = re.search(r'__version__ = "([^"]+)"', (root / "__init__.py").read_text(encoding="utf-8"))
    kind = "tag v0.6" if digest == V06_DIGEST else "not a release"
    compiled_too = "compiled" if compiled() else "Python files only"
    return f"{number[1] if number else 'unknown'} ({kind}, {compiled_too}, sources {digest[:12]})"


def source_digest(root: Path) -> str:
    """Sha256 over names and contents of the package's own Python files, 64 hex digits."""
    total = hashlib.sha256()
    for name, content in _sources(root).items():
        total.update(f"{name}\0{len(content)}\0".encode() + content)
    return total.hexdigest()


def compiled() -> bool:
    """Whether the compiled module can be imported; torch is loaded first, since its libraries are linked to."""
    import torch  # noqa: F401

    present = sys.modules.get("detectron2._C")
    if isinstance(present, _Absent):
        return False
    try:
        importlib.import_module("detectron2._C")
    except ImportError:
        return False
    return True


@functools.cache
def _sources(root: Path) -> dict[str, bytes]:
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    return {name: (root / name).read_bytes() for name in names if not name.startswith(OUTSIDE)}


def _names_used(root: Path) -> set[str]:
    pattern = re.compile(rb"\b(?:np\.(?:int|float|bool|object|str)|Image\.LINEAR)\b")
    return {name.decode() for content in _sources(root).values() for name in pattern.findall(content)}


def _prepare_pillow(used: set[str]) -> None:
    from PIL import Image

    if "Image.LINEAR" in used and not hasattr(Image, "LINEAR"):
        Image.LINEAR = Image.Resampling.BILINEAR


def _prepare_numpy(used: set[str]) -> None:
    import numpy as np

    for name, kind in NUMPY_NAMES.items():
        if f"np.{name}" in used and name not in vars(np):
            setattr(np, name, kind)


def _wants_compiled(root: Path) -> bool:
    """Whether importing the layers fails without the compiled module: an import at the left margin, outside any `try`."""
    return any(
        name.startswith("layers/") and re.search(rb"^from detectron2 import _C\b", content, re.MULTILINE)
        for name, content in _sources(root).items()
    )


def _stand_in(name: str, module: ModuleType) -> None:
    if not isinstance(sys.modules.get(name), ModuleType):
        sys.modules[name] = module


class _Absent(ModuleType):
    """In the place of the compiled module: importable, and says at use what is missing."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(
            f"{self.__name__}.{name} needs a compiled Detectron2; rotated boxes and deformable convolutions are not there without it"
        )


class _PlainEvaluation(_Absent):
    """In the place of the compiled COCO evaluation: pycocotools' own, as newer versions fall back to by themselves."""

    @property
    def COCOeval_opt(self) -> type:
        from pycocotools.cocoeval import COCOeval

        return COCOeval
