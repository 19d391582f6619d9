from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pretrain.annotations import Annotation, LesionRule
from pretrain.cohorts import Slide
from pretrain.tiling import Tiling
from pretrain.tiling.job import tile_slide
from pretrain.tiling.labels import Codes, lesion_labels

LESION = Annotation((np.array([(0.0, 0.0), (80.0, 0.0), (80.0, 64.0), (0.0, 64.0)]),), (), (), "")
CELLS = np.array([(0, 0), (1, 0), (2, 0)])
XML = (
    '<ASAP_Annotations><Annotations><Annotation Name="a" Type="Polygon" PartOfGroup="_0"><Coordinates>'
    '<Coordinate Order="0" X="0" Y="0"/><Coordinate Order="1" X="{x}" Y="0"/><Coordinate Order="2" X="{x}" Y="512"/>'
    '<Coordinate Order="3" X="0" Y="512"/></Coordinates></Annotation></Annotations></ASAP_Annotations>'
)


@pytest.mark.parametrize(
    ("rule", "labels", "shares"),
    [
        (LesionRule("centre", 0.5), ["tumor", "tumor", "normal"], [1, 0.25, 1]),
        (LesionRule("centre", 0.25), ["tumor", "normal", "normal"], [1, 0.75, 1]),
        (LesionRule("any"), ["tumor", "tumor", "normal"], [1, 0.25, 1]),
        (LesionRule("share", min_share=0.2), ["tumor", "tumor", "normal"], [1, 0.25, 1]),
        (LesionRule("share", min_share=0.5), ["tumor", "normal", "normal"], [1, 0.75, 1]),
    ],
)
def test_rules_and_shares(rule: LesionRule, labels: list[str], shares: list[float]) -> None:
    lesion = Annotation((LESION.lesions[0] + (1, 0),), (), (), "") if rule.centre == 0.5 else LESION
    found, share = lesion_labels(lesion, rule, "normal", CELLS, 64.0, 64)
    assert found == labels
    np.testing.assert_allclose(share, shares, atol=0.02)


def test_slides_without_lesions_and_unknown_tissue() -> None:
    assert lesion_labels(None, LesionRule(), "normal", CELLS, 64.0, 64)[0] == ["normal"] * 3
    labels, share = lesion_labels(LESION, LesionRule("any"), "", CELLS, 64.0, 64)
    assert labels == ["tumor", "tumor", ""]
    np.testing.assert_allclose(share, [1, 0.25, 0])


def test_a_slide_with_outlines_in_the_store(tmp_path: Path, slide_file: Callable[..., Path]) -> None:
    (tmp_path / "a.xml").write_text(XML.format(x=160))
    slide = Slide("a", slide_file("a.tif"), annotation=tmp_path / "a.xml", tissue_label="normal")
    codes, settings, root = Codes(lesion=LesionRule()), Tiling(tile=64), tmp_path / "store"
    report = tile_slide(slide, codes, settings, root)
    assert report["annotation"]["lesions"] == 1
    assert report["annotation"]["digest"] == report["labels_digest"]
    rows = pq.read_table(root / "slides/a.parquet").to_pydict()
    assert rows["label"][:8] == ["tumor"] * 3 + ["normal"] * 5
    np.testing.assert_allclose(rows["label_share"][:4], [1, 1, 0.5, 1])
    assert tile_slide(slide, codes, settings, root)["cached"]
    assert not tile_slide(slide, Codes(lesion=LesionRule("any")), settings, root)["cached"]
    (tmp_path / "a.xml").write_text(XML.format(x=161))
    assert not tile_slide(slide, codes, settings, root)["cached"]
    (tmp_path / "a.xml").write_text("<!DOCTYPE x []><ASAP_Annotations/>")
    report = tile_slide(slide, codes, settings, root)
    assert (report["status"], "DTD" in report["reason"]) == ("failed", True)
