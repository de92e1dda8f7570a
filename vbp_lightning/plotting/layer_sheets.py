"""Sheets of feature maps and of filters."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import numpy.typing as npt

from vbp_lightning.plotting.display import RGB
from vbp_lightning.plotting.method_sheet import SIGNED_MAP, Scale, coloured
from vbp_lightning.plotting.picture_grid import GridRow, picture_grid

Floats = npt.NDArray[np.float32]


def feature_map_sheet(
    tile: RGB, maps: Mapping[str, Floats], title: str, scale: Scale = "each", channels: int = 32
) -> RGB:
    """Composes a grid of channels for each layer.

    Args:
        tile: ``(H, W, 3)`` uint8, the image that went in.
        maps: By layer, ``(c, h, w)`` or ``(f,)``.
        title: Headline.
        scale: ``each`` channel by itself, or ``shared`` by the channels of a layer.
        channels: How many of a layer are drawn at most, the first ones.

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
        shown = values[:channels]
        drawn = f", the first {len(shown)} shown" if len(shown) < count else ""
        silent = int((np.abs(values).max(axis=(1, 2)) == 0).sum())
        zeros = f"; {silent} all zero" if silent else ""
        pictures, _ = coloured(shown, scale)
        heading = f"{name}: {count} × {height} × {width}{drawn}; {about}{zeros}"
        rows.append(GridRow(heading, list(pictures)))
    whose = "each channel by itself" if scale == "each" else "all channels of a layer alike"
    notes = (
        f"Scaled {whose}. Without negative values: black zero or least, yellow most;",
        "with them: orange positive, white zero, purple negative. Colour: the square root.",
    )
    return picture_grid(rows, title, notes, columns=16, side=64)


def _flat_row(name: str, values: Floats, about: str) -> GridRow:
    """A flat layer as one picture of cells, 64 a line."""
    width = min(64, len(values))
    height = -(-len(values) // width)
    padded = np.zeros(width * height, np.float32)
    padded[: len(values)] = values
    pictures, _ = coloured(padded.reshape(1, height, width), "each")
    zeros = int((values == 0).sum())
    silent = f"; {zeros} zero" if zeros and len(values) > 1 else ""
    large = pictures[0].repeat(12, axis=0).repeat(12, axis=1)
    heading = f"{name}: {len(values)} values, a cell each; {about}{silent}"
    if len(values) == 1:
        heading = f"{name}: {values[0]:.4g}"
    return GridRow(heading, [large], side=12 * width)


def filter_pictures(weights: Floats) -> RGB:
    """Filters on three bands as colours: mid-grey is zero, each to its largest absolute weight.

    Args:
        weights: ``(out, 3, kh, kw)``.

    Returns:
        ``(out, kh, kw, 3)`` uint8.
    """
    largest = np.abs(weights).max(axis=(1, 2, 3), keepdims=True)
    unit = np.divide(weights, largest, where=largest > 0, out=np.zeros_like(weights))
    pictures: RGB = np.rint(127.5 + 127.5 * unit).astype(np.uint8)
    return pictures.transpose(0, 2, 3, 1)


def kernel_pictures(weights: Floats) -> list[RGB]:
    """Filters channel by channel: a mosaic of kernels for each, orange positive, purple negative.

    Args:
        weights: ``(out, in, kh, kw)``.

    Returns:
        ``(h, w, 3)`` uint8 for each filter, divided by white lines.
    """
    _, channels, height, width = weights.shape
    columns = int(np.ceil(np.sqrt(channels)))
    lines = -(-channels // columns)
    pictures = []
    for kernels in weights:
        largest = np.abs(kernels).max()
        unit = kernels / largest if largest > 0 else kernels
        colours = np.rint(255 * matplotlib.colormaps[SIGNED_MAP]((unit + 1) / 2)[..., :3])
        page = np.full((lines * (height + 1) - 1, columns * (width + 1) - 1, 3), 255, np.uint8)
        for place, kernel in enumerate(colours.astype(np.uint8)):
            row, column = divmod(place, columns)
            top, left = row * (height + 1), column * (width + 1)
            page[top : top + height, left : left + width] = kernel
        pictures.append(page)
    return pictures


def swatches(colours: Floats) -> tuple[list[RGB], list[RGB]]:
    """Differences from the mean colour, and their opposites, as plain squares around mid-grey.

    Args:
        colours: ``(N, 3)`` unit vectors.
    """
    largest = np.abs(colours).max(axis=1, keepdims=True)
    unit = np.divide(colours, largest, where=largest > 0, out=np.zeros_like(colours))
    both = []
    for sign in (1, -1):
        values = np.rint(127.5 + sign * 110 * unit).astype(np.uint8)
        both.append([np.tile(value, (8, 16, 1)) for value in values])
    return both[0], both[1]


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
        offsets: ``(out,)`` what is added.
        colours: ``(out, 3)`` the colours that 1×1 filters on three bands answer to most; else None.
        title: Headline.
        notes: Lines under it.
        bands: Names of what the filters read; empty for the channels of another layer.
        filters: How many are drawn at most, the first ones.

    Returns:
        ``(height, width, 3)`` uint8.
    """
    shown = weights[:filters]
    if colours is not None:
        excite, silence = swatches(colours[:filters])
        captions = [
            "\n".join(
                [
                    f"channel {number}",
                    *(f"{band} {weight:+.3f}" for band, weight in zip(bands, each, strict=True)),
                    f"added {offset:+.3f}",
                ]
            )
            for number, (each, offset) in enumerate(
                zip(shown[:, :, 0, 0], offsets[:filters], strict=True)
            )
        ]
        rows = [
            GridRow("answers most to", excite, captions),
            GridRow("and least to", silence, [f"channel {i}" for i in range(len(silence))]),
        ]
        return picture_grid(rows, title, notes, columns=8, side=128)
    sizes = np.sqrt((shown.astype(np.float64) ** 2).sum(axis=(1, 2, 3)))
    norms = [f"{number}: norm {size:.2g}" for number, size in enumerate(sizes)]
    rows = []
    if len(bands) == 3:
        rows.append(GridRow("as colours", list(filter_pictures(shown)), norms))
    if bands:
        by_band = [f"{band} " for band in bands]
        rows.append(
            GridRow(
                f"by band, {', '.join(by_band)}from the left, row by row",
                kernel_pictures(shown),
                _band_captions(shown, bands, norms),
            )
        )
    else:
        heading = (
            f"by channel: {shown.shape[1]} kernels of {shown.shape[2]} × {shown.shape[3]} each"
        )
        rows.append(GridRow(heading, kernel_pictures(shown), norms))
    return picture_grid(rows, title, notes, columns=8, side=128)


def _band_captions(weights: Floats, bands: Sequence[str], norms: Sequence[str]) -> list[str]:
    """The weights themselves where a kernel is one pixel."""
    if weights.shape[2:] != (1, 1):
        return list(norms)
    return [
        "\n".join(
            [norm, *(f"{band} {weight:+.3f}" for band, weight in zip(bands, each, strict=True))]
        )
        for norm, each in zip(norms, weights[:, :, 0, 0], strict=True)
    ]
