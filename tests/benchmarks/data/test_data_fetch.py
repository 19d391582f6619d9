"""Downloads from a host on this machine: resumed, checked, refused."""

import fcntl
import hashlib
import shutil
import socket
from dataclasses import replace

import pytest
from data_host import serving

from benchmarks.data import fetch as fetching
from benchmarks.data.command import download, read_sums
from benchmarks.data.dataset import Listing, Source, load
from benchmarks.data.fetch import TRIES, Net, fetch
from results.errors import UserError

CONTENT = bytes(range(256)) * 4000
SIZE = len(CONTENT)
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """No proxy stands before this machine itself."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def told():
    return []


@pytest.fixture
def net(told):
    return Net(schemes=("http",), wait=lambda seconds: None, tell=told.append)


def source(host, path="/a.zip", name="a.zip", size=SIZE, md5=MD5):
    return Source(host.url + path, name, size, md5)


def test_a_file_comes_once(tmp_path, net, told):
    with serving(files={"/a.zip": CONTENT}) as host:
        assert fetch(source(host, name="sub/a.zip"), tmp_path, net)
        assert not fetch(source(host, name="sub/a.zip"), tmp_path, net)
        assert len(host.asked) == 1
    assert (tmp_path / "sub" / "a.zip").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["a.zip"]
    assert "md5 as expected" in told[-2]
    assert told[-1] == "sub/a.zip: already there"


def test_hang_ups_are_resumed_within_one_call(tmp_path, net):
    with serving(files={"/a.zip": CONTENT}, hang_ups=3, hang_up_after=100_001) as host:
        fetch(source(host), tmp_path, net)
        assert [wanted for _, wanted in host.asked] == [None, "bytes=100001-", "bytes=200002-", "bytes=300003-"]
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_stopped_download_goes_on_in_the_next_call(tmp_path, net):
    with serving(files={"/a.zip": CONTENT}, hang_ups=1, hang_up_after=300_000) as host:
        stopping = replace(net, wait=_stop)
        with pytest.raises(KeyboardInterrupt):
            fetch(source(host), tmp_path, stopping)
        assert not (tmp_path / "a.zip").exists()
        assert (tmp_path / ".a.zip.part").stat().st_size == 300_000
        fetch(source(host), tmp_path, net)
        assert host.asked[-1] == ("/a.zip", "bytes=300000-")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def _stop(seconds):
    raise KeyboardInterrupt


@pytest.mark.parametrize("md5", [MD5, None])
def test_a_host_without_ranges_is_asked_for_all_again(md5, tmp_path, net, told):
    with serving(files={"/a.zip": CONTENT}, ranges=False, hang_ups=1, hang_up_after=300_000) as host:
        fetch(source(host, md5=md5), tmp_path, net)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert any("begins again" in line for line in told)


def test_a_file_that_changed_meanwhile_is_not_glued_to_the_old_part(tmp_path, net):
    with serving(files={"/a.zip": CONTENT}, hang_ups=1, hang_up_after=300_000) as host:
        with pytest.raises(KeyboardInterrupt):
            fetch(source(host, md5=None, size=None), tmp_path, replace(net, wait=_stop))
        host.files["/a.zip"], host.etag = CONTENT[::-1] + b"more", '"second"'
        fetch(source(host, md5=None, size=None), tmp_path, net)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT[::-1] + b"more"


def test_a_file_that_changed_meanwhile_does_not_pass_its_checksum(tmp_path, net):
    with serving(files={"/a.zip": CONTENT}, hang_ups=1, hang_up_after=300_000) as host:
        with pytest.raises(KeyboardInterrupt):
            fetch(source(host), tmp_path, replace(net, wait=_stop))
        host.files["/a.zip"] = CONTENT[::-1]
        with pytest.raises(UserError, match="is expected"):
            fetch(source(host), tmp_path, net)
    assert not (tmp_path / "a.zip").exists()


def test_without_validator_and_checksum_nothing_is_glued(tmp_path, net):
    with serving(files={"/a.zip": CONTENT}, etag=None, hang_ups=1, hang_up_after=300_000) as host:
        fetch(source(host, md5=None), tmp_path, net)
        assert [wanted for _, wanted in host.asked] == [None, None]
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_complete_part_is_only_checked(tmp_path, net):
    with serving(files={"/a.zip": CONTENT}) as host:
        (tmp_path / ".a.zip.part").write_bytes(CONTENT)
        (tmp_path / ".a.zip.part.json").write_text(
            f'{{"url": "{host.url}/a.zip", "mark": "x", "total": {len(CONTENT)}}}'
        )
        fetch(source(host), tmp_path, net)
        assert host.asked == []
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("notes", ["", "[]", '{"url": "http://elsewhere/"}', "\x00"])
def test_a_part_of_unknown_origin_is_dropped(notes, tmp_path, net):
    (tmp_path / ".a.zip.part").write_bytes(b"other")
    (tmp_path / ".a.zip.part.json").write_text(notes)
    with serving(files={"/a.zip": CONTENT}) as host:
        fetch(source(host), tmp_path, net)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_dropped(tmp_path, net):
    with serving(files={"/a.zip": CONTENT}) as host:
        (tmp_path / ".a.zip.part").write_bytes(CONTENT + b"more")
        (tmp_path / ".a.zip.part.json").write_text(f'{{"url": "{host.url}/a.zip", "mark": "\\"first\\""}}')
        fetch(source(host), tmp_path, net)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_wrong_checksum_keeps_the_file_aside(tmp_path, net):
    with serving(files={"/a.zip": CONTENT[::-1]}) as host:
        with pytest.raises(UserError, match=f"{MD5} is expected"):
            fetch(source(host), tmp_path, net)
        assert [path.name for path in tmp_path.iterdir()] == ["a.zip.rejected"]
        host.files["/a.zip"] = CONTENT
        fetch(source(host), tmp_path, net)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_a_host_that_is_gone_leaves_what_came(tmp_path, net):
    with serving(files={"/a.zip": CONTENT}, hang_ups=99, hang_up_after=0) as host:
        (tmp_path / ".a.zip.part").write_bytes(CONTENT[:7])
        (tmp_path / ".a.zip.part.json").write_text(f'{{"url": "{host.url}/a.zip", "mark": "\\"first\\""}}')
        with pytest.raises(UserError, match="stopped after 7 bytes"):
            fetch(source(host), tmp_path, net)
        assert len(host.asked) == TRIES
    with pytest.raises(UserError, match="repeat the command to go on"):
        fetch(source(host), tmp_path, net)
    assert (tmp_path / ".a.zip.part").read_bytes() == CONTENT[:7]


def test_another_length_than_promised(tmp_path, net):
    with (
        serving(files={"/a.zip": CONTENT + b"x"}) as host,
        pytest.raises(UserError, match="the host has changed the file"),
    ):
        fetch(source(host), tmp_path, net)


def test_no_end(tmp_path, net, monkeypatch):
    monkeypatch.setattr(fetching, "MOST_UNKNOWN", 1000)
    with (
        serving(files={"/a.zip": CONTENT}, length=False) as host,
        pytest.raises(UserError, match="more than the 1,000 bytes"),
    ):
        fetch(source(host, size=None, md5=None), tmp_path, net)
    assert not list(tmp_path.iterdir())


def test_no_length_but_an_end(tmp_path, net):
    with serving(files={"/a.zip": CONTENT}, length=False) as host:
        fetch(source(host, size=None), tmp_path, net)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_no_room(tmp_path, net, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=fetching.SPARE_BYTES + 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with serving(files={"/a.zip": CONTENT}) as host, pytest.raises(UserError, match="make room"):
        fetch(source(host), tmp_path, net)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_refusals_are_not_repeated(status, tmp_path, net):
    with serving(answers={"/a.zip": (status, {})}) as host:
        with pytest.raises(UserError, match=f"the host answered {status}"):
            fetch(source(host), tmp_path, net)
        assert len(host.asked) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_busy_hosts_are_asked_again(status, tmp_path, net):
    with serving(files={"/a.zip": CONTENT}, answers={"/a.zip": (status, {})}) as host:
        patient = replace(net, wait=lambda seconds: host.answers.clear())
        fetch(source(host), tmp_path, patient)
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


def test_redirects_are_followed_within_bounds(tmp_path, net):
    chain = {f"/{n}": (302, {"Location": f"/{n + 1}"}) for n in range(9)}
    with serving(files={"/4": CONTENT}, answers={k: v for k, v in chain.items() if k != "/4"}) as host:
        fetch(source(host, path="/0"), tmp_path, net)
        host.answers["/4"] = chain["/4"]
        with pytest.raises(UserError, match="the host answered 302"):
            fetch(source(host, path="/0", name="b.zip"), tmp_path, net)


@pytest.mark.parametrize(
    "place", ["file:///etc/passwd", "ftp://example.org/a.zip", "http://user:key@127.0.0.1/", "https:///a"]
)
def test_places_that_are_not_asked(place, tmp_path, net):
    answers = {"/a.zip": (302, {"Location": place})}
    with serving(answers=answers) as host, pytest.raises(UserError, match=r"is not asked|the host answered 302"):
        fetch(source(host), tmp_path, net)
    with pytest.raises(UserError, match="is not asked"):
        fetch(Source(place, "a.zip"), tmp_path, net)


def test_only_https_outside_of_tests(tmp_path):
    with serving(files={"/a.zip": CONTENT}) as host:
        with pytest.raises(UserError, match="must begin with https://"):
            fetch(source(host), tmp_path)
        assert host.asked == []
    for name in ("nct-crc-he", "nct-crc-he-nonorm", "crc-val-he-7k", "pcam"):
        assert all(one.url.startswith("https://") and len(one.md5) == 32 for one in load(name).sources)
    assert load("camelyon16").listing.base.startswith("https://")


def test_two_downloads_of_one_file(tmp_path, net):
    with open(tmp_path / ".a.zip.part", "ab") as other, serving(files={"/a.zip": CONTENT}) as host:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another download"):
            fetch(source(host), tmp_path, net)


def test_a_file_of_another_length_is_not_overwritten(tmp_path, net):
    (tmp_path / "a.zip").write_bytes(b"mine")
    with serving(files={"/a.zip": CONTENT}) as host, pytest.raises(UserError, match="move it away"):
        fetch(source(host), tmp_path, net)
    assert (tmp_path / "a.zip").read_bytes() == b"mine"


def slides(host, sums):
    listing = Listing(
        f"{host.url}/", Source(f"{host.url}/checksums.md5", "checksums.md5"), ("images/*", "annotations/*")
    )
    host.files["/checksums.md5"] = sums.encode()
    return replace(load("camelyon16"), listing=listing, size=0)


def test_a_listed_data_set_comes_by_the_hosts_own_checksums(tmp_path, net, told):
    sums = {
        "images/test_001.tif": b"one",
        "images/test 2+.tif": b"four",
        "annotations/test_001.xml": b"two",
        "masks/test_001_mask.tif": b"three",
    }
    lines = "".join(f"{hashlib.md5(content).hexdigest()}  {path}\n" for path, content in sums.items())
    with serving(files={f"/{path}": content for path, content in sums.items()}) as host:
        host.files["/images/test%202%2B.tif"] = b"four"
        data_set = slides(host, lines)
        assert download(data_set, tmp_path, (), net) == 0
        assert not (tmp_path / "masks").exists()
        assert download(data_set, tmp_path, ("masks/*",), net) == 0
        assert (tmp_path / "masks" / "test_001_mask.tif").read_bytes() == b"three"
        with pytest.raises(UserError, match="names none of the 4 files"):
            download(data_set, tmp_path, ("slides/*",), net)


def test_one_file_that_fails_does_not_cost_the_others(tmp_path, net, told):
    with serving(files={"/images/b.tif": b"one"}) as host:
        lines = "".join(f"{hashlib.md5(b'one').hexdigest()}  images/{name}.tif\n" for name in "ab")
        assert download(slides(host, lines), tmp_path, (), net) == 3
    assert (tmp_path / "images" / "b.tif").read_bytes() == b"one"
    assert "1 of 2 files did not come: images/a.tif" in told[-1]


@pytest.fixture
def no_names(monkeypatch):
    """No name leads to an address; returns those that were asked for."""
    asked = []

    def getaddrinfo(host, *rest, **more):
        asked.append(host)
        raise socket.gaierror(-2, "Name or service not known")

    for key in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(key, raising=False)
        monkeypatch.delenv(key.upper(), raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def test_without_a_network_every_file_is_named_with_its_address_and_none_is_left(tmp_path, told, no_names):
    data_set = replace(load("pcam"), size=0)
    assert download(data_set, tmp_path, (), Net(wait=lambda seconds: None, tell=told.append)) == 3
    assert no_names == ["zenodo.org"] * TRIES
    errors = [line for line in told if line.startswith("error: ")]
    assert [line.rpartition(" ")[2] for line in errors] == [source.url for source in data_set.sources]
    assert "nothing came" in errors[0]
    assert "kept" not in "".join(told)
    assert told[-1].startswith("9 of 9 files did not come: ")
    assert " and 4 more; repeat the command, or fetch by hand from https://zenodo.org/records/" in told[-1]
    assert not list(tmp_path.iterdir())


def test_a_list_that_does_not_come_is_a_failure_as_a_file_is(tmp_path, told, no_names):
    assert download(load("camelyon16"), tmp_path, (), Net(wait=lambda seconds: None, tell=told.append)) == 3
    assert load("camelyon16").listing.source.url in told[-2]
    assert load("camelyon16").home in told[-1]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "line", ["0" * 32 + "  ../a", "0" * 32 + "  /etc/a", "0" * 32 + "  a/../../b", "x  a", "0" * 31 + "  a"]
)
def test_lists_that_climb_are_refused(line, tmp_path):
    (tmp_path / "sums").write_text(line + "\n")
    with pytest.raises(UserError, match="line 1"):
        read_sums(tmp_path / "sums")


@pytest.mark.parametrize("name", ["nucls", "bcss"])
def test_what_only_a_person_can_fetch_is_said_in_steps(name, tmp_path, net, told):
    assert download(load(name), tmp_path / name, (), net) == 3
    assert "drive.google.com" in told[0]
    assert told[1] == f"then run: python -m benchmarks data prepare {name} root={tmp_path / name}"
    assert not (tmp_path / name).exists()


def test_no_room_for_the_whole_is_said_before_anything_is_asked(tmp_path, net, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with serving() as host:
        data_set = replace(load("nct-crc-he"), sources=(source(host),))
        with pytest.raises(UserError, match=r"takes about 15.3 GB"):
            download(data_set, tmp_path, (), net)
        assert host.asked == []
