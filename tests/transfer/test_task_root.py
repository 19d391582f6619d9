"""The folder of a task's data set."""

import pytest

from results.errors import UserError
from transfer.tasks.schema import Request, task_root


def test_the_data_is_what_was_asked_for_or_the_newest_synthetic_cohort(tmp_path):
    work = tmp_path / "work"
    assert task_root(Request(work, str(tmp_path)), "nucls") == tmp_path
    with pytest.raises(UserError, match="is not a folder: give the folder of the nucls data set"):
        task_root(Request(work, "nowhere"), "nucls")
    with pytest.raises(UserError, match="there is no nucls data"):
        task_root(Request(work), "nucls")
    made = work / "cohorts" / "rehearsal-x" / "nucls"
    made.mkdir(parents=True)
    assert task_root(Request(work), "nucls") == made
