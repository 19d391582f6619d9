import numpy as np
import pytest
import yaml
from transfer_toys import write_store

from pretrain.cohorts.camelyon16 import slide_facts
from results.errors import UserError
from results.files import write_json
from transfer.tasks import Request, load_task, read_task
from transfer.tasks.slide_lists import _part

NAMES = {"slide_00": "normal_001", "slide_01": "normal_010", "slide_02": "test_001", "slide_03": "tumor_002"}


def named_like_camelyon(root, names=NAMES, **changes):
    """Rename the slides of a toy store; the order of names stays that of the tiles."""
    import pyarrow.parquet as pq

    write_store(root, slides=len(names), labels=("normal", "tumor"), rehearsal=False, **changes)
    table = pq.read_table(root / "tiles.parquet")
    column = [names[slide] for slide in table["slide"].to_pylist()]
    table = table.set_column(0, table.schema.field("slide"), [column])
    pq.write_table(table, root / "tiles.parquet")
    summary = yaml.safe_load((root / "store.json").read_text())
    summary["slides"] = {names[slide]: facts for slide, facts in summary["slides"].items()}
    write_json(root / "store.json", summary)
    for old, new in names.items():
        (root / "shards" / f"{old}.lmdb").rename(root / "shards" / f"{new}.lmdb")
    return root


def opened(root, trials=2):
    return load_task(read_task("camelyon16-tiles"), Request(root.parent, None, str(root), trials))


def test_slides_go_where_their_names_say(tmp_path):
    task = opened(named_like_camelyon(tmp_path / "store"))
    split = task.splits[0]
    assert set(task.clusters[split.train]) == {"normal_001", "tumor_002"}
    assert set(task.clusters[split.validation]) == {"normal_010"}
    assert set(task.clusters[split.test]) == {"test_001"}
    assert task.classes == ("normal", "tumor")
    assert task.remark == "official split by slide name: 2 slides train, 1 validate, 1 test"
    assert task.trials == 2
    assert task.name == "camelyon16-tiles (sample: 4 of 399 slides)"
    assert opened(tmp_path / "store", trials=3).split_digest == task.split_digest
    np.testing.assert_array_equal(task.splits[1].test, split.test)


def test_the_split_is_the_one_the_slides_are_published_with():
    settings = read_task("camelyon16-tiles")
    facts = slide_facts()
    assert len(facts) == 399
    assert {name: _part(name, settings, "") for name in facts} == {name: one.part for name, one in facts.items()}
    assert len(settings.validation_slides) == len(set(settings.validation_slides)) == 54


def test_stores_that_do_not_fit_are_refused(tmp_path):
    for number, (names, words) in enumerate(
        [
            ({**NAMES, "slide_03": "tumour_2"}, "slide 'tumour_2' is in no part of camelyon16-tiles"),
            ({**NAMES, "slide_02": "normal_002"}, "the test slides .* fewer than 2 classes"),
            ({**NAMES, "slide_01": "normal_011"}, "the validation slides"),
        ]
    ):
        with pytest.raises(UserError, match=words):
            opened(named_like_camelyon(tmp_path / str(number), names))
    with pytest.raises(UserError, match="use task=rehearsal"):
        opened(write_store(tmp_path / "synthetic"))
