"""The contact sheet of a data set."""

from types import SimpleNamespace

import numpy as np

from vbp_lightning.data.imagery.constant_areas import ConstantArea
from vbp_lightning.training.check import _pictures


def test_areas_of_one_value_do_not_stretch_the_pictures():
    tiles = np.random.default_rng(0).random((4, 3, 20, 20), dtype=np.float32)
    tiles[:2, :, :, 5:] = -9999
    area = ConstantArea((-9999.0,) * 3, 600, (0, 5), 300)
    scan = SimpleNamespace(scanned=[SimpleNamespace(constant=[area])])
    kept = tiles != -9999
    for band, shown in enumerate(np.moveaxis(_pictures(tiles, scan), -1, 0)):
        low, high = np.percentile(tiles[:, band][kept[:, band]], (1, 99))
        stretched = np.clip((tiles[:, band] - low) / (high - low), 0, 1)
        assert np.abs(shown - 255 * stretched).max() <= 0.51
    assert len(np.unique(_pictures(tiles, scan))) > 200
