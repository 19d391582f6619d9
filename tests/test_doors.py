"""The doors between the packages, as the table in docs/architecture.md states them."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("results", "pretrain", "transfer", "benchmarks")
ROOMS = (*PACKAGES, "benchmarks.speed")
"""What has a row of its own in the table; a module goes by the narrowest."""


def stated_doors(text):
    """Read the table under '## Doors': package -> modules of ours that it may import."""
    section = text.partition("## Doors")[2].partition("\n## ")[0]
    doors = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) != 3 or cells[0].strip("`") not in ROOMS:
            continue
        allowed = "" if cells[1].startswith("nothing") else cells[1].partition(";")[0]
        doors[cells[0].strip("`")] = [name for quoted in re.findall(r"`([^`]+)`", allowed) for name in expanded(quoted)]
    return doors


def expanded(name):
    """`a.{b,c}` -> a.b, a.c."""
    start, brace, rest = name.partition("{")
    return [start + end.strip() for end in rest.rstrip("}").split(",")] if brace else [name]


def module_of(path):
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source, module, is_package=False):
    """Yield (line, absolute name) of every import, wherever it stands; `from a import b` may mean module a.b."""
    home = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            parents = home.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            source_module = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                yield node.lineno, f"{source_module}.{alias.name}"
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
                yield node.lineno, str(node.args[0].value)


def passes(name, package, allowed):
    return any(name == door or name.startswith(f"{door}.") for door in (package, *allowed))


def breaches(source, module, doors, is_package=False):
    package = max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), key=len)
    return [
        f"line {line}: {name}"
        for line, name in imports_of(source, module, is_package)
        if name.split(".")[0] in PACKAGES and not passes(name, package, doors[package])
    ]


@pytest.fixture(scope="module")
def doors():
    return stated_doors((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))


def test_the_table_is_read(doors):
    assert set(doors) == set(ROOMS)
    assert doors["results"] == []
    assert "results.errors" in doors["pretrain"]
    assert "pretrain.tiles" in doors["transfer"]
    assert "results" in doors["benchmarks"]
    assert "pretrain" not in doors["benchmarks"]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_goes_round_a_door(package, doors):
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        wrong = breaches(path.read_text(encoding="utf-8"), module_of(path), doors, path.name == "__init__.py")
        if wrong:
            found[str(path.relative_to(ROOT))] = wrong
    assert not found


@pytest.mark.parametrize(
    ("module", "source", "count"),
    [
        ("pretrain.loop", "from results.files import replacing", 0),
        ("pretrain.loop", "from results import files, errors", 0),
        ("pretrain.loop", "def f():\n    from results.record import write_record", 1),
        ("pretrain.loop", "from results import record", 1),
        ("pretrain.loop", "import results.statistics as s", 1),
        ("pretrain.loop", "from .tiles import TileStore", 0),
        ("pretrain.methods.npid", "from ..losses import nce", 0),
        ("results.record", "import importlib\nimportlib.import_module('pretrain.tiles')", 1),
        ("results.table", "from results.record import read_records\nimport numpy", 0),
        ("transfer.tasks.base", "from pretrain.tiles import TileStore\nfrom pretrain.views import crop", 1),
        ("transfer.tasks.base", "from pretrain import tiles", 0),
        ("transfer.tasks.base", "import pretrain", 1),
        ("benchmarks.run", "import transfer.classify", 1),
        ("benchmarks.run", "from pretrain.bank import MemoryBank", 1),
        ("benchmarks.speed.loss", "from pretrain.bank import MemoryBank", 0),
        ("benchmarks.speed.loss", "from benchmarks.run import run_suite", 1),
    ],
)
def test_the_reader_of_imports(module, source, count, doors):
    assert len(breaches(source, module, doors)) == count


@pytest.mark.parametrize("package", PACKAGES)
def test_help_does_not_import_torch(package):
    if not (ROOT / package / "__main__.py").exists():
        pytest.skip(f"{package} has no __main__ yet")
    command = [sys.executable, "-X", "importtime", "-m", package, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "encodings" in modules
    assert not {name for name in modules if name.split(".")[0] in ("torch", "torchvision")}
