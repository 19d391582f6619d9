import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from pretrain.annotations import Annotation, LesionRule, lesion_shares, polygon_area, rasterise, read_asap
from results.errors import UserError

REAL = Path(os.environ.get("SGCL_BENCH_REAL_DATA", Path(__file__).parents[3] / "shared" / "data")) / "camelyon16"
SQUARE = [(10, 10), (50, 10), (50, 50), (10, 50)]


def outline(points, group="Tumor", kind="Polygon", name="a", orders=None):
    orders = range(len(points)) if orders is None else orders
    lines = "".join(f'<Coordinate Order="{o}" X="{x}" Y="{y}" />' for o, (x, y) in zip(orders, points, strict=True))
    return (
        f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}"><Coordinates>{lines}</Coordinates></Annotation>'
    )


def asap(path, *outlines, head='<?xml version="1.0"?>'):
    path.write_text(f"{head}<ASAP_Annotations><Annotations>{''.join(outlines)}</Annotations></ASAP_Annotations>")
    return path


@pytest.mark.parametrize(("name", "lesions"), [("tumor_001", 2), ("tumor_073", 1)])
def test_areas_of_real_annotations_agree_with_another_rasterisation(name, lesions):
    if not REAL.is_dir():
        pytest.skip(f"no real annotations: {REAL} is missing; set SGCL_BENCH_REAL_DATA")
    annotation = read_asap(REAL / f"{name}.xml")
    assert (len(annotation.lesions), len(annotation.holes), annotation.problems) == (lesions, 0, ())
    for polygon in annotation.lesions:
        low = np.floor(polygon.min(0)) - 2
        width, height = (np.ceil(polygon.max(0)) + 3 - low).astype(int).tolist()
        ours = rasterise((polygon,), *low, 1, width, height).sum()
        # OpenCV fills with the rim, ours by px centres: a rim of half a px on each side is taken off again
        theirs = np.zeros((height, width), dtype=np.uint8)
        points = np.round(polygon - low).astype(np.int32)
        cv2.fillPoly(theirs, [points], 1)
        rim = cv2.arcLength(points, True) / 2
        assert abs(ours / theirs.sum() - 1) < 0.005
        assert abs(ours / (theirs.sum() - rim) - 1) < 0.001
        assert abs(ours / polygon_area(polygon) - 1) < 0.0005


def test_shares_of_tiles_add_up_to_the_area():
    if not REAL.is_dir():
        pytest.skip(f"no real annotations: {REAL} is missing; set SGCL_BENCH_REAL_DATA")
    annotation, step = read_asap(REAL / "tumor_073.xml"), 256 * 0.5 / 0.243
    columns, rows = np.meshgrid(np.arange(80, 95), np.arange(110, 126))
    cells = np.stack([columns.ravel(), rows.ravel()], axis=1)
    share, whole, middle = lesion_shares(annotation, cells, step, 256, 1 / 3)
    assert share.sum() * step**2 == pytest.approx(polygon_area(annotation.lesions[0]), rel=0.0005)
    assert (whole == (share > 0)).all()
    assert middle.sum() < whole.sum()
    assert not (middle & ~whole).any()


def test_groups_order_and_what_is_left_out(tmp_path):
    path = asap(
        tmp_path / "a.xml",
        outline([SQUARE[i] for i in (0, 2, 1, 3)], orders=[0, 2, 1, 3]),
        outline(SQUARE, group="_0"),
        outline(SQUARE, group="_1", kind="Spline"),
        outline([(20.5, 20), (30, 20), (30, 30)], group="_2"),
        outline(SQUARE[:2], name="thin"),
        outline(SQUARE, group="Exclusion"),
        outline(SQUARE[:1], kind="Dot"),
    )
    annotation = read_asap(path)
    assert (len(annotation.lesions), len(annotation.holes)) == (3, 1)
    np.testing.assert_array_equal(annotation.lesions[0], SQUARE)
    assert annotation.holes[0][0, 0] == 20.5
    assert [p.split(": ", 1)[1] for p in annotation.problems] == [
        "2 point(s), an area needs 3",
        "group 'Exclusion' is neither lesion nor hole",
        "type 'Dot' is no outline",
    ]
    assert "'thin'" in annotation.problems[0]


def test_a_px_belongs_to_a_polygon_by_its_centre():
    square = np.array([(2.0, 1.0), (6.0, 1.0), (6.0, 4.0), (2.0, 4.0)])
    mask = rasterise((square,), 0, 0, 1, 8, 6)
    assert mask.sum() == 12
    assert mask[1:4, 2:6].all()
    np.testing.assert_array_equal(mask, rasterise((square[::-1],), 0, 0, 1, 8, 6))
    np.testing.assert_array_equal(rasterise((square,), 4, 2, 1, 8, 6), np.pad(mask, ((0, 2), (0, 4)))[2:8, 4:12])
    assert rasterise((square,), 0, 0, 2, 4, 3).sum() == 4  # centres (3, 3) and (5, 3) and (3, 1), (5, 1)
    eight = np.array([(0.0, 0.0), (8.0, 0.0), (8.0, 8.0), (0.0, 8.0), (0.0, 0.0), (4.0, 0.0), (4.0, 8.0), (0.0, 8.0)])
    assert rasterise((eight,), 0, 0, 1, 8, 8).all(), "what a line goes round twice is inside"
    assert not rasterise((square + 100,), 0, 0, 1, 8, 6).any()


def test_random_polygons_against_a_point_test():
    from matplotlib.path import Path as Outline

    generator = np.random.default_rng(3)
    x, y = np.meshgrid(np.arange(60) + 0.5, np.arange(50) + 0.5)
    for _ in range(20):
        angle = np.sort(generator.uniform(0, 2 * np.pi, generator.integers(3, 12)))
        radius = generator.uniform(5, 40, len(angle))
        polygon = np.stack([30 + radius * np.cos(angle), 25 + radius * np.sin(angle)], axis=1)
        inside = Outline(polygon).contains_points(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(50, 60)
        np.testing.assert_array_equal(rasterise((polygon,), 0, 0, 1, 60, 50), inside)


def test_holes_and_the_middle_of_a_tile():
    lesion = np.array([(0.0, 0.0), (100.0, 0.0), (100.0, 50.0), (0.0, 50.0)])
    hole = np.array([(50.0, 0.0), (100.0, 0.0), (100.0, 50.0), (50.0, 50.0)])
    annotation = Annotation((lesion,), (hole,), (), "")
    cells = np.array([(0, 0), (1, 0), (0, 1), (5, 5)])
    share, whole, middle = lesion_shares(annotation, cells, 40.0, 40, 0.5)
    np.testing.assert_allclose(share, [1, 0.25, 0.25, 0])
    assert whole.tolist() == [True, True, True, False]
    # the second tile has lesion in x 40..50, its middle begins at 50; the third in y 40..50 alike
    assert middle.tolist() == [True, False, False, False]
    assert lesion_shares(annotation, cells, 40.0, 40, 0.6)[2].tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><ASAP_Annotations/>', "declares a DTD or entities"),
        ("<ASAP_Annotations>", "is not whole XML"),
        ("<html/>", "is not from ASAP"),
        ("", "is not whole XML"),
        (
            '<ASAP_Annotations><Annotations><Annotation Type="Polygon" PartOfGroup="_0"><Coordinates>'
            '<Coordinate Order="0" X="one" Y="2"/></Coordinates></Annotation></Annotations></ASAP_Annotations>',
            "not a number",
        ),
        (
            '<ASAP_Annotations><Annotations><Annotation Type="Polygon" PartOfGroup="_0"><Coordinates>'
            '<Coordinate Order="0" X="nan" Y="2"/></Coordinates></Annotation></Annotations></ASAP_Annotations>',
            "lies on no slide",
        ),
    ],
)
def test_bad_xml_is_one_sentence(tmp_path, text, sentence):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_asap(tmp_path / "a.xml")


def test_an_entity_bomb_and_a_huge_file_are_refused(tmp_path):
    entities = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
    (tmp_path / "bomb.xml").write_text(f"<!DOCTYPE x [{entities}]><ASAP_Annotations>&a11;</ASAP_Annotations>")
    with pytest.raises(UserError, match="declares a DTD or entities"):
        read_asap(tmp_path / "bomb.xml")
    with open(tmp_path / "huge.xml", "wb") as file:
        file.truncate(2**32)
    with pytest.raises(UserError, match="larger than 32 MiB"):
        read_asap(tmp_path / "huge.xml")
    with zipfile.ZipFile(tmp_path / "lesion_annotations.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("deep/tumor_001.xml", b" " * (40 * 2**20))
    with pytest.raises(UserError, match="larger than 32 MiB"):
        read_asap(tmp_path / "lesion_annotations.zip" / "tumor_001.xml")
    with pytest.raises(UserError, match=r"tumor_002\.xml is not in"):
        read_asap(tmp_path / "lesion_annotations.zip" / "tumor_002.xml")
    with pytest.raises(UserError, match="cannot be read"):
        read_asap(tmp_path / "none.xml")


@pytest.mark.parametrize("values", [{"rule": "most"}, {"centre": 0}, {"centre": 1.5}, {"min_share": float("nan")}])
def test_rules_have_ranges(values):
    with pytest.raises(UserError):
        LesionRule(**values)
