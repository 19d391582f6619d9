"""The auditor against loops over pairs, planted banks, hostile names and runs that are not what they should be."""

import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from audit_pages import Tags

from pretrain import charts, methods
from pretrain.audit import epoch_numbers, page, report, sets
from pretrain.audit.numbers import agreement, cross_slide, histogram, quantiles
from pretrain.config import load, method_options, view_settings
from pretrain.methods import METHODS
from pretrain.methods.npid import NPID, NPIDOptions
from pretrain.methods.sgcl import SGCL, SGCLOptions
from pretrain.neighbours.mining import draw_ranks, rank_weights
from pretrain.randomness import key
from pretrain.views import ViewSettings

VIEWS = ViewSettings(size=32, local_size=16)
SMALL = {"dimension": 8, "clusters": 5, "nei_k": 20, "clusterings": 2, "negatives": 50}
LABELS = ["fat", "stroma", "tumour"]
HOSTILE = '<script>alert("1")</script>'


class ToyStore:
    """What the auditor reads of a tile store, in memory: 400 tiles as the `facts` fixture has them."""

    def __init__(self, facts, labelled: bool = True):
        rng = np.random.default_rng(1)
        self.labels, self.tile = LABELS if labelled else [], 32
        self.slide_codes = facts.slide.numpy().astype(np.int32)
        self.label_codes = (
            rng.integers(-1, 3, len(self.slide_codes)) if labelled else np.full(len(self.slide_codes), -1)
        )
        names = np.array([*LABELS, ""], dtype=object)
        self.index = {
            "slide": np.array([f"s{code}" for code in self.slide_codes], dtype=object),
            "label": names[self.label_codes],
            "hospital": np.array(["north", "south", "", "north", "south"], dtype=object)[self.slide_codes],
            "patient": np.array(["a", "b", "c", "a", "e"], dtype=object)[self.slide_codes],
            "grid_x": facts.x.numpy(),
            "grid_y": facts.y.numpy(),
        }

    def __len__(self):
        return len(self.slide_codes)

    def read(self, tile_id):
        return np.random.default_rng(int(tile_id)).integers(0, 256, (32, 32, 3), dtype=np.uint8)

    def read_many(self, tile_ids):
        return np.stack([self.read(i) for i in tile_ids])


@pytest.fixture
def store(facts):
    return ToyStore(facts)


def plant(method, codes) -> None:
    """Bank rows that lie together where the codes are equal, and clusters of them."""
    codes = torch.as_tensor(codes)
    towards = F.one_hot(codes, method.options.dimension).float()
    noise = torch.randn(len(codes), method.options.dimension, generator=torch.Generator().manual_seed(3))
    ids = torch.arange(len(codes))
    for bank in method.banks.values():
        bank.written[:] = False  # the next write takes the row's place
    method.banks["global"].update(ids, F.normalize(towards + 0.05 * noise, dim=1))
    if "backbone" in method.banks:
        wide = F.one_hot(codes, method.dimension) + 0.05 * torch.randn(
            len(codes), method.dimension, generator=torch.Generator().manual_seed(4)
        )
        method.banks["backbone"].update(ids, F.normalize(wide, dim=1))
    method.start_epoch(1)


@pytest.fixture
def method(facts, store):
    torch.manual_seed(0)
    made = SGCL(SGCLOptions(**SMALL), facts, "resnet18", VIEWS)
    plant(made, store.label_codes + 1)
    return made


def members_of(row) -> set[int]:
    return {int(j) for j in row if j >= 0}


def test_agreement_equals_loops_over_pairs():
    rng = np.random.default_rng(0)
    slides, codes = rng.integers(0, 4, 60), rng.integers(-1, 3, 60)
    anchors = rng.permutation(60)[:25]
    members = rng.integers(-1, 60, (25, 9))
    members[members == anchors[:, None]] = -1
    found = agreement(codes, slides, anchors, members)
    everyone = np.arange(60)
    for name, keeps in (
        ("all", lambda i, j: True),
        ("across_slides", lambda i, j: slides[i] != slides[j]),
        ("within_slide", lambda i, j: slides[i] == slides[j]),
    ):
        shares, chances, pairs = [], [], 0
        for i, row in zip(anchors, members, strict=True):
            mine = [j for j in row if j >= 0 and codes[j] >= 0 and codes[i] >= 0 and keeps(i, j)]
            if mine:
                others = [j for j in everyone if j != i and codes[j] >= 0 and keeps(i, j)]
                shares.append(np.mean([codes[j] == codes[i] for j in mine]))
                chances.append(np.mean([codes[j] == codes[i] for j in others]))
                pairs += len(mine)
        expected = {"share": np.mean(shares), "by_chance": np.mean(chances), "anchors": len(shares), "pairs": pairs}
        assert found[name] == pytest.approx(expected, abs=1e-6)
    apart = [np.mean([slides[j] != slides[i] for j in row if j >= 0]) for i, row in zip(anchors, members, strict=True)]
    chance = [np.mean(np.delete(slides, i) != slides[i]) for i in anchors]
    both = cross_slide(slides, anchors, members)
    assert (both["share"], both["by_chance"]) == pytest.approx((np.mean(apart), np.mean(chance)), abs=1e-6)


def test_agreement_without_a_pair_is_none_and_never_a_number():
    slides, anchors = np.zeros(4, int), np.array([0, 1])
    nobody = np.full((2, 0), -1)
    assert agreement(np.zeros(4, int), slides, anchors, nobody)["all"] is None
    assert agreement(np.full(4, -1), slides, anchors, np.array([[2], [3]]))["all"] is None
    assert cross_slide(slides, anchors, nobody) is None


def test_histograms_and_quantiles_count_everything():
    found = histogram({"a": np.array([-2.0, 0.0, 0.5, 9.0, np.nan])}, 0, 1, 2)
    assert found == {"edges": [0.0, 0.5, 1.0], "counts": {"a": [2, 2]}}
    assert quantiles(np.arange(101))["q95"] == 95
    assert quantiles(np.arange(101))["mean"] == 50


def test_anchors_are_the_same_for_a_seed_and_galleries_are_spread(store):
    ids = sets.sample(400, 50, seed=3)
    assert np.array_equal(ids, sets.sample(400, 50, seed=3))
    assert not np.array_equal(ids, sets.sample(400, 50, seed=4))
    assert len(set(ids)) == 50
    assert len(sets.sample(400, 5000, seed=3)) == 400
    chosen = sets.spread(store.slide_codes, store.label_codes, 12, seed=3)
    assert np.bincount(store.label_codes[chosen]).tolist() == [4, 4, 4]
    assert len(set(chosen)) == 12
    assert set(store.slide_codes[chosen]) >= {0, 1, 2, 3}
    none = sets.spread(store.slide_codes, np.full(400, -1), 4, seed=3)
    assert len(set(store.slide_codes[none])) == 4


def test_sets_are_those_of_the_method_and_it_is_left_as_it_was(method, facts):
    ids, options = torch.from_numpy(sets.sample(400, 100, 0)), method.options
    before = {name: value.clone() for name, value in method.memory().items()}
    found = sets.positives(method, ids, epoch=2)
    whole, _ = method.positive_sets(method.banks["global"][ids], ids, epoch=2)
    assert method.options is options
    assert all(torch.equal(value, before[name]) for name, value in method.memory().items())
    sizes = []
    for row, i in enumerate(ids.tolist()):
        near = {
            j
            for j in range(400)
            if facts.slide[i] == facts.slide[j]
            and 0 < (facts.x[i] - facts.x[j]) ** 2 + (facts.y[i] - facts.y[j]) ** 2 < 9
        }
        spatial, semantic = members_of(found["spatial"][row]), members_of(found["semantic"][row])
        assert spatial == near
        assert spatial | semantic == members_of(whole[row]) == members_of(found["positives"][row])
        sizes.append(len(semantic - spatial))
    assert np.mean(sizes) > 3
    assert sets.positives(method, ids, epoch=0)["semantic"].shape[1] == 0


def test_mined_negatives_stand_at_the_steps_ranks(method):
    ids = torch.tensor([5, 90, 333])
    positive = sets.positives(method, ids, epoch=2)["positives"]
    found = sets.mined(method, ids, positive, step=7)
    ranks = draw_ranks(rank_weights(80, "fixed"), method.nearest, np.random.default_rng(key(0, 7, "ranks")))
    rows = method.banks["backbone"].rows.double()
    for row, i in enumerate(ids.tolist()):
        similarity = rows[i] @ rows.T
        left = [
            j for j in similarity.argsort(descending=True).tolist() if j != i and j not in members_of(positive[row])
        ]
        assert members_of(found[row]) == {left[r] for r in ranks}


def test_overlap_is_the_jaccard_index():
    a, b = torch.tensor([[1, 2, 3], [4, -1, -1], [-1, -1, -1]]), torch.tensor([[3, 2, 9], [5, -1, -1], [-1, -1, -1]])
    assert sets.overlap(a, b)[:2] == pytest.approx([0.5, 0])
    assert np.isnan(sets.overlap(a, b)[2])


def test_nearest_leaves_out_what_it_must(method, store):
    rows, ids = method.banks["global"].rows, torch.tensor([0, 7, 200])
    allowed, slides = torch.from_numpy(store.label_codes >= 0), torch.from_numpy(store.slide_codes)
    near = sets.nearest(rows, ids, allowed, slides, 10)
    for row, i in enumerate(ids.tolist()):
        s = rows[i] @ rows.T
        right = [j for j in s.argsort(descending=True).tolist() if allowed[j] and slides[j] != slides[i]][:10]
        assert near[row].tolist() == right


def test_epoch_numbers_tell_a_pure_bank_from_one_that_follows_the_slide(method, facts, store):
    pure = epoch_numbers(method, store, seed=0, epoch=3)
    assert set(pure) == {"spatial_size", "spatial_purity", "semantic_size", "semantic_purity", "semantic_cross_slide"}
    assert all(isinstance(value, float) for value in pure.values())
    assert pure["semantic_purity"] > 0.95 > 0.5 > pure["spatial_purity"]  # labels of neighbours are drawn at random
    assert pure["semantic_cross_slide"] > 0.5
    plant(method, facts.slide)
    stained = epoch_numbers(method, store, seed=0, epoch=3)
    assert stained["semantic_cross_slide"] < 0.05
    assert stained["semantic_purity"] < 0.5
    assert stained["spatial_purity"] == pure["spatial_purity"]  # the same anchors


def test_epoch_numbers_are_repeatable_and_touch_nothing(method, store):
    before, state = {k: v.clone() for k, v in method.memory().items()}, torch.get_rng_state()
    method.train()
    first = epoch_numbers(method, store, seed=0, epoch=3)
    assert first == epoch_numbers(method, store, seed=0, epoch=3) == epoch_numbers(method, store, seed=0)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in method.memory().items())
    assert method.training


def test_epoch_numbers_say_only_what_there_is(method, facts, store):
    assert epoch_numbers(method, store, seed=0, epoch=0).keys() == {"spatial_size", "spatial_purity", "semantic_size"}
    assert "spatial_purity" not in epoch_numbers(method, ToyStore(facts, labelled=False), seed=0)
    npid = NPID(NPIDOptions(dimension=8, negatives=50), facts, "resnet18", VIEWS)
    assert epoch_numbers(npid, store, seed=0) == {}


def measured(method, store, count=40, epoch=3):
    facts = {
        "run": "r", "label": "l", "seed": 0, "state": "trained", "epoch": 3, "step": 9, "cohort": "c", "rehearsal": False,
        "store_digest": "0" * 64, "tiles": 400, "slides": 5, "tile_px": 32, "mpp": 0.5, "resolved": {},
    }  # fmt: skip
    return json.loads(
        json.dumps(facts | report.measure(method, store, epoch=epoch, step=9, count=count), allow_nan=False)
    )


def test_measure_finds_the_planted_structure(method, store):
    found = measured(method, store)
    semantic = found["sets"]["semantic"]
    assert semantic["label"]["all"]["share"] > 0.95
    assert 0.2 < semantic["label"]["all"]["by_chance"] < 0.5
    assert {row["label"] for row in semantic["classes"]} == set(LABELS)
    assert found["sets"]["spatial"]["hospital"]["all"]["share"] == 1  # one slide is of one hospital
    assert found["sets"]["spatial"]["hospital"]["across_slides"] is None
    across = semantic["hospital"]["across_slides"]
    assert abs(across["share"] - across["by_chance"]) < 0.2  # the bank was planted by label alone
    assert found["bank"]["knn"]["across_slides"]["share"] > 0.95
    assert found["bank"]["similarity"]["semantic"] > 0.8 > found["bank"]["similarity"]["random"]
    assert sum(found["charts"]["size"]["counts"]["spatial"]) == found["anchors"] == 40
    pairs = (found["sets"]["spatial"]["size"]["mean"]) * 40
    assert sum(found["charts"]["distance"]["counts"]["spatial"]) == pytest.approx(pairs)
    assert len(found["gallery"]) == 12
    for entry in found["gallery"]:
        for members in entry["sets"].values():
            similarity = [member["similarity"] for member in members["shown"]]
            assert len(similarity) == min(8, members["size"])
            assert similarity == sorted(similarity, reverse=True)


@pytest.mark.parametrize(("epoch", "labelled", "note"), [(0, True, "first epoch"), (3, False, "no labels")])
def test_what_cannot_be_said_is_a_sentence(method, facts, epoch, labelled, note):
    store = ToyStore(facts, labelled)
    found = measured(method, store, epoch=epoch)
    assert any(note in text for text in found["notes"])
    text = page.render(found, dict.fromkeys(range(400), "data:image/jpeg;base64,AAAA"))
    assert Tags(text).open == []
    assert "nan" not in re.sub("<[^>]*>", "", text)
    assert ("Purity:" in text) is labelled
    if epoch == 0:
        assert found["sets"]["semantic"]["empty"] == 1
        assert found["sets"]["semantic"]["label"]["all"] is None


def test_a_method_without_sets_gets_what_makes_sense(facts, store):
    torch.manual_seed(0)
    npid = NPID(NPIDOptions(dimension=8, negatives=50), facts, "resnet18", VIEWS)
    plant(npid, store.label_codes + 1)
    found = measured(npid, store)
    assert found["sets"] is None
    assert found["gallery"] == []
    assert found["bank"]["knn"]["all"]["share"] > 0.95
    assert any("no sets of positive tiles" in note for note in found["notes"])
    assert set(found["bank"]["fresh"]) == {"batch", "stored"}
    text = page.render(found, {})
    assert "Purity" not in text
    assert "nearest labelled tiles" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_can_be_audited(name, facts, store, monkeypatch):
    monkeypatch.setattr(report, "FEATURE_TILES", 80)
    torch.manual_seed(0)
    config = load([f"method={name}", "views.size=32", "views.local_size=16"])
    method = methods.find(name)(method_options(config), facts, "resnet18", view_settings(config))
    method.start_epoch(1)
    found = measured(method, store, 20)
    assert found["bank"]["knn"]["all"]["anchors"] > 0
    assert (found["sets"] is None) == (epoch_numbers(method, store, 0) == {})
    assert "bank rows" in page.render(found, dict.fromkeys(range(400), "")) or found["bank"]["kind"] == "backbone"


def test_a_method_without_a_bank_is_asked_for_its_features(facts, store):
    torch.manual_seed(0)
    npid = NPID(NPIDOptions(dimension=8, negatives=50), facts, "resnet18", VIEWS)

    class Bare:
        banks, facts, options, view_settings, label = {}, npid.facts, object(), VIEWS, "bare"
        eval, backbone = npid.eval, npid.backbone

    found = measured(Bare(), store)
    assert found["bank"]["kind"] == "backbone"
    assert found["bank"]["features"] == 400
    assert found["bank"]["knn"]["all"]["anchors"] > 20
    assert any("keeps no bank" in note for note in found["notes"])


def test_fresh_views_depend_on_the_tile_and_leave_the_statistics(facts, store):
    torch.manual_seed(0)
    npid = NPID(NPIDOptions(dimension=8, negatives=50), facts, "resnet18", VIEWS)
    statistics = {name: value.clone() for name, value in npid.named_buffers()}
    ids = sets.sample(400, 70, 0)
    views = sets.fresh_queries(npid, store, ids, epoch=4, training=False)
    one = sets.fresh_queries(npid, store, ids[60:61], epoch=4, training=False)
    assert torch.allclose(views[60], one[0], atol=1e-4)  # a tile's view does not depend on its batch
    sets.fresh_queries(npid, store, ids, epoch=4, training=True)
    assert all(torch.equal(value, statistics[name]) for name, value in npid.named_buffers())


def test_charts_are_well_formed_with_any_name():
    hist = {"edges": [0, 1, 2, 3], "counts": {"a": [1, 0, 3], "b": [0, 0, 0]}}
    drawn = ElementTree.fromstring(charts.outlines(hist, {"a": HOSTILE, "b": "b"}, HOSTILE, "<&"))
    assert len(drawn.findall("polyline")) == 1  # an empty series is not drawn
    drawn = ElementTree.fromstring(charts.bars([(HOSTILE, {"a": 0.5}, 0.2)], {"a": "<a>", "b": "b"}, "t"))
    heights = [float(rect.get("height")) for rect in drawn.findall("rect") if float(rect.get("width")) > 9]
    assert heights == [pytest.approx((charts.HEIGHT - charts.BOTTOM - charts.TOP) / 2, abs=0.1)]


@pytest.mark.parametrize(("low", "high"), [(0, 0.03), (0, 1), (-1, 1), (-0.5, 63.5), (0, 15), (0, 1e6)])
def test_ticks_are_few_and_inside(low, high):
    ticks = charts._ticks(low, high)
    assert 2 <= len(ticks) <= 6
    assert low - 1e-9 <= min(ticks)
    assert max(ticks) <= high + 1e-9


def test_hostile_names_stay_text_and_wrong_labels_are_framed_red(method, store):
    store.index["slide"][:] = HOSTILE
    store.labels = [HOSTILE, '"quoted"', "tumour"]
    store.index["label"][store.label_codes == 0] = HOSTILE
    store.index["label"][store.label_codes == 1] = '"quoted"'
    found = measured(method, store) | {"cohort": HOSTILE, "run": HOSTILE, "label": HOSTILE, "rehearsal": True}
    images = dict.fromkeys(range(400), "data:image/jpeg;base64,AAAA")
    text = page.render(found, images)
    tags = Tags(text)
    assert tags.open == []
    assert tags.all("script") == tags.all("link") == []
    assert "Rehearsal" in text
    members = [(e["label"], m["label"]) for e in found["gallery"] for s in e["sets"].values() for m in s["shown"]]
    wrong = sum(1 for a, b in members if a and b and a != b)
    figures = [figure["class"] for figure in tags.all("figure")]
    assert figures.count("other") == wrong > 0
    assert figures.count("same") == sum(1 for a, b in members if a and a == b) > 0
    assert figures.count("self") == 12
