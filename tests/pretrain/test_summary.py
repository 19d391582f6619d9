"""SUMMARY.md of a run."""

from types import SimpleNamespace

from pretrain.export import describe

CARD = {
    "name": "sgcl", "finished": True, "epochs": 2, "step": 4, "tiles_seen": 8, "backbone": "resnet18", "feature_dim": 512,
    "digest": "d" * 64, "device_hours": 0.1, "git_revision": "abc", "seed": 0, "versions": {"torch": "2"},
    "hardware": {"gpus": [], "cpu": "a CPU"}, "input": {"tile": 256, "mpp": 0.5, "size": 224},
    "data": {"cohort": "mine", "rehearsal": False, "tiles": 4, "slides": 2, "store_digest": "s" * 64},
}  # fmt: skip
RUN = SimpleNamespace(info={"processes": 1})


def test_slides_that_failed_are_named_with_their_reason():
    text = describe(RUN, CARD, {"numbers": {}}, [("broken", "OpenSlide cannot open broken.svs")])
    assert "- left out: 1 slide(s) could not be tiled\n  - broken: OpenSlide cannot open broken.svs\n" in text


def test_of_many_failed_slides_ten_are_named():
    text = describe(RUN, CARD, {"numbers": {}}, [(f"slide_{n}", "gone") for n in range(13)])
    assert "left out: 13 slide(s)" in text
    assert text.count(": gone") == 10
    assert "  - and 3 more, in store.json of the store" in text


def test_where_none_failed_nothing_is_said():
    assert "left out" not in describe(RUN, CARD, {"numbers": {}})
