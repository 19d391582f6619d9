"""The runner of detection and segmentation cells, with an engine of three lines in place of the heavy ones."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from transfer_toys import write_export

from results.errors import UserError
from results.record import read_records
from transfer import dense
from transfer.__main__ import main
from transfer.dense import DenseSettings, open_dense, open_usable
from transfer.engines.base import check_gpus
from transfer.recording import Progress, in_words
from transfer.settings import read_settings


@dataclass(frozen=True)
class Toy:
    name: str = "toy"
    version: int = 1
    kind: str = "segmentation"
    classes: tuple[str, ...] = ("a", "b")
    rehearsal: bool = True
    split_digest: str = "1" * 64
    data_digest: str = "2" * 64
    trials: int = 2
    notes: tuple[str, ...] = ("Test and training share slides.",)


class Engine:
    name, kind = "toy_engine", "segmentation"

    def __init__(self, dies_in=(), refuses=()):
        self.dies_in, self.refuses, self.ran = dies_in, refuses, []

    def settings(self):
        return {"schedule": "smoke"}

    def check(self, backbone):
        if backbone.architecture in self.refuses:
            raise UserError(f"{backbone.architecture} cannot be used here")

    def run(self, task, backbone, seed, trial, folder):
        self.ran.append(trial)
        (folder / "left.txt").write_text("scratch")
        if trial in self.dies_in:
            raise RuntimeError("out of memory")
        weight = float(next(iter(backbone.state.values())).abs().sum())
        right = int(weight * 1e3) % 90
        return pa.table(
            {"unit": ["r1"], "cluster": ["s1"], "pixels_a": [[right, 100 - right]], "pixels_b": [[5, 95]]},
        )


def run_cells(task, engine, settings, untrained=()):
    return dense.run_cells(task, engine, settings, open_usable(settings, engine), untrained)


@pytest.fixture
def settings(tmp_path):
    write_export(tmp_path / "work" / "runs" / "one")
    return DenseSettings(
        encoder=["latest"], work=str(tmp_path / "work"), records=str(tmp_path / "records"), device="cpu"
    )


def test_every_encoder_and_trial_is_one_cell_and_nothing_runs_twice(settings, capsys):
    engine = Engine()
    assert run_cells(Toy(), engine, settings) == 0
    records = read_records(settings.records)
    assert {(r.data["encoder"]["kind"], r.data["trial"]) for r in records} == {
        (kind, trial) for kind in ("run", "floor") for trial in (0, 1)
    }
    assert all(r.data["task"]["kind"] == "segmentation" and r.data["trials"] == 2 for r in records)
    untrained = [r.data["metrics"][0]["value"] for r in records if r.data["encoder"]["kind"] == "floor"]
    assert untrained[0] != untrained[1]  # drawn anew for every trial
    assert run_cells(Toy(), engine, settings) == 0
    assert len(engine.ran) == 4
    assert "0 cells scored, 4 already there" in capsys.readouterr().out


def test_a_check_counts_the_cells_and_writes_nothing(settings, capsys):
    engine = Engine()
    settings.check = True
    assert run_cells(Toy(), engine, settings, [Known()]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "6 cells: 6 to run"
    assert (engine.ran, Path(settings.records).exists(), (Path(settings.work) / "transfer").exists()) == (
        [],
        False,
        False,
    )
    settings.check, settings.floors = False, False
    assert run_cells(Toy(trials=1), engine, settings) == 0
    settings.check, settings.floors = True, True
    assert run_cells(Toy(), engine, settings) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"4 cells, 1 of them already in {settings.records}: 3 to run"


def test_a_scored_cell_says_what_the_others_will_take(settings, monkeypatch, capsys):
    monkeypatch.setattr("transfer.dense.timed", lambda work: (work(), 90.0))
    assert run_cells(Toy(), Engine(), settings, [Known()]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "mIoU" in line or "(90 s" in line]
    assert [line.partition("(90 s")[2] for line in lines] == [
        "; 3 more to train, about 4 min 30 s)",
        "; 2 more to train, about 3 min 0 s)",
        "; 1 more to train, about 1 min 30 s)",
        ")", ")", ")",
    ]  # fmt: skip


def test_mistakes_in_encoder_engine_and_data_are_told_in_one_go(tmp_path):
    settings = DenseSettings(encoder=["nowhere"], root=str(tmp_path / "gone"), work=str(tmp_path))

    def build():
        raise UserError("schedule=FULL is not known")

    with pytest.raises(UserError, match=r"nowhere.* And: schedule=FULL is not known And: task\.root=.*gone"):
        open_dense(settings, "detection", "nucls", build)


@pytest.mark.parametrize("place", ["records", "work"])
def test_a_place_that_takes_no_files_is_told_by_a_check_too_and_nothing_is_left(settings, tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    settings.check, settings.encoder, settings.root = True, ["random"], str(tmp_path)
    for name in ("file", "file/below", "loop", "x" * 300):
        setattr(settings, place, str(tmp_path / name))
        with pytest.raises(UserError, match=f"{place}=.* cannot be made"):
            open_dense(settings, "detection", "nucls", Engine)
    setattr(settings, place, str(tmp_path / "new" / "folder"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError):
        open_dense(settings, "detection", "nucls", Engine)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"device": "mps"}, "^device=mps is not known"),
        ({"imagenet": "gone.pth"}, r"^imagenet=gone\.pth is not a file"),
        ({"encoder": ["timm:resnet18"]}, "comes with no weights"),
        ({"encoder": ["torchvision:resnet18@gone.pth"]}, r"gone\.pth .*no such file"),
        ({"encoder": ["mean_rgb"]}, "no weights to train on"),
        ({"refuses": ("resnet18",)}, "resnet18 cannot be used here"),
    ],
)
def test_what_no_data_can_mend_is_told_before_they_are_read(settings, tmp_path, monkeypatch, changes, told):
    monkeypatch.setattr(dense, "load_task", lambda *given: pytest.fail("the data were read"))
    engine = Engine(refuses=changes.pop("refuses", ()))
    for name, value in changes.items():
        setattr(settings, name, value)
    settings.root = str(tmp_path)
    with pytest.raises(UserError, match=told):
        open_dense(settings, "detection", "nucls", lambda: engine)


def test_one_mistake_that_two_checks_find_is_told_once(settings, tmp_path):
    settings.device, settings.root = "mps", str(tmp_path)
    with pytest.raises(UserError) as error:
        open_dense(settings, "detection", "nucls", lambda: check_gpus("mps", 2))
    assert str(error.value).count("device=mps is not known") == 1


def test_a_crash_leaves_a_record_and_the_rest_goes_on(settings, capsys):
    engine = Engine(dies_in=(0,))
    settings.floors = False
    assert run_cells(Toy(), engine, settings) == 3
    found = {r.data["trial"]: r for r in read_records(settings.records)}
    assert found[0].data["status"] == "crashed"
    assert "RuntimeError: out of memory" in found[0].data["error"]
    assert found[1].ok
    assert "out of memory" in capsys.readouterr().out
    mended = Engine()
    assert run_cells(Toy(), mended, settings) == 0
    assert mended.ran == [0]
    assert all(r.ok for r in read_records(settings.records))


def test_an_encoder_that_the_engine_cannot_take_is_refused_before_anything_runs(settings):
    engine = Engine(refuses=("resnet18",))
    with pytest.raises(UserError, match="resnet18 cannot be used here"):
        run_cells(Toy(), engine, settings)
    assert engine.ran == []


def test_a_colour_floor_cannot_be_trained_further(settings):
    settings.encoder = ["mean_rgb"]
    with pytest.raises(UserError, match="mean RGB"):
        run_cells(Toy(), Engine(), settings)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("schedule=FULL", "schedule=FULL is not known"),
        ("trials=0", "trials=0 is too small"),
        ("gpus=0", "gpus=0"),
        ("encodr=x", "encoder"),
    ],
)
def test_settings_that_cannot_be_are_refused(word, said):
    with pytest.raises(UserError, match=said):
        read_settings(DenseSettings, [word])


def test_options_come_from_the_command_line():
    assert read_settings(DenseSettings, ["options={iterations: 3}"]).options == {"iterations": 3}


def test_units_that_cannot_be_scored_are_a_crash_of_their_cell(settings, monkeypatch):
    twice = pa.table(
        {"unit": ["r1", "r1"], "cluster": ["s1", "s1"], "pixels_a": [[1, 2]] * 2, "pixels_b": [[3, 4]] * 2}
    )
    engine = Engine()
    monkeypatch.setattr(engine, "run", lambda *arguments: twice)
    settings.floors = False
    assert run_cells(Toy(), engine, settings) == 3
    assert all("cannot be scored" in r.data["error"] for r in read_records(settings.records))


def test_settings_that_no_record_can_hold_are_refused_before_training(settings, monkeypatch):
    engine = Engine()
    monkeypatch.setattr(engine, "settings", lambda: {"rate": float("nan")})
    with pytest.raises(UserError, match="rate is not a finite number"):
        run_cells(Toy(), engine, settings)
    assert engine.ran == []


def test_a_cell_that_another_process_runs_is_left_to_it(settings, capsys):
    settings.floors = False
    first, inside = Engine(), Engine()
    plain = first.run

    def run_while_another_asks(*arguments):
        if arguments[3] == 0:
            assert run_cells(Toy(trials=1), inside, settings) == 0
        return plain(*arguments)

    first.run = run_while_another_asks
    assert run_cells(Toy(), first, settings) == 0
    assert (first.ran, inside.ran) == ([0, 1], [])
    assert "1 run by another process" in capsys.readouterr().out


def test_records_that_cannot_be_written_are_told_and_their_cells_are_not_trained_again(settings, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    settings.floors = False
    first, second = Engine(), Engine()
    with monkeypatch.context() as patched:
        patched.setattr("transfer.dense.write_record", full)
        with pytest.raises(
            UserError, match=r"records=.*No space left.*repeat the command, which will not train it again"
        ):
            run_cells(Toy(), first, settings)
    assert run_cells(Toy(), second, settings) == 0
    assert (first.ran, second.ran) == ([0], [1])
    assert "trial 1 of 2: trained earlier" in capsys.readouterr().out
    scored = {r.data["trial"]: r for r in read_records(settings.records)}
    assert scored[0].units().num_rows == 1
    assert scored[0].data["wall_seconds"] > 0
    assert not list((Path(settings.work) / "transfer").glob("*/unrecorded.parquet"))


def test_units_that_find_no_room_either_are_trained_again(settings, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transfer.dense.write_record", full)
    monkeypatch.setattr("transfer.dense.pq.write_table", full)
    with pytest.raises(UserError, match=r"repeat the command\.$"):
        run_cells(Toy(), Engine(), settings)


def test_a_record_says_what_run_was_scored_and_what_must_be_known_of_the_task(settings, capsys):
    settings.floors = False
    assert run_cells(Toy(), Engine(), settings) == 0
    (first, _) = read_records(settings.records)
    assert (first.data["encoder"]["run"], first.data["notes"]) == ("one", ["Test and training share slides."])
    said = capsys.readouterr().out
    assert "sgcl on toy: run one, seed 0" in said
    assert "sgcl on toy, seed 0, toy_engine, trial 1 of 2" in said


class Known:
    """A floor that trains nothing."""

    name, kind, coverage, card, digest = "known answers", "floor", None, None, "3" * 64

    def units(self, task, trial):
        return pa.table({"unit": ["r1"], "cluster": ["s1"], "pixels_a": [[60, 40]], "pixels_b": [[5, 95]]})


def test_a_floor_that_trains_nothing_is_a_cell_like_any_other(settings, capsys):
    engine = Engine()
    assert run_cells(Toy(), engine, settings, [Known()]) == 0
    assert len(engine.ran) == 4
    assert "6 cells scored, 0 already there" in capsys.readouterr().out.splitlines()[-1]
    assert sum(r.data["encoder"]["name"] == "known answers" for r in read_records(settings.records)) == 2
    assert run_cells(Toy(), engine, settings, [Known()]) == 0
    assert "0 cells scored, 6 already there" in capsys.readouterr().out


def test_progress_says_iteration_loss_and_time_left_now_and_then(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr("transfer.recording.time.monotonic", lambda: now[0])
    progress = Progress(300, every=30)
    for iteration in range(1, 101):
        now[0] += 1
        progress.step(iteration, 3.0 if iteration > 30 else 1.0)
    assert capsys.readouterr().out.splitlines() == [
        "  iteration 30 of 300, loss 1.000, 4 min 30 s left",
        "  iteration 60 of 300, loss 3.000, 4 min 0 s left",
        "  iteration 90 of 300, loss 3.000, 3 min 30 s left",
    ]
    Progress(1, every=30).step(1, 0.5)
    assert capsys.readouterr().out == "  iteration 1 of 1, loss 0.500, 0 s left\n"
    assert in_words(11_400) == "3 h 10 min"


def test_sigterm_says_what_is_kept_and_exits_with_143(settings, monkeypatch, capsys):
    class Stopped(Engine):
        def run(self, task, backbone, seed, trial, folder):
            if trial == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().run(task, backbone, seed, trial, folder)

    settings.floors = False
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("transfer.detect.detect", lambda given: run_cells(Toy(), Stopped(), settings))
    try:
        assert main(["detect"]) == 143
    finally:
        signal.signal(signal.SIGTERM, before)
    said = capsys.readouterr().err
    assert said.startswith("stopped: finished cells have their records; the same command goes on")
    assert len(said.splitlines()) == 1
    assert [r.data["trial"] for r in read_records(settings.records)] == [0]
