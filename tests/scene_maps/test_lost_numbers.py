"""Maps of a network or an image whose numbers are lost."""

import math

import numpy as np
import pytest
import torch

from tests.helpers.examples import road
from vbp_lightning.scene_maps.block_maps import block_maps
from vbp_lightning.scene_maps.output_grid import Block
from vbp_lightning.scene_maps.seamless import SeamlessMapper


@pytest.mark.parametrize("lost", [True, False])
def test_a_probability_that_is_no_number_is_no_nodata(lost):
    network = road("strided").eval()
    if lost:
        with torch.no_grad():
            network.prob.bias[0] = math.nan
    mapper = SeamlessMapper(network, 3)
    pixels = np.random.default_rng(0).random((3, 160, 160), dtype=np.float32)

    def read(row, col, height, width):
        found = np.zeros((3, height, width), np.float32)
        return found + pixels[:, :1, :1], np.ones((height, width), bool)

    if lost:
        with pytest.raises(FloatingPointError, match=r"P\(road\) is not a number"):
            block_maps(mapper, read, (160, 160), Block(0, 0, 160, 160))
    else:
        maps = block_maps(mapper, read, (160, 160), Block(0, 0, 160, 160))
        assert np.isfinite(maps.probability).any()
