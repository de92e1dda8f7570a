"""A web server on the loopback that knows ranges and fails in the ways that servers fail.

It serves a folder as a plain server does, and as a store of objects (path-style requests of S3),
whose listings have pages of few entries. It runs in its own process: GDAL's callers may keep the
interpreter's lock while they wait for an answer.
"""

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_PAGE = 2
"""Entries of a page of a store's listing."""


class WebServer:
    """A running server.

    Args:
        root: The folder that is served.
        address: Host and port.
        notes: Folder for its behaviour and its record of requests.
    """

    def __init__(self, root: Path, address: str, notes: Path) -> None:
        self.root, self.address, self._notes = root, address, notes
        self.behave()

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def behave(self, **behaviour: Any) -> None:
        """Sets how it answers from now on; forgets earlier requests.

        Args:
            **behaviour: ``code``: answers every request with it, or with ``only`` those of files
                whose names end so. ``first``: a list of codes of the
                next answers. ``cut``: closes the connection after this number of bytes of a file.
                ``pause``: seconds before each answer. ``etag=False``, ``ranges=False``: files have
                none. ``failing_page``: number of the page of a listing that is answered with 500.
        """
        (self._notes / "requests").write_text("")
        (self._notes / "behaviour").write_text(json.dumps(behaviour))

    @property
    def requests(self) -> list[tuple[str, str, int]]:
        """Method, path and number of bytes of the answers with files."""
        lines = (self._notes / "requests").read_text().splitlines()
        return [tuple(json.loads(line)) for line in lines]  # type: ignore[misc]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    root: Path
    notes: Path

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        its = json.loads((self.notes / "behaviour").read_text())
        time.sleep(its.get("pause", 0))
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        file = self.root / unquote(parts.path).lstrip("/")
        first = its.get("first", [])
        if first:
            (self.notes / "behaviour").write_text(json.dumps(its | {"first": first[1:]}))
        code = its.get("code", 0) if parts.path.endswith(its.get("only", "")) else 0
        if code := code or (first[0] if first else 0):
            self._send(code, b"", {})
        elif {"prefix", "delimiter", "max-keys"} & query.keys():
            self._list(unquote(parts.path).strip("/"), query, its.get("failing_page"))
        elif not file.is_file():
            self._send(404, b"", {})
        else:
            content = file.read_bytes()
            headers = {"Last-Modified": self.date_time_string(int(file.stat().st_mtime))}
            if its.get("etag", True):
                headers["ETag"] = f'"{hashlib.md5(content).hexdigest()}"'
            code, shown = 200, content
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted and its.get("ranges", True):
                start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
                code, shown = 206 if start < len(content) else 416, content[start : end + 1]
                last = start + len(shown) - 1
                headers["Content-Range"] = f"bytes {start}-{last}/{len(content)}"
            sent = len(shown) if self.command == "GET" else 0
            with (self.notes / "requests").open("a") as notes:
                notes.write(json.dumps([self.command, parts.path, sent]) + "\n")
            self._send(code, shown, headers, its.get("cut"))

    def _send(
        self, code: int, body: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
            self.close_connection = cut is not None

    def _list(self, bucket: str, query: dict[str, list[str]], failing: int | None) -> None:
        """Lists the objects of a bucket as S3 does, in pages."""
        prefix, separator = query.get("prefix", [""])[0], query.get("delimiter", ["\0"])[0]
        start = int(query.get("marker", ["0"])[0])
        top = self.root / bucket
        if not top.is_dir():
            self._send(404, b"<Error><Code>NoSuchBucket</Code></Error>", {})
            return
        if start == failing:
            self._send(500, b"", {})
            return
        names: dict[str, None] = {}
        for key in sorted(each.relative_to(top).as_posix() for each in top.rglob("*.*")):
            if key.startswith(prefix):
                head, slash, _ = key[len(prefix) :].partition(separator)
                names[prefix + head + slash] = None
        items = [
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            if name.endswith("/")
            else f"<Contents><Key>{escape(name)}</Key><Size>{(top / name).stat().st_size}</Size>"
            "<LastModified>2024-01-01T00:00:00.000Z</LastModified></Contents>"
            for name in list(names)[start : start + _PAGE]
        ]
        more = start + _PAGE < len(names)
        following = f"<NextMarker>{start + _PAGE}</NextMarker>" if more else ""
        body = (
            f"<ListBucketResult><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{following}{''.join(items)}"
            "</ListBucketResult>"
        )
        self._send(200, body.encode(), {"Content-Type": "application/xml"})

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass


@contextmanager
def serving(root: Path, notes: Path) -> Iterator[WebServer]:
    """Serves a folder on a free port of the loopback.

    Args:
        root: The folder.
        notes: An empty folder for the server's own files.
    """
    command = [sys.executable, __file__, str(root), str(notes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield WebServer(root, f"127.0.0.1:{int(process.stdout.readline())}", notes)
        finally:
            process.kill()


if __name__ == "__main__":
    _Handler.root, _Handler.notes = Path(sys.argv[1]), Path(sys.argv[2])
    server = _Server(("127.0.0.1", 0), _Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
