"""A web server on the loopback that knows ranges and fails in the ways that servers fail.

It serves a folder as a plain server does, and the same files as a store of objects (path-style
requests of S3), with pages of few entries.
"""

import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_PAGE = 2
"""Entries of a page of a store's listing."""


@dataclass
class WebServer:
    """A running server.

    Args:
        root: The folder that is served.
        address: Host and port.
        codes: Answers with these codes, one for each request that asks for bytes, before it serves;
            the last one stays if it is given as the only value of ``always``.
        always: Answers each request with this code.
        cut: Closes the connection after this number of bytes of a file.
        pause: Seconds before each answer.
        has_etag: Whether files have an ETag.
        has_ranges: Whether parts of files can be asked for.
        failing_page: Page of a listing that is answered with 500.
        requests: What was asked for: method, path and the first and last byte.
    """

    root: Path
    address: str
    codes: list[int] = field(default_factory=list)
    always: int | None = None
    cut: int | None = None
    pause: float = 0
    has_etag: bool = True
    has_ranges: bool = True
    failing_page: int | None = None
    requests: list[tuple[str, str, tuple[int, int] | None]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def sent(self) -> int:
        """Bytes that were asked for."""
        return sum(part[1] + 1 - part[0] for method, _, part in self.requests if part)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def _answer(self, with_body: bool) -> None:
        ours = self.server.ours
        time.sleep(ours.pause)
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        file = ours.root / unquote(parts.path).lstrip("/")
        code = ours.always or (ours.codes.pop(0) if ours.codes else None)
        if code is not None:
            self._send(code, b"", with_body)
        elif {"prefix", "delimiter", "list-type", "max-keys"} & query.keys():
            self._list(unquote(parts.path).strip("/"), query)
        elif not file.is_file():
            self._send(404, b"", with_body)
        else:
            content = file.read_bytes()
            headers = {"Last-Modified": self.date_time_string(int(file.stat().st_mtime))}
            if ours.has_etag:
                headers["ETag"] = f'"{hashlib.md5(content).hexdigest()}"'
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted and ours.has_ranges:
                first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
                if first > last:
                    self._send(416, b"", with_body)
                    return
                ours.requests.append((self.command, parts.path, (first, last)))
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                self._send(206, content[first : last + 1], with_body, headers)
            else:
                whole = (0, len(content) - 1) if with_body else None
                ours.requests.append((self.command, parts.path, whole))
                self._send(200, content, with_body, headers)

    def _send(
        self, code: int, body: bytes, with_body: bool, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.server.ours.has_ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            cut = self.server.ours.cut
            self.wfile.write(body[:cut])
            self.close_connection = cut is not None

    def _list(self, bucket: str, query: dict[str, list[str]]) -> None:
        """Lists the objects of a bucket as S3 does, in pages."""
        ours = self.server.ours
        prefix, separator = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        start = int(query.get("marker", query.get("continuation-token", ["0"]))[0])
        top = ours.root / bucket
        if not top.is_dir():
            self._send(404, b"<Error><Code>NoSuchBucket</Code></Error>", True)
            return
        page = start // _PAGE
        if page == ours.failing_page:
            self._send(500, b"", True)
            return
        keys = sorted(each.relative_to(top).as_posix() for each in top.rglob("*") if each.is_file())
        names = []
        for key in keys:
            if key.startswith(prefix):
                head, slash, _ = key[len(prefix) :].partition(separator or "\0")
                names.append(prefix + head + slash if slash else key)
        names = list(dict.fromkeys(names))
        shown = names[start : start + _PAGE]
        items = [
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            if name.endswith("/")
            else f"<Contents><Key>{escape(name)}</Key><Size>{(top / name).stat().st_size}</Size>"
            "<LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"
            for name in shown
        ]
        more = start + _PAGE < len(names)
        following = f"<NextMarker>{start + _PAGE}</NextMarker>" if more else ""
        body = (
            f"<ListBucketResult><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{following}{''.join(items)}"
            "</ListBucketResult>"
        )
        self._send(200, body.encode(), True, {"Content-Type": "application/xml"})

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    ours: WebServer
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass


@contextmanager
def serving(root: Path) -> Iterator[WebServer]:
    """Serves a folder on a free port of the loopback."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.ours = WebServer(root, f"127.0.0.1:{server.server_port}")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server.ours
    finally:
        server.shutdown()
        server.server_close()
