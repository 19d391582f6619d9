import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from omegaconf import OmegaConf

from results.errors import UserError
from results.settings import compose, load_yaml, split_overrides


@dataclass
class Optimiser:
    rate: float = 0.1
    steps: int | None = 5
    milestones: list[int] = field(default_factory=lambda: [60, 80])


@dataclass
class Empty:
    pass


@dataclass
class Settings:
    seed: int = 0
    amp: bool = False
    out: str = "work"
    name: str | None = None
    anything: Any = None
    names: list[str] = field(default_factory=list)
    optimiser: Optimiser = field(default_factory=Optimiser)
    empty: Empty = field(default_factory=Empty)


def composed(*arguments, layers=()):
    return compose(OmegaConf.structured(Settings), layers, split_overrides(arguments))


def refused(*arguments, layers=()):
    with pytest.raises(UserError) as error:
        composed(*arguments, layers=layers)
    return str(error.value)


def test_layers_then_command_line_win():
    layers = [("a.yaml", {"seed": 1, "optimiser": {"rate": 0.5, "steps": 7}}), ("b.yaml", {"seed": 2})]
    config = composed("optimiser.rate=1e-3", layers=layers)
    assert (config.seed, config.optimiser.rate, config.optimiser.steps) == (2, 0.001, 7)


def test_the_schema_is_not_changed():
    schema = OmegaConf.structured(Settings)
    compose(schema, [], {"seed": "9"})
    assert schema.seed == 0


@pytest.mark.parametrize(
    ("argument", "nearest"),
    [("sed=1", "'seed'"), ("optimiser.rat=1", "'optimiser.rate'"), ("rate=1", "'optimiser.rate'")],
)
def test_unknown_key_names_the_nearest(argument, nearest):
    message = refused(argument)
    assert f"did you mean {nearest}?" in message
    assert "the command line" in message


def test_unknown_key_with_nothing_near_lists_the_known():
    assert "known keys: amp, anything" in refused("zzzzzz=1")


def test_unknown_key_in_a_layer_names_its_file():
    assert "from a.yaml" in refused(layers=[("a.yaml", {"optimiser": {"rte": 1}})])


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("seed=1.5", "a whole number"),
        ("seed=true", "a whole number"),
        ("seed=", "a whole number"),
        ("optimiser.rate=fast", "a number"),
        ("optimiser.steps=x", "a whole number or null"),
        ("amp=maybe", "true or false"),
        ("out=[1,2]", "text"),
        ("out=null", "text"),
        ("optimiser.milestones=3", "a value like [60, 80]"),
        ("optimiser.milestones=[a]", "a value like [60, 80]"),
        ("optimiser.milestones=[[1]]", "a value like [60, 80]"),
        ("names=[[a]]", "a value like []"),
        ("names=[{a: b}]", "a value like []"),
    ],
)
def test_wrong_type_says_what_is_expected(argument, expected):
    message = refused(argument)
    assert message.startswith(f"{argument} from the command line does not fit: {expected} is expected")


def test_group_key_names_one_of_its_keys():
    assert "'optimiser.rate'" in refused("optimiser=3")
    assert "a.yaml" in refused(layers=[("a.yaml", {"optimiser": None})])
    assert "no keys" in refused("empty=3")


def test_list_null_and_any_values():
    config = composed("optimiser.milestones=[1,2,3]", "optimiser.steps=null", "anything=[a,b]")
    assert list(config.optimiser.milestones) == [1, 2, 3]
    assert config.optimiser.steps is None
    assert list(config.anything) == ["a", "b"]


@pytest.mark.parametrize("text", ["2024_11", "007", "1e5", "on", "1.50", "a=b", "2024-11-23", "my folder #1", "a\nb"])
def test_text_stays_as_it_was_typed(text):
    config = composed(f"out={text}", f"name={text}")
    assert (config.out, config.name) == (text, text)


def test_optional_text_can_be_null_and_quotes_go():
    config = composed("name=null", "out='null'")
    assert config.name is None
    assert config.out == "null"


def test_the_home_folder_is_known_where_no_shell_wrote_it_out(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = composed("out=~/data", "name='~/data'")
    assert (config.out, config.name) == ("/home/me/data", "~/data")


def test_last_override_wins_and_bad_forms_are_refused():
    assert composed("seed=1", "seed=2").seed == 2
    for argument in ("seed", "=1"):
        with pytest.raises(UserError, match="write key=value"):
            split_overrides([argument])
    assert "cannot be parsed" in refused("optimiser.milestones=[1,")


def test_load_yaml(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("seed: 3\n")
    assert load_yaml(path) == {"seed": 3}
    path.write_text("")
    assert load_yaml(path) == {}


@pytest.mark.parametrize("content", [b"a: [1,", b"- 1\n- 2\n", b"\xff\xfe\x00", b"a: b: c"])
def test_broken_yaml_names_the_file(tmp_path, content):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.yaml"):
        load_yaml(path)


def test_missing_yaml_names_the_file(tmp_path):
    with pytest.raises(UserError, match=r"absent\.yaml"):
        load_yaml(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: ???", r"name=\?\?\? is no value"),
        ("anything: &a {b: *a}", r"the alias \*a is not taken"),
        ("seed: " + "9" * 5000, "cannot be read as YAML|seed"),
    ],
)
def test_yaml_that_has_no_value_or_no_end_is_refused(tmp_path, text, words):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words):
        compose(OmegaConf.structured(Settings), [("own.yaml", load_yaml(path))], {})


def test_aliases_are_refused_before_they_grow(tmp_path):
    names = "abcdefghi"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in itertools.pairwise(names)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"bomb\.yaml cannot be read as YAML settings \(the alias \*a is not taken"):
        load_yaml(tmp_path / "bomb.yaml")


@pytest.mark.parametrize("text", ["a: 1\na: 2\n", "g: {b: 1, b: 1}\n"])
def test_a_key_that_stands_twice_is_refused(tmp_path, text):
    path = tmp_path / "twice.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="stands there twice"):
        load_yaml(path)
