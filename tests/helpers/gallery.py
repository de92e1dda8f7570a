"""Tables of tiles and their pictures for a gallery."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from vbp_lightning.data.tiles.tile import Tile
from vbp_lightning.gallery.page import write_gallery
from vbp_lightning.gallery.tiles import GalleryPictures, GalleryTiles

SIDE = 40

_DATA = re.compile('<script id="data" type="application/json">(.*?)</script>', re.DOTALL)


def gallery_tiles(count: int, **changes: Any) -> GalleryTiles:
    """Tiles of scenes of ten, whose numbers follow from their index."""
    index = np.arange(count)
    left, top = index % 10 * SIDE, index // 10
    corners = np.array([[0, 1], [1, 1], [1, 0], [0, 0]]) * 1e-3
    fields: dict[str, Any] = {
        "places": [Tile(f"scene_{at // 10}", 0, at % 10 * SIDE) for at in range(count)],
        "bounds": np.column_stack([left, top, left + SIDE, top + SIDE]).astype(np.float64),
        "corners": corners + np.column_stack([left, top])[:, None] * 1e-3,
        "splits": ["val" if at % 2 else "test" for at in range(count)],
        "labels": index % 3 - 1,
        "is_labelled": True,
        "shares": np.choose(index % 3, [0.02, 0, 0.3]),
        "probabilities": (index * 37 % 101) / 100,
        "suspicion": np.full(count, np.nan),
        "flagged": np.zeros(count, bool),
        "on_road": np.where(index % 3, np.nan, (index * 53 % 97) / 97),
        "digests": [f"a{at:015x}" for at in range(count)],
        "answers": [""] * count,
        "notes": [""] * count,
    }
    return GalleryTiles(**fields | changes)


def gallery_pictures(count: int) -> GalleryPictures:
    """One colour a tile; maps of one grey a tile; a road across each tile."""
    index = np.arange(count)
    colours = np.column_stack([index * 31 % 200, index * 57 % 220, index * 87 % 240])
    images = np.broadcast_to(colours[:, None, None], (count, SIDE, SIDE, 3)).astype(np.uint8)
    grey = np.broadcast_to((index * 41 % 256)[:, None, None], (count, 10, 10)).astype(np.uint8)
    roads = np.zeros((count, SIDE, SIDE), bool)
    roads[:, 10:20] = True
    return GalleryPictures(images, {"visual_backprop": grey, "lrp": 255 - grey}, roads)


def part_of(pictures: GalleryPictures, part: slice) -> GalleryPictures:
    """The pictures of some of the tiles."""
    maps = {method: values[part] for method, values in pictures.maps.items()}
    roads = None if pictures.roads is None else pictures.roads[part]
    return GalleryPictures(pictures.images[part], maps, roads)


def written(folder: Path, tiles: GalleryTiles, **changes: Any) -> list[Path]:
    """The files of a gallery."""
    pictures = gallery_pictures(len(tiles))
    settings: dict[str, Any] = {
        "threshold": 0.5,
        "metrics": {"val": {"auroc": 0.93, "f1": 0.8}, "test": {"auroc": 0.9}},
        "checkpoint": "abc",
        "title": "A run",
        "read": lambda part: part_of(pictures, part),
    }
    return list(write_gallery(folder, "gallery", tiles=tiles, **settings | changes))


def payload(path: Path) -> dict[str, Any]:
    """What a page of a gallery holds of its tiles."""
    found: dict[str, Any] = json.loads(_DATA.findall(path.read_text())[0])
    return found
