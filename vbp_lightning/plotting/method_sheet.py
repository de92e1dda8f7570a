"""Tiles by attribution methods: one sheet to compare their maps."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from vbp_lightning.plotting.display import (
    COLOUR_MAP,
    RGB,
    SALIENCY_GAMMA,
    Scale,
    maps_to_rgb,
    overlay,
    scaled,
)
from vbp_lightning.plotting.mask_panel import TileCaption
from vbp_lightning.plotting.picture_grid import GridRow, picture_grid


def method_sheet(
    tiles: RGB,
    maps: Mapping[str, npt.NDArray[np.float32]],
    captions: Sequence[TileCaption],
    title: str,
    scale: Scale = "each",
    rows: slice = slice(None),
) -> RGB:
    """Composes a row for each tile, with the tile and its map by each method.

    A single method without negative values is also laid over the tile. Signed maps are shown in two
    colours about zero.

    Args:
        tiles: ``(N, H, W, 3)`` uint8.
        maps: ``(N, H, W)`` by method, any range.
        captions: One for each tile.
        title: Headline.
        scale: See :func:`vbp_lightning.plotting.display.scaled`; ``shared`` is one scale for all
            maps of a method.
        rows: The tiles that are drawn; a shared scale is that of all tiles.

    Returns:
        ``(height, width, 3)`` uint8.

    Raises:
        ValueError: Numbers or sizes do not match.
    """
    for name, values in maps.items():
        if values.shape != tiles.shape[:3] or len(captions) != len(tiles):
            raise ValueError(f"{name}: maps {values.shape} do not match tiles {tiles.shape}")
    named = {name.replace("_", " "): values for name, values in maps.items()}
    signed = [name for name, values in named.items() if values.min(initial=0) < 0]
    columns = {"tile": tiles}
    columns |= {name: maps_to_rgb(values, scale) for name, values in named.items()}
    if len(maps) == 1 and not signed:
        columns["on tile"] = overlay(tiles, scaled(next(iter(maps.values())), scale))
    scaling = "Each map separately" if scale == "each" else "All maps of a method together"
    curve = f"value^{SALIENCY_GAMMA:g} in {COLOUR_MAP}"
    notes = [f"{scaling}, minimum to maximum; colour: {curve}."]
    if signed:
        notes.append(
            f"Signed, same curve: {', '.join(signed)}; orange: for the class, purple: against it."
        )
    grid = []
    for place in range(len(tiles))[rows]:
        caption = captions[place]
        heading = f"{caption.heading}, {caption.estimate}" + ", WRONG" * caption.wrong
        pictures = [column[place] for column in columns.values()]
        grid.append(GridRow(heading, pictures, list(columns)))
    return picture_grid(grid, title, notes, columns=len(columns))
