import re
import subprocess

from results import provenance


def test_versions_name_what_changes_a_number():
    found = provenance.versions()
    assert {"python", "numpy", "scikit-learn"} <= set(found)
    assert all(isinstance(version, str) for version in found.values())


def test_revision_comes_from_the_image_first(monkeypatch):
    monkeypatch.setenv("SGCL_BENCH_REVISION", "baked")
    assert provenance.git_revision() == "baked"


def test_revision_is_a_commit_marked_when_dirty_and_unknown_outside_git(monkeypatch):
    monkeypatch.delenv("SGCL_BENCH_REVISION", raising=False)
    answers = {"rev-parse": "c" * 40, "status": " M file"}
    monkeypatch.setattr(provenance, "_git", lambda root, command, *rest: answers[command])
    assert provenance.git_revision() == "c" * 40 + "-dirty"
    answers["status"] = ""
    assert provenance.git_revision() == "c" * 40

    def no_repository(*arguments):
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(provenance, "_git", no_repository)
    assert provenance.git_revision() == "unknown"


def test_hardware_and_time(monkeypatch):
    monkeypatch.setattr(provenance, "_gpus", lambda: [])
    found = provenance.hardware()
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0
    assert found["cpu"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", provenance.now())
