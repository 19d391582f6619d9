"""docker/detectron2.py: what it unpacks, what it refuses, and when it leaves things as they are."""

import base64
import hashlib
import importlib.util
import io
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def installer():
    spec = importlib.util.spec_from_file_location("detectron2_installer", ROOT / "docker" / "detectron2.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def archive(path, files, links=()):
    with tarfile.open(path, "w:gz") as content:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            content.addfile(info, io.BytesIO(text.encode()))
        for name, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            content.addfile(info)
    return path


WHOLE = {
    "pb1-detectron2-0.6/detectron2/__init__.py": "__version__ = '0.6'\n",
    "pb1-detectron2-0.6/detectron2/layers/nms.py": "x = 1\n",
    "pb1-detectron2-0.6/setup.py": "raise SystemExit\n",
    "pb1-detectron2-0.6/LICENSE": "Apache License\n",
}


def wheel(path, version):
    """A wheel by hand: a package of one file."""
    name = f"detectron2-{version}"
    files = {
        "detectron2/__init__.py": f"__version__ = '{version}'\n",
        f"{name}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: detectron2\nVersion: {version}\n",
        f"{name}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {n: base64.urlsafe_b64encode(hashlib.sha256(t.encode()).digest()).rstrip(b"=") for n, t in files.items()}
    record = "".join(f"{n},sha256={d.decode()},{len(files[n])}\n" for n, d in digests.items())
    files[f"{name}.dist-info/RECORD"] = f"{record}{name}.dist-info/RECORD,,\n"
    target = path / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as content:
        for entry, text in files.items():
            content.writestr(entry, text)
    return target


def test_only_the_package_and_its_licence_are_unpacked(installer, tmp_path):
    installer.unpack(archive(tmp_path / "a.tar.gz", WHOLE), tmp_path / "site")
    found = {str(p.relative_to(tmp_path / "site")) for p in (tmp_path / "site").rglob("*") if p.is_file()}
    assert found == {"detectron2/__init__.py", "detectron2/layers/nms.py", "detectron2/LICENSE"}


@pytest.mark.parametrize(
    ("files", "links"),
    [
        (WHOLE | {"pb1-detectron2-0.6/detectron2/../../../evil.py": "x"}, ()),
        (WHOLE, [("pb1-detectron2-0.6/detectron2/evil", "/etc/passwd")]),
        ({"pb1-detectron2-0.6/setup.py": "x"}, ()),
    ],
    ids=["climbs out", "link", "no package"],
)
def test_other_archives_are_refused_and_leave_what_was_there(installer, tmp_path, files, links):
    site = tmp_path / "site"
    (site / "detectron2").mkdir(parents=True)
    (site / "detectron2" / "__init__.py").write_text("old")
    folder = tmp_path / "fetched"
    folder.mkdir()
    archive(folder / "a.tar.gz", files, links)
    with pytest.raises(SystemExit, match="nothing was installed"):
        installer.install(folder, site)
    assert (site / "detectron2" / "__init__.py").read_text() == "old"
    assert not list(tmp_path.rglob("evil*"))
    assert [p.name for p in site.iterdir()] == ["detectron2"]


def test_the_pinned_file_has_a_hash_and_no_address(installer):
    text = installer.PINNED.read_text()
    assert "pb1-detectron2==0.6 --hash=sha256:" in text
    assert "://" not in text


@pytest.fixture
def environment(tmp_path):
    """An empty environment, and a function that runs the installer in it and tells the version it then has."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this environment has no pip")
    home = tmp_path / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    pip = f"{sys.executable} -m pip --python {python} --disable-pip-version-check --isolated"

    def run(**variables):
        done = subprocess.run(
            [python, ROOT / "docker" / "detectron2.py", "setup"],
            env={"PATH": "/usr/bin:/bin", "PIP": pip, "PIP_NO_INDEX": "1", **variables},
            capture_output=True,
            text=True,
        )
        init = next(home.glob("lib/*/site-packages/detectron2/__init__.py"), None)
        return done, init and init.read_text().split("'")[1]

    run.home = home
    return run


@pytest.mark.slow
def test_a_users_own_stays_until_another_is_named(environment, tmp_path):
    first, second = wheel(tmp_path, "1.0"), wheel(tmp_path, "2.0")
    done, version = environment(DETECTRON2=str(first))
    assert (done.returncode, version) == (0, "1.0"), done.stderr
    assert environment()[1] == "1.0"
    assert environment(DETECTRON2=str(second))[1] == "2.0"
    first.unlink()
    done, version = environment(DETECTRON2=str(first))
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith("error: pip could not get Detectron2")
    assert version == "2.0"


@pytest.mark.slow
def test_the_pinned_copy_takes_the_place_of_a_users_own(environment, tmp_path):
    assert environment(DETECTRON2=str(wheel(tmp_path, "1.0")))[1] == "1.0"
    site = next(environment.home.glob("lib/*/site-packages"))
    folder = tmp_path / "fetched"
    folder.mkdir()
    archive(folder / "pb1-detectron2-0.6.tar.gz", WHOLE)
    python = environment.home / "bin" / "python"
    pip = f"{sys.executable} -m pip --python {python} --disable-pip-version-check"
    done = subprocess.run([python, ROOT / "docker" / "detectron2.py", "install", folder], env={"PIP": pip}, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [p.name for p in site.glob("detectron2*")] == ["detectron2"]
    assert "0.6" in (site / "detectron2" / "__init__.py").read_text()


def test_this_environment_has_what_setup_puts_there(installer):
    """The digest of the installed copy is that of the tag, or it is a user's own."""
    site = Path(sysconfig.get_path("purelib"))
    if not installer.STAMP.is_file() or not installer.STAMP.read_text().startswith("pinned"):
        pytest.skip("this environment was not made by 'make setup' with the default Detectron2")
    from transfer.engines.detectron2 import compat

    assert compat.source_digest(site / "detectron2") == compat.V06_DIGEST
    assert (site / "detectron2" / "LICENSE").is_file()
