"""How raw tiles and masks become colours: a percentile stretch, a gamma curve, a colour map."""

from collections.abc import Sequence
from functools import cache

import matplotlib
import numpy as np
import numpy.typing as npt

RGB = npt.NDArray[np.uint8]

MASK_GAMMA = 0.5
"""Exponent of the display curve of a mask.

A mask is a product over layers, so nearly all of its pixels lie close to zero and a few at one:
shown as they are, a panel is black with some sparks. A square root brings 0.04 up to a fifth of the
scale. A percentile clip would show as much but set a different white on every tile and every
epoch, and flatten the peaks; a fixed power keeps order, ends and comparability.
"""

COLOUR_MAP = "inferno"
"""Perceptually uniform, lightness rising from black to pale yellow, safe for colour blindness."""

LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def to_rgb(
    tiles: npt.ArrayLike,
    bands: Sequence[int] | None = None,
    percentiles: tuple[float, float] = (1.0, 99.0),
    reference: npt.ArrayLike | None = None,
) -> RGB:
    """Raw tiles as pictures, each band stretched between two percentiles over all tiles.

    One stretch for all tiles keeps them comparable: a dark tile stays dark.

    Args:
        tiles: ``(N, C, H, W)``, any number type and range. Pixels that are not finite are left out
            of the percentiles and shown black.
        bands: Which bands are shown as red, green and blue, or one band for grey. By default the
            only band as grey, the first and second of two as magenta and green, and the first three
            of more.
        percentiles: Lower and upper percentile, shown as black and as full brightness.
        reference: ``(M, C, h, w)`` other tiles whose percentiles they are; None for ``tiles``.

    Returns:
        ``(N, H, W, 3)`` uint8. A constant band is black.

    Raises:
        ValueError: ``tiles`` has no four axes or no band, or ``bands`` does not name one or three
            of its bands.
    """
    values = np.asarray(tiles)
    if values.ndim != 4 or values.shape[1] == 0:
        raise ValueError(f"tiles has the shape {values.shape}; give (N, C, H, W) with C at least 1")
    channels = values.shape[1]
    if bands is None:
        bands = {1: (0,), 2: (0, 1, 0)}.get(channels, (0, 1, 2))
    if len(bands) not in (1, 3) or not all(0 <= band < channels for band in bands):
        raise ValueError(f"bands is {list(bands)}; name one or three of the {channels} bands")
    evaluation_tiles = values if reference is None else np.asarray(reference)
    stretched = {
        band: _stretch(
            values[:, band].astype(np.float32),
            evaluation_tiles[:, band].astype(np.float32),
            percentiles,
        )
        for band in set(bands)
    }
    shown = bands if len(bands) == 3 else [bands[0]] * 3
    return np.stack([stretched[band] for band in shown], axis=-1)


def _stretch(
    values: npt.NDArray[np.float32],
    reference: npt.NDArray[np.float32],
    percentiles: tuple[float, float],
) -> RGB:
    known = reference[np.isfinite(reference)]
    if not known.size:
        return np.zeros(values.shape, dtype=np.uint8)
    low, high = (float(value) for value in np.percentile(known, percentiles))
    if high <= low:
        return np.zeros(values.shape, dtype=np.uint8)
    shown = np.where(np.isfinite(values), values, low)
    scaled = np.clip((shown - low) / (high - low), 0, 1)
    return np.rint(scaled * 255).astype(np.uint8)


def scale_mask(masks: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Mask values as display brightness, ``mask ** MASK_GAMMA``.

    Args:
        masks: Any shape, in [0, 1]; values outside are clipped, NaN counts as 0.

    Returns:
        float32 of the same shape, in [0, 1], in the same order.
    """
    values = np.nan_to_num(np.asarray(masks, dtype=np.float32), nan=0.0)
    scaled: npt.NDArray[np.float32] = np.clip(values, 0, 1) ** np.float32(MASK_GAMMA)
    return scaled


@cache
def colour_table() -> RGB:
    """The colour map as ``(256, 3)`` uint8, dark to light."""
    colours = np.asarray(matplotlib.colormaps[COLOUR_MAP](np.arange(256)), dtype=np.float64)
    return np.rint(colours[:, :3] * 255).astype(np.uint8)


def mask_to_rgb(masks: npt.ArrayLike) -> RGB:
    """Masks in colour, scaled by ``scale_mask``.

    Args:
        masks: ``(…)``, in [0, 1].

    Returns:
        ``(…, 3)`` uint8.
    """
    return colour_table()[np.rint(scale_mask(masks) * 255).astype(np.uint8)]


def overlay(tiles: RGB, masks: npt.ArrayLike) -> RGB:
    """Masks laid over tiles: grey where the mask is low, its colour where it is high.

    The tile goes grey and a little darker so that no colour of the ground can be taken for a colour
    of the mask; the scaled mask is also its opacity.

    Args:
        tiles: ``(…, 3)`` uint8.
        masks: ``(…)``, in [0, 1].

    Returns:
        ``(…, 3)`` uint8.
    """
    opacity = scale_mask(masks)[..., None]
    grey = 0.8 * (tiles.astype(np.float32) @ LUMA)[..., None]
    mixed = grey * (1 - opacity) + mask_to_rgb(masks) * opacity
    return np.rint(mixed).astype(np.uint8)


def standardised_to_rgb(images: npt.ArrayLike, reach: float = 2.0) -> RGB:
    """Converts standardised images to pictures; mid-grey is the mean of each band.

    Args:
        images: ``(N, C, H, W)`` in standard deviations of each band; shown are the first three
            bands, or the first as grey if there are fewer.
        reach: ``-reach`` is black, ``reach`` is full brightness.

    Returns:
        ``(N, H, W, 3)`` uint8.
    """
    values = np.asarray(images)
    bands = (0, 1, 2) if values.shape[1] >= 3 else (0, 0, 0)
    shown = values[:, bands].transpose(0, 2, 3, 1)
    return np.rint(255 * ((shown / reach).clip(-1, 1) / 2 + 0.5)).astype(np.uint8)
