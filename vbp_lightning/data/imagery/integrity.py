"""Whether the files of a raster are whole: what GDAL reports, and what it leaves unverified.

GDAL reads some damaged files without an exception. Of libjpeg, libtiff and others it passes on
warnings; a truncated PNG or netCDF file, a raw file that is too short, and a flipped bit in the
last blocks of a GeoTIFF it does not notice at all (``benchmarks/damaged_images.py``).
"""

import logging
import lzma
import re
import sqlite3
import sys
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from itertools import count, product
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioIOError
from rasterio.windows import Window
from scipy.io import netcdf_file

from vbp_lightning.data.datasets.virtual_path import VirtualPath, size_and_times, source_path
from vbp_lightning.data.datasets.vsi import is_zlib

MAX_SIDE = 1 << 24
"""Largest height and width in pixels: 8000 km of half metres."""

_LARGE = 1 << 30
"""Bytes of pixels from which on they are compared with the size of the files."""

_LARGEST_RATIO = 100_000
"""Largest ratio of the pixels to the files, in bytes; an empty mosaic reaches half of it."""

_RAW = {
    *("BT", "BYN", "EHdr", "ENVI", "ERS", "GTX", "GenBin", "ISCE", "KRO", "LAN", "PAux", "PCIDSK"),
    *("ROI_PAC", "RRASTER", "RST", "SAGA", "VICAR"),
}
"""Drivers whose files are as long as their pixels."""

_CHUNK = 1 << 20

_LARGEST_BLOCK = 1 << 26
"""Bytes of a block that is decompressed at once."""

# read when a raster is opened, so that raw files are compared with their declared size, and libjpeg
# does not pad with grey
_OPTIONS = {"RAW_CHECK_FILE_SIZE": True, "GDAL_ERROR_ON_LIBJPEG_WARNING": True}

_HARMLESS = re.compile(
    r"does not end in null byte|not sorted in ascending order|ExtraSamples|Unknown field"
    r"|known incorrect sRGB profile|optimizations in its layout|PROJ: |EPSG registry"
    r"|Inco\w+ \w+ for \"(?!Geo|GDALNo|ColorMap|YCbCr|Reference)",
)
"""Reports about metadata that do not concern the pixels or their place."""

_DAMAGE = re.compile(
    r"corrupt|truncat|premature|IO error|CRC|checksum|damaged|invalid|isn't the same"
    r"|Inco\w+ \w+ for",
    re.IGNORECASE,
)
"""Reports by which a file is known to be damaged when it is opened, among many about metadata."""

_OPENING, _READING = "rasterio._env", "rasterio._err"
"""rasterio's loggers of what GDAL reports when it opens a file, and when it reads pixels."""

_here = threading.local()


def _keep(record: logging.LogRecord) -> bool:
    """Whether a report of GDAL is logged; those in a thread that reads are collected."""
    reports: list[str] | None = getattr(_here, "reports", None)
    if reports is None or record.levelno < logging.WARNING:
        return True
    text = record.getMessage()
    if "not recognized as being in a supported file format" in text:
        return False  # rasterio raises it too
    if _HARMLESS.search(text) or (record.name == _OPENING and not _DAMAGE.search(text)):
        return True
    reports.append(re.sub(r"^CPLE_\w+( in |:)", "", text))
    return False


def _unreadable_report(unraisable: Any, pass_on: Any = sys.unraisablehook) -> None:  # noqa: ANN401
    """Collects a report that rasterio cannot decode, as it quotes bytes of a damaged file."""
    reports: list[str] | None = getattr(_here, "reports", None)
    if reports is None or unraisable.exc_type is not UnicodeDecodeError:
        pass_on(unraisable)
    else:
        reports.append("GDAL quotes it in a report that is no text")


def _quiet_excepthook(
    kind: type[BaseException],
    error: BaseException,
    trace: TracebackType | None,
    pass_on: Any = sys.excepthook,  # noqa: ANN401
) -> None:
    """Drops what Cython prints before it calls ``sys.unraisablehook`` for such a report."""
    if getattr(_here, "reports", None) is None or kind is not UnicodeDecodeError:
        pass_on(kind, error, trace)


for _name in (_OPENING, _READING):
    logging.getLogger(_name).addFilter(_keep)
sys.unraisablehook, sys.excepthook = _unreadable_report, _quiet_excepthook


@contextmanager
def gdal_reports() -> Iterator[list[str]]:
    """Collects what GDAL reports in this thread about damaged files, instead of logging it.

    Yields:
        The reports, one line each; filled until the context ends.
    """
    before = getattr(_here, "reports", None)
    reports: list[str] = []
    _here.reports = reports
    try:
        yield reports
    finally:
        _here.reports = before


class DamagedFileError(OSError):
    """A raster's file is not whole, or declares more pixels than it can hold."""


@contextmanager
def whole_raster(path: Path) -> Iterator[Any]:
    """Opens a raster whose files are whole and whose size is plausible.

    Raises:
        DamagedFileError: They are not. rasterio raises its own exceptions if GDAL cannot open it.
    """
    with rasterio.Env(**_OPTIONS):
        raster = rasterio.open(path)
    with raster:
        _check_size(raster)
        _check_raw_size(raster)
        _check_files(raster, set())
        yield raster


def transform_of(raster: Any) -> Affine:  # noqa: ANN401
    """The transform from pixels to coordinates; the identity if the raster has none."""
    is_missing = not any(raster.transform[:6])  # of GDAL's PNM driver
    return Affine.identity() if is_missing else raster.transform


def _check_size(raster: Any) -> None:  # noqa: ANN401
    if not abs(transform_of(raster).determinant) > 0:  # also NaN
        raise DamagedFileError("its transform to coordinates cannot be inverted")
    height, width = raster.shape
    declared = f"declares {width} × {height} px in {raster.count} bands"
    if max(height, width) > MAX_SIDE:
        raise DamagedFileError(f"{declared}, more than {MAX_SIDE} px on a side")
    pixels = height * width * raster.count
    if pixels > _LARGE:
        files = [Path(file) for file in raster.files]
        size = sum(file.stat().st_size for file in files if file.is_file())
        is_local = not any(str(file).startswith("/vsi") for file in files)
        if is_local and pixels > _LARGEST_RATIO * size:
            raise DamagedFileError(f"{declared}, more than files of {size} bytes can hold")


def _check_raw_size(raster: Any) -> None:  # noqa: ANN401
    """Compares the pixels of an uncompressed raster with its files; GDAL fills up with zeros."""
    if raster.driver not in _RAW or raster.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION"):
        return
    sizes = {file.stat().st_size: file for file in map(Path, raster.files) if file.is_file()}
    if not sizes:
        return
    size = max(sizes)  # other files are headers
    with sizes[size].open("rb") as file:
        is_zipped = file.read(2) == b"\x1f\x8b"
    declared = raster.height * raster.width * sum(np.dtype(name).itemsize for name in raster.dtypes)
    if size < declared and not is_zipped:
        raise DamagedFileError(f"{size} bytes long, and its pixels take {declared}")


def _check_files(raster: Any, visited: set[str]) -> None:  # noqa: ANN401
    """Checks the files that GDAL reads for a raster, and the sources of a virtual raster."""
    visited.add(raster.name)
    _check_inner_mask(raster)
    for name in raster.files:
        file = source_path(name)
        is_source = raster.driver == "VRT" or file.suffix == ".msk"
        if isinstance(file, VirtualPath):
            # other rasters in archives and on servers are copied for the check
            if not is_source or name == raster.name:
                continue
        elif not file.is_file():
            continue
        _check_file(name, *size_and_times(file))
        if is_source and name not in visited:
            try:
                with rasterio.Env(**_OPTIONS), rasterio.open(name) as source:
                    _check_files(source, visited)
                    # a mosaic of a server is not fetched whole for it
                    if not (isinstance(file, VirtualPath) and file.is_on_network):
                        CompressedBlocks(source).verify(
                            Window(0, 0, source.width, source.height), source.indexes
                        )
            except RasterioIOError:  # a file that is no raster, such as a world file
                continue


def _check_inner_mask(raster: Any) -> None:  # noqa: ANN401
    """Verifies the checksums of the mask inside of a GeoTIFF; that of a server is not fetched."""
    flags = raster.mask_flag_enums[0] if raster.count else []
    has_mask = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
    path = source_path(raster.name)
    is_remote = isinstance(path, VirtualPath) and path.is_on_network
    if raster.driver == "GTiff" and has_mask and not is_remote and path.is_file():
        _verify_directories(raster.name, raster.shape, *size_and_times(path))


@lru_cache(maxsize=1 << 12)
def _verify_directories(name: str, shape: tuple[int, int], *_times: int) -> None:
    """Verifies the further images of a GeoTIFF that have its size: its mask is one of them."""
    for number in count(2):
        try:
            directory = rasterio.open(f"GTIFF_DIR:{number}:{name}")
        except RasterioIOError:  # there are no more
            return
        with directory:
            if directory.shape == shape:
                CompressedBlocks(directory).verify(Window(0, 0, *shape[::-1]), directory.indexes)


@lru_cache(maxsize=1 << 16)
def _check_file(name: str, *_times: int) -> None:
    """Checks the file formats that GDAL reads without verifying them."""
    path = source_path(name)
    with path.open("rb") as file:
        start = file.read(100)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(name)
    elif isinstance(path, VirtualPath):
        return
    elif start[:4] in (b"CDF\x01", b"CDF\x02"):
        try:
            with netcdf_file(name, mmap=True):
                pass
        except (ValueError, TypeError, IndexError, KeyError, OverflowError):
            raise DamagedFileError(f"{name}: does not hold all of its variables") from None
    elif start.startswith(b"SQLite format 3\0"):
        page = int.from_bytes(start[16:18], "big")
        is_counted = start[24:28] == start[92:96]
        declared = (page if page > 1 else 1 << 16) * int.from_bytes(start[28:32], "big")
        _check_length(name, declared if is_counted else 0)
        _check_sqlite(name)
    elif start.startswith(b"PCIDSK"):
        blocks = start[16:32].strip()
        _check_length(name, 512 * int(blocks) if blocks.isdigit() else 0)


def _check_length(name: str, declared: int) -> None:
    size = Path(name).stat().st_size
    if size < declared:
        raise DamagedFileError(f"{name}: has {size} bytes of the {declared} that it declares")


def _check_png(name: str) -> None:
    """Reads all chunks of a PNG file, compares their checksums, and asks for the last one."""
    with source_path(name).open("rb") as file:
        file.seek(8)
        kind = b""
        while kind != b"IEND":
            head = file.read(8)
            if len(head) < 8:
                raise DamagedFileError(f"{name}: ends before its IEND chunk")
            kind, left = head[4:], int.from_bytes(head[:4], "big")
            checksum = zlib.crc32(kind)
            while left and (part := file.read(min(left, _CHUNK))):
                checksum = zlib.crc32(part, checksum)
                left -= len(part)
            text, end = kind.decode("ascii", "replace"), file.read(4)
            if len(end) < 4:
                raise DamagedFileError(f"{name}: ends inside its {text!r} chunk, before IEND")
            if end != checksum.to_bytes(4, "big"):
                raise DamagedFileError(f"{name}: the checksum of its {text!r} chunk is wrong")


def _check_sqlite(name: str) -> None:
    """Runs SQLite's own check of a GeoPackage or MBTiles file."""
    uri = f"{Path(name).absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as database:
            (result,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        raise DamagedFileError(f"{name}: {error}") from error
    if result != "ok":
        raise DamagedFileError(f"{name}: {result}")


class CompressedBlocks:
    """Verifies the checksums of the compressed blocks of a GeoTIFF, each once in a process.

    libtiff does not verify that of a block of which it needs a part, as at the lower edge, nor
    that of a damaged block which holds more bytes than it should.

    Args:
        raster: An open raster, or the mask inside of one; other rasters than GeoTIFFs with
            checksums are accepted as they are.
    """

    def __init__(self, raster: Any) -> None:  # noqa: ANN401
        self._raster = raster
        self._compression = raster.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION")
        self._path = source_path(re.sub(r"^GTIFF_DIR:\d+:", "", raster.name))
        self._is_verifiable = (
            raster.driver == "GTiff"
            and self._compression in ("DEFLATE", "LZMA")
            and (isinstance(self._path, VirtualPath) or self._path.is_file())
        )
        if self._is_verifiable:
            self._verified = _verified_blocks(raster.name, *size_and_times(self._path))
            self._height, self._width = raster.block_shapes[0]
            interleaving = raster.interleaving
            self._is_mixed = interleaving is not None and interleaving.name == "pixel"
            types = raster.dtypes if self._is_mixed else raster.dtypes[:1]
            self._size = self._height * self._width * sum(np.dtype(each).itemsize for each in types)

    def verify(self, window: Window, bands: Iterable[int]) -> None:
        """Verifies the blocks of a window that were not verified yet.

        Raises:
            DamagedFileError: A checksum is wrong.
        """
        if not self._is_verifiable:
            return
        rows = range(
            int(window.row_off) // self._height,
            -(-int(window.row_off + window.height) // self._height),
        )
        cols = range(
            int(window.col_off) // self._width,
            -(-int(window.col_off + window.width) // self._width),
        )
        missing = [
            block
            for block in product([1] if self._is_mixed else bands, rows, cols)
            if block not in self._verified
        ]
        if missing:
            with self._path.open("rb") as file:
                for block in missing:
                    self._verify(file, *block)
            self._verified.update(missing)

    def _verify(self, file: BinaryIO, band: int, row: int, col: int) -> None:
        offset, size = (
            self._raster.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=band)
            for what in ("OFFSET", "SIZE")
        )
        if offset is None or size is None:  # a hole of a sparse file
            return
        file.seek(int(offset))
        data = file.read(int(size))
        is_small = self._compression == "DEFLATE" and self._size <= _LARGEST_BLOCK
        if not (is_small and is_zlib(data, self._size)) and not _is_whole(data, self._compression):
            raise DamagedFileError(f"{self._path}: a checksum is wrong (block {col}, {row})")


@lru_cache(maxsize=1 << 12)
def _verified_blocks(name: str, *_times: int) -> set[tuple[int, int, int]]:
    """The verified blocks of a file: band, row, column."""
    return set()


def _is_whole(data: bytes, compression: str) -> bool:
    """Whether a compressed block has its end and the right checksum."""
    try:
        if compression == "LZMA":
            unpacker = lzma.LZMADecompressor()
            unpacker.decompress(data, _CHUNK)
            while not (unpacker.eof or unpacker.needs_input):
                unpacker.decompress(b"", _CHUNK)
            return unpacker.eof
        inflater = zlib.decompressobj()
        while not inflater.eof and (inflater.decompress(data, _CHUNK) or inflater.eof):
            data = inflater.unconsumed_tail
        return inflater.eof
    except (zlib.error, lzma.LZMAError):
        return False
