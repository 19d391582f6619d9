"""`python -m transfer classify|detect|segment|export key=value ...`."""

import importlib
import os
import sys

from results.errors import UserError, meant, stoppable, told

HELP = """python -m transfer classify|detect|segment|export key=value ...

  classify   frozen or fine-tuned encoders on labelled tiles        'python -m transfer classify --help'
  detect     a detector on NuCLS nuclei, with Detectron2            'python -m transfer detect --help'
  segment    a segmenter on BCSS tissue, with mmsegmentation        'python -m transfer segment --help'
  export     an encoder in every engine's names, with proof         'python -m transfer export --help'

Each of the first three writes one record a cell (task x encoder x engine x trial). A cell whose record is there already is
not run again, so a command can be stopped and repeated; a cell that crashed leaves a record that says how.

  encoder=latest      newest finished export under work/runs; latest:METHOD:COHORT:SEED the newest of these;
                      all the newest of every (method, cohort, seed); or a run's name or folder, a backbone.safetensors,
                      a foreign checkpoint, timm:NAME, random, imagenet; several as encoder=[a,b]
  work=work           where pretraining left its tiles and runs
  records=results/records
  trials=3  seed=0  device=auto
  floors=true         adds the rows a score must beat
  imagenet=null       file of torchvision weights for one more floor row; download=true fetches them
  download=false
  allow_partial=false true scores weights that do not fill the network; the record and the table say so

Exit status: 0 done, 2 mistake in input or settings, 3 a cell crashed and left a record, 143 stopped; finished cells stay.
"""

LEFT_BY_CELLS = (
    "finished cells have their records; the same command goes on, with the cell that was running from its start."
)
LEFT = {"export": "nothing was written."}

COMMANDS = {
    "classify": ("transfer.classify", "classify"),
    "detect": ("transfer.detect", "detect"),
    "segment": ("transfer.segment", "segment"),
    "export": ("transfer.bundle", "export"),
}
"""Command -> module and the function that runs it; the module's `HELP` is its help, its `load` reads the arguments."""


def main(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    return stoppable(lambda: told(lambda: _run(arguments)), LEFT.get(arguments[0], LEFT_BY_CELLS))


def _run(arguments: list[str]) -> int:
    if arguments[0] not in COMMANDS:
        usage = f"write 'python -m transfer {'|'.join(COMMANDS)} key=value ...'."
        raise UserError(f"'{arguments[0]}' is not a command of transfer: {meant(arguments[0], COMMANDS, usage)}")
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # read when torch loads: threads that spin starve each other on busy cores
    place, name = COMMANDS[arguments[0]]
    module = importlib.import_module(place)
    if any(argument in ("-h", "--help", "help") for argument in arguments[1:]):
        print(module.HELP, end="")
        return 0
    return getattr(module, name)(module.load(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
