"""What a stopped command says of its work."""

import contextlib
import signal

import pytest

from pretrain.processes import each
from results import errors
from results.errors import Terminated, UserError, stoppable, told
from results.files import replacing, write_text


def stopped_after(work):
    def command():
        work()
        raise Terminated

    return command


def failed_write(path):
    with pytest.raises(ValueError, match="disk"), replacing(path):
        raise ValueError("disk")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_before_anything_is_finished_nothing_is_claimed(number, capsys):
    def command():
        signal.raise_signal(number)
        return 0

    assert stoppable(command, "half of it.") == 128 + number
    assert capsys.readouterr().err == (
        "stopped: nothing was finished by this call, what earlier ones finished stays; the same command begins anew.\n"
    )


def test_what_is_left_is_told_once_something_stands(tmp_path, capsys):
    assert stoppable(stopped_after(lambda: write_text(tmp_path / "a", "a")), "half of it.") == 143
    assert capsys.readouterr().err == "stopped: half of it.\n"
    assert stoppable(stopped_after(lambda: None), "half of it.") == 143  # the next call is another one
    assert "nothing was finished" in capsys.readouterr().err
    assert stoppable(stopped_after(lambda: failed_write(tmp_path / "b")), "half of it.") == 143
    assert "nothing was finished" in capsys.readouterr().err


def test_what_a_worker_finished_counts(capsys):
    def command():
        for _ in each(str, [1, 2], 0):
            signal.raise_signal(signal.SIGTERM)
        return 0

    assert stoppable(stopped_after(lambda: list(each(str, [1, 2], 0))), "half of it.") == 143
    assert capsys.readouterr().err == "stopped: half of it.\n"
    assert stoppable(command, "half of it.") == 143  # in the middle of the first


def test_an_error_after_the_signal_is_its_doing(capsys):
    def command():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        raise RecursionError

    assert stoppable(command) == 143
    assert capsys.readouterr().err.startswith("stopped: ")
    with pytest.raises(RecursionError):
        stoppable(stopped_by_itself)


def stopped_by_itself():
    raise RecursionError


def mistaken():
    raise UserError("a mistake.")


def test_the_other_processes_of_a_group_leave_a_mistake_to_the_first(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(errors.time, "sleep", lambda seconds: signal.raise_signal(signal.SIGTERM))
    assert stoppable(lambda: told(mistaken)) == 143  # torchrun ends it while it waits
    assert not capsys.readouterr().err
    monkeypatch.setattr(errors.time, "sleep", lambda seconds: None)
    assert stoppable(lambda: told(mistaken)) == 2  # the first is still alive, the mistake is not its own
    assert capsys.readouterr().err == "error: a mistake.\n"
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(errors.time, "sleep", lambda seconds: pytest.fail("the first one waits for nobody"))
    assert stoppable(lambda: told(mistaken)) == 2


def test_one_process_of_a_group_speaks(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    assert stoppable(stopped_after(lambda: None)) == 143
    assert not capsys.readouterr().err
