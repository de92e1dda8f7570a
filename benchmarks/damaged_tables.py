"""Whether damaged vector files and tables end in one line: GeoJSON, label tables, lists of splits.

Each file is a valid one that was changed at random: bytes are flipped, cut, repeated or inserted,
values are replaced by others of any type. It is read as training reads it, in a process of its own
that is stopped after 30 s. Prints how many ended in which way, and keeps the files that ended in a
traceback or were stopped::

    python benchmarks/damaged_tables.py --count 500 --seed 0 --keep FOLDER
"""

import argparse
import copy
import csv
import io
import json
import logging
import math
import multiprocessing
import os
import tempfile
import traceback
import warnings
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from vbp_lightning.data import LabelledImages, PatternScenes, RoadTileDataModule
from vbp_lightning.data.datasets.scene import RoadClasses, RoadWidths
from vbp_lightning.errors import UserError

KINDS = ("geojson", "osm.geojson", "labels.csv", "splits.csv")

LON, LAT = 7.63, 48.74

STRANGE = [
    *(None, True, False, 0, -1, 1e308, -1e308, 1e-320, 2**64, 90, 180, 359.9, -181, 1e6),
    *(math.nan, math.inf, -math.inf),
    *("", " ", "\x00", "\x1b[31m", "[red]", "$x^$", "é" * 50, "a" * 100_000, "1e999", "nan"),
    *([], {}, [[]], [[[]]], [[], []], {"type": "Point"}, {"type": None}, [None, None]),
    *("Point", "Polygon", "GeometryCollection", "CircularString", "Feature", "FeatureCollection"),
    *("urn:ogc:def:crs:EPSG::0", "urn:ogc:def:crs:EPSG::3413", "EPSG:4978", "train", "none"),
]
"""Values that take the place of others."""


def geojson() -> dict:
    """Roads of all types on the scenes."""
    line = [[LON + n / 1e3, LAT + 2e-4 + n / 1e5] for n in range(8)]
    ring = [[LON, LAT], [LON + 4e-4, LAT], [LON + 4e-4, LAT + 3e-4], [LON, LAT]]
    geometries = [
        {"type": "LineString", "coordinates": line},
        {"type": "MultiLineString", "coordinates": [line[:3], line[3:]]},
        {"type": "Polygon", "coordinates": [ring]},
        {"type": "MultiPolygon", "coordinates": [[ring], [ring]]},
        {"type": "Point", "coordinates": line[0]},
        None,
    ]
    geometries.append({"type": "GeometryCollection", "geometries": geometries[:2]})
    properties = {"highway": "residential", "lanes": 2, "tunnel": "no"}
    return {
        "type": "FeatureCollection",
        "name": "roads",
        "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}},
        "features": [
            {"type": "Feature", "id": n, "properties": properties, "geometry": geometry}
            for n, geometry in enumerate(geometries)
        ],
    }


def table(kind: str) -> list[list[str]]:
    """A valid table."""
    if kind == "labels.csv":
        splits = ("train", "train", "val", "val", "test", "test")
        rows = [[f"s{n}", "road water" if n % 2 else "clear", splits[n]] for n in range(6)]
        return [["image_name", "tags", "split"], *rows]
    rows = [[f"s{n}", "0", "0", "64", "64", ("train", "val", "test")[n % 3]] for n in range(6)]
    return [["scene", "row", "col", "height", "width", "split"], *rows]


def replaced(value: object, rng: np.random.Generator) -> object:
    """A copy with one to three parts replaced, removed, doubled or nested."""
    root = {"": copy.deepcopy(value)}
    for _ in range(rng.integers(1, 4)):
        places: list[tuple] = []
        pending: list = [root]
        while pending:
            item = pending.pop()
            keys = list(item) if isinstance(item, dict) else range(len(item))
            places += [(item, key) for key in keys]
            pending += [item[key] for key in keys if isinstance(item[key], dict | list)]
        item, key = places[rng.integers(len(places))]
        act = rng.integers(5)
        if act == 0 and key != "":
            del item[key]
        elif act == 1 and isinstance(item, list):
            item.extend([item[key]] * int(rng.integers(1, 500)))
        elif act == 2:
            for _ in range(rng.integers(1, 200)):
                item[key] = [item[key]]
        else:
            item[key] = copy.deepcopy(STRANGE[rng.integers(len(STRANGE))])
    return root[""]


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes with one to four changes."""
    for _ in range(rng.integers(1, 5)):
        size = max(1, len(data))
        start, length = int(rng.integers(size)), int(rng.integers(1, max(2, size // 4)))
        chosen = data[start : start + length]
        act = rng.integers(7)
        if act == 0:
            data = data[:start]
        elif act == 1:
            data = data[:start] + data[start + length :]
        elif act == 2:
            data = data[:start] + chosen * int(rng.integers(2, 50)) + data[start:]
        elif act == 3:
            data = data[:start] + rng.bytes(int(rng.integers(1, 9))) + data[start:]
        elif act == 4:
            data = data[:start] + bytes([*data[start : start + 1], 0])[:1] + data[start:]
        elif act == 5:
            swap = bytes(rng.permutation(np.frombuffer(b"\",\n\r\x00{}[]:;\t'\\", np.uint8))[:3])
            data = data[:start] + swap + data[start + 3 :]
        else:
            flipped = bytes(byte ^ (1 << int(rng.integers(8))) for byte in chosen[:3])
            data = data[:start] + flipped + data[start + 3 :]
    return data


def mutant(kind: str, seed: int) -> bytes:
    """A damaged file; the same for the same seed."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    by_value = rng.random() < 0.5
    if kind.endswith("geojson"):
        content = replaced(geojson(), rng) if by_value else geojson()
        data = json.dumps(content).encode()
    else:
        rows = replaced(table(kind), rng) if by_value else table(kind)
        text = io.StringIO()
        lines = rows if isinstance(rows, list) else [rows]
        csv.writer(text).writerows([row if isinstance(row, list) else [row] for row in lines])
        data = text.getvalue().encode(("utf-8", "utf-16", "latin-1")[rng.integers(3)], "replace")
    return data if by_value else damaged(data, rng)


def prepared(folder: Path) -> None:
    """Writes six scenes."""
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    warnings.simplefilter("ignore")
    for n in range(6):
        place = Affine(1e-5, 0, LON + n * 1e-3, 0, -1e-5, LAT + 3e-4)
        with rasterio.open(
            folder / f"images/s{n}.tif",
            "w",
            driver="GTiff",
            height=64,
            width=64,
            count=1,
            dtype="uint8",
            crs="EPSG:4326",
            transform=place,
        ) as file:
            file.write(rng.integers(1, 255, (1, 64, 64), dtype=np.uint8))


def read(kind: str, folder: Path, data: bytes) -> None:
    """Reads a damaged file as training does.

    Raises:
        UserError: It cannot be used.
    """
    path = folder / f"damaged.{kind.rpartition('.')[2]}"
    path.write_bytes(data)
    options = {}
    if kind == "labels.csv":
        source = LabelledImages(folder, path.name, "images", split_column="split")
    else:
        is_osm = kind == "osm.geojson"
        classes = RoadClasses("highway", ("residential",), ("tunnel",)) if is_osm else None
        widths = RoadWidths(4.0, "highway", {"residential": 5.0}) if is_osm else RoadWidths(6.0)
        labels = path.name if kind.endswith("geojson") else "none.geojson"
        source = PatternScenes(folder, labels=labels, widths=widths, classes=classes)
    if kind == "splits.csv":
        options["split_file"] = path
        (folder / "none.geojson").write_text(json.dumps(geojson()))
    scan = RoadTileDataModule(source, tile_size=32, **options).scan()
    if scan.errors:
        raise UserError(*scan.errors)


def outcome(kind: str, folder: Path, data: bytes) -> tuple[str, str]:
    """How reading ends, and a text about it."""
    try:
        read(kind, folder, data)
    except UserError as error:
        long = [line for line in error.lines if "\n" in line or len(line) > 2000]
        if long or not error.lines:
            return "no single line", repr(long)[:300]
        return "refused in one line", error.lines[0]
    except BaseException:
        return "traceback", traceback.format_exc()
    return "read", ""


def work(kind: str, seeds: range, connection: Connection) -> None:
    """Reads the damaged files of some seeds; sends seed, outcome and text of each."""
    logging.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # GDAL prints what it drops
    connection.send(None)
    with tempfile.TemporaryDirectory() as name:
        prepared(Path(name))
        for seed in seeds:
            connection.send((seed, *outcome(kind, Path(name), mutant(kind, seed))))


def run(kind: str, first: int, count: int, seconds: float, keep: Path | None) -> Counter[str]:
    """The number of files by outcome."""
    counts: Counter[str] = Counter()
    seed, end = first, first + count
    shown: set[str] = set()
    while seed < end:
        ours, theirs = multiprocessing.Pipe()
        worker = multiprocessing.get_context("spawn").Process(
            target=work, args=(kind, range(seed, end), theirs)
        )
        worker.start()
        theirs.close()
        ours.recv()  # it has imported everything
        while seed < end:
            try:
                if ours.poll(seconds):
                    seed, ended, text = ours.recv()
                else:
                    ended, text = "hangs", ""
            except EOFError:
                ended, text = "crash", f"exit code {worker.exitcode}"
            counts[ended] += 1
            if ended not in ("read", "refused in one line"):
                last = text.strip().rpartition("\n")[2]
                if last not in shown:
                    text = text if len(shown) < 20 else last
                    print(f"{kind} {seed}: {ended}: {text}", flush=True)
                shown.add(last)
                if keep is not None:
                    (keep / f"{seed}.{kind}").write_bytes(mutant(kind, seed))
            seed += 1
            if ended in ("hangs", "crash"):
                break
        worker.kill()
        worker.join()
    return counts


def main() -> None:
    """Prints a table of the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=500, help="files of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the first file")
    parser.add_argument("--seconds", type=float, default=30, help="longer than this is a hang")
    parser.add_argument("--keep", type=Path, help="existing folder for the files that fail")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    arguments = parser.parse_args()
    for kind in arguments.kinds:
        counts = run(kind, arguments.seed, arguments.count, arguments.seconds, arguments.keep)
        print(
            f"{kind:12}", ", ".join(f"{n} {name}" for name, n in counts.most_common()), flush=True
        )


if __name__ == "__main__":
    main()
