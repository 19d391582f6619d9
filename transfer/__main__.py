"""`python -m transfer classify key=value ...`."""

import os
import signal
import sys
from types import FrameType

from results.errors import UserError, told

HELP = """python -m transfer classify key=value ...

Scores frozen encoders on the labelled tiles of a store; one record a cell (task x encoder x engine x trial). A cell whose
record is there already is not run again, so the command can be stopped and repeated.

  encoder=latest      newest finished export under work/runs; latest:METHOD:COHORT:SEED the newest of these;
                      all the newest of every (method, cohort, seed); or a run folder, a backbone.safetensors,
                      random, imagenet, mean_rgb, colour_histogram; several as encoder=[a,b]
  task=null           rehearsal, tiles or a YAML file; null takes what fits the store
  store=null          a tile store; null takes the newest labelled one under work/tiles
  work=work           where pretraining left its tiles and runs
  records=results/records
  engines=[knn,linear]
  trials=3            trial t tests on fold t; folds share no slide and no patient
  seed=0              of folds and untrained networks
  floors=true         adds the rows a score must beat: untrained network, mean RGB, colour histogram
  imagenet=null       file of torchvision weights for one more floor row; download=true fetches them
  download=false
  allow_partial=false true scores weights that do not fill the network
  max_tiles_per_slide=null  evenly spaced over a slide; null takes the cap of the task
  device=auto
  batch_size=256

Exit status: 0 done, 2 mistake in input or settings, 3 a cell crashed and left a record, 143 stopped; finished cells stay.
"""


def main(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    if not arguments or arguments[0] in ("-h", "--help", "help") or arguments[1:2] in (["-h"], ["--help"]):
        print(HELP, end="")
        return 0
    try:
        return told(lambda: _run(arguments))
    except KeyboardInterrupt:
        return 130


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _run(arguments: list[str]) -> int:
    if arguments[0] != "classify":
        raise UserError(
            f"'{arguments[0]}' is not a command of transfer: write 'python -m transfer classify key=value ...'."
        )
    signal.signal(signal.SIGTERM, _stop)
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # read when torch loads: threads that spin starve each other on busy cores
    from transfer.classify import classify, load

    return classify(load(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
