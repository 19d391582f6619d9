"""Tables of one's own slides as spreadsheets write them, and every bad row named."""

import os
from pathlib import Path

import pytest

from pretrain.cohorts import open_cohort
from pretrain.cohorts.tables import MOST_LINE, delimiter, read_rows
from results.errors import UserError


def table(root: Path, content: bytes | str) -> Path:
    root.mkdir(exist_ok=True)
    (root / "cohort.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    return root


@pytest.mark.parametrize(
    "content",
    [
        b"slide,path,patient,hospital,label,mpp\ns1,a.svs,P1,\"Kliniken, Nord\",tumour,0.25\n",
        b"\xef\xbb\xbfslide,path,patient,hospital,label,mpp\r\ns1,a.svs,P1,\"Kliniken, Nord\",tumour,0.25\r\n",
        b"slide;path;patient;hospital;label;mpp\r\ns1;a.svs;P1;Kliniken, Nord;tumour;0,25\r\n",
        b"slide\tpath\tpatient\thospital\tlabel\tmpp\ns1\ta.svs\tP1\tKliniken, Nord\ttumour\t0.25",
        b"\"slide\",\"path\",\"patient\",\"hospital\",\"label\",\"mpp\"\n\"s1\",\"a.svs\",\"P1\",\"Kliniken, Nord\",\"tumour\",\"0.25\"\n,,,,,\n",
        b"label , mpp, hospital, slide ,path,patient,remark\n tumour ,0.25,\"Kliniken, Nord\",s1,a.svs,P1,\"two\nlines\"\n",
    ],
)  # fmt: skip
def test_spreadsheets_of_all_kinds_say_the_same(tmp_path, content):
    (slide,) = open_cohort(table(tmp_path / "c", content)).slides
    assert (slide.name, slide.path.name, slide.patient, slide.hospital, slide.slide_label, slide.mpp) == (
        "s1", "a.svs", "P1", "Kliniken, Nord", "tumour", 0.25,
    )  # fmt: skip


def test_the_slide_label_labels_no_tile(tmp_path):
    cohort = open_cohort(table(tmp_path / "c", "slide,path,label\na,a.svs,tumour\n"))
    assert cohort.labels == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,1.svs,250\n", "line 2: mpp '250' is no scanner's um/px, expected 0.01 to 50, is it nm."),
        ("a,1.svs,1e9\n", "line 2: mpp '1e9' is no scanner's um/px, expected 0.01 to 50."),
        ("a,1.svs,nan\n", "line 2: mpp 'nan' is not a number of um/px above 0."),
        ("a,1.svs,inf\n", "line 2: mpp 'inf' is not a number"),
        ("a,1.svs,40x\n", "line 2: mpp '40x' is not a number"),
        ("a,1.svs,0\n", "line 2: mpp '0' is not a number of um/px above 0."),
        (",1.svs,\nb,,\nc,3.svs,-1\nd,4.svs,\n", "has 3 bad rows: line 2 has an empty slide; line 3 has an empty path; line 4: mpp '-1'"),
        ("a,1.svs,\na,2.svs,\n", "lists the slide a more than once"),
        ("a,1.svs,\nb,./x/../1.svs,\n", "as a and as b"),
        ("Slide,1.svs,\nslide,2.svs,\n", "lists the slides Slide and slide"),
        ("e\u0301,1.svs,\n\u00e9,2.svs,\n", "('e\\u0301' and '\\xe9'), one name on disks that ignore case"),
        ('a,"1\n.svs",\n', "line 3 has a line end or control character in the column 'path'"),
    ],
)  # fmt: skip
def test_every_bad_row_is_named_in_one_sentence(tmp_path, rows, message):
    with pytest.raises(UserError) as error:
        open_cohort(table(tmp_path / "c", "slide,path,mpp\n" + rows))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_more_bad_rows_than_fit_are_counted(tmp_path):
    with pytest.raises(UserError, match=r"has 500 bad rows: line 2 .*; \.\.\.\.$"):
        open_cohort(table(tmp_path / "c", "slide,path\n" + ",x.svs\n" * 500))


def test_one_file_under_two_names_is_refused_whatever_links_lead_to_it(tmp_path):
    root = table(tmp_path / "c", "slide,path\na,a.svs\nb,b.svs\n")
    (root / "a.svs").write_bytes(b"slide")
    for link in (os.symlink, os.link):
        link(root / "a.svs", root / "b.svs")
        with pytest.raises(UserError, match="as a and as b"):
            open_cohort(root)
        (root / "b.svs").unlink()


def test_copies_under_two_names_are_told(tmp_path):
    root = table(tmp_path / "c", "slide,path\na,a.svs\nb,b.svs\nc,c.svs\n")
    for name in "ab":
        (root / f"{name}.svs").write_bytes(b"slide")
    (root / "c.svs").write_bytes(b"other")
    assert open_cohort(root).notes == ("1 file(s) there under several names, as copies: a = b",)
    (root / "cohort.csv").unlink()
    assert open_cohort(root).notes == ("1 file(s) there under several names, as copies: a = b",)
    (root / "b.svs").write_bytes(b"third")
    assert open_cohort(root).notes == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"slide,path" + b",x" * 10_000 + b"\na,b" + b",1" * 10_000, "has 10,002 columns"),
        (b"slide,path\n" + b"a" * (MOST_LINE + 10), "a line of over"),
        (b"slide,path\na,b.svs\xff\n", "save it as 'CSV UTF-8'"),
        ("slide,path\na,b.svs\n".encode("utf-16"), "save it as 'CSV UTF-8'"),
        (b"slide,path,path\na,b.svs,c.svs\n", "the column 'path' twice"),
        (b"slide,path,labels\na,b.svs,c\n", "did you mean 'label'"),
        (b"slide,path\n\"a,b.svs\n" + b"x\n" * 100_000, "cannot be read as a UTF-8 CSV"),
    ],
)  # fmt: skip
def test_hostile_tables_are_refused_at_once(tmp_path, content, message):
    with pytest.raises(UserError) as error:
        open_cohort(table(tmp_path / "c", content))
    assert message in str(error.value)
    assert len(str(error.value)) < 1000


def test_too_many_rows_are_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("slide,path\n" + "a,b\n" * 20)
    with pytest.raises(UserError, match="more than 10 rows"):
        list(read_rows(path, ("slide",), (), 10))


def test_a_table_of_millions_is_refused_before_its_rows_are_used(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("slide,path\n" + "a,b\n" * 20)
    with pytest.raises(UserError, match="more than 10 rows"):
        next(read_rows(path, ("slide",), (), 10))


def test_names_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "c").mkdir()
    with open(os.fsencode(str(tmp_path / "c")) + b"/bad\xff.svs", "wb"):
        pass
    with pytest.raises(UserError, match=r"the name 'bad\\udcff' is not UTF-8 text") as error:
        open_cohort(tmp_path / "c")
    str(error.value).encode("utf-8")


@pytest.mark.parametrize("character", ["\u2028", "\x7f", "\x85"])
def test_names_with_odd_line_ends_are_refused(tmp_path, character):
    with pytest.raises(UserError, match="line end or control character in the column 'slide'"):
        open_cohort(table(tmp_path / "c", f"slide,path\na{character}b,a.svs\n"))


def test_delimiters_inside_quotes_do_not_count():
    assert delimiter('"a;b;c;d",path,slide\n') == ","
    assert delimiter("slide;path\n") == ";"
    assert delimiter("slide\n") == ","


def test_licence_and_citation_of_cohort_yaml(tmp_path):
    root = table(tmp_path / "c", "slide,path\na,a.svs\n")
    (root / "cohort.yaml").write_text("licence: CC BY 4.0\ncite: |\n  Doe & Roe\n  2024\n")
    cohort = open_cohort(root)
    assert (cohort.licence, cohort.cite) == ("CC BY 4.0", "Doe & Roe\n2024")
    (root / "cohort.yaml").write_text("licence: [CC, BY]\n")
    with pytest.raises(UserError, match="licence must be text"):
        open_cohort(root)
