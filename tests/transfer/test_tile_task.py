from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transfer_toys import write_store

from pretrain.tiles import TileStore
from results.errors import UserError
from transfer.tasks import Request, Split, known_tasks, load_task, read_task, schema
from transfer.tasks.tile_labels import TileLabels, load_tile_task

SETTINGS = TileLabels()
CLASSIFICATION = ["camelyon16-tiles", "nct-crc-he", "nct-crc-he-nonorm", "pcam", "rehearsal", "tiles"]


def test_every_task_file_reads():
    assert known_tasks() == CLASSIFICATION
    for name in known_tasks():
        assert read_task(name).version == 1
        assert len((Path(schema.__file__).parent / f"{name}.yaml").read_text().splitlines()) < 30
    assert read_task("rehearsal", changes={"max_tiles_per_slide": 7}).max_tiles_per_slide == 7


def test_tiles_have_their_label_and_enough_of_it(store):
    task = load_tile_task(SETTINGS, store, 3, 0)
    assert task.name == "toy-tiles"
    assert task.classes == ("bands", "speckle", "stripes")
    labels = store.index["label"][task.tiles]
    assert [task.classes[code] for code in task.labels] == labels.tolist()
    assert store.index["label_share"][task.tiles].min() >= 0.7
    assert len(task.tiles) == sum(
        (label != "") & (share >= 0.7)
        for label, share in zip(store.index["label"], store.index["label_share"], strict=True)
    )


@pytest.mark.parametrize("trials", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_parts_share_no_slide_and_cover_all_tiles(store, trials, seed):
    task = load_tile_task(SETTINGS, store, trials, seed)
    assert len(task.splits) == trials
    tested = []
    for split in task.splits:
        parts = [set(task.clusters[rows]) for rows in (split.train, split.validation, split.test)]
        assert all(parts)
        assert len(set().union(*parts)) == sum(map(len, parts))
        assert sorted(np.concatenate([split.train, split.validation, split.test])) == list(range(len(task.tiles)))
        tested.append(parts[2])
    assert sum(map(len, tested)) == len(set().union(*tested))
    assert (trials < 3) or len(set().union(*tested)) == 6


def test_folds_hold_slides_of_every_hospital(store):
    task = load_tile_task(SETTINGS, store, 3, 0)
    for split in task.splits:
        assert set(store.index["hospital"][task.tiles[split.test]]) == {"hospital_0", "hospital_1"}


def test_slides_of_one_patient_stay_together(tmp_path):
    store = TileStore(write_store(tmp_path / "s", slides=8, patients=["a", "a", "a", "b", "b", "c", "", ""]))
    task = load_tile_task(SETTINGS, store, 3, 0)
    names = np.where(store.index["patient"] == "", store.index["slide"], store.index["patient"])[task.tiles]
    for split in task.splits:
        parts = [set(names[rows]) for rows in (split.train, split.validation, split.test)]
        assert len(set().union(*parts)) == sum(map(len, parts))


def test_the_split_is_a_function_of_names_and_seed(store):
    one, two = (load_tile_task(SETTINGS, TileStore(store.root), 3, 4) for _ in range(2))
    assert one.split_digest == two.split_digest
    for a, b in zip(one.splits, two.splits, strict=True):
        np.testing.assert_array_equal(a.test, b.test)
    digests = {load_tile_task(SETTINGS, store, trials, seed).split_digest for trials, seed in [(3, 4), (3, 5), (4, 4)]}
    assert len(digests) == 3
    fewer = load_tile_task(SETTINGS, store, 1, 4)
    assert fewer.split_digest == one.split_digest
    np.testing.assert_array_equal(fewer.splits[0].test, one.splits[0].test)
    assert load_tile_task(TileLabels(min_label_share=0.4), store, 3, 4).split_digest not in digests


def test_a_cap_takes_evenly_spaced_tiles_of_every_slide(store):
    whole = load_tile_task(SETTINGS, store, 3, 0)
    task = load_tile_task(TileLabels(max_tiles_per_slide=5), store, 3, 0)
    for slide in np.unique(task.clusters):
        own, kept = whole.tiles[whole.clusters == slide], task.tiles[task.clusters == slide]
        assert len(kept) == 5
        assert {own[0], own[-1]} <= set(kept.tolist()) <= set(own.tolist())
    assert (np.diff(task.tiles) > 0).all()
    assert len(load_tile_task(TileLabels(max_tiles_per_slide=1000), store, 3, 0).tiles) == len(whole.tiles)


def test_stores_that_cannot_be_split_say_what_is_needed(tmp_path, store):
    bare = TileStore(write_store(tmp_path / "bare", labels=()))
    few = TileStore(write_store(tmp_path / "few", slides=2))
    one = TileStore(write_store(tmp_path / "one", labels=("bands",)))
    real = TileStore(write_store(tmp_path / "real", rehearsal=False))
    for case, trials, settings, words in [
        (bare, 3, SETTINGS, "no labelled tiles"),
        (few, 1, SETTINGS, "2 slides and 3 are needed: annotate more slides"),
        (one, 3, SETTINGS, "fewer than 2 classes"),
        (store, 9, SETTINGS, "6 slides and 9 are needed.*trials=6"),
        (real, 3, read_task("rehearsal"), "use task=tiles"),
    ]:
        with pytest.raises(UserError, match=words):
            load_tile_task(settings, case, trials, 0)


def test_task_files_with_mistakes_are_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    for text, words in [
        ("min_lable_share: 0.5", "min_label_share"),
        ("kind: boxes", "no loader"),
        ("min_label_share: 2", "between 0 and 1"),
        ("validation_share: 1", "between 0 and 1"),
        ("max_tiles_per_slide: 0", "above 0"),
        ("name: ../up", "letters, digits"),
        ("name: ''", "letters, digits"),
        ("name: 'a b'", "letters, digits"),
        (f"name: {'a' * 81}", "letters, digits"),
        ("{kind: nucls, name: a/b}", "letters, digits"),
        ("{kind: bcss, name: '-a'}", "letters, digits"),
        ("version: -1", "whole number"),
        ("{kind: bcss, test: [[OL]]}", "test=.* does not fit"),
        ("{kind: bcss, full_set: 0}", "full_set=0"),
        ("{kind: image_folders, classes: [[a], b]}", "classes=.* does not fit"),
    ]:
        path.write_text(text)
        purpose = {"kind: nucls": "detection", "kind: bcss": "segmentation"}.get(text[1:].split(",")[0])
        with pytest.raises(UserError, match=words):
            read_task(str(path), purpose or "classification")
    with pytest.raises(UserError, match="choose camelyon16-tiles, nct-crc-he"):
        read_task("rehersal")
    with pytest.raises(UserError, match="no loader for classification"):
        read_task("nucls")
    with pytest.raises(UserError, match="max_tiles_per_slide=5 is not a setting of task nct-crc-he"):
        read_task("nct-crc-he", changes={"max_tiles_per_slide": 5})


def test_requests_that_do_not_fit_a_store_are_refused(store, tmp_path):
    with pytest.raises(UserError, match="trials=0"):
        load_task(read_task("rehearsal"), Request(tmp_path, store=str(store.root), trials=0))
    with pytest.raises(UserError, match="folders of images"):
        load_task(read_task("rehearsal"), Request(tmp_path, root=str(tmp_path)))


def test_a_cap_on_each_label_keeps_the_rare_ones(store):
    task = load_tile_task(TileLabels(max_tiles_per_slide=2, cap_each_label=True), store, 3, 0)
    for slide in np.unique(task.clusters):
        assert np.bincount(task.labels[task.clusters == slide]).tolist() == [2, 2, 2]


@pytest.mark.parametrize("trials", [0, 1001, 10**12])
def test_trials_are_bounded(tmp_path, trials):
    with pytest.raises(UserError, match="from 1 to 1000"):
        load_task(SETTINGS, Request(tmp_path, trials=trials))


def test_a_class_that_a_trial_cannot_learn_or_choose_by_is_said(store):
    task = load_tile_task(SETTINGS, store, 3, 0)
    assert [task.trial_notes(trial) for trial in range(3)] == [(), (), ()]
    bare = np.isin(np.arange(len(task.tiles)), task.splits[0].train) & (task.labels < 2)
    held = np.isin(np.arange(len(task.tiles)), task.splits[0].validation) & (task.labels == 1)
    kept = Split(task.splits[0].train[~bare[task.splits[0].train]], task.splits[0].validation[~held[task.splits[0].validation]], task.splits[0].test)  # fmt: skip
    unlearned, unseen = replace(task, splits=(kept,)).trial_notes(0)
    assert (
        unlearned
        == f"Trial 1: no tile of {task.classes[1]} to learn from, so all of it that is tested counts as wrong."
    )
    assert unseen.startswith(f"Trial 1: validation has {task.classes[0]} and the training part has none")
