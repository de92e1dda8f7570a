"""What becomes of damaged images: ``python benchmarks/damaged_images.py [--trials 40]``.

Images of every raster format that this GDAL writes are cut off, and bits of them are flipped. Each
damaged file is read as training and ``explain.py`` read it, in a process of its own that may take
30 s. The table counts, by format and way of damage, what came of it:

- ``refused``: one line that names the file;
- ``same``: the pixels of the undamaged image;
- ``other``: other pixels, and nothing shows the damage: a flipped bit of an uncompressed image
  makes another image;
- ``WRONG``: other pixels, although the file is too short, a checksum differs, or GDAL or Pillow
  reports the damage;
- ``TRACEBACK``, ``HANG``, ``CRASH``: anything else.

The exit code is 1 if anything of the last two items occurred. 2 000 images: ``--trials 32``.
"""

import argparse
import logging
import lzma
import random
import sys
import tempfile
import traceback
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from vbp_lightning.data.datasets.scene import ImageLabel, Scene
from vbp_lightning.data.imagery.raster import Reading, without_place
from vbp_lightning.data.imagery.reading import OpenScene
from vbp_lightning.data.imagery.unlabelled import opened_filled
from vbp_lightning.data.imagery.windows import scan_windows
from vbp_lightning.errors import UserError

HEIGHT, WIDTH = 210, 190
CUTS = (0.2, 0.5, 0.9, 0.99)
LIMIT = 30
"""Seconds that reading an image may take."""

BAD = ("WRONG", "TRACEBACK", "HANG", "CRASH")
TIFF = [
    "NONE",
    "DEFLATE",
    "LZW",
    "ZSTD",
    "PACKBITS",
    "LZMA",
    "LERC",
    "LERC_DEFLATE",
    "LERC_ZSTD",
    "WEBP",
    "JPEG",
    "JXL",
]
COG = ("NONE", "DEFLATE", "LZW", "ZSTD", "LERC", "WEBP", "JPEG")

Evidence = Callable[[Path], bool]
"""Whether something apart from this package notices the damage of a file."""


def picture(bands: int, dtype: str = "uint8") -> Any:
    """Noisy fields of 10 × 10 px."""
    rng = np.random.default_rng(0)
    fields = rng.integers(40, 200, (bands, HEIGHT // 10, WIDTH // 10)).repeat(10, 1).repeat(10, 2)
    noisy = np.clip(fields + rng.normal(0, 6, fields.shape), 1, 254).astype(dtype)
    return noisy * (200 if dtype == "uint16" else 1)


def write(path: Path, pixels: Any, **options: object) -> Path:
    """Writes a GeoTIFF."""
    place = {"crs": "EPSG:32632", "transform": Affine(1, 0, 5e5, 0, -1, 5e6)}
    with rasterio.open(
        path, "w", driver="GTiff", count=len(pixels), height=HEIGHT, width=WIDTH,
        dtype=pixels.dtype, **place | options,
    ) as raster:  # fmt: skip
        raster.write(pixels)
    return path


def images(folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """Yields the name, the image and the file of it that is to be damaged."""
    colour = write(folder / "colour.tif", picture(3))
    grey = write(folder / "grey.tif", picture(1))
    flat = write(folder / "flat.tif", picture(3), transform=Affine.identity(), crs=None)
    for name in TIFF:
        for layout, tiles in (("strips", {}), ("tiles", {"blockxsize": 64, "blockysize": 64})):
            options: dict[str, Any] = {"compress": name, "tiled": bool(tiles), **tiles}
            if name == "WEBP":
                options |= {"interleave": "pixel", "webp_lossless": True}
            elif name == "JPEG":
                options |= {"interleave": "pixel", "photometric": "YCBCR"}
            path = folder / f"tiff_{name}_{layout}.tif"
            try:
                yield path.stem, write(path, picture(3), **options), path
            except rasterio.errors.RasterioError as error:
                print(f"not written: {path.stem} ({error})")
    path = folder / "tiff_predictor.tif"
    yield path.stem, write(path, picture(3, "uint16"), compress="DEFLATE", predictor=2), path
    path = folder / "tiff_planar.tif"
    yield path.stem, write(path, picture(3), compress="DEFLATE", interleave="band"), path
    copies: list[tuple[str, str, Path, dict[str, Any]]] = [
        (f"cog_{name}.tif", "COG", colour, {"compress": name, "blocksize": 128}) for name in COG
    ]
    copies += [
        ("png.png", "PNG", colour, {}),
        ("png_grey.png", "PNG", grey, {}),
        ("jpeg.jpg", "JPEG", colour, {}),
        ("jpeg_progressive.jpg", "JPEG", colour, {"progressive": True}),
        ("jpeg2000.jp2", "JP2OpenJPEG", colour, {}),
        ("jpeg2000_lossless.jp2", "JP2OpenJPEG", colour, {"quality": 100, "reversible": True}),
        ("webp.webp", "WEBP", colour, {}),
        ("webp_lossless.webp", "WEBP", colour, {"lossless": True}),
        ("bmp.bmp", "BMP", colour, {}),
        ("gif.gif", "GIF", grey, {}),
        ("envi.img", "ENVI", colour, {}),
        ("netcdf3.nc", "netCDF", grey, {"format": "NC"}),
        ("netcdf3_64.nc", "netCDF", grey, {"format": "NC2"}),
        ("netcdf4.nc", "netCDF", grey, {"format": "NC4"}),
        ("netcdf4_deflate.nc", "netCDF", grey, {"format": "NC4", "compress": "DEFLATE"}),
        ("erdas.img", "HFA", colour, {}),
        ("erdas_compressed.img", "HFA", colour, {"compressed": True}),
        ("pnm.ppm", "PNM", flat, {}),
        ("nitf.ntf", "NITF", colour, {}),
        ("pcidsk.pix", "PCIDSK", colour, {}),
        ("ehdr.bil", "EHdr", grey, {}),
        ("sgi.rgb", "SGI", colour, {}),
        ("ascii.asc", "AAIGrid", grey, {}),
        ("geopackage.gpkg", "GPKG", colour, {}),
        ("mbtiles.mbtiles", "MBTiles", colour, {}),
        ("vrt.vrt", "VRT", colour, {}),
    ]
    for file, driver, source, options in copies:
        path = folder / file
        try:
            rasterio.shutil.copy(source, path, driver=driver, **options)
        except rasterio.errors.RasterioError as error:
            print(f"not written: {file} ({error})")
        else:
            yield path.stem, path, path
    for name, of in (("png", "png.png"), ("deflate", "tiff_DEFLATE_tiles.tif")):
        path = folder / f"vrt_of_{name}.vrt"
        own = folder / f"source_{of}"
        own.write_bytes((folder / of).read_bytes())
        rasterio.shutil.copy(own, path, driver="VRT")
        yield path.stem, path, own


def read_all(path: Path) -> tuple[Any, Any]:
    """Pixels and valid pixels, read as in training and as by ``explain.py``."""
    with warnings.catch_warnings(), without_place():
        warnings.simplefilter("ignore")
        with OpenScene(Scene("a", path, ImageLabel(False)), Reading()) as opened:
            shape = opened.info.grid.shape
            windows = scan_windows(shape, opened.is_striped, 1 << 24)
            parts = [opened.read(window) for window in windows]
        with opened_filled(path, Reading(), [0.0] * len(parts[0].bands)) as read:
            bands, valid = read(0, 0, *shape)
    if len(parts) == 1 and not np.array_equal(parts[0].bands[:, valid], bands[:, valid]):
        raise AssertionError("training and explain.py read other pixels")
    return bands, valid


def reader(pipe: Connection, log: Path) -> None:
    """The process that reads: receives paths, sends outcome and pixels."""
    sys.stderr = log.open("a", buffering=1)
    logging.getLogger("rasterio").propagate = False
    while True:
        path = pipe.recv()
        try:
            pipe.send(("read", read_all(path)))
        except UserError as error:
            is_one = len(error.lines) == 1 and str(path.parent) in error.lines[0]
            pipe.send(
                ("refused" if is_one and "\n" not in error.lines[0] else "TRACEBACK", str(error))
            )
        except Exception:
            pipe.send(("TRACEBACK", traceback.format_exc()))


class Reader:
    """Reads images in a process of its own, which is replaced where it hangs or crashes."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = Pipe()
        self._process = Process(target=reader, args=(theirs, self._log), daemon=True)
        self._process.start()
        theirs.close()

    def read(self, path: Path) -> tuple[str, Any]:
        """Returns the outcome, and the pixels or the message."""
        self._pipe.send(path)
        try:
            if self._pipe.poll(LIMIT):
                answer: tuple[str, Any] = self._pipe.recv()
                return answer
            outcome = "HANG"
        except EOFError:
            outcome = "CRASH"
        self._process.kill()
        self._process.join()
        self._start()
        return outcome, ""


class _Listener(logging.Handler):
    """Hears whether GDAL reports something while it reads."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard = False

    def emit(self, record: logging.LogRecord) -> None:
        self.heard = True


def evidence_of(path: Path) -> Evidence:
    """What shows damage of copies of an undamaged image: GDAL, Pillow, checksums of its blocks."""
    blocks = _blocks(path)
    is_picture = not _fails(path)

    def shows(damaged: Path) -> bool:
        if is_picture and _fails(damaged):
            return True
        content = damaged.read_bytes()
        for start, stop, compression in blocks:
            unpack = zlib.decompress if compression == "DEFLATE" else lzma.decompress
            try:
                unpack(content[start:stop])
            except (zlib.error, lzma.LZMAError):
                return True
        listener, logger = _Listener(), logging.getLogger("rasterio._err")
        logger.addHandler(listener)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with rasterio.open(damaged) as raster:
                    raster.read()
        except Exception:
            return True
        finally:
            logger.removeHandler(listener)
        return listener.heard

    return shows


def _fails(path: Path) -> bool:
    """Whether Pillow cannot read a picture; GeoTIFFs are left to GDAL."""
    if path.suffix not in (".png", ".jpg", ".jp2", ".webp", ".bmp", ".gif", ".ppm"):
        return True
    try:
        with Image.open(path) as opened:
            opened.load()
    except Exception:
        return True
    return False


def _blocks(path: Path) -> list[tuple[int, int, str]]:
    """First byte, end and compression of the blocks of a GeoTIFF that hold a checksum."""
    with rasterio.open(path) as raster:
        compression = raster.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION", "")
        if raster.driver != "GTiff" or compression not in ("DEFLATE", "LZMA"):
            return []
        places = set()
        for band in raster.indexes:
            for (row, col), _ in raster.block_windows(band):
                start, size = (
                    int(raster.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=band))
                    for what in ("OFFSET", "SIZE")
                )
                places.add((start, start + size, compression))
    return sorted(places)


def damages(content: bytes, trials: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yields ways of damage and damaged contents: cuts, and random changes."""
    for part in CUTS:
        yield f"cut {part:.0%}", content[: int(part * len(content))]
    rng = random.Random(seed)
    for _ in range(trials):
        changed = bytearray(content)
        way = rng.choice(("cut", "bit", "bit", "bits", "header", "zeros"))
        if way == "cut":
            del changed[
                rng.choice((rng.randrange(len(content)), len(content) - rng.randrange(1, 99))) :
            ]
        elif way == "zeros":
            start = rng.randrange(len(changed))
            changed[start : start + 64] = bytes(len(changed[start : start + 64]))
        else:
            end = min(len(changed), 400) if way == "header" else len(changed)
            for _ in range(rng.randrange(2, 9) if way == "bits" else 1):
                changed[rng.randrange(end)] ^= 1 << rng.randrange(8)
        yield way, bytes(changed)


def main() -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=40, help="random changes of each image")
    parser.add_argument("--only", help="images whose name contains this")
    parser.add_argument("--keep", type=Path, help="folder for the files of bad outcomes")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    logging.getLogger("rasterio").propagate = False
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = Reader(folder / "stderr.txt")
        for number, (title, image, file) in enumerate(images(folder)):
            if arguments.only and arguments.only not in title:
                continue
            result, whole = process.read(image)
            if result != "read":
                print(f"{title}: cannot be read undamaged: {result} {whole}")
                total["undamaged"] += 1
                continue
            content = file.read_bytes()
            shows = evidence_of(file)
            table: dict[str, Counter[str]] = defaultdict(Counter)
            for way, changed in damages(content, arguments.trials, number):
                file.unlink()  # the HDF5 library knows files by their inode
                file.write_bytes(changed)
                found, value = process.read(image)
                message = "" if found == "read" else value
                if found == "read" and all(map(np.array_equal, value, whole)):
                    found = "same"
                elif found == "read":
                    found = "WRONG" if way.startswith("cut") or shows(file) else "other"
                table[way][found] += 1
                total[found] += 1
                if found in BAD:
                    print(f"{title}, {way}: {found} {message}", flush=True)
                    if arguments.keep:
                        arguments.keep.mkdir(parents=True, exist_ok=True)
                        kept = arguments.keep / f"{found}_{sum(total.values())}_{file.name}"
                        kept.write_bytes(changed)
            file.write_bytes(content)
            cells = (
                f"{way}: {', '.join(f'{n} {o}' for o, n in sorted(own.items()))}"
                for way, own in table.items()
            )
            print(f"{title:24} " + "; ".join(cells), flush=True)
        errors = (folder / "stderr.txt").read_text(errors="replace")
    total["stderr"] = errors.count("Traceback")
    print(sum(total.values()) - total["stderr"], "images:", dict(total))
    return int(any(total[each] for each in (*BAD, "stderr", "undamaged")))


if __name__ == "__main__":
    sys.exit(main())
