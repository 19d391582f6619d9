import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest

from benchmarks.__main__ import main
from benchmarks.run import run_suite
from benchmarks.steps import Runner, Step
from results.errors import UserError

STUB = """
import json, os, signal, sys, time
package, words = sys.argv[2], sys.argv[3:]
with open(os.environ["STUB_LOG"], "a") as log:
    log.write(json.dumps([package, *words]) + "\\n")
held = bytearray(int(os.environ.get("STUB_MIB", "0")) * 2**20)
if os.environ.get("STUB_SLEEP") == package:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print("sleeping", flush=True)
    time.sleep(60)
if os.environ.get("STUB_DIE") == package:
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(int(json.loads(os.environ.get("STUB_STATUS", "{}")).get(package, 0)))
"""


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """A stand-in for python that writes down what it was asked to run."""
    path = tmp_path / "stub.py"
    path.write_text(STUB)
    monkeypatch.setenv("STUB_LOG", str(tmp_path / "log"))
    return Runner((sys.executable, str(path)))


def asked(tmp_path):
    return [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]


def kept(tmp_path):
    (path,) = (tmp_path / "work" / "suites").glob("*/suite.json")
    return json.loads(path.read_text())


def test_a_suite_pretrains_scores_and_lays_out(tmp_path, stub, capfd):
    assert run_suite("demo", [f"work={tmp_path / 'work'}", "records=r", "jobs=1"], stub) == 0
    commands = asked(tmp_path)
    assert [words[0] for words in commands] == ["pretrain", "pretrain", "transfer", "results"]
    content = kept(tmp_path)
    assert content["suite"] == "demo"
    assert content["status"] == 0
    shown = [line[2:] for line in capfd.readouterr().out.splitlines() if line.startswith("$ ")]
    assert shown == [step["command"] for step in content["steps"]]
    assert [shlex.split(line)[3:] for line in shown] == commands
    for step in content["steps"]:
        assert step["wall_seconds"] > 0
        assert step["peak_rss_mib"] > 1
        assert step["cpu_seconds"] >= 0
    assert content["settings"]["methods"] == ["npid", "sgcl"]


@pytest.mark.parametrize(
    ("statuses", "expected", "steps"),
    [
        ({"pretrain": 3}, 3, 4),
        ({"transfer": 3}, 3, 4),
        ({"pretrain": 2}, 2, 1),
        ({"transfer": 1}, 1, 3),
        ({"pretrain": 3, "results": 2}, 2, 4),
        ({"pretrain": 143}, 143, 1),
    ],
)
def test_three_goes_on_and_anything_else_stops(tmp_path, stub, monkeypatch, statuses, expected, steps):
    monkeypatch.setenv("STUB_STATUS", json.dumps(statuses))
    assert run_suite("demo", [f"work={tmp_path / 'work'}", "jobs=1"], stub) == expected
    assert len(asked(tmp_path)) == steps
    assert kept(tmp_path)["status"] == expected


def test_a_killed_step_is_128_and_the_signal(tmp_path, stub, monkeypatch):
    monkeypatch.setenv("STUB_DIE", "transfer")
    assert run_suite("demo", [f"work={tmp_path / 'work'}"], stub) == 137
    assert [words[0] for words in asked(tmp_path)] == ["pretrain", "pretrain", "pretrain", "transfer"]


def test_a_child_of_somebody_else_is_left_alone(tmp_path, stub):
    foreign = subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"])
    time.sleep(0.5)  # it has ended, and nobody has waited for it
    steps = stub.run_all({name: ("pretrain", ["tile"]) for name in ("a", "b")}, jobs=2)
    assert [step.status for step in steps] == [0, 0]
    assert foreign.wait() == 7


WEIGH = """
import os, sys
from benchmarks.steps import Runner
runner = Runner((sys.executable, sys.argv[1]))
for mib in ("200", "0"):
    os.environ["STUB_MIB"] = mib
    print("weighed", runner.run("pretrain", []).peak_rss_mib)
"""


def test_peak_memory_is_that_of_the_step(tmp_path, stub):
    command = [sys.executable, "-c", WEIGH, str(tmp_path / "stub.py")]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    large, small = (float(line.split()[1]) for line in lines if line.startswith("weighed"))
    assert large > 200
    assert small < large - 150


def test_a_step_is_named_without_its_settings():
    assert Step("python -m transfer classify trials=3", 0, 1, 1, 1).name == "transfer classify"


DRIVER = """
import sys
from benchmarks.run import run_suite
from benchmarks.steps import Runner
sys.exit(run_suite("demo", ["work=" + sys.argv[2], "jobs=1"], Runner((sys.executable, sys.argv[1]))))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_the_step_and_ends_the_suite(tmp_path, stub, number, status):
    environment = {**os.environ, "STUB_SLEEP": "pretrain"}
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "stub.py"), str(tmp_path / "work")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    while child.stdout.readline() != "sleeping\n":
        assert child.poll() is None
    child.send_signal(number)
    child.communicate(timeout=30)
    assert child.returncode == status
    assert len(asked(tmp_path)) == 1
    assert kept(tmp_path)["steps"][0]["status"] == kept(tmp_path)["status"]


def test_a_signal_between_steps_is_not_lost(tmp_path, stub):
    stub._forward(signal.SIGTERM, None)
    start = time.monotonic()
    assert run_suite("demo", [f"work={tmp_path / 'work'}"], stub) == 143
    assert time.monotonic() - start < 30
    assert len(kept(tmp_path)["steps"]) == 1


def test_side_by_side_the_slides_are_cut_first_and_lines_are_labelled(tmp_path, stub, monkeypatch, capfd):
    monkeypatch.setenv("STUB_STATUS", json.dumps({"pretrain": 3}))
    assert run_suite("demo", [f"work={tmp_path / 'work'}"], stub) == 3
    commands = asked(tmp_path)
    assert commands[0][:2] == ["pretrain", "tile"]
    assert sorted(word for words in commands[1:3] for word in words if word.startswith("method=")) == [
        "method=npid",
        "method=sgcl",
    ]
    assert [words[0] for words in commands[3:]] == ["transfer", "results"]
    steps = kept(tmp_path)["steps"]
    assert ["method=npid" in steps[1]["command"], "method=sgcl" in steps[2]["command"]] == [True, True]


def test_labels_stand_before_the_lines_of_jobs_side_by_side(tmp_path, stub, monkeypatch, capfd):
    monkeypatch.setenv("STUB_SLEEP", "pretrain")

    def stop_both():
        while not (tmp_path / "log").exists() or len(asked(tmp_path)) < 2:
            time.sleep(0.1)
        time.sleep(2)  # from the log to the handler and the printed line
        os.kill(os.getpid(), signal.SIGTERM)

    with stub.forwarding():
        threading.Thread(target=stop_both, daemon=True).start()
        steps = stub.run_all({name: ("pretrain", []) for name in ("a", "b", "c")}, jobs=2)
    assert [step.status for step in steps] == [143, 143]
    lines = capfd.readouterr().out.splitlines()
    assert sorted(line for line in lines if line.startswith("[")) == ["[a] sleeping", "[b] sleeping"]


def test_after_a_failure_no_other_job_is_started(stub, monkeypatch):
    monkeypatch.setenv("STUB_STATUS", json.dumps({"pretrain": 2}))
    steps = stub.run_all({str(number): ("pretrain", []) for number in range(9)}, jobs=2)
    assert [step.status for step in steps] == [2, 2]


def test_help_names_the_suites_without_torch():
    code = "import sys, benchmarks.__main__ as m; assert m.main(['--help']) == m.main([]) == 0; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "demo" in done.stdout
    assert done.stdout.endswith("False\n")


def test_mistakes_end_with_2_and_one_sentence(capsys):
    for arguments in (["go"], ["run"], ["run", "dmeo"], ["run", "demo", "cohrt=x"]):
        assert main(arguments) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_the_cost_is_kept_though_the_comparison_fails(tmp_path, stub):
    path = tmp_path / "own.yaml"
    path.write_text("methods: [npid, sgcl]\nbase: npid\n")
    (tmp_path / "records").mkdir()
    with pytest.raises(UserError, match=r"not scored yet|no records|holds no"):
        run_suite(str(path), [f"work={tmp_path / 'work'}", f"records={tmp_path / 'records'}"], stub)
    assert len(kept(tmp_path)["steps"]) == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("methods: [npid, foo]", "row 'foo' of suite own: method=foo is not known"),
        ("variants: {a: {}, b: {sgcl.raduis: 3}}", "row 'b' of suite own: unknown setting 'sgcl.raduis'"),
        ("variants: {a: {}, b: {sgcl.bank: fp16}}", "row 'b' of suite own: sgcl.bank=fp16 is not known"),
    ],
)
def test_a_mistake_in_the_last_row_is_told_before_the_first_trains(tmp_path, monkeypatch, capsys, text, words):
    path = tmp_path / "own.yaml"
    path.write_text(f"{text}\n")
    monkeypatch.setattr("benchmarks.run.run_suite", lambda *_: pytest.fail("a run was started"))
    assert main(["run", str(path), f"work={tmp_path / 'work'}"]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
