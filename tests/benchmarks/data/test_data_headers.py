"""Headers and tables of others, within bounds."""

import struct

import data_layouts as layouts
import numpy as np
import pytest
import tifffile
from PIL import Image

from benchmarks.data.headers import Header, read_header
from benchmarks.data.report import Unreadable
from benchmarks.data.tables import MOST_LINE, read_polygons, read_rows


def written(tmp_path, content, name="image"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA"])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_agrees_with_pillow(mode, kind, tmp_path):
    if (mode, kind) == ("LA", "tiff"):
        mode = "L"
    path = tmp_path / f"image.{kind}"
    Image.fromarray(np.arange(37 * 21 * 4, dtype=np.uint8).reshape(21, 37, 4), "RGBA").convert(mode).save(path)
    header = read_header(path)
    with Image.open(path) as image:
        assert (header.width, header.height) == image.size
        assert header == Header(kind, 37, 21, len(image.getbands()), 8)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("is_big", [False, True])
@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_agrees_with_tifffile(order, is_big, tile, tmp_path):
    image = np.zeros((130, 200, 3), dtype=np.uint16)
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, image, byteorder=order, bigtiff=is_big, tile=tile, photometric="rgb")
    assert read_header(path) == Header("tiff", 200, 130, 3, 16, tile is not None)
    whole = path.read_bytes()
    written(tmp_path, whole[:-1], "image.tif")
    with pytest.raises(Unreadable) as error:
        read_header(path)
    assert error.value.kind == "truncated"


@pytest.mark.parametrize("is_big", [False, True])
def test_every_cut_of_a_file_is_noticed(is_big, tmp_path):
    for whole in (layouts.tiff(224, 224, is_big=is_big), layouts.png(224, 224)):
        for length in range(len(whole)):
            with pytest.raises(Unreadable):
                read_header(written(tmp_path, whole[:length]))
        assert read_header(written(tmp_path, whole)).width == 224


def test_random_bytes_after_the_mark_never_pass_for_an_error_of_ours(tmp_path):
    generator = np.random.default_rng(0)
    for mark in (b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"\x89PNG\r\n\x1a\n"):
        for _ in range(40):
            path = written(tmp_path, mark + generator.integers(0, 256, 300, dtype=np.uint8).tobytes())
            with pytest.raises(Unreadable):
                read_header(path)


def test_a_png_of_ten_thousand_million_px_is_refused(tmp_path):
    with pytest.raises(Unreadable, match=r"claims 100,000 x 100,000 px, and at most 4,096 a side"):
        read_header(written(tmp_path, layouts.png(100_000, 100_000)), most_side=4096)


def test_a_png_with_a_wrong_check_sum_is_refused(tmp_path):
    whole = bytearray(layouts.png(224, 224))
    whole[17] ^= 1
    with pytest.raises(Unreadable, match="check sum"):
        read_header(written(tmp_path, bytes(whole)))


@pytest.mark.parametrize(
    ("count", "text"), [(2**32 - 1, "claims 4,294,967,295 values"), (0, "with 0 values"), (1000, "cut short")]
)
def test_tags_that_claim_too_much(count, text, tmp_path):
    whole = layouts.tiff(224, 224)
    at = whole.rfind(struct.pack("<HHI", 273, 4, 4))
    assert at > 0
    with pytest.raises(Unreadable, match=text):
        read_header(written(tmp_path, whole[: at + 4] + struct.pack("<I", count) + whole[at + 8 :]))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (",".join(f"c{n}" for n in range(10_000)).encode() + b"\n1\n", "has 10,000 columns"),
        (b"x" * (MOST_LINE + 10), "a line of more than"),
        (b"slide,path\na,b,c\n", "row 2 has 3 cells under 2 columns"),
        (b"slide,size\na,b\n", "lacks the column path"),
        (b"\xff\xfe\x00", "not a UTF-8 table"),
        (b'slide,path\n"a' + b"b" * 200_000, "not a UTF-8 table"),
        (b"", "lacks the column slide"),
    ],
)
def test_tables_that_are_none(content, text, tmp_path):
    with pytest.raises(Unreadable, match=text):
        list(read_rows(written(tmp_path, content, "t.csv"), ("slide", "path")))


def test_a_table_with_an_index_column(tmp_path):
    rows = list(read_rows(written(tmp_path, b'\xef\xbb\xbf,slide\n0,"a,b"\n\n1,c\n', "t.csv"), ("slide",)))
    assert rows == [{"": "0", "slide": "a,b"}, {"": "1", "slide": "c"}]


BOMB = (
    """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "xxxxxxxxxx">{}]><ASAP_Annotations>&z;</ASAP_Annotations>""".format(
        "".join(f'<!ENTITY {chr(99 + n)} "{f"&{chr(98 + n)};" * 10}">' for n in range(24))
    )
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, "defines entities or a document type"),
        ("<a/>", "is <a>, not <ASAP_Annotations>"),
        ("", "is not XML"),
        (layouts.POLYGON[:200], "is not XML"),
        (layouts.POLYGON.replace('"2.5"', '"two"'), "X or Y is no number"),
        (layouts.POLYGON.replace('"2.5"', '"nan"'), "X or Y is no number"),
    ],
)
def test_annotations_that_are_none(text, told, tmp_path):
    with pytest.raises(Unreadable, match=told):
        read_polygons(written(tmp_path, text.encode(), "a.xml"))


def test_polygons_by_group(tmp_path):
    hole = layouts.POLYGON.replace('PartOfGroup="Tumor"', 'PartOfGroup="_2"')
    inner = hole[hole.index("<Annotation ") : hole.index("</Annotations>")]
    both = layouts.POLYGON.replace("</Annotations>", inner * 2 + "</Annotations>")
    assert read_polygons(written(tmp_path, both.encode(), "a.xml")) == {"Tumor": 1, "_2": 2}


def test_hard_links_are_read_once_and_a_change_is_seen(tmp_path):
    links = layouts.Links(tmp_path / "models", layouts.png(30, 20))
    links.to(tmp_path / "a.png")
    links.to(tmp_path / "b.png")
    assert read_header(tmp_path / "a.png") == read_header(tmp_path / "b.png")
    layouts.replaced(tmp_path / "b.png", layouts.png(31, 20))
    assert read_header(tmp_path / "b.png").width == 31
