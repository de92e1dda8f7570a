"""Colours of tiles and of saliency maps: percentile stretch, gamma curve, colour maps, outlines."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Literal

import matplotlib
import numpy as np
import numpy.typing as npt
from scipy import ndimage

RGB = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Scale = Literal["each", "shared"]

SALIENCY_GAMMA = 0.5
"""Exponent of the display curve of a saliency map.

A VisualBackProp mask is a product over layers, so nearly all of its pixels lie close to zero and a
few close to one: shown linearly, it is black with some bright dots. The square root raises 0.04 to
a fifth of the scale. A percentile clip would show as much, but the brightest colour would stand for
another value on every tile and in every epoch, and peaks would be clipped. A fixed power keeps the
order of the values and both ends of the range, and maps stay comparable.
"""

COLOUR_MAP = "inferno"
"""Perceptually uniform, lightness rising from black to pale yellow, safe for colour blindness."""

SIGNED_MAP = "PuOr_r"
"""Diverging about white: orange is evidence for the class, purple is evidence against it."""

OUTLINE = (255, 0, 220)
"""Magenta, a colour that does not occur in roofs, fields or water."""

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def to_rgb(
    tiles: npt.ArrayLike,
    bands: Sequence[int] | None = None,
    percentiles: tuple[float, float] = (1.0, 99.0),
    reference: npt.ArrayLike | None = None,
) -> RGB:
    """Converts raw tiles to pictures, each band stretched between two percentiles over all tiles.

    One stretch for all tiles keeps them comparable: a dark tile stays dark.

    Args:
        tiles: ``(N, C, H, W)``, any number type and range. Pixels that are not finite are left out
            of the percentiles and shown black.
        bands: Which bands are shown as red, green and blue, or one band for grey. By default the
            only band as grey, the first and second of two as magenta and green, and the first three
            of more.
        percentiles: Lower and upper percentile, shown as black and as full brightness.
        reference: ``(M, C, h, w)`` tiles that the percentiles are taken of; by default ``tiles``.

    Returns:
        ``(N, H, W, 3)`` uint8. A constant band is black.

    Raises:
        ValueError: ``tiles`` does not have four axes and at least one band, or ``bands`` does not
            name one or three of its bands.
    """
    values = np.asarray(tiles)
    if values.ndim != 4 or values.shape[1] == 0:
        raise ValueError(f"tiles has the shape {values.shape}; give (N, C, H, W) with C at least 1")
    channels = values.shape[1]
    if bands is None:
        bands = _default_bands(channels)
    if len(bands) not in (1, 3) or not all(0 <= band < channels for band in bands):
        raise ValueError(f"bands is {list(bands)}; name one or three of the {channels} bands")
    source = values if reference is None else np.asarray(reference)
    stretched = {
        band: _stretch(values[:, band], source[:, band], percentiles) for band in set(bands)
    }
    shown = bands if len(bands) == 3 else [bands[0]] * 3
    return np.stack([stretched[band] for band in shown], axis=-1)


def _default_bands(channels: int) -> tuple[int, int, int]:
    return {1: (0, 0, 0), 2: (0, 1, 0)}.get(channels, (0, 1, 2))


def _stretch(
    values: npt.NDArray[np.generic],
    reference: npt.NDArray[np.generic],
    percentiles: tuple[float, float],
) -> RGB:
    shown, known = values.astype(np.float32), reference.astype(np.float32)
    known = known[np.isfinite(known)]
    low, high = np.percentile(known, percentiles).tolist() if known.size else (0, 0)
    if high <= low:
        return np.zeros(values.shape, dtype=np.uint8)
    shown = np.where(np.isfinite(shown), shown, low)
    return _to_bytes(np.clip((shown - low) / (high - low), 0, 1))


def _to_bytes(unit: npt.NDArray[np.floating]) -> RGB:
    return np.asarray(np.rint(255 * unit), dtype=np.uint8)


def patches_to_rgb(patches: Sequence[Floats], tiles: Floats) -> list[RGB]:
    """Converts patches to pictures in the colours of the tiles that they were cut from.

    Args:
        patches: ``(C, h, w)`` each, NaN where there is padding.
        tiles: ``(N, C, H, W)``: their percentiles are black and full brightness.

    Returns:
        ``(h, w, 3)`` uint8 each; padding is a grey chequer.
    """
    if not patches:
        return []
    # patches differ in size: their pixels are concatenated and stretched at once
    flat = np.concatenate([patch.reshape(len(patch), -1) for patch in patches], axis=1)
    colours = to_rgb(flat[None, :, None, :], reference=tiles)[0, 0]
    ends = np.cumsum([patch[0].size for patch in patches])
    shown = []
    for patch, pixels in zip(patches, np.split(colours, ends[:-1]), strict=True):
        chequer = 150 + 40 * (np.indices(patch.shape[1:]).sum(axis=0) % 2)
        padding = np.asarray(np.isnan(patch).all(axis=0))
        rgb = pixels.reshape(*patch.shape[1:], 3)
        shown.append(np.where(padding[..., None], chequer[..., None], rgb).astype(np.uint8))
    return shown


def standardised_to_rgb(images: npt.ArrayLike, reach: float = 2.0) -> RGB:
    """Converts standardised images to pictures; mid-grey is the mean of each band.

    Args:
        images: ``(N, C, H, W)`` in standard deviations of each band; shown are the default bands of
            :func:`to_rgb`.
        reach: ``-reach`` is black, ``reach`` is full brightness.

    Returns:
        ``(N, H, W, 3)`` uint8.
    """
    values = np.asarray(images)
    shown = values[:, _default_bands(values.shape[1])].transpose(0, 2, 3, 1)
    return _to_bytes((shown / reach).clip(-1, 1) / 2 + 0.5)


def outlined(tiles: Iterable[RGB], road_masks: npt.NDArray[np.bool_]) -> list[RGB]:
    """Enlarges tiles by a whole number to about 288 pixels and outlines their road in magenta.

    Road pixels are outlined, not filled, so that the imagery below them stays visible.

    Args:
        tiles: ``(H, W, 3)`` uint8 each.
        road_masks: ``(N, H, W)`` bool.

    Returns:
        ``(h, w, 3)`` uint8 each.
    """
    pictures = []
    for tile, road in zip(tiles, road_masks, strict=True):
        zoom = max(1, round(288 / len(tile)))
        large = tile.repeat(zoom, axis=0).repeat(zoom, axis=1)
        inside = road.repeat(zoom, axis=0).repeat(zoom, axis=1)
        large[inside & ~ndimage.binary_erosion(inside, iterations=3, border_value=1)] = OUTLINE
        pictures.append(large)
    return pictures


def unit_range(
    values: npt.NDArray[np.floating], axes: int | tuple[int, ...] | None
) -> npt.NDArray[np.floating]:
    """Divides values by their largest absolute value over some axes.

    Args:
        values: Any shape.
        axes: The axes that the largest value is taken over; None for all.

    Returns:
        The same shape and type, in [-1, 1]; zeros where all values are zero.
    """
    largest = np.abs(values).max(axis=axes, keepdims=True, initial=0)
    return np.asarray(values / np.where(largest > 0, largest, 1))


def scaled(values: npt.NDArray[np.floating], scale: Scale) -> Floats:
    """Scales saliency maps to [0, 1], or to [-1, 1] if any value is negative.

    Args:
        values: ``(N, H, W)``, any range.
        scale: ``each`` to scale every map from its own smallest to its own largest value (by its
            own largest absolute value if any value is negative), or ``shared`` for one scale.

    Returns:
        float32 of the same shape; constant maps give 0.

    Raises:
        ValueError: ``scale`` is neither ``each`` nor ``shared``.
    """
    if scale not in ("each", "shared"):
        raise ValueError(f"scale is {scale!r}; choose each or shared")
    axes = (1, 2) if scale == "each" else None
    maps = np.asarray(values, np.float64)
    if maps.size and maps.min() >= 0:
        maps = maps - maps.min(axis=axes, keepdims=True)
    return unit_range(maps, axes).astype(np.float32)


def scale_saliency(saliency: npt.ArrayLike) -> Floats:
    """Converts saliency to display brightness, ``saliency ** SALIENCY_GAMMA``.

    Args:
        saliency: Any shape, in [0, 1]; values outside are clipped, NaN counts as 0.

    Returns:
        float32 of the same shape, in [0, 1], in the same order.
    """
    values = np.nan_to_num(np.asarray(saliency, dtype=np.float32), nan=0.0)
    curved: Floats = np.clip(values, 0, 1) ** np.float32(SALIENCY_GAMMA)
    return curved


@cache
def colour_table() -> RGB:
    """Returns the colour map as ``(256, 3)`` uint8, dark to light."""
    return _to_bytes(matplotlib.colormaps[COLOUR_MAP](np.arange(256))[:, :3])


def saliency_to_rgb(saliency: npt.ArrayLike) -> RGB:
    """Converts saliency to colours, on the curve of :func:`scale_saliency`.

    Args:
        saliency: ``(…)``, in [0, 1].

    Returns:
        ``(…, 3)`` uint8.
    """
    return colour_table()[_to_bytes(scale_saliency(saliency))]


def signed_to_rgb(values: npt.NDArray[np.floating]) -> RGB:
    """Converts signed values to colours, linearly: orange positive, white zero, purple negative.

    Args:
        values: ``(…)``, in [-1, 1].

    Returns:
        ``(…, 3)`` uint8.
    """
    return _to_bytes(matplotlib.colormaps[SIGNED_MAP]((values + 1) / 2)[..., :3])


def maps_to_rgb(values: npt.NDArray[np.floating], scale: Scale) -> RGB:
    """Converts maps of any range to colours, signed ones in two colours about zero.

    Args:
        values: ``(N, H, W)``, any range.
        scale: See :func:`scaled`.

    Returns:
        ``(N, H, W, 3)`` uint8, on the curve of :func:`scale_saliency`.
    """
    unit = scaled(values, scale)
    if unit.min(initial=0) < 0:
        return signed_to_rgb(np.sign(unit) * scale_saliency(np.abs(unit)))
    return saliency_to_rgb(unit)


def overlay(tiles: RGB, saliency: npt.ArrayLike) -> RGB:
    """Lays saliency maps over tiles: grey where the saliency is low, its colour where it is high.

    The tile is drawn in grey and a little darker so that its colours cannot be confused with those
    of the saliency; the scaled saliency is also its opacity.

    Args:
        tiles: ``(…, 3)`` uint8.
        saliency: ``(…)``, in [0, 1].

    Returns:
        ``(…, 3)`` uint8.
    """
    opacity = scale_saliency(saliency)[..., None]
    grey = 0.8 * (tiles.astype(np.float32) @ _LUMA)[..., None]
    mixed = grey * (1 - opacity) + saliency_to_rgb(saliency) * opacity
    return np.rint(mixed).astype(np.uint8)
