"""`python -m transfer export`: one backbone under the names of every library, each proved in that library's own model."""

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from results import provenance
from results.errors import UserError
from results.files import file_digest
from results.settings import compose, split_overrides
from transfer.dialects import LIBRARIES, NATIVE, dialect
from transfer.dialects.place import bundle_folder, check_place
from transfer.dialects.proof import DEFINITION, PROOF_SIDES, TOLERANCE, failed, proof_image, prove, source_stages
from transfer.encoders import EncoderOptions, open_encoder
from transfer.recording import say

if TYPE_CHECKING:
    from transfer.encoders.base import Encoder
    from transfer.encoders.network import Backbone

HELP = """python -m transfer export encoder=... out=FOLDER key=value ...

Writes one backbone under the names of torchvision, timm, Detectron2 and mmsegmentation, with card.json (digests, means and
deviations as each library wants them, source, licence, proof) and USE.md (how to load each file). Every file is proved: the
library's own model is built, loads it in its own way and must give the source's stage features. A failed proof leaves nothing.

  encoder=latest      as for the other commands; colour floors have no weights
  out=FOLDER          may be new, empty, or hold a bundle and nothing else, which is replaced
  formats=null        some of [torchvision,timm,detectron2,mmseg]; null takes all that know the architecture and are installed here
  head=null           fpn or c4: refuse weights that this Detectron2 detector cannot hold
  work=work
  seed=0              of encoder=random
  backbone=resnet18   of encoder=random and of a downloaded imagenet
  imagenet=null       file of torchvision weights for encoder=imagenet; download=true fetches them
  download=false
  allow_partial=false

Exit status: 0 done, 2 mistake in input or settings, or a proof that failed.
"""

SCHEMA = 1
LICENCE = "Weights carry the terms of what they were trained on; check those before passing them on."
HEADS = ("fpn", "c4")


@dataclass
class Settings:
    """The settings of `python -m transfer export`; its help text says what they mean."""

    encoder: str = "latest"
    out: str = ""
    formats: Any = None
    head: str | None = None
    work: str = "work"
    seed: int = 0
    backbone: str = "resnet18"
    imagenet: str | None = None
    download: bool = False
    allow_partial: bool = False


def load(arguments: Sequence[str]) -> Settings:
    """Resolve `key=value` arguments; a UserError names what is unknown or does not fit."""
    settings: Settings = OmegaConf.to_object(
        compose(OmegaConf.structured(Settings), [], split_overrides(list(arguments)))
    )
    if not settings.out:
        raise UserError("export needs out=FOLDER: the folder that the bundle is written to.")
    if settings.formats is not None:
        given = settings.formats if isinstance(settings.formats, list) else [settings.formats]
        settings.formats = list(dict.fromkeys(str(name) for name in given))
        for name in settings.formats:
            dialect(name)
        if not settings.formats:
            raise UserError(f"formats=[] writes nothing: choose among {', '.join(LIBRARIES)}, or leave it out for all.")
    if settings.head is not None and settings.head not in HEADS:
        raise UserError(f"head={settings.head} is not known: give fpn or c4, the detector that the weights are for.")
    return settings


def export(settings: Settings) -> int:
    """Write the bundle of one encoder and prove every format in it; a bundle that was there is replaced.

    Returns:
        0.

    Raises:
        UserError: when the encoder, the folder or a format does not fit, or a proof fails; then nothing is written.
    """
    out = Path(settings.out)
    check_place(out)
    options = EncoderOptions(
        work=Path(settings.work),
        imagenet=settings.imagenet,
        download=settings.download,
        allow_partial=settings.allow_partial,
        device="cpu",
        seed=settings.seed,
        backbone=settings.backbone,
    )
    encoder = open_encoder(settings.encoder, options)
    if not hasattr(encoder, "backbone"):
        raise UserError(f"encoder {encoder.name} has no weights: an export needs a network.")
    backbone = encoder.backbone()
    if backbone.architecture not in NATIVE:
        raise UserError(
            f"{encoder.name} is a {backbone.architecture}, which cannot be exported: {', '.join(NATIVE)} are translated and proved."
        )
    if settings.head is not None:
        dialect("detectron2").require_head(backbone.architecture, settings.head)
    formats, left_out = choose_formats(settings.formats, backbone.architecture)
    with bundle_folder(out) as temporary:
        files, proofs = write_formats(backbone, formats, temporary)
        card = make_card(encoder, backbone, options.size, files, proofs, left_out)
        for name, text in (
            ("card.json", json.dumps(card, indent=1, ensure_ascii=False) + "\n"),
            ("USE.md", describe(card)),
        ):
            (temporary / name).write_text(text, encoding="utf-8", errors="backslashreplace")
    for name, proof in proofs.items():
        say(
            f"{name:<12} largest difference {proof['largest']:.1e} over {len(proof['stages'])} stages ({proof['library']})"
        )
    for name, reason in left_out.items():
        say(f"{name:<12} left out: {reason}")
    say(f"{out}: {len(files)} files of {encoder.name} ({backbone.architecture}), differences up to {TOLERANCE:g} pass")
    return 0


def choose_formats(asked: list[str] | None, architecture: str) -> tuple[list[str], dict[str, str]]:
    """Return the formats to write, and why each of the others is not; an asked one that cannot be had is a UserError."""
    chosen, left_out = [], {}
    for name in asked or LIBRARIES:
        if architecture not in dialect(name).ARCHITECTURES:
            if asked:
                dialect(name).translate({}, architecture)
            left_out[name] = f"{name} takes {' and '.join(dialect(name).ARCHITECTURES)} here, this is {architecture}"
        elif importlib.util.find_spec(LIBRARIES[name]) is None:
            left_out[name] = f"{LIBRARIES[name]} is not installed here, so it could not be proved"
            if asked:
                raise UserError(f"formats: {left_out[name]}; export where it is (docs/install.md), or without {name}.")
        else:
            chosen.append(name)
    return chosen, left_out


def write_formats(backbone: "Backbone", formats: list[str], folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write every format into `folder` and prove each through its files.

    Returns:
        what the card keeps of the files (by name), and of the proofs (by format).

    Raises:
        UserError: for the first proof that fails.
    """
    from safetensors.torch import load_file, save

    image = proof_image(*PROOF_SIDES[backbone.architecture])
    source = source_stages(backbone, image)
    files, proofs = {}, {}
    for name in formats:
        own = dialect(name)
        tensors = own.translate(backbone.state, backbone.architecture)
        path = folder / f"{name}.safetensors"
        path.write_bytes(save({key: value.contiguous() for key, value in tensors.items()}))
        written = [path]
        if own.ENGINE_FILE:
            written.append(path.with_suffix(f".{own.ENGINE_FILE}"))
            own.write_engine_file(load_file(path), written[-1])
        try:
            found = own.stages(written[-1], backbone.architecture, image, backbone.mean, backbone.std)
        except Exception as error:  # whatever the library says: its model does not take the file
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(failed(name, reason)) from error
        proofs[name] = prove(name, source, found)
        for file in written:
            files[file.name] = {"format": name, "digest": file_digest(file), "tensors": len(tensors)}
    return files, proofs


def make_card(
    encoder: "Encoder",
    backbone: "Backbone",
    size: int,
    files: dict[str, Any],
    proofs: dict[str, Any],
    left_out: dict[str, str],
) -> dict[str, Any]:
    """What the bundle is, for a person and for `encoder=`: the source's card where there is one, the files, and the proofs.

    `digest` is that of the file under the names this project keeps the architecture in, so that the file opens by this card;
    `size` is the input side in px where the source's card says none.
    """
    source = dict(encoder.card or {})
    native = f"{NATIVE[backbone.architecture]}.safetensors"
    card = {
        "method": encoder.name,
        "data": {},
        "licence": LICENCE,
        **source,
        "schema": SCHEMA,
        "name": source.get("name", encoder.name),
        "digest": files[native]["digest"] if native in files else next(iter(files.values()))["digest"],
        "backbone": backbone.architecture,
        "feature_dim": encoder.feature_dim,
        "input": {"size": size, **source.get("input", {}), "mean": list(backbone.mean), "std": list(backbone.std)},
        "source": {"name": encoder.name, "kind": encoder.kind, "digest": encoder.digest, "coverage": encoder.coverage},
    }
    card["input"]["libraries"] = {name: dialect(name).preprocessing(backbone.mean, backbone.std) for name in proofs}
    card["bundle"] = {
        "files": files,
        "left_out": left_out,
        "proof": {
            "definition": DEFINITION,
            "tolerance": TOLERANCE,
            "image": list(PROOF_SIDES[backbone.architecture]),
            "formats": proofs,
        },
        "versions": provenance.versions(),
        "git_revision": provenance.git_revision(),
        "created": provenance.now(),
    }
    return card


def describe(card: dict[str, Any]) -> str:
    """USE.md: how to load each file, in a few lines a library."""
    proofs, files = card["bundle"]["proof"]["formats"], card["bundle"]["files"]
    synthetic = " It was trained on synthetic rehearsal slides." if card["data"].get("rehearsal") else ""
    lines = [f"# {card['source']['name']} ({card['backbone']})", "", f"{card['licence']}{synthetic}", ""]
    for name, proof in proofs.items():
        file = next(file for file in reversed(files) if files[file]["format"] == name)
        usage = dialect(name).usage(file, card["backbone"])
        lines += [f"## {name}", "", "```python", *usage, "```", ""]
        given = "; ".join(f"{key} {_short(value)}" for key, value in card["input"]["libraries"][name].items())
        lines += [f"Input: {given}.", f"Proved in {proof['library']}: largest difference {proof['largest']:.1e}.", ""]
    return "\n".join(lines)


def _short(value: Any) -> str:
    return "[" + ", ".join(f"{number:.4g}" for number in value) + "]" if isinstance(value, list) else str(value)
