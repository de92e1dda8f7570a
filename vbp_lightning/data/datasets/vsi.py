"""Files and folders that GDAL names: in archives, on web servers and in object stores.

rasterio and pyogrio open such files but neither lists nor compares them. This module calls GDAL's
C functions (``cpl_vsi.h``) in the library that rasterio has loaded.
"""

import ctypes
import io
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_DEBUG, _FAILURE = 1, 3  # CPLErr
_FOLDER = 0o040000

_STORE_ANSWERED = re.compile(
    r"(?:S3|GS|AZURE|ADLS|OSS|SWIFT): (?!Switching|Redirect)(.*)", re.DOTALL
)
"""The debug message in which GDAL reports the answer of a store that did not list a folder."""

_ATTEMPTS = 3
"""How often a folder of a store is listed before its error counts: GDAL does not repeat it."""

_PATIENCE = 5
"""Seconds after which it is not listed again."""

_NETWORK_SETTINGS = {
    "GDAL_HTTP_CONNECTTIMEOUT": "5",  # seconds
    "GDAL_HTTP_LOW_SPEED_LIMIT": "100",  # bytes per second, over …
    "GDAL_HTTP_LOW_SPEED_TIME": "10",  # … seconds
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "1",  # seconds, growing
}
"""GDAL itself waits without limit and gives up at the first error."""

_NETWORK = (b"/vsicurl/", b"/vsis3/", b"/vsigs/", b"/vsiaz/", b"/vsioss/")

for _name, _value in _NETWORK_SETTINGS.items():
    os.environ.setdefault(_name, _value)  # read by GDAL at each request, also in pyogrio


class _Entry(ctypes.Structure):
    """The beginning of ``VSIDIREntry``."""

    _fields_ = (("name", ctypes.c_char_p), ("mode", ctypes.c_int))


_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_int, ctypes.c_char_p)


@cache
def _gdal() -> Any:  # noqa: ANN401
    """GDAL's library. An extension module gives access to the functions that it is linked to."""
    import rasterio._base

    library = ctypes.CDLL(rasterio._base.__file__)
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64
    length = ctypes.c_size_t
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "CPLPushErrorHandler": (None, [_Handler]),
        "CPLPopErrorHandler": (None, []),
        "CPLSetThreadLocalConfigOption": (None, [text, text]),
        "CPLZLibInflate": (pointer, [text, length, pointer, length, pointer]),
        "CSLDestroy": (None, [pointer]),
        "VSICloseDir": (None, [pointer]),
        "VSIErrorReset": (None, []),
        "VSIFCloseL": (ctypes.c_int, [pointer]),
        "VSIFOpenExL": (pointer, [text, text, ctypes.c_int]),
        "VSIFReadL": (ctypes.c_size_t, [pointer, ctypes.c_size_t, ctypes.c_size_t, pointer]),
        "VSIFSeekL": (ctypes.c_int, [pointer, size, ctypes.c_int]),
        "VSIFTellL": (size, [pointer]),
        "VSIGetFileMetadata": (ctypes.POINTER(text), [text, text, pointer]),
        "VSIGetLastErrorMsg": (text, []),
        "VSIGetNextDirEntry": (ctypes.POINTER(_Entry), [pointer]),
        "VSISetPathSpecificOption": (None, [text, text, text]),
        "VSIOpenDir": (pointer, [text, ctypes.c_int, pointer]),
        "VSICurlPartialClearCache": (None, [text]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    if "GDAL_DISABLE_READDIR_ON_OPEN" not in os.environ:
        # The files beside a raster, such as its mask, are asked for one by one: a listing of their
        # folder may end early.
        for system in _NETWORK:
            library.VSISetPathSpecificOption(system, b"GDAL_DISABLE_READDIR_ON_OPEN", b"TRUE")
    return library


@contextmanager
def _errors() -> Iterator[list[tuple[int, str]]]:
    """Yields a list that receives the level and text of GDAL's messages in this thread."""
    found: list[tuple[int, str]] = []

    def handle(level: int, _: int, message: bytes) -> None:
        found.append((level, message.decode(errors="replace")))

    library = _gdal()
    library.VSIErrorReset()
    handler = _Handler(handle)  # kept until the end of the block
    library.CPLPushErrorHandler(handler)
    try:
        yield found
    finally:
        library.CPLPopErrorHandler()


def last_error() -> str:
    """Why the last file of this thread could not be opened, as GDAL reports; else empty."""
    message: bytes = _gdal().VSIGetLastErrorMsg()
    return _shown(message.decode(errors="replace"))


def _refuse(found: list[tuple[int, str]]) -> None:
    """Raises the error that was reported, if any."""
    messages = [text for level, text in found if level >= _FAILURE]
    reason = last_error() or _shown("".join(messages[-1:]))
    if "404" in reason:
        raise FileNotFoundError(reason)
    if reason:
        raise OSError(reason)


def _shown(text: str) -> str:
    """A message on one line; of the XML that a store answers, its code and its message."""
    parts = re.findall(r"<(?:Code|Message)>([^<]*)<", text)
    return " ".join((": ".join(parts) or re.sub(r"<[^>]*>", " ", text)).split())[:200]


def entries(name: str) -> list[tuple[str, bool]] | None:
    """Lists a folder.

    Args:
        name: GDAL's name of an archive, or of a folder in an archive or a store.

    Returns:
        Each name, and whether it is a folder; None if ``name`` is no folder.

    Raises:
        OSError: The folder cannot be listed completely.
    """
    start = time.monotonic()
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _entries(name)
        except OSError:
            if attempt == _ATTEMPTS or time.monotonic() - start > _PATIENCE:
                raise
            time.sleep(0.5 * attempt)
    raise AssertionError


def _entries(name: str) -> list[tuple[str, bool]] | None:
    library = _gdal()
    found: list[tuple[str, bool]] = []
    with _errors() as errors:
        # Where a page of a store's listing fails, GDAL ends the list as if it were complete. The
        # answer of the store is reported as a debug message only.
        library.CPLSetThreadLocalConfigOption(b"CPL_DEBUG", b"ON")
        try:
            folder = library.VSIOpenDir(os.fsencode(name), 0, None)
            while folder and (entry := library.VSIGetNextDirEntry(folder)):
                path = os.fsdecode(entry.contents.name).rstrip("/")
                found.append((path, entry.contents.mode & 0o170000 == _FOLDER))
            if folder:
                library.VSICloseDir(folder)
        finally:
            library.CPLSetThreadLocalConfigOption(b"CPL_DEBUG", None)
    for level, text in errors:
        if level == _DEBUG and (answer := _STORE_ANSWERED.match(text)):
            reason = "" if answer[1] == "(null)" else _shown(answer[1])
            raise OSError(reason or "its server does not answer as a store does")
    _refuse(errors)
    return found if folder else None


def headers(name: str) -> dict[str, str]:
    """Asks a server for the headers of a file; what GDAL keeps of the file is forgotten.

    Args:
        name: GDAL's name of a file on a web server or in a store.

    Returns:
        The headers by their names in lower case.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: The server cannot be reached or refuses.
    """
    library = _gdal()
    library.VSICurlPartialClearCache(os.fsencode(name))
    found: dict[str, str] = {}
    with _errors() as errors:
        items = library.VSIGetFileMetadata(os.fsencode(name), b"HEADERS", None)
        number = 0
        while items and items[number]:
            key, _, value = items[number].decode(errors="replace").partition("=")
            found[key.lower()] = value
            number += 1
        library.CSLDestroy(items)
    if not found:
        _refuse(errors)
        raise OSError("its server does not answer")
    return found


class VsiFile(io.RawIOBase):
    """A file that is open for reading.

    Args:
        name: GDAL's name of the file.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be opened or, while it is read, the connection breaks or a checksum is
            wrong.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._handle = None
        with _errors() as errors:
            self._handle = _gdal().VSIFOpenExL(os.fsencode(name), b"rb", 1)
        if not self._handle or any(level >= _FAILURE for level, _ in errors):
            self.close()
            _refuse(errors)
            raise FileNotFoundError("no such file")
        self.size = self.seek(0, os.SEEK_END)
        self.seek(0)

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def tell(self) -> int:
        """The place of the next byte."""
        return int(_gdal().VSIFTellL(self._handle))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves to another place and returns it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell()}.get(whence)
        if start is None:
            _gdal().VSIFSeekL(self._handle, 0, os.SEEK_END)
            start = self.tell()
        _gdal().VSIFSeekL(self._handle, max(0, start + offset), os.SEEK_SET)
        return self.tell()

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401
        """Reads bytes into a buffer and returns their number, 0 at the end of the file."""
        view = memoryview(buffer).cast("B")
        target = (ctypes.c_char * len(view)).from_buffer(view)
        with _errors() as errors:
            count = int(_gdal().VSIFReadL(target, 1, len(view), self._handle))
        if count < len(view):
            _refuse(errors)
            if self.tell() < self.size:
                raise OSError(f"ends after {self.tell()} of {self.size} bytes")
        return count

    def close(self) -> None:
        """Closes the file."""
        if self._handle:
            _gdal().VSIFCloseL(self._handle)
            self._handle = None
        super().close()


def is_zlib(data: bytes, size: int) -> bool:
    """Whether data are compressed by zlib, whole, with the right checksum, and not too long.

    GDAL's libdeflate takes half the time of zlib.

    Args:
        data: The compressed data.
        size: The largest number of bytes that they may hold.
    """
    target = ctypes.create_string_buffer(size)
    with _errors():
        return bool(_gdal().CPLZLibInflate(data, len(data), target, size, None))


def _forget_connections() -> None:
    """Closes the connections of this thread, which a forked process must not share with it."""
    for name in ("rasterio._base", "pyogrio._io"):
        if name in sys.modules:
            ctypes.CDLL(str(sys.modules[name].__file__)).VSICurlClearCache()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=_forget_connections)
