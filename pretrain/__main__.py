"""`python -m pretrain [tile | train | export | audit | parity | quality | manifest | pack | inspect] key=value ...`: slides in, a pretrained backbone out."""

import os
import sys

from results.errors import UserError, meant, stoppable, told

STEPS = ("tile", "train", "export", "audit", "parity", "quality", "manifest", "pack", "inspect")

HELP = """usage: python -m pretrain [tile | train | export | audit | parity | quality | manifest | pack | inspect] [key=value ...]

Whole-slide images in, a pretrained backbone out. Without a step: the first three, and no work is done twice.

  tile      slides -> work/tiles/<cohort>-<digest>/
  train     tiles -> work/runs/<method>-<cohort>-<time>/     (torchrun --nproc_per_node=N -m pretrain train ...)
  export    newest checkpoint -> <run>/export/backbone.safetensors + card.json
  audit     run=NAME|FOLDER [work=FOLDER] [anchors=N]: what its positive pairs hold -> <run>/audit/report.html + audit.json
  manifest  write store=FOLDER out=FILE [list=sgcl-pretraining|train|validation|test] | diff FILE FILE | show FILE:
            which tiles, from where, how made; tile manifest=FILE cohort=... makes them again and verifies each (docs/manifests.md)
  quality   [out=FOLDER] cohort=...: tissue, focus, pen and um/px of every slide -> one page and quality.json (docs/own-slides.md)
  pack      FOLDER STORE [tile=PX] [mpp=UM_PER_PX] ...: any folder of images as a tile store, for store=STORE (docs/stores.md)
  inspect   STORE [verify=true] [export=folders|webdataset out=FOLDER]: what a tile store holds, a contact sheet (docs/stores.md)
  parity    [processes=[1,2,4]] [tiles=3000] [batch=48] [steps=3] [seed=0] [device=auto]: do several ranks compute what one does? under torchrun: the ranks of this cluster

settings (python -m pretrain --settings prints all, with their values)
  cohort=FOLDER|CSV|rehearsal   slides; rehearsal makes synthetic ones      [rehearsal]
  cohort=camelyon16 root=FOLDER [camelyon16.part=train|validation|test|all] [train]
  store=FOLDER                  finished tiles instead of slides            [none]
  manifest=FILE                 exactly the tiles of a manifest             [none]
  method=NAME                   sgcl or a rival (docs/methods.md)           [sgcl]
  recipe=NAME|FILE.yaml         a named set of settings: smoke, demo ...    [none]
  train.epochs=N                                                            [10]
  tile=PX mpp=UM_PER_PX         tile size and resolution                    [256, 0.5]
  mpp_override=UM_PER_PX        for slides that do not say their own        [none]
  work=FOLDER                   where tiles and runs go                     [work]
  scheduler=tcp://HOST:PORT     a Dask scheduler for tiling                 [local]
  train.processes=N             processes to train with                     [one per GPU]
  seed=N device=auto|cpu|cuda run=NAME

exit status: 0 done; 1 manifest diff found a difference; 2 a mistake in input or settings; 3 done, but slides failed and were named; 143 stopped by SIGTERM, nothing lost (130: by Ctrl-C)
"""


def main(arguments: list[str]) -> int:
    """Run the command line and return the exit status."""
    if any(argument in ("-h", "--help", "help") for argument in arguments):
        print(HELP, end="")
        return 0
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # read when torch loads: threads that spin starve each other on busy cores
    return stoppable(lambda: told(lambda: _run(arguments)))


def _refuse_no_step(arguments: list[str]) -> None:
    word = next(iter(arguments), "=")
    if "=" not in word and word not in STEPS:
        hint = meant(word, STEPS, f"write one of {', '.join(STEPS)}, or key=value, for example seed=1.")
        raise UserError(f"'{word}' is not a step of pretrain: {hint}")


def _run(arguments: list[str]) -> int:
    _refuse_no_step([argument for argument in arguments if argument != "--settings"])
    if "--settings" in arguments:
        return _settings([argument for argument in arguments if argument != "--settings"])
    if arguments and arguments[0] == "manifest":  # needs no torch
        from pretrain.manifest.command import command

        return command(arguments[1:])
    if arguments and arguments[0] == "pack":
        from pretrain.pack.command import command

        return command(arguments[1:])
    if arguments and arguments[0] == "inspect":
        from pretrain.inspect import command

        return command(arguments[1:])
    from pretrain.job import run

    return run(arguments)


def _settings(arguments: list[str]) -> int:
    from pretrain.settings_page import page

    step = arguments[0] if arguments and "=" not in arguments[0] else None
    if step in ("audit", "parity", "quality", "manifest", "pack", "inspect"):
        raise UserError(
            f"--settings prints those of tile, train and export: what {step} takes stands in 'python -m pretrain --help'."
        )
    print(page(arguments[1:] if step in ("tile", "train", "export") else arguments), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
