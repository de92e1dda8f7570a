"""Styles of QGIS beside maps: QGIS draws ``NAME.tif`` as ``NAME.qml`` says."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import rasterio
from matplotlib.colors import to_hex

from vbp_lightning.data.imagery.raster import readable, without_place
from vbp_lightning.files import replacing
from vbp_lightning.plotting.display import COLOUR_MAP
from vbp_lightning.plotting.quick_look import PROBABILITY
from vbp_lightning.scene_maps.geotiff import CACHE

_STOPS = 16
_OPAQUE = 180
"""Largest alpha of 255: the imagery below stays visible."""

_LEAST = 1e-3
"""Length of a ramp for a threshold near 1, whose stops have to differ."""

_FADED = 0.5
"""Share of the range of a mask up to which it becomes opaque."""

_SIDE = 1024
"""Pixels along the longer side of the part of a mask that is looked at for its range."""

_Stop = tuple[float, str, int]
"""A value, its colour and its alpha."""


def style_path(raster: Path) -> Path:
    """The style that QGIS loads with a raster."""
    return raster.with_suffix(".qml")


def write_probability_style(raster: Path, threshold: float) -> Path:
    """Writes the style of a map of P(road): clear below the threshold, then a ramp up to 1.

    Args:
        raster: The map.
        threshold: P(road) from which a cell is road, in [0, 1].

    Returns:
        The style.
    """
    lowest = np.float32(threshold)  # maps hold float32
    below = float(np.nextafter(lowest, np.float32(-1)))
    ramp = np.linspace(float(lowest), max(1, threshold + _LEAST), _STOPS)
    colours = _colours(PROBABILITY)
    stops = [(below, colours[0], 0)]
    stops += [
        (value, colour, _OPAQUE) for value, colour in zip(ramp.tolist(), colours, strict=True)
    ]
    return _write(raster, stops)


def write_mask_style(raster: Path, percent: float) -> Path:
    """Writes the style of a VisualBackProp mask: clear where it is low.

    Args:
        raster: The map. One of bytes has the range [0, 1], which QGIS computes by the scale of the
            file. The range of others begins with their smallest value.
        percent: Percentile of the values of others with which the range ends.

    Returns:
        The style.
    """
    with (
        readable(raster, "output"),
        rasterio.Env(GDAL_CACHEMAX=CACHE),
        without_place(),
        rasterio.open(raster) as dataset,
    ):
        low, high = 0.0, 1.0
        if dataset.dtypes[0] != "uint8":
            factor = max(1, -(-max(dataset.shape) // _SIDE))
            shape = tuple(-(-side // factor) for side in dataset.shape)
            values = dataset.read(1, out_shape=shape)
            seen = values[np.isfinite(values)]
            if seen.size and np.ptp(seen) > 0:
                low, high = np.percentile(seen.astype(np.float64), (0, percent)).tolist()
                high = high if high > low else float(seen.max())
    shares = np.linspace(0, 1, _STOPS)
    alphas = np.rint(_OPAQUE * np.minimum(shares / _FADED, 1)).astype(int)
    values = low + (high - low) * shares
    return _write(
        raster, [*zip(values.tolist(), _colours(COLOUR_MAP), alphas.tolist(), strict=True)]
    )


def _colours(name: str) -> list[str]:
    return [to_hex(each) for each in matplotlib.colormaps[name](np.linspace(0, 1, _STOPS))]


def _write(raster: Path, stops: Sequence[_Stop]) -> Path:
    """Writes a pseudocolour style of band 1 that interpolates between stops."""
    least, most = repr(stops[0][0]), repr(stops[-1][0])
    root = ElementTree.Element("qgis", styleCategories="Symbology", version="3.22")
    pipe = ElementTree.SubElement(root, "pipe")
    renderer = ElementTree.SubElement(
        pipe,
        "rasterrenderer",
        type="singlebandpseudocolor",
        band="1",
        opacity="1",
        alphaBand="-1",
        classificationMin=least,
        classificationMax=most,
    )
    shader = ElementTree.SubElement(
        ElementTree.SubElement(renderer, "rastershader"),
        "colorrampshader",
        colorRampType="INTERPOLATED",
        classificationMode="1",
        clip="0",
        minimumValue=least,
        maximumValue=most,
    )
    for value, colour, alpha in stops:
        ElementTree.SubElement(
            shader, "item", value=repr(value), label=f"{value:.3g}", color=colour, alpha=str(alpha)
        )
    ElementTree.SubElement(pipe, "brightnesscontrast")
    ElementTree.SubElement(pipe, "huesaturation")
    ElementTree.SubElement(pipe, "rasterresampler")
    ElementTree.indent(root)
    path = style_path(raster)
    with replacing(path) as temporary:
        text = ElementTree.tostring(root, encoding="unicode")
        temporary.write_text(
            f"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n{text}\n", "utf-8"
        )
    return path
