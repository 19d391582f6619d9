from pathlib import Path

import pytest

from pretrain.cohorts import open_cohort
from results.errors import UserError

LABELS = "code,label,kind\n0,glass,background\n1,tumor,tissue\n2,stroma,tissue\n3,,ignore\n4,tumor,tissue\n"


def touch(root: Path, *names: str, content: bytes = b"") -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def table(root: Path, text: str, name: str = "cohort.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text, encoding="utf-8")
    return root / name


def test_folder_takes_known_suffixes_recursively_and_sorted(tmp_path: Path) -> None:
    root = tmp_path / "liver"
    touch(
        root,
        "b.SVS",
        "sub/deep/a.ndpi",
        "c.mrxs",
        "c/Slide.dat",
        "notes.txt",
        "photo.png",
        ".hidden.svs",
        ".cache/d.svs",
    )
    cohort = open_cohort(str(root))
    assert [slide.name for slide in cohort.slides] == ["a", "b", "c"]
    assert cohort.name == "liver"
    assert cohort.root == root.resolve()
    assert not cohort.rehearsal
    assert not cohort.codes


def test_shared_stems_get_their_parent_folder_then_their_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "p1/x.svs", "p2/x.svs", "p2/y.tif", "p2/y.svs", "z.svs")
    names = {
        slide.path.relative_to(tmp_path.resolve()).as_posix(): slide.name for slide in open_cohort(tmp_path).slides
    }
    assert names == {
        "p1/x.svs": "p1_x",
        "p2/x.svs": "p2_x",
        "p2/y.tif": "p2_y_tif",
        "p2/y.svs": "p2_y_svs",
        "z.svs": "z",
    }


def test_names_that_are_one_on_some_disks_are_told_apart(tmp_path: Path) -> None:
    touch(tmp_path, "p1/Slide.svs", "p2/slide.svs", "p1/e\u0301.svs", "p2/\u00e9.svs")
    assert [slide.name for slide in open_cohort(tmp_path).slides] == sorted(
        ["p1_Slide", "p2_slide", "p1_e\u0301", "p2_\u00e9"]
    )
    touch(tmp_path, "p1/slide.svs")
    with pytest.raises(UserError, match="would share the name"):
        open_cohort(tmp_path)


def test_dicom_series_counts_once(tmp_path: Path) -> None:
    def header(uid: bytes) -> bytes:
        return bytes(128) + b"DICM" + b"\x20\x00\x0e\x00UI" + len(uid).to_bytes(2, "little") + uid

    touch(tmp_path, "s/1.dcm", "s/2.dcm", content=header(b"1.2.3\0"))
    touch(tmp_path, "s/3.dcm", content=header(b"1.2.4\0"))
    touch(tmp_path, "t/9.dcm", content=header(b"1.2.3\0"))
    assert [slide.name for slide in open_cohort(tmp_path).slides] == ["1", "3", "9"]


def test_linked_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "far", "a.svs")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path / "far")
    (root / "loop").symlink_to(root)
    assert [slide.name for slide in open_cohort(root).slides] == ["a"]


def test_nothing_there_and_nothing_found(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        open_cohort(tmp_path / "nowhere")
    touch(tmp_path, "a.jpg")
    with pytest.raises(UserError, match=r"\.svs, \.tif.*\.czi"):
        open_cohort(tmp_path)
    with pytest.raises(UserError, match="single file"):
        open_cohort(tmp_path / "a.jpg")


def test_table_with_labels_and_rehearsal(tmp_path: Path) -> None:
    root = tmp_path / "breast"
    table(
        root,
        "\ufeffslide,path,patient,hospital,mpp,mask,remark\n"
        "s2,slides/2.tif,p2,h1,,masks/2.png,fine\n\ns1,slides/1.tif,p1,,0.25,,\n",
    )
    table(root, LABELS, "labels.csv")
    table(root, "rehearsal: true\n", "cohort.yaml")
    cohort = open_cohort(root)
    first, second = cohort.slides
    assert (first.name, first.mpp, first.mask, first.patient) == ("s1", 0.25, None, "p1")
    assert (second.mpp, second.hospital, second.mask) == (None, "h1", root.resolve() / "masks/2.png")
    assert second.path == root.resolve() / "slides/2.tif"
    assert cohort.codes == {1: "tumor", 2: "stroma", 4: "tumor"}
    assert (cohort.background, cohort.ignore) == (frozenset({0}), frozenset({3}))
    assert cohort.rehearsal
    assert open_cohort(root / "cohort.csv") == cohort


def test_table_of_another_name_names_the_cohort(tmp_path: Path) -> None:
    path = table(tmp_path, "slide,path\na,missing.svs\n", "training.csv")
    cohort = open_cohort(path)
    assert cohort.name == "training"
    assert cohort.slides[0].path.name == "missing.svs"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs the columns slide, path; its header is empty"),
        ("slide,file\na,b.svs\n", "needs the column path"),
        ("slide,path\n", "lists no slide"),
        ("slide,path\na,1.svs\na,2.svs\n", "lists the slide a more than once"),
        ("slide,path\na,1.svs\nb,1.svs\n", "lists the path"),
        ("slide,path\n,1.svs\n", "line 2 has an empty slide"),
        ("slide,path,mpp\na,1.svs,0.25um\n", "line 2: mpp '0.25um'"),
        ("slide,path,mpp\na,1.svs,-1\n", "line 2: mpp '-1'"),
        ("slide,path\na/b,1.svs\n", "cannot name a file"),
        ("slide,path,hospitl\na,1.svs,h\n", "did you mean 'hospital'"),
        ("slide,path\na,1.svs,x\n", "more cells than the header"),
        ("slide,path,mask\na,1.svs,m.png\n", "labels.csv is missing"),
    ],
)
def test_wrong_tables(tmp_path: Path, text: str, message: str) -> None:
    table(tmp_path, text)
    with pytest.raises(UserError, match=message):
        open_cohort(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("code,label\n1,a\n", "needs the column kind"),
        ("code,label,kind\n256,a,tissue\n", "code '256'"),
        ("code,label,kind\n1,a,tissue\n1,b,tissue\n", "listed twice"),
        ("code,label,kind\n1,a,organ\n", "kind 'organ'"),
        ("code,label,kind\n1,,tissue\n", "needs a label"),
    ],
)
def test_wrong_labels(tmp_path: Path, text: str, message: str) -> None:
    table(tmp_path, "slide,path,mask\na,1.svs,m.png\n")
    table(tmp_path, text, "labels.csv")
    with pytest.raises(UserError, match=message):
        open_cohort(tmp_path)


def test_rehearsal_must_be_a_truth_value(tmp_path: Path) -> None:
    table(tmp_path, "slide,path\na,1.svs\n")
    table(tmp_path, "rehearsal: maybe\n", "cohort.yaml")
    with pytest.raises(UserError, match="true or false"):
        open_cohort(tmp_path)


def test_cohort_yaml_names_the_cohort(tmp_path):
    (tmp_path / "a.svs").write_bytes(b"")
    assert open_cohort(str(tmp_path)).name == tmp_path.name
    (tmp_path / "cohort.yaml").write_text("name: liver\nrehearsal: true\n")
    cohort = open_cohort(str(tmp_path))
    assert (cohort.name, cohort.rehearsal) == ("liver", True)
    (tmp_path / "cohort.yaml").write_text("name: ../liver\n")
    with pytest.raises(UserError, match="liver"):
        open_cohort(str(tmp_path))
