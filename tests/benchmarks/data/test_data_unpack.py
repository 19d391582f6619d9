"""Archives: what comes out, and what is refused."""

import gzip
import io
import os
import shutil
import stat
import struct
import tarfile
import zipfile
from dataclasses import replace

import data_layouts as layouts
import pytest

from benchmarks.data import unpack as unpacking
from benchmarks.data.command import command
from benchmarks.data.dataset import load
from benchmarks.data.prepare import prepare
from benchmarks.data.unpack import Limits, gunzip, unpack
from results.errors import UserError

FILES = {"set/ADI/a.tif": b"one", "set/BACK/b.tif": b"two"}


def zipped(path, files, links=(), mode="w"):
    with zipfile.ZipFile(path, mode, zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for name in links:
            member = zipfile.ZipInfo(name)
            member.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(member, "/etc/passwd")
    return path


def tarred(path, files, mode="w", members=()):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in members:
            archive.addfile(member)
    return path


def limits(most_bytes=10**6, most_files=100):
    return Limits(most_bytes, most_files)


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_files_come_out_as_they_went_in(kind, tmp_path, out):
    junk = {"__MACOSX/set/._a.tif": b"x", "set/.DS_Store": b"x", "set/ADI/": b""}
    path = tmp_path / f"a.{kind}"
    if kind == "zip":
        zipped(path, FILES | junk)
    else:
        tarred(path, FILES, "w:gz" if kind == "tar.gz" else "w")
    assert unpack(path, out, limits()) == 2
    assert tree(out) == FILES


CLIMBERS = ["../x", "set/../../x", "/etc/x", "C:/x", "..", "set/.."]
ODD = ["set\\..\\x", "a\x07b", "x" * 300, "/".join("abcdefghijklmnopqrstuvwxyz")]


@pytest.mark.parametrize("name", CLIMBERS + ODD)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_paths_that_leave_the_folder(kind, name, tmp_path, out):
    path = tmp_path / f"a.{kind}"
    (zipped if kind == "zip" else tarred)(path, {"set/fine": b"1", name: b"2"})
    with pytest.raises(UserError, match="leaves the folder" if name in CLIMBERS else "no path of a data set"):
        unpack(path, out, limits())
    assert set(tree(tmp_path)) <= {path.name, "out/set/fine"}


def test_a_name_with_a_zero_byte(tmp_path, out):
    path = zipped(tmp_path / "a.zip", {"aaa_b": b"1"})
    path.write_bytes(path.read_bytes().replace(b"aaa_b", b"aaa\0b"))
    with pytest.raises(UserError, match="no path of a data set"):
        unpack(path, out, limits())


def test_links_in_zips(tmp_path, out):
    path = zipped(tmp_path / "a.zip", FILES, ["set/link"])
    with pytest.raises(UserError, match="'set/link' is a link or device"):
        unpack(path, out, limits())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_links_and_devices_in_tars(kind, tmp_path, out):
    member = tarfile.TarInfo("set/odd")
    member.type, member.linkname = kind, "/etc/passwd"
    path = tarred(tmp_path / "a.tar", FILES, members=[member])
    with pytest.raises(UserError, match="'set/odd' is a link or device"):
        unpack(path, out, limits())


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_on_disks_that_ignore_case(tmp_path, out):
    for first, second in (("set/a.tif", "set/A.tif"), ("set/a.tif", "set//a.tif"), ("set/\u00e9", "set/e\u0301")):
        path = zipped(tmp_path / "a.zip", {first: b"1", second: b"2"})
        shutil.rmtree(out)
        out.mkdir()
        with pytest.raises(UserError, match="comes twice"):
            unpack(path, out, limits())


def test_a_file_that_is_a_folder_too(tmp_path, out):
    with pytest.raises(UserError, match="a file and a folder at once"):
        unpack(zipped(tmp_path / "a.zip", {"set": b"1", "set/a": b"2"}), out, limits())


def test_a_link_in_the_way_is_not_followed(tmp_path, out):
    (out / "set").mkdir()
    (out / "set" / "fine").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError):
        unpack(zipped(tmp_path / "a.zip", {"set/fine": b"1"}), out, limits())
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_too_much(kind, tmp_path, out):
    many = {f"set/{n}": b"x" for n in range(30)}
    large = {"set/large": bytes(3_000_000)}
    for files, most, told in (
        (many, limits(most_files=20), "more than 20 files"),
        (large, limits(), "holds 0.0 GB|passes"),
    ):
        path = tmp_path / f"a.{kind}"
        if kind == "zip":
            zipped(path, files)
        else:
            tarred(path, files, "w:gz" if kind == "tar.gz" else "w")
        with pytest.raises(UserError, match=told):
            unpack(path, out, most)
        shutil.rmtree(out)
        out.mkdir()


def test_a_zip_that_lies_about_its_sizes(tmp_path, out):
    path = zipped(tmp_path / "a.zip", {"set/large": bytes(3_000_000)})
    whole = path.read_bytes()
    path.write_bytes(whole.replace(struct.pack("<I", 3_000_000), struct.pack("<I", 10)))
    with pytest.raises(UserError):
        unpack(path, out, limits())
    assert sum(len(content) for content in tree(out).values()) <= 1_000_000


@pytest.mark.parametrize("kind", ["zip", "gz", "tar.gz"])
def test_bombs_grow_no_further_than_the_ratio(kind, tmp_path, out, monkeypatch):
    monkeypatch.setattr(unpacking, "RATIO_FROM", 1 << 20)
    zeros = bytes(8 << 20)
    path = tmp_path / f"a.{kind}"
    if kind == "gz":
        path.write_bytes(gzip.compress(zeros))
        with pytest.raises(UserError, match="more than 200 times"):
            gunzip(path, out / "a", limits(10**9))
    else:
        zipped(path, {"set/a": zeros}) if kind == "zip" else tarred(path, {"set/a": zeros}, "w:gz")
        with pytest.raises(UserError, match="more than 200 times"):
            unpack(path, out, limits(10**9))
    assert sum(len(content) for content in tree(out).values()) < 4 << 20


def test_a_list_of_files_that_would_fill_the_memory(tmp_path, out, monkeypatch):
    path = zipped(tmp_path / "a.zip", {f"set/{n}": b"" for n in range(200)})
    monkeypatch.setattr(unpacking, "MOST_DIRECTORY", 5000)
    with pytest.raises(UserError, match="lists more files"):
        unpack(path, out, limits(most_files=10**6))


@pytest.mark.parametrize("cut", [10, 60, 200])
@pytest.mark.parametrize("kind", ["zip", "tar.gz", "gz"])
def test_archives_that_are_cut_short(kind, cut, tmp_path, out):
    content = {"set/a": os.urandom(5000)}
    path = tmp_path / f"a.{kind}"
    if kind == "gz":
        path.write_bytes(gzip.compress(content["set/a"])[:-cut])
        with pytest.raises(UserError, match="is broken"):
            gunzip(path, out / "a", limits())
        return
    zipped(path, content) if kind == "zip" else tarred(path, content, "w:gz")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UserError, match=r"is broken|neither a zip nor a tar"):
        unpack(path, out, limits())


def test_something_else(tmp_path, out):
    (tmp_path / "a.zip").write_bytes(b"<html>Sign in</html>")
    with pytest.raises(UserError, match="neither a zip nor a tar"):
        unpack(tmp_path / "a.zip", out, limits())


def test_an_encrypted_zip(tmp_path, out):
    path = zipped(tmp_path / "a.zip", {"set/a": b"1"})
    whole = bytearray(path.read_bytes())
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        whole[whole.index(mark) + at] |= 1
    path.write_bytes(bytes(whole))
    with pytest.raises(UserError, match="encrypted"):
        unpack(path, out, limits())


def test_no_room_to_unpack(tmp_path, out, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="make room"):
        unpack(zipped(tmp_path / "a.zip", FILES), out, limits())


class TestPrepare:
    @pytest.fixture
    def packed(self, tmp_path):
        """The tiles of CRC-VAL-HE-7K in the zip that the host has."""
        source, home = tmp_path / "source", tmp_path / "nct-crc"
        layouts.write_class_folders(source, "CRC-VAL-HE-7K", {"ADI": 5, "TUM": 5})
        home.mkdir()
        files = {str(path.relative_to(source)): path.read_bytes() for path in source.rglob("*.tif")}
        return zipped(home / "CRC-VAL-HE-7K.zip", files)

    def test_twice_does_no_work_twice(self, packed, capsys):
        home = packed.parent
        assert command(["prepare", "crc-val-he-7k", f"root={home.parent}"]) == 0
        once = {path: path.stat().st_mtime_ns for path in home.rglob("*.tif")}
        assert len(once) == 10
        assert command(["prepare", "crc-val-he-7k", f"root={home}"]) == 0
        assert "already unpacked" in capsys.readouterr().out
        assert {path: path.stat().st_mtime_ns for path in home.rglob("*.tif")} == once
        assert sorted(path.name for path in home.iterdir()) == [".prepared.json", "CRC-VAL-HE-7K", "CRC-VAL-HE-7K.zip"]

    @pytest.mark.parametrize("stamp", ['{"CRC-VAL-HE-7K": 3}', '{"CRC-VAL-HE-7K": {"from": 1}}'])
    def test_a_damaged_stamp_counts_as_none(self, packed, stamp):
        home = packed.parent
        (home / ".prepared.json").write_text(stamp)
        assert prepare(load("crc-val-he-7k"), home, tell=lambda line: None) == 1
        assert len(list(home.rglob("*.tif"))) == 10

    def test_a_refused_archive_leaves_nothing(self, packed):
        home = packed.parent
        zipped(packed, {"CRC-VAL-HE-7K/ADI/a.tif": b"x", "../x": b"y"})
        with pytest.raises(UserError, match=r"'../x' leaves the folder"):
            command(["prepare", "crc-val-he-7k", f"root={home}"])
        assert [path.name for path in home.iterdir()] == ["CRC-VAL-HE-7K.zip"]

    def test_what_is_there_from_elsewhere_stays(self, packed):
        home = packed.parent
        (home / "CRC-VAL-HE-7K" / "ADI").mkdir(parents=True)
        (home / "CRC-VAL-HE-7K" / "ADI" / "mine.tif").write_bytes(b"mine")
        with pytest.raises(UserError, match="is there already"):
            prepare(load("crc-val-he-7k"), home, tell=lambda line: None)
        assert tree(home / "CRC-VAL-HE-7K") == {"ADI/mine.tif": b"mine"}

    def test_a_stop_between_two_moves_is_mended(self, packed, monkeypatch):
        home, moves = packed.parent, []

        def stop_at_second(source, target):
            moves.append(target)
            if len(moves) == 3:  # the stamp, the first class, then the second
                raise KeyboardInterrupt
            os.rename(source, target)

        with monkeypatch.context() as patched:
            patched.setattr("benchmarks.data.prepare.os.replace", stop_at_second)
            with pytest.raises(KeyboardInterrupt):
                prepare(load("crc-val-he-7k"), home, tell=lambda line: None)
        assert len(tree(home / "CRC-VAL-HE-7K")) == 5
        prepare(load("crc-val-he-7k"), home, tell=lambda line: None)
        assert len(tree(home / "CRC-VAL-HE-7K")) == 10
        assert not list(home.glob(".unpacking-*"))

    def test_wrapped_and_split_archives_land_in_one_place(self, tmp_path):
        home = tmp_path / "bcss"
        home.mkdir()
        top = "0_Public-data-Amgad2019_0.25MPP"
        zipped(home / f"{top}-001.zip", {f"{top}/masks/a.png": b"1", f"{top}/meta/gtruth_codes.tsv": b"2"})
        zipped(home / f"{top}-002.zip", {f"{top}/masks/b.png": b"3", f"{top}/rgbs_colorNormalized/a.png": b"4"})
        assert prepare(load("bcss"), home, tell=lambda line: None) == 2
        assert {name for name in tree(home) if "/" in name} == {
            "masks/a.png", "masks/b.png", "meta/gtruth_codes.tsv", "rgbs_colorNormalized/a.png",
        }  # fmt: skip

    def test_another_archive_than_expected(self, tmp_path):
        home = tmp_path / "nucls"
        home.mkdir()
        zipped(home / "QC.zip", {"cats/a.png": b"1", "dogs/b.png": b"2"})
        with pytest.raises(UserError, match="another archive than expected"):
            prepare(load("nucls"), home, tell=lambda line: None)
        assert [path.name for path in home.iterdir()] == ["QC.zip"]

    def test_annotations_of_both_parts_of_camelyon(self, tmp_path):
        for part, name in (("training", "tumor_001"), ("testing", "test_001")):
            (tmp_path / part).mkdir()
            wrap = "lesion_annotations/" if part == "testing" else ""
            zipped(tmp_path / part / "lesion_annotations.zip", {f"{wrap}{name}.xml": layouts.POLYGON})
        assert prepare(load("camelyon16"), tmp_path, tell=lambda line: None) == 2
        assert (tmp_path / "training/lesion_annotations/tumor_001.xml").is_file()
        assert (tmp_path / "testing/lesion_annotations/test_001.xml").is_file()

    def test_packed_arrays(self, tmp_path):
        name = "camelyonpatch_level_2_split_test_y.h5"
        layouts.hdf5(tmp_path / name, "y", (32768, 1, 1, 1))
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(whole))
        assert prepare(load("pcam"), tmp_path, tell=lambda line: None) == 1
        assert (tmp_path / name).read_bytes() == whole
        (tmp_path / name).write_bytes(b"kept")
        prepare(load("pcam"), tmp_path, tell=lambda line: None)
        assert (tmp_path / name).read_bytes() == b"kept"
        (tmp_path / name).unlink()
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(whole)[:-20])
        with pytest.raises(UserError, match="is broken"):
            prepare(load("pcam"), tmp_path, tell=lambda line: None)
        assert [path.name for path in tmp_path.iterdir()] == [f"{name}.gz"]

    def test_limits_are_the_data_sets_own(self, packed):
        data_set = load("crc-val-he-7k")
        small = replace(data_set, archives=(replace(data_set.archives[0], most_bytes=1000),))
        with pytest.raises(UserError, match="that this data set can have"):
            prepare(small, packed.parent, tell=lambda line: None)
