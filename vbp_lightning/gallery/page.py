"""The pages of a gallery, each one HTML file that holds its pictures and needs no server."""

import glob
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbp_lightning.data.tiles.tile import Label
from vbp_lightning.errors import plain
from vbp_lightning.files import write_page
from vbp_lightning.gallery.sprites import sprite_sheets
from vbp_lightning.gallery.tiles import GalleryPictures, GalleryTiles

MOST_TILES = 2000
"""Of a page."""

MOST_BYTES = 25_000_000
"""Of a page."""

_TEMPLATE_BYTES = 100_000
"""More than a page takes besides its tiles."""

_TEMPLATE = "vbp_lightning.gallery", "gallery.html.jinja"

_IMAGES = {"format": "WEBP", "quality": 75, "method": 2}
_MAPS = {"format": "WEBP", "quality": 75, "method": 2}
_ROADS = {"format": "WEBP", "lossless": True, "method": 2, "quality": 50}

_ESCAPES = str.maketrans({sign: f"\\u{ord(sign):04x}" for sign in "<>&"})
"""Of a JSON text in a page: no name can end the element that holds it."""


def write_gallery(
    folder: Path,
    name: str,
    title: str,
    tiles: GalleryTiles,
    read: Callable[[slice], GalleryPictures],
    *,
    threshold: float,
    metrics: Mapping[str, Mapping[str, float]],
    checkpoint: str,
) -> Iterator[Path]:
    """Writes ``NAME.html``, or for more tiles than a page holds ``NAME_1.html`` … and an index.

    Args:
        folder: Where the files are written or replaced.
        name: Of the files, without suffix.
        title: Shown above, such as the name of the run and the split.
        tiles: All tiles.
        read: Gives the pictures of consecutive tiles; called once for each ``MOST_TILES`` tiles, in
            order.
        threshold: P(road) from which a tile is called road.
        metrics: Metrics by name, by split.
        checkpoint: Digest of the checkpoint. Corrections that a browser keeps belong to this
            checkpoint and these tiles.

    Yields:
        Each file when it is finished; the index, ``NAME.html``, is the last.

    Raises:
        OSError: A file cannot be written; an older one is left as it was.
    """
    import matplotlib

    colours = matplotlib.colormaps["cividis"](np.arange(256), bytes=True)[:, :3]
    shared = {
        "key": _content_key(tiles, checkpoint),
        "threshold": threshold,
        "colours": colours.tobytes().hex(),
    }
    index = folder / f"{name}.html"
    content = {
        "title": title,
        "index": index.name,
        "metrics": metrics,
        "names": list(dict.fromkeys(metric for values in metrics.values() for metric in values)),
        "total": len(tiles),
    }
    files: list[dict[str, Any]] = []
    for part, payload in _parts(tiles, read, shared):
        is_whole = part == slice(0, len(tiles))
        path = index if is_whole else folder / f"{name}_{len(files) + 1}.html"
        page = {**content, "part": None if is_whole else part, "payload": payload}
        write_page(path, _TEMPLATE, page, plain=plain)
        yield path
        if is_whole:
            break
        called = tiles.probabilities[part] >= threshold
        wrong = (tiles.labels[part] != Label.IGNORED) & (called != (tiles.labels[part] == 1))
        files.append(
            {
                "name": path.name,
                "first": part.start + 1,
                "last": part.stop,
                "scenes": len({tile.scene for tile in tiles.places[part]}),
                "wrong": int(wrong.sum()) if tiles.is_labelled else None,
                "flagged": int(tiles.flagged[part].sum()),
            }
        )
    if files:
        page = {**content, "part": None, "payload": None, "files": files}
        write_page(index, _TEMPLATE, page, plain=plain)
        yield index
    # files of an earlier gallery with more tiles
    names = {each["name"] for each in files}
    for path in folder.glob(f"{glob.escape(name)}_*.html"):
        if path.name not in names and path.stem.removeprefix(f"{name}_").isdecimal():
            path.unlink()


def _parts(
    tiles: GalleryTiles, read: Callable[[slice], GalleryPictures], shared: Mapping[str, Any]
) -> Iterator[tuple[slice, str]]:
    """The tiles of each page, and what the page holds of them as JSON."""
    for start in range(0, len(tiles) or 1, MOST_TILES):
        part = slice(start, min(start + MOST_TILES, len(tiles)))
        yield from _fitting(tiles, part, read(part), shared)


def _fitting(
    tiles: GalleryTiles, part: slice, pictures: GalleryPictures, shared: Mapping[str, Any]
) -> Iterator[tuple[slice, str]]:
    """As :func:`_parts`, of some tiles, in as few pages as they fit into."""
    payload = json.dumps(
        {**shared, "tiles": _columns(tiles, part), "sprites": _sprites(pictures)},
        separators=(",", ":"),
        allow_nan=False,
    ).translate(_ESCAPES)
    count = part.stop - part.start
    pages = -(-len(payload) // (MOST_BYTES - _TEMPLATE_BYTES))
    if pages <= 1 or count <= 1:
        yield part, payload
        return
    step = -(-count // pages)
    for start in range(0, count, step):
        own = slice(start, min(start + step, count))
        yield from _fitting(
            tiles,
            slice(part.start + own.start, part.start + own.stop),
            GalleryPictures(
                pictures.images[own],
                {method: values[own] for method, values in pictures.maps.items()},
                None if pictures.roads is None else pictures.roads[own],
            ),
            shared,
        )


def _sprites(pictures: GalleryPictures) -> dict[str, Any]:
    """The sheets of the images, of the maps of each method, and of the road pixels."""
    roads = pictures.roads
    return {
        "image": sprite_sheets(pictures.images, _IMAGES),
        "maps": {method: sprite_sheets(values, _MAPS) for method, values in pictures.maps.items()},
        "roads": None if roads is None else sprite_sheets(roads * np.uint8(255), _ROADS),
    }


def _columns(tiles: GalleryTiles, part: slice) -> dict[str, list[Any]]:
    """The table of some tiles by column; what is unknown is None or empty."""
    places = tiles.places[part]
    labels = [Label(int(label)).name.lower() for label in tiles.labels[part]]
    return {
        "scene": [tile.scene for tile in places],
        "row": [tile.row for tile in places],
        "col": [tile.col for tile in places],
        "bounds": [" ".join(map(repr, edges)) for edges in tiles.bounds[part].tolist()],
        "corners": [
            None if np.isnan(four).any() else four.round(8).tolist() for four in tiles.corners[part]
        ],
        "split": list(tiles.splits[part]),
        "label": labels if tiles.is_labelled else [""] * len(places),
        "share": _numbers(tiles.shares[part], 6),
        "p": _numbers(tiles.probabilities[part], 9),
        "suspicion": _numbers(tiles.suspicion[part], 6),
        "flagged": tiles.flagged[part].tolist(),
        "on_road": _numbers(tiles.on_road[part], 4),
        "digest": list(tiles.digests[part]),
        "applied": list(tiles.answers[part]),
        "note": list(tiles.notes[part]),
    }


def _numbers(values: NDArray[np.float64], digits: int) -> list[float | None]:
    """Numbers with some significant digits, None for NaN."""
    return [
        None if value != value else float(f"{value:.{digits}g}")
        for value in np.asarray(values, np.float64).tolist()
    ]


def _content_key(tiles: GalleryTiles, checkpoint: str) -> str:
    """Digest of the checkpoint and of all tiles, whose order follows from labels and may change."""
    content = sorted(
        (tile.scene, tile.row, tile.col, digest)
        for tile, digest in zip(tiles.places, tiles.digests, strict=True)
    )
    return hashlib.sha256(repr((checkpoint, content)).encode()).hexdigest()[:16]
