"""A host on this machine that does what hosts do: sends ranges or does not, hangs up, changes files, leads elsewhere."""

import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Host:
    """Files by path, and how they are sent.

    Attributes:
        files: path -> bytes.
        ranges: whether a Range is answered with 206.
        hang_up_after: bytes of each reply after which the connection is closed, for the first `hang_ups` replies.
        etag: sent with every file; None sends no validator.
        answers: path -> (status, headers) sent in place of a file.
        stall_after: bytes of each reply after which nothing comes until the other side hangs up; None sends all.
        length: whether Content-Length is sent.
        asked: (path, Range header) of every request.
    """

    files: dict = field(default_factory=dict)
    ranges: bool = True
    hang_up_after: int | None = None
    hang_ups: int = 0
    etag: str | None = '"first"'
    answers: dict = field(default_factory=dict)
    stall_after: int | None = None
    length: bool = True
    asked: list = field(default_factory=list)
    url: str = ""

    def reply(self, handler):
        path, wanted = handler.path, handler.headers.get("Range")
        self.asked.append((path, wanted))
        if path in self.answers:
            status, headers = self.answers[path]
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        content = self.files.get(path)
        if content is None:
            handler.send_error(404)
            return
        start, changed = 0, handler.headers.get("If-Range") not in (None, self.etag)
        if wanted and self.ranges and not changed:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                handler.send_error(416)
                return
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            handler.send_response(200)
        if self.etag:
            handler.send_header("ETag", self.etag)
        body = content[start:]
        if self.length:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if self.hang_ups and self.hang_up_after is not None:
            self.hang_ups -= 1
            body = body[: self.hang_up_after]
        if self.stall_after is None:
            handler.wfile.write(body)
            return
        handler.wfile.write(body[: self.stall_after])
        handler.wfile.flush()
        with suppress(ConnectionError):  # the other side was ended
            while handler.connection.recv(1):
                continue


@contextmanager
def serving(**settings):
    """Yield a running Host."""
    host = Host(**settings)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            host.reply(self)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    host.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
