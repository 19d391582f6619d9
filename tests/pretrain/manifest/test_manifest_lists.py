import hashlib

import pytest

from pretrain.cohorts.camelyon16 import slide_facts
from pretrain.manifest.lists import PUBLISHED, choose, nearest_prefix, sgcl_order
from results.errors import UserError


def store_slides(tiles):
    return {name: {"tiles": tiles(name), "part": facts.part} for name, facts in slide_facts().items()}


def test_the_order_keeps_the_proportion_and_is_fixed():
    train = [name for name, facts in slide_facts().items() if facts.part == "train"]
    order = sgcl_order(dict.fromkeys(train))
    assert sorted(order) == sorted(train)
    assert order == sgcl_order(dict.fromkeys(reversed(train)))
    for front in range(20, 217, 14):
        tumor = sum(name.startswith("tumor") for name in order[:front])
        assert abs(tumor - front * 89 / 216) <= 1
    first = min(
        (n for n in train if n.startswith("tumor")),
        key=lambda n: hashlib.sha256(f"sgcl-pretraining-1/{n}".encode()).hexdigest(),
    )
    assert first in order[:2]


def test_the_list_comes_as_near_as_whole_slides_can():
    slides = store_slides(lambda name: 6000 + 37 * int(name[-3:]))
    names, said = choose("sgcl-pretraining", slides)
    assert {slides[name]["part"] for name in names} == {"train"}
    assert said["tiles"] == sum(slides[name]["tiles"] for name in names)
    assert abs(said["tiles"] - PUBLISHED) <= max(slide["tiles"] for slide in slides.values()) / 2
    assert (said["slides"], said["of_slides"]) == (len(names), 216)
    assert said["rule"].startswith("sgcl-pretraining-1: ")


def test_a_small_cohort_is_taken_whole_and_says_so():
    names, said = choose("sgcl-pretraining", store_slides(lambda _: 10))
    assert (len(names), said["tiles"], said["published_tiles"]) == (216, 2160, 681_486)


def test_parts_and_mistakes():
    names, said = choose("validation", store_slides(lambda _: 10))
    assert (len(names), said["slides"]) == (54, 54)
    with pytest.raises(UserError, match="choose sgcl-pretraining or one of train"):
        choose("sgcl", store_slides(lambda _: 10))
    with pytest.raises(UserError, match="needs slides of part test"):
        choose("test", {"a": {"tiles": 5}})


def test_nearest_prefix():
    tiles = {"a": 10, "b": 10, "c": 100}
    assert nearest_prefix(["a", "b", "c"], tiles, 22) == ["a", "b"]
    assert nearest_prefix(["a", "b", "c"], tiles, 15) == ["a"]
    assert nearest_prefix(["a", "b", "c"], tiles, 500) == ["a", "b", "c"]
    assert nearest_prefix(["c", "a"], tiles, 1) == ["c"]
