"""Put Detectron2 into this Python's site-packages: the index's copy of v0.6, unpacked, or one of the user's own.

    detectron2.py setup            fetch and install what DETECTRON2 names, unless that is what lies there (`make setup`)
    detectron2.py fetch FOLDER     the first half of it: a source archive, or a wheel of the user's own, into FOLDER
    detectron2.py install FOLDER   the second half

DETECTRON2 is a pip requirement; empty means the index's copy of v0.6. Where it is not set at all, `setup` leaves alone what it or the
user installed earlier. The copy of v0.6 holds Python files only and cannot be built, so that only its package folder is unpacked.
PIP is the command of pip, by default that of this Python.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from importlib import metadata
from pathlib import Path, PurePosixPath

PINNED = Path(__file__).resolve().parent / "requirements" / "detectron2.txt"
STAMP = Path(sys.prefix) / ".detectron2"
LIMIT = 50_000_000
"""Bytes that the package folder may unpack to; v0.6 has 2 MB."""


def pip(*words: str) -> None:
    """Run pip; what it says on failure is shown by itself."""
    command = shlex.split(os.environ.get("PIP", "")) or [sys.executable, "-m", "pip"]
    subprocess.run([*command, *words], check=True)


def fetch(requirement: str, folder: Path) -> None:
    """Bring the archive (hash-pinned, not built) or a wheel of the user's own (built where it must be) into `folder`."""
    if requirement:
        pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), requirement)
    else:
        pinned = ("--require-hashes", "--requirement", str(PINNED))
        pip(
            "download",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--no-binary",
            ":all:",
            *pinned,
            "--dest",
            str(folder),
        )


def install(folder: Path, site: Path) -> None:
    """Replace the Detectron2 in `site` by the one archive or wheel in `folder`."""
    files = [path for path in folder.iterdir() if path.name.endswith((".whl", ".tar.gz"))]
    if len(files) != 1:
        sys.exit(f"error: {folder} holds {len(files)} wheels or archives of Detectron2 instead of one: fetch it again.")
    if files[0].suffix == ".whl":
        _remove(site)
        pip("install", "--quiet", "--no-deps", "--no-index", str(files[0]))
        return
    with tempfile.TemporaryDirectory(dir=site) as fresh:
        unpack(files[0], Path(fresh))
        _remove(site)
        os.replace(Path(fresh) / "detectron2", site / "detectron2")


def unpack(archive: Path, site: Path) -> None:
    """Unpack the `detectron2/` folder of a source archive and its licence; names that lead elsewhere, links and devices are refused."""
    total = 0
    with tarfile.open(archive, "r:gz") as content:
        for member in content:
            parts = PurePosixPath(member.name).parts[1:]
            if parts[:1] != ("detectron2",) and parts != ("LICENSE",):
                continue
            if member.isdir():
                continue
            total += member.size
            if not member.isfile() or ".." in parts or total > LIMIT:
                sys.exit(
                    f"error: {archive.name} holds {member.name}, which is no plain file inside the package: nothing was installed."
                )
            target = site.joinpath("detectron2", "LICENSE") if parts == ("LICENSE",) else site.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with content.extractfile(member) as source, open(target, "wb") as file:
                shutil.copyfileobj(source, file)
    if not (site / "detectron2" / "__init__.py").is_file():
        sys.exit(f"error: {archive.name} holds no detectron2 package: nothing was installed.")


def setup(requirement: str | None, site: Path) -> None:
    """Fetch and install, unless what was asked for lies there; `requirement` None keeps what was chosen earlier."""
    present = (site / "detectron2").is_dir()
    stamp = STAMP.read_text(encoding="utf-8") if STAMP.is_file() else None
    if requirement is None:
        own = stamp is None and _is_distribution()
        if own or (present and stamp and not stamp.startswith("pinned ")):
            return
        requirement = ""
    wanted = f"own {requirement}" if requirement else f"pinned {hashlib.sha256(PINNED.read_bytes()).hexdigest()}"
    if present and stamp == wanted:
        return
    with tempfile.TemporaryDirectory() as folder:
        fetch(requirement, Path(folder))
        STAMP.unlink(missing_ok=True)
        install(Path(folder), site)
    STAMP.write_text(wanted, encoding="utf-8")


def _remove(site: Path) -> None:
    if _is_distribution():
        pip("uninstall", "--quiet", "--yes", "detectron2")
    shutil.rmtree(site / "detectron2", ignore_errors=True)


def _is_distribution() -> bool:
    try:
        metadata.version("detectron2")
    except metadata.PackageNotFoundError:
        return False
    return True


def main(words: list[str]) -> None:
    """Run one of the three commands."""
    site = Path(sysconfig.get_path("purelib"))
    try:
        match words:
            case ["setup"]:
                setup(os.environ.get("DETECTRON2"), site)
            case ["fetch", folder]:
                fetch(os.environ.get("DETECTRON2", ""), Path(folder))
            case ["install", folder]:
                install(Path(folder), site)
            case _:
                sys.exit(__doc__)
    except subprocess.CalledProcessError:
        named = os.environ.get("DETECTRON2") or "the pinned copy of v0.6"
        sys.exit(
            f"error: pip could not get Detectron2 ({named}); its message stands above, docs/install.md has ways round it."
        )


if __name__ == "__main__":
    main(sys.argv[1:])
