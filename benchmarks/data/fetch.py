"""One file from a host: https only, resumed where it stopped, checked before it gets its name."""

import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from tqdm import tqdm

from benchmarks.data.dataset import Source
from results.errors import UserError
from results.files import write_json

CHUNK, TIMEOUT, REDIRECTS, TRIES = 1 << 20, 60, 5, 5
SPARE_BYTES = 256 << 20
"""Left free on the disk."""

MOST_UNKNOWN = 1 << 30
"""Most bytes of a file whose length nobody stated."""

WORTH_A_TRY = (408, 425, 429, 500, 502, 503, 504)


class Unresolved(UserError):
    """The host's name leads to no address, as without a network."""


@dataclass(frozen=True)
class Net:
    """How the network is asked.

    Attributes:
        schemes: what an address, and each address it leads to, may begin with.
        wait: called with seconds before another try.
        tell: called with a line for the person at the keyboard.
    """

    schemes: tuple[str, ...] = ("https",)
    wait: Callable[[float], None] = time.sleep
    tell: Callable[[str], None] = print


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = REDIRECTS
    max_repeats = 2

    def __init__(self, schemes: tuple[str, ...]) -> None:
        self.schemes = schemes

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _check_address(newurl, self.schemes)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_address(url: str, schemes: tuple[str, ...]) -> None:
    parts = urlsplit(url)
    if parts.scheme not in schemes or not parts.hostname or parts.username or parts.password:
        raise UserError(f"{url[:200]} is not asked: an address must begin with {schemes[0]}:// and name no account.")


def _opener(schemes: tuple[str, ...]) -> urllib.request.OpenerDirector:
    opener = urllib.request.OpenerDirector()
    handlers = [
        urllib.request.ProxyHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(schemes),
    ]
    if "http" in schemes:
        handlers.append(urllib.request.HTTPHandler())
    for handler in handlers:
        opener.add_handler(handler)
    return opener


def fetch(source: Source, folder: Path, net: Net | None = None) -> bool:
    """Bring one file into `folder`, and return whether anything had to be fetched.

    What has come so far lies in `.<name>.part`, with what the host said of it in `.<name>.part.json`; the next call goes
    on there when the host still has the same file and can send the rest, and begins again when not.

    Raises:
        Unresolved: the host's name cannot be resolved.
        UserError: an address that is not https, no room, a host that refuses or cannot be reached (what came is kept), a
            length that changed, or a wrong checksum (the file is kept as `<name>.rejected`).
    """
    net = net or Net()
    target = folder / source.path
    if target.is_file() and (source.size is None or target.stat().st_size == source.size):
        net.tell(f"{source.path}: already there")
        return False
    if target.exists():
        raise UserError(
            f"{target} is there and has {target.stat().st_size:,} bytes, {source.size:,} are expected: move it away and ask again."
        )
    _check_address(source.url, net.schemes)
    target.parent.mkdir(parents=True, exist_ok=True)
    download = _Download(source, target, net)
    with download.alone():
        download.complete()
        download.check()
    return True


class _Download:
    def __init__(self, source: Source, target: Path, net: Net) -> None:
        self.source, self.target, self.net = source, target, net
        self.part = target.with_name(f".{target.name}.part")
        self.notes = target.with_name(f".{target.name}.part.json")
        self.opener = _opener(net.schemes)
        self.total: int | None = source.size

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the part file against a second download of the same file."""
        with open(self.part, "ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(f"{self.part} is being written by another download: wait for it.") from error
            try:
                yield
            finally:
                self._leave_nothing_empty()

    def _leave_nothing_empty(self) -> None:
        if self.part.exists() and not self._have():
            self.part.unlink()
            self.notes.unlink(missing_ok=True)

    def complete(self) -> None:
        """Ask until the whole file is there; every try that brings something resets the count of tries."""
        failed, reason, kind = 0, "", UserError
        while failed < TRIES:
            before, kind = self._have(), UserError
            try:
                if self._ask(before):
                    return
                reason = "the connection ended early"
            except urllib.error.HTTPError as error:
                self._judge(error)
                reason = f"the host answered {error.code}"
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                if getattr(error, "errno", None) in (28, 122):  # no space, no quota
                    raise
                cause = getattr(error, "reason", error)
                reason = str(cause) or type(error).__name__
                kind = Unresolved if isinstance(cause, socket.gaierror) else UserError
            failed = 0 if self._have() > before else failed + 1
            if failed < TRIES:
                self.net.wait(min(60.0, 2.0**failed))
        came = self._have()
        state = f"stopped after {came:,} bytes" if came else "did not come"
        rest = "what came is kept, repeat the command to go on" if came else "nothing came, repeat the command"
        raise kind(f"{self.source.path} {state} ({reason}): {rest}; its address is {self.source.url}")

    def _judge(self, error: urllib.error.HTTPError) -> None:
        if error.code == 416:  # what is here is longer than the file there
            self._forget()
        elif error.code not in WORTH_A_TRY:
            raise UserError(
                f"{self.source.url} cannot be fetched: the host answered {error.code} {error.reason}."
            ) from error

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _forget(self) -> None:
        os.truncate(self.part, 0)
        self.notes.unlink(missing_ok=True)

    def _ask(self, have: int) -> bool:
        """Ask once, from where the part ends; return whether the file is complete."""
        notes = self._noted()
        mark = notes.get("mark")
        if have and (notes.get("url") != self.source.url or not (mark or self.source.md5)):
            self._forget()
            have = 0
        if have and have == (self.total or notes.get("total")):
            return True
        headers = {"Accept-Encoding": "identity", "User-Agent": "sgcl-bench"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if mark and not self.source.md5:  # a checksum proves the whole, and some hosts resume only without
                headers["If-Range"] = mark
        request = urllib.request.Request(self.source.url, headers=headers)  # noqa: S310 (the scheme was checked)
        with self.opener.open(request, timeout=TIMEOUT) as reply:
            have = self._begin(reply, have, notes.get("total"))
            return self._take(reply, have)

    def _noted(self) -> dict[str, Any]:
        try:
            notes = json.loads(self.notes.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return notes if isinstance(notes, dict) else {}

    def _begin(self, reply: Any, have: int, noted: int | None) -> int:
        """Read the reply's headers: where does it begin, how long is the whole? Room is checked here."""
        said = reply.headers.get("Content-Range", "")
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", said) if reply.status == 206 else None
        if span and int(span[1]) == have and noted in (None, int(span[2])):
            total: int | None = int(span[2])
        else:
            if reply.status == 206:
                self._forget()
                raise http.client.HTTPException(f"the host sent '{said[:60]}' where byte {have} was asked for")
            if have:
                self.net.tell(
                    f"{self.source.path}: the host has another file by now or cannot resume, so it begins again"
                )
            self._forget()
            have, length = 0, reply.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
        if self.source.size is not None and total is not None and total != self.source.size:
            raise UserError(
                f"{self.source.url} has {total:,} bytes today, {self.source.size:,} are expected: the host has changed the file."
            )
        self.total = total if total is not None else self.source.size
        self._check_room(max(0, (self.total or 0) - have))
        etag = reply.headers.get("ETag", "")
        mark = etag if etag.startswith('"') else reply.headers.get("Last-Modified")
        write_json(self.notes, {"url": self.source.url, "mark": mark, "total": self.total})
        self.net.tell(
            f"{self.source.path}: {have / 1e6:,.1f} of {_megabytes(self.total)} MB are here, fetching the rest"
        )
        return have

    def _check_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if needed + SPARE_BYTES > free:
            raise UserError(
                f"{self.source.path} needs {needed / 1e9:,.1f} GB more and {self.part.parent} has {free / 1e9:,.1f} GB free: "
                "make room or give another root."
            )

    def _take(self, reply: IO[bytes], have: int) -> bool:
        most = self.total if self.total is not None else MOST_UNKNOWN
        bar = tqdm(total=self.total, initial=have, unit="B", unit_scale=True, desc=self.target.name, disable=None)
        with bar, open(self.part, "ab", buffering=0) as file:
            while data := reply.read(CHUNK):
                have += len(data)
                bar.update(len(data))
                if have > most:
                    self._forget()
                    raise UserError(
                        f"{self.source.url} sends more than the {most:,} bytes it announced: it is not taken."
                    )
                file.write(data)
        return self.total is None or have == self.total

    def check(self) -> None:
        """Compare the checksum and give the file its name."""
        if self.source.md5:
            with open(self.part, "rb") as file:
                found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            if found != self.source.md5:
                rejected = self.target.with_name(f"{self.target.name}.rejected")
                os.replace(self.part, rejected)
                self.notes.unlink(missing_ok=True)
                raise UserError(
                    f"{self.source.path} has the md5 {found} and {self.source.md5} is expected: it is kept as {rejected.name}, "
                    "repeat the command to fetch it anew."
                )
        os.replace(self.part, self.target)
        self.notes.unlink(missing_ok=True)
        proof = "md5 as expected" if self.source.md5 else "the host gives no checksum"
        self.net.tell(f"{self.source.path}: complete, {self.target.stat().st_size / 1e6:,.1f} MB ({proof})")


def _megabytes(size: int | None) -> str:
    return "an unknown number of" if size is None else f"{size / 1e6:,.1f}"
