import shlex

import pytest

from benchmarks.suite import (
    Suite,
    known_suites,
    load_suite,
    pretrain_commands,
    table_command,
    transfer_command,
)
from results.errors import UserError
from results.files import write_json


def test_every_suite_reads_and_has_commands():
    assert "demo" in known_suites()
    for name in known_suites():
        found, suite = load_suite(name, [])
        assert found == name
        assert len(pretrain_commands(name, suite)) == len(suite.variants or suite.methods) * len(suite.seeds)


def test_demo_is_two_methods_and_one_seed():
    _, suite = load_suite("demo", ["work=w"])
    commands = pretrain_commands("demo", suite)
    assert [run.rpartition("-")[0] for run in commands] == ["demo-npid-s0", "demo-sgcl-s0"]
    for (run, command), method in zip(commands.items(), ["npid", "sgcl"], strict=True):
        assert command == ["cohort=rehearsal", "recipe=demo", f"method={method}", "seed=0", "work=w", f"run={run}"]


def test_runs_are_named_by_what_they_compute():
    name = next(iter(pretrain_commands("demo", load_suite("demo", [])[1])))
    assert next(iter(pretrain_commands("demo", load_suite("demo", ["work=elsewhere", "trials=5"])[1]))) == name
    for change in ("pretrain.train.epochs=1", "recipe=smoke", "cohort=slides"):
        assert next(iter(pretrain_commands("demo", load_suite("demo", [change])[1]))) != name


def test_settings_are_handed_through_and_owned_ones_are_not(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "methods: [sgcl]\nseeds: [0, 1]\npretrain:\n  train:\n    epochs: 3\n    amp: off\ntransfer:\n  engines: [knn]\n"
    )
    name, suite = load_suite(
        str(path),
        ["pretrain.train.epochs=1", "pretrain.sgcl.tau=0.1", "transfer.batch_size=8", "tables=t", "records=r"],
    )
    assert name == "mine"
    first, second = pretrain_commands(name, suite).values()
    assert "train.epochs=1" in first
    assert "train.epochs=3" not in first
    assert {"sgcl.tau=0.1", "train.amp=false", "seed=0"} <= set(first)
    assert "seed=1" in second
    command = transfer_command(suite, ["a", "b"])
    assert command[:2] == ["classify", "encoder=[work/runs/a,work/runs/b]"]
    assert {"engines=[knn]", "batch_size=8", "trials=3", "floors=true", "records=r"} <= set(command)
    assert not any(word.startswith(("task=", "store=")) for word in command)
    assert table_command(suite) == ["table", "records=r", "out=t"]


def test_scoring_uses_the_store_that_the_runs_were_trained_on(tmp_path):
    suite = Suite(work=str(tmp_path), task="tiles")
    write_json(tmp_path / "runs" / "a" / "run.json", {"store": f"{tmp_path}/tiles/x"})
    command = transfer_command(suite, ["a"])
    assert {f"store={tmp_path}/tiles/x", "task=tiles"} <= set(command)
    suite.transfer = {"store": "mine"}
    assert [word for word in transfer_command(suite, ["a"]) if word.startswith("store=")] == ["store=mine"]


def test_names_with_spaces_survive_the_shell():
    suite = Suite(cohort="my slides")
    (command,) = pretrain_commands("demo", suite).values()
    assert "cohort=my slides" in shlex.split(shlex.join(command))


@pytest.mark.parametrize(
    ("spec", "arguments", "words"),
    [
        ("dmeo", [], "choose demo"),
        ("missing.yaml", [], "choose demo"),
        ("demo", ["cohrt=x"], "did you mean 'cohort'"),
        ("demo", ["seeds=[]"], "seeds=[]"),
        ("demo", ["methods=[npid,npid]"], "without repeats"),
        ("demo", ["trials=x"], "trials=x"),
        ("demo", ["pretrain.method=sgcl"], "write methods=[...]"),
        ("demo", ["pretrain.run=x"], "run folders are named"),
        ("demo", ["transfer.trials=4"], "write trials=..."),
        ("demo", ["pretrain=3"], "pretrain"),
        ("demo", ["trials"], "write key=value"),
    ],
)
def test_mistakes_say_what_is_known(spec, arguments, words):
    with pytest.raises(UserError) as error:
        load_suite(spec, arguments)
    assert words in str(error.value)


def test_variants_are_runs_with_a_name_of_their_own(tmp_path):
    path = tmp_path / "parts.yaml"
    path.write_text(
        "seeds: [0, 1]\npretrain: {sgcl: {radius: 4}, train: {epochs: 2}}\nbase: whole\n"
        "variants:\n  whole: {}\n  wide (5): {sgcl: {radius: 5}}\n  rival: {method: npid}\n"
    )
    name, suite = load_suite(str(path), [])
    commands = pretrain_commands(name, suite)
    assert [run.rpartition("-")[0] for run in commands][:4] == [
        "parts-whole-s0",
        "parts-wide-5-s0",
        "parts-rival-s0",
        "parts-whole-s1",
    ]
    whole, wide, rival = list(commands.values())[:3]
    assert {"method=sgcl", "sgcl.radius=4", "train.epochs=2", "name=whole"} <= set(whole)
    assert {"sgcl.radius=5", "name=wide (5)"} <= set(wide)
    assert "sgcl.radius=4" not in wide
    assert "method=npid" in rival
    assert not any(word.startswith("sgcl.") for word in rival)
    assert "method=sgcl" not in rival


def test_names_that_fold_to_one_stay_two_runs_when_their_settings_differ(tmp_path):
    path = tmp_path / "parts.yaml"
    path.write_text("variants: {A b: {sgcl.radius: 2}, a-b: {sgcl.radius: 3}}\n")
    assert len(pretrain_commands(*load_suite(str(path), []))) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("variants: {a: {seed: 1}}", "variants.a sets 'seed'"),
        ("variants: {a: 3}", "variants.a"),
        ("variants: [a]", "variants must hold"),
        ("methods: [npid, sgcl]\nvariants: {a: {}}", "must name one method"),
        ("base: b\nvariants: {a: {}}", "base=b is no row"),
        ("variants:\n  a: {sgcl.radius: 2}\n  a: {sgcl.radius: 3}", "'a' stands there twice"),
        ("seeds: [0]\nseeds: [1]", "'seeds' stands there twice"),
        ("variants: {A b: {sgcl.radius: 2}, a-b: {sgcl.radius: 2}}", "rows 'A b' and 'a-b' .* the same settings"),
        ("variants: {'': {}}", "a row without a name"),
        ("variants: {a: {name: b}}", "variants.a sets 'name'"),
        ("seeds: [-1]", r"seeds=\[-1\] does not fit"),
        ("trials: 0", "trials=0 is too small"),
    ],
)
def test_broken_variants_are_refused(tmp_path, text, words):
    path = tmp_path / "broken.yaml"
    path.write_text(text + "\n")
    with pytest.raises(UserError, match=words):
        load_suite(str(path), [])
