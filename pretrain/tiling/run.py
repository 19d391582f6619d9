"""Tiling a whole cohort: which slides are left to do, who does them, and the store that comes out."""

import contextlib
import errno
import fcntl
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pretrain.cohorts import Cohort, Slide
from pretrain.tiles import TileStore
from pretrain.tiling.index import store_root, write_index
from pretrain.tiling.job import tile_slide
from pretrain.tiling.labels import Codes
from pretrain.tiling.reader import one_line
from pretrain.tiling.reports import absent_report, finished_report, rows_path
from pretrain.tiling.settings import Tiling
from pretrain.tiling.wanted import Rebuild, WantedTiles
from results.errors import UserError, children_ignore_interrupts, printable, something_is_finished

CONNECT_SECONDS = 15
REASONS_SHOWN, ABSENT_SHOWN = 3, 10
LOST = "its worker process died, probably of too little memory: give it more, or start fewer workers."


def tile_cohort(
    cohort: Cohort,
    tiling: Tiling,
    work: Path | str,
    scheduler: str | None = None,
    workers: int | None = None,
    progress: bool = True,
    rebuild: Rebuild | None = None,
) -> TileStore:
    """Tile every slide that is not done yet, one Dask task a slide, and write the index.

    Nothing is started and no file is touched when all slides are done and unchanged. Failed slides are tried again at every
    call, named on stderr, and listed in the store's `failed`; they do not stop the others. A slide whose file is gone leaves the
    index, and its tiles stay on disk until it is back.

    Args:
        cohort: the slides.
        tiling: the settings.
        work: the work folder; the store lies in `<work>/tiles/`. Remote workers must see it under the same path.
        scheduler: address of a running Dask scheduler, `tcp://host:port`; without it processes are started here.
        workers: number of processes, one a core by default; 0 tiles in this process without Dask.
        progress: show a bar, or plain lines where stderr is not a terminal.
        rebuild: exactly the tiles of a manifest, whose slides the cohort then holds.

    Raises:
        UserError: every slide failed, no slide holds a tile, the scheduler does not answer, the store is in use by
            another run, or the work folder cannot be written.
    """
    root = store_root(Path(work), cohort, tiling, rebuild)
    codes = Codes(cohort.codes, cohort.background, cohort.ignore, cohort.lesion)
    wanted = rebuild.wanted if rebuild else {}
    tried = {path.stem for path in (root / "slides").glob("*.json")}
    reports = {
        s.name: finished_report(s, codes, tiling, root, wanted.get(s.name)) if s.name in tried else None
        for s in cohort.slides
    }
    if not scheduler:  # its workers may reach slides that this process does not
        reports |= {s.name: absent_report(s) for s in cohort.slides if reports[s.name] is None}
    absent = [report for report in reports.values() if report and report["status"] == "failed"]
    pending = [slide for slide in cohort.slides if reports[slide.name] is None]
    if not pending:
        _refuse_nothing(cohort, reports, root)
    if pending or not write_index(root, cohort, tiling, reports, True, rebuild):
        with sole_writer(root):
            if pending:
                _prepare(root, pending)
                run = _here if workers == 0 and not scheduler else _on_dask(scheduler, workers)
                with _Progress(len(pending) + len(absent), progress) as show:
                    for report in run(pending, codes, tiling, root, wanted):
                        reports[report["slide"]] = report
                        show(report)
                _refuse_nothing(cohort, reports, root)
            write_index(root, cohort, tiling, reports, False, rebuild)
    _tell_absent(absent)
    return TileStore(root)


Reports = Iterator[dict[str, Any]]
Wanted = Mapping[str, WantedTiles]


def _here(slides: list[Slide], codes: Codes, tiling: Tiling, root: Path, wanted: Wanted) -> Reports:
    for slide in slides:
        yield tile_slide(slide, codes, tiling, root, wanted.get(slide.name))


def _on_dask(
    scheduler: str | None, workers: int | None
) -> Callable[[list[Slide], Codes, Tiling, Path, Wanted], Reports]:
    def run(slides: list[Slide], codes: Codes, tiling: Tiling, root: Path, wanted: Wanted) -> Reports:
        from distributed import as_completed

        with _client(scheduler, workers, len(slides)) as client:
            largest_first = sorted(slides, key=_file_size, reverse=True)
            tasks = {
                client.submit(tile_slide, slide, codes, tiling, root, wanted.get(slide.name), pure=False): slide
                for slide in largest_first
            }
            for task in as_completed(tasks):
                slide = tasks[task]
                if task.status == "finished":
                    yield task.result()
                elif task.status == "cancelled":
                    raise UserError(
                        f"the Dask scheduler {scheduler or ''} was lost: run again, finished slides are kept."
                    )
                else:
                    yield {"slide": slide.name, "status": "failed", "reason": _reason(task.exception()), "tiles": 0}

    return run


def _reason(error: BaseException) -> str:
    from distributed.scheduler import KilledWorker

    return LOST if isinstance(error, KilledWorker) else f"{type(error).__name__}: {one_line(error)}"


@contextlib.contextmanager
def _client(scheduler: str | None, workers: int | None, slides: int) -> Iterator[Any]:
    """Yield a Dask client on a given scheduler, or on local single-threaded processes."""
    import dask
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster

    one_slide_at_a_time = {"distributed.scheduler.allowed-failures": 1, "distributed.scheduler.worker-saturation": 1.0}
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(one_slide_at_a_time))
        stack.enter_context(_quiet(logging.getLogger("distributed")))
        if scheduler:
            try:
                client = stack.enter_context(Client(scheduler, timeout=CONNECT_SECONDS))
                client.wait_for_workers(1, timeout=CONNECT_SECONDS)
            except TimeoutError as error:
                raise UserError(f"no worker is connected to the Dask scheduler {scheduler}: start one.") from error
            except (OSError, ValueError) as error:
                raise UserError(f"no Dask scheduler answers at {scheduler} ({one_line(error)}).") from error
        else:
            with children_ignore_interrupts():
                cluster = LocalCluster(
                    n_workers=min(workers or CPU_COUNT, slides),
                    threads_per_worker=1,
                    processes=True,
                    memory_limit=0,
                    dashboard_address=None,
                    silence_logs=logging.CRITICAL,
                )
            client = stack.enter_context(Client(stack.enter_context(cluster)))
        yield client


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _file_size(slide: Slide) -> int:
    return slide.path.stat().st_size if slide.path.is_file() else 0


@contextlib.contextmanager
def sole_writer(root: Path) -> Iterator[None]:
    """Hold the store's lock; a file system without locks is trusted to have one writer."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / ".lock").touch()
    except OSError as error:
        raise UserError(f"the tile store {root} cannot be written ({error.strerror}).") from error
    with open(root / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another run is writing the tile store {root}: wait for it, or stop it.") from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP):
                raise
        yield


def _prepare(root: Path, pending: list[Slide]) -> None:
    """Drop what a killed run left half-written, and a summary that counts on shards which are about to be replaced."""
    if any(rows_path(root, slide.name).is_file() for slide in pending):
        (root / "store.json").unlink(missing_ok=True)
    for folder in ("shards", "slides", "overviews"):
        for path in (root / folder).glob(".*.tmp*"):
            path.unlink()


def _refuse_nothing(cohort: Cohort, reports: dict[str, Any], root: Path) -> None:
    failed = [(name, report["reason"]) for name, report in reports.items() if report["status"] == "failed"]
    if len(failed) == len(reports):
        shown = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in failed[:REASONS_SHOWN])
        raise UserError(
            f"all {len(failed):,} slides of cohort {cohort.name} failed: {shown}{'; ...' * (len(failed) > 3)}."
        )
    if not any(report["tiles"] for report in reports.values()):
        empty = [(name, report["reason"]) for name, report in reports.items() if report["status"] == "empty"]
        shown = "; ".join(f"{name}: {reason.rstrip('.')}" for name, reason in [*failed[:1], *empty[:1]])
        raise UserError(
            f"no slide of cohort {cohort.name} holds a tile with enough tissue ({len(empty)} empty, {len(failed)} failed; "
            f"{shown}): look at {root / 'overviews'}, then try a smaller tiling.min_tissue= or tile=."
        )


def _tell_absent(absent: list[dict[str, Any]]) -> None:
    for report in absent[:ABSENT_SHOWN]:
        print(printable(f"slide {report['slide']}: {report['reason']}", sys.stderr), file=sys.stderr)
    if len(absent) > ABSENT_SHOWN:
        print(f"and {len(absent) - ABSENT_SHOWN:,} more slides cannot be reached.", file=sys.stderr)


class _Progress:
    """A bar over slides with the number of tiles, or a line a slide where stderr is not a terminal."""

    def __init__(self, slides: int, show: bool) -> None:
        self._total, self._done, self._tiles = slides, 0, 0
        self._lines = show and not sys.stderr.isatty()
        self._bar = tqdm(total=slides, desc="tiling", unit="slide", disable=not show or self._lines, file=sys.stderr)

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __call__(self, report: dict[str, Any]) -> None:
        something_is_finished()
        self._done += 1
        self._tiles += report["tiles"]
        if report["status"] == "failed":
            self._bar.write(printable(f"slide {report['slide']}: {report['reason']}", sys.stderr), file=sys.stderr)
        elif self._lines:
            what = f"{report['tiles']} tiles" if report["tiles"] else f"empty, {report['reason']}"
            line = printable(f"tiling {self._done}/{self._total} {report['slide']}: {what}", sys.stderr)
            print(line, file=sys.stderr, flush=True)
        self._bar.set_postfix(tiles=self._tiles, refresh=False)
        self._bar.update()
