"""Sheets of feature maps and of filters."""

from collections.abc import Mapping, Sequence

import numpy as np

from vbp_lightning.plotting.display import (
    RGB,
    Floats,
    Scale,
    maps_to_rgb,
    signed_to_rgb,
    standardised_to_rgb,
    unit_range,
)
from vbp_lightning.plotting.picture_grid import GridRow, picture_grid


def feature_map_sheet(
    tile: RGB, maps: Mapping[str, Floats], title: str, scale: Scale = "each", channels: int = 32
) -> RGB:
    """Composes a grid of channels for each layer.

    Args:
        tile: ``(H, W, 3)`` uint8, the network's input.
        maps: By layer, ``(c, h, w)`` or ``(f,)``.
        title: Headline.
        scale: ``each`` to scale every channel separately, or ``shared`` for one scale a layer.
        channels: Largest number of channels that are drawn of each layer, the first ones.

    Returns:
        ``(height, width, 3)`` uint8.
    """
    rows = [GridRow("input", [tile])]
    for name, values in maps.items():
        about = f"from {values.min():.3g} to {values.max():.3g}"
        if values.ndim == 1 or values.shape[1:] == (1, 1):
            rows.append(_flat_row(name, values.reshape(-1), about))
            continue
        count, height, width = values.shape
        drawn = f", the first {channels} shown" if channels < count else ""
        empty = int((values == 0).all(axis=(1, 2)).sum())
        zeros = f"; {empty} all zero" if empty else ""
        heading = f"{name}: {count} × {height} × {width}{drawn}; {about}{zeros}"
        rows.append(GridRow(heading, maps_to_rgb(values[:channels], scale)))
    each, shared = "Each channel is scaled separately.", "The channels of a layer share a scale."
    note = (
        f"{each if scale == 'each' else shared} Maps without negative values: black is zero or the "
        "smallest value, yellow the largest. Others: orange is positive, white zero, purple "
        "negative. Colours follow the square root."
    )
    return picture_grid(rows, title, [note], columns=16, side=64)


def _flat_row(name: str, values: Floats, about: str) -> GridRow:
    """Draws a flat layer as one picture, a cell for each value, 64 cells a line."""
    width = min(64, len(values))
    padded = np.pad(values, (0, -len(values) % width)).reshape(1, -1, width)
    zeros = int((values == 0).sum())
    share = f"; {zeros} zero" if zeros else ""
    heading = f"{name}: {len(values)} values, one cell each; {about}{share}"
    if len(values) == 1:
        heading = f"{name}: {values[0]:.4g}"
    return GridRow(heading, maps_to_rgb(padded, "each"), side=12 * width)


def filter_pictures(weights: Floats) -> RGB:
    """Draws filters on three bands as colours: mid-grey is zero.

    Args:
        weights: ``(out, 3, kh, kw)``; each filter is scaled by its largest absolute weight.

    Returns:
        ``(out, kh, kw, 3)`` uint8.
    """
    return standardised_to_rgb(unit_range(weights, (1, 2, 3)), reach=1)


def kernel_pictures(weights: Floats) -> RGB:
    """Draws each filter as a mosaic of its kernels, orange positive, purple negative.

    Args:
        weights: ``(out, in, kh, kw)``; each filter is scaled by its largest absolute weight.

    Returns:
        ``(out, h, w, 3)`` uint8; white lines divide the kernels.
    """
    count, channels, height, width = weights.shape
    columns = int(np.ceil(np.sqrt(channels)))
    lines = -(-channels // columns)
    colours = signed_to_rgb(unit_range(weights, (1, 2, 3)))
    room = ((0, 0), (0, lines * columns - channels), (0, 1), (0, 1), (0, 0))
    padded = np.pad(colours, room, constant_values=255)
    grid = padded.reshape(count, lines, columns, height + 1, width + 1, 3).swapaxes(2, 3)
    return grid.reshape(count, lines * (height + 1), columns * (width + 1), 3)[:, :-1, :-1]


def swatches(colours: Floats) -> RGB:
    """Draws differences from the mean colour as plain rectangles around mid-grey.

    Args:
        colours: ``(N, 3)``; each is scaled by its largest absolute value.

    Returns:
        ``(N, 8, 16, 3)`` uint8.
    """
    values = np.rint(127.5 + 110 * unit_range(colours, 1)).astype(np.uint8)
    return np.tile(values[:, None, None], (1, 8, 16, 1))


def filter_sheet(
    weights: Floats,
    offsets: Floats,
    colours: Floats | None,
    title: str,
    notes: Sequence[str],
    bands: Sequence[str],
    filters: int = 64,
) -> RGB:
    """Composes the filters of one convolution.

    Args:
        weights: ``(out, in, kh, kw)``.
        offsets: ``(out,)`` added to the filters' outputs.
        colours: ``(out, 3)`` the colours that 1×1 filters on three bands respond to most, or None.
        title: Headline.
        notes: Lines under it.
        bands: Names of the input bands; empty if the input is another layer.
        filters: Largest number of filters that are drawn, the first ones.

    Returns:
        ``(height, width, 3)`` uint8.
    """
    shown = weights[:filters]
    lines = [""] * len(shown)
    if bands and shown.shape[2:] == (1, 1):  # the weights themselves
        lines = [
            "".join(f"\n{band} {weight:+.3f}" for band, weight in zip(bands, each, strict=True))
            for each in shown[:, :, 0, 0]
        ]
    if colours is not None:
        names = [f"channel {number}" for number in range(len(shown))]
        captions = [
            f"{name}{line}\noffset {offset:+.3f}"
            for name, line, offset in zip(names, lines, offsets[:filters], strict=True)
        ]
        rows = [
            GridRow("largest response to", swatches(colours[:filters]), captions),
            GridRow("smallest response to", swatches(-colours[:filters]), names),
        ]
        return picture_grid(rows, title, notes)
    sizes = np.sqrt((shown.astype(np.float64) ** 2).sum(axis=(1, 2, 3)))
    norms = [f"{number}: norm {size:.2g}" for number, size in enumerate(sizes)]
    rows = []
    if len(bands) == 3:
        rows.append(GridRow("as colours", filter_pictures(shown), norms))
    heading = f"by band, {', '.join(bands)} from the left, row by row"
    if not bands:
        _, inside, height, width = shown.shape
        heading = f"by channel: {inside} kernels of {height} × {width} each"
    captions = [norm + line for norm, line in zip(norms, lines, strict=True)]
    rows.append(GridRow(heading, kernel_pictures(shown), captions))
    return picture_grid(rows, title, notes)
