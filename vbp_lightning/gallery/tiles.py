"""The records that a gallery shows: a table of tiles, and the pictures of a part of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vbp_lightning.data.tiles.tile import Tile


@dataclass(frozen=True, eq=False)
class GalleryTiles:
    """A table of N tiles. A gallery shows them in this order until its reader sorts them.

    Args:
        places: Scene and corner of each tile.
        bounds: ``(N, 4)`` float64 left, bottom, right and top in the scene's CRS.
        corners: ``(N, 4, 2)`` float64 longitude and latitude (WGS 84) of the four corners, in order
            around the tile; NaN where the scene is not georeferenced.
        splits: ``train``, ``val`` or ``test``; empty for tiles of images without a split.
        labels: ``(N,)`` values of :class:`~vbp_lightning.data.tiles.tile.Label`.
        is_labelled: False if the labels are unknown; ``labels`` is then not read.
        shares: ``(N,)`` road share in [0, 1], NaN where it is unknown.
        probabilities: ``(N,)`` P(road).
        suspicion: ``(N,)`` 1 − P(given label) by networks that did not train on the tile, in
            [0, 1]; NaN where it is unknown.
        flagged: ``(N,)`` bool, whether the label is suspected to be wrong.
        on_road: ``(N,)`` share of the saliency map on road pixels, in [0, 1]; NaN where it is
            unknown.
        digests: Of each tile's pixels; a correction holds for these pixels only.
        answers: The corrections that the run applied: ``road``, ``non_road``, ``ignore``,
            ``unsure``, or empty.
        notes: Notes of these corrections.
    """

    places: Sequence[Tile]
    bounds: NDArray[np.float64]
    corners: NDArray[np.float64]
    splits: Sequence[str]
    labels: NDArray[np.int64]
    is_labelled: bool
    shares: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    suspicion: NDArray[np.float64]
    flagged: NDArray[np.bool_]
    on_road: NDArray[np.float64]
    digests: Sequence[str]
    answers: Sequence[str]
    notes: Sequence[str]

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True, eq=False)
class GalleryPictures:
    """The pictures of n consecutive tiles.

    Args:
        images: ``(n, H, W, 3)`` uint8.
        maps: ``(n, h, w)`` uint8 saliency maps by attribution method, at their own size.
        roads: ``(n, H, W)`` bool, the road pixels, which are outlined; None if they are unknown.
    """

    images: NDArray[np.uint8]
    maps: Mapping[str, NDArray[np.uint8]]
    roads: NDArray[np.bool_] | None
