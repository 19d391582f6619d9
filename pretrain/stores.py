"""From the settings to a cohort, its tiling and its tile store."""

import sys
from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from pretrain import cohorts, methods
from pretrain.annotations import LesionRule
from pretrain.cohorts import camelyon16
from pretrain.tiles import TileStore
from pretrain.tiling import Tiling
from pretrain.tiling.index import store_root
from pretrain.tiling.run import tile_cohort
from pretrain.tiling.wanted import Rebuild
from results.errors import UserError, printable

NOTE_LENGTH = 300


def make_store(config: DictConfig) -> TileStore:
    """Tile the cohort, or the tiles of `manifest=`, as far as that is not done yet.

    Raises:
        UserError: for every mistake of input or settings; a rebuilt store that is not the manifest's, without a slide that failed.
    """
    if config.store:
        return TileStore(config.store)
    cohort, rebuild, digest = _job(config, make=True)
    for note in cohort.notes:
        line = f"{cohort.name}: {note[:NOTE_LENGTH]}{'...' * (len(note) > NOTE_LENGTH)}"
        print(printable(line, sys.stderr), file=sys.stderr)
    store = tile_cohort(
        cohort, tiling(config), Path(config.work), config.scheduler, config.tiling.workers, rebuild=rebuild
    )
    if rebuild and not store.failed:
        if store.digest != digest:
            raise UserError(
                f"the store {store.root} has the digest {store.digest[:12]}, its manifest {config.manifest} states {digest[:12]}: "
                "the manifest is damaged."
            )
        print(
            f"manifest: all {len(store):,} tiles of {len(store.slide_names)} slides are verified, digest {digest[:16]}"
        )
    return store


def existing_store(config: DictConfig) -> TileStore:
    """The store that `store=` names, or the one that the tile step made for these settings."""
    if config.store:
        return TileStore(config.store)
    if config.cohort == "rehearsal" and not rehearsal_root(config, make=False).exists():
        raise UserError(
            f"the rehearsal slides are not made yet ({rehearsal_root(config, make=False)}): run `python -m pretrain tile` with the "
            "same settings first."
        )
    cohort, rebuild, _ = _job(config, make=False)
    folder = store_root(Path(config.work), cohort, tiling(config), rebuild)
    if not (folder / "store.json").exists():
        raise UserError(f"no tile store at {folder} yet: run `python -m pretrain tile` with the same settings first.")
    return TileStore(folder)


def _job(config: DictConfig, make: bool) -> tuple[cohorts.Cohort, Rebuild | None, str]:
    cohort = open_cohort(config, make)
    if not config.manifest:
        return cohort, None, ""
    from pretrain.manifest.file import read_manifest
    from pretrain.manifest.make import rebuild_job

    manifest = read_manifest(config.manifest)
    return *rebuild_job(manifest, cohort), manifest.facts["store_digest"]


def open_cohort(config: DictConfig, make: bool = True) -> cohorts.Cohort:
    """Open the cohort; `rehearsal` is made first if it is not there, `camelyon16` lies at `root=`."""
    if config.cohort == camelyon16.NAME:
        wanted = config.camelyon16
        if not config.root:
            raise UserError(
                "cohort=camelyon16 needs root=FOLDER, where its slides lie; for a folder of that name write cohort=./camelyon16."
            )
        rule = LesionRule(wanted.rule, wanted.centre, wanted.min_share)
        return camelyon16.open_camelyon16(config.root, "all" if config.manifest else wanted.part, rule)
    if config.root:
        raise UserError(f"root={config.root} goes with cohort=camelyon16 alone: give other slides as cohort=FOLDER.")
    if config.cohort != "rehearsal":
        return cohorts.open_cohort(config.cohort)
    return cohorts.open_cohort(str(rehearsal_root(config, make)))


def rehearsal_root(config: DictConfig, make: bool) -> Path:
    """Folder of the synthetic slides of these settings."""
    from pretrain.cohorts import rehearsal

    wanted = config.rehearsal
    root = (
        Path(config.work)
        / "cohorts"
        / f"rehearsal-v{rehearsal.version(wanted.seed)}-{wanted.slides}x{wanted.size_px}-s{wanted.seed}"
    )
    if make:
        rehearsal.generate(root, seed=wanted.seed, slides=wanted.slides, size_px=wanted.size_px)
    return root


def tiling(config: DictConfig) -> Tiling:
    """The tiling settings as their own dataclass."""
    detail = {k: v for k, v in config.tiling.items() if k != "workers"}
    return Tiling(tile=config.tile, mpp=config.mpp, mpp_override=config.mpp_override, **detail)


STORE_SAYS = (
    "cohort",
    "root",
    "manifest",
    "tile",
    "mpp",
    "mpp_override",
    "scheduler",
    "tiling",
    "rehearsal",
    "camelyon16",
)
"""Settings that a finished store leaves no room for."""


def with_store(config: DictConfig, given: Iterable[str] = ()) -> DictConfig:
    """Let the store of `store=`, when one is given, say what its tiles are.

    Args:
        config: the settings.
        given: keys of the command line; those that would make other tiles are refused.

    Raises:
        UserError: there is no such store, or a key contradicts it.
    """
    if not config.store:
        return config
    wrong = sorted({key for key in given if key.partition(".")[0] in STORE_SAYS})
    if wrong:
        raise UserError(f"store={config.store} is finished tiles: leave out {', '.join(f'{key}=' for key in wrong)}.")
    store = TileStore(config.store)
    config.cohort, config.tile, config.mpp = store.summary["cohort"], store.tile, store.mpp
    return config


def without_coordinates(config: DictConfig, store: TileStore, tell: bool = True) -> DictConfig:
    """Switch off what a method does with places on a slide, where the tiles have none; it says so on stderr.

    Raises:
        UserError: the method is nothing without them.
    """
    if store.has_coordinates:
        return config
    method = methods.find(config.method)
    off = method.without_coordinates()
    changed = {key: value for key, value in off.items() if config[config.method][key] != value}
    for key, value in changed.items():
        config[config.method][key] = value
    method.check(OmegaConf.to_object(config[config.method]))
    if changed and tell:
        said = ", ".join(f"{config.method}.{key}={str(value).lower()}" for key, value in changed.items())
        print(f"the tiles of {store.root} have no coordinates, so spatial terms are off: {said}", file=sys.stderr)
    return config


def with_manifest(config: DictConfig, given: Iterable[str] = ()) -> DictConfig:
    """Let the manifest, when one is given, say how tiles are made; what it says otherwise wins over recipes and defaults.

    Args:
        config: the settings.
        given: keys of the command line; those that say otherwise than the manifest are refused.

    Raises:
        UserError: the manifest cannot be read, or a key contradicts it.
    """
    if not config.manifest:
        return config
    from pretrain.manifest.file import read_manifest

    settings = read_manifest(config.manifest).tiling
    stated = {key: getattr(settings, key) for key in ("tile", "mpp", "mpp_override")}
    stated |= {f"tiling.{key}": getattr(settings, key) for key in config.tiling if key != "workers"}
    wrong = [key for key in stated if key in set(given) and OmegaConf.select(config, key) != stated[key]]
    if wrong:
        asked, said = (
            ", ".join(f"{key}={'null' if values[key] is None else values[key]}" for key in wrong)
            for values in ({key: OmegaConf.select(config, key) for key in wrong}, stated)
        )
        raise UserError(
            f"manifest={config.manifest} says how its tiles are made ({said}), not {asked}: "
            f"leave out {', '.join(f'{key}=' for key in wrong)}."
        )
    for key, value in stated.items():
        OmegaConf.update(config, key, value)
    return config
