"""The styles by which QGIS draws maps."""

from xml.etree import ElementTree

import numpy as np
import pytest
from affine import Affine

from tests.helpers.mapping import write_scene
from vbp_lightning.scene_maps.qgis_style import write_mask_style, write_probability_style

PLACE = Affine.translation(4e5, 5e6)


def stops(style):
    """Value and alpha of the stops of a style, which interpolates between them."""
    root = ElementTree.parse(style).getroot()
    (shader,) = root.iter("colorrampshader")
    assert shader.get("colorRampType") == "INTERPOLATED"
    found = [(float(each.get("value")), int(each.get("alpha"))) for each in shader.iter("item")]
    values = [value for value, _ in found]
    assert values == sorted(set(values))
    assert (float(shader.get("minimumValue")), float(shader.get("maximumValue"))) == (
        values[0],
        values[-1],
    )
    assert len({each.get("color") for each in shader.iter("item")}) >= 16
    return np.array(found).T


@pytest.mark.parametrize("threshold", [0.0, 0.43, 0.9999999, 1.0])
def test_probabilities_are_drawn_from_the_threshold_on(tmp_path, threshold):
    values, alphas = stops(write_probability_style(tmp_path / "a.tif", threshold))
    cells = np.float32([0, threshold, 1])
    below = np.nextafter(np.float32(threshold), np.float32(-1))
    assert (np.interp(cells[cells >= np.float32(threshold)], values, alphas) > 150).all()
    assert np.interp(below, values, alphas) == 0
    assert np.interp(threshold / 2 - 0.01, values, alphas) == 0


def test_masks_are_clear_where_they_are_low(tmp_path):
    stored = np.arange(255, dtype=np.uint8).reshape(1, 15, 17)
    values, alphas = stops(
        write_mask_style(write_scene(tmp_path / "a.tif", stored, transform=PLACE), 99.5)
    )
    assert (values[0], values[-1], alphas[0]) == (0, 1, 0)
    assert (np.diff(alphas) >= 0).all()
    assert alphas[-1] > 150


@pytest.mark.parametrize(
    ("raw", "low", "high"),
    [
        (np.linspace(2, 1002, 1001), 2, 997),
        (np.array([np.nan, 1e-30, 3e-30]), 1e-30, 3e-30),
        (np.array([7.0, 7.0]), 0, 1),
        (np.array([np.nan]), 0, 1),
        (np.r_[np.zeros(999), 5.0], 0, 5),
    ],
)
def test_raw_masks_are_drawn_in_their_range(tmp_path, raw, low, high):
    path = write_scene(
        tmp_path / "a.tif", raw.astype(np.float32).reshape(1, 1, -1), transform=PLACE
    )
    values, _ = stops(write_mask_style(path, 99.5))
    assert values[[0, -1]] == pytest.approx((low, high), rel=1e-2)
