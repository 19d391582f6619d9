"""`python -m benchmarks run | report SUITE key=value ...`, `python -m benchmarks plan tiles=N ...` and `python -m benchmarks data ...`."""

import sys

from results.errors import UserError, meant, stoppable, told

HELP = """python -m benchmarks run SUITE key=value ...
python -m benchmarks report SUITE key=value ...     the variants of a suite against its base, with the auditor's purity
python -m benchmarks plan tiles=1e8 ranks=8 batch=32 bank=fp32|bf16|int8     memory of a cohort's banks and indices
python -m benchmarks data status | download | prepare | verify [NAME] root=data   the public data sets ('data' alone: help)

Pretrains every method of a suite, scores the encoders beside the floors, writes the table, and keeps what it cost in
work/suites/. Each step is a command that is printed and can be repeated by hand; a step does no work twice.

  SUITE                 a name ({suites}) or a YAML file
  cohort= recipe= methods=[npid,sgcl] seeds=[0,1]
  task= trials=3 floors=true jobs=1 (pretraining runs side by side)
  work=work records=results/records tables=results/tables
  pretrain.KEY=VALUE    handed to 'python -m pretrain', such as pretrain.train.epochs=1
  transfer.KEY=VALUE    handed to 'python -m transfer classify', such as transfer.max_tiles_per_slide=200

Exit status: 0 done, 2 mistake in input or settings, 3 done but some slides or cells failed and were named, else the
status of the step that stopped the suite (143 after SIGTERM: repeat the command to go on).
"""


def main(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    if arguments[:1] == ["data"] and any(argument in ("-h", "--help", "help") for argument in arguments):
        arguments = ["data"]
    if not arguments or any(argument in ("-h", "--help", "help") for argument in arguments):
        from benchmarks.suite import known_suites

        print(HELP.format(suites=", ".join(known_suites())), end="")
        return 0
    return stoppable(lambda: told(lambda: _run(arguments)))


def _run(arguments: list[str]) -> int:
    if arguments[0] == "plan":
        from benchmarks.plan import command

        return command(arguments[1:])
    if arguments[0] == "data":
        from benchmarks.data.command import command

        return command(arguments[1:])
    usage = "write 'python -m benchmarks run SUITE key=value ...', 'report SUITE', 'plan' or 'data'."
    if arguments[0] not in ("run", "report"):
        hint = meant(arguments[0], ("run", "report", "plan", "data"), usage)
        raise UserError(f"'{arguments[0]}' is not a command of benchmarks: {hint}")
    if len(arguments) < 2:
        raise UserError(f"'{arguments[0]}' is not enough: {usage}")
    if arguments[0] == "report":
        from benchmarks.report import report

        print(report(arguments[1], arguments[2:]))
        return 0
    from benchmarks.check import check_runs
    from benchmarks.run import run_suite

    check_runs(arguments[1], arguments[2:])
    return run_suite(arguments[1], arguments[2:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
