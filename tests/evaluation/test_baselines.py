import numpy as np
import pytest
import torch
from torch import nn

from vbp_lightning.evaluation.baselines import (
    BASELINES,
    brightness,
    centre_gaussian,
    edges,
    random_noise,
)


@pytest.mark.parametrize("name", BASELINES)
def test_maps_are_independent_of_the_batch_and_not_negative(name):
    tiles = 255 * torch.rand(4, 3, 24, 20, generator=torch.Generator().manual_seed(0))
    method = BASELINES[name](nn.Identity())
    maps = method.attribute(tiles, 1)
    assert maps.shape == (4, 1, 24, 20)
    assert maps.min() >= 0
    torch.testing.assert_close(method.attribute(tiles[2:3]), maps[2:3])
    assert torch.equal(method.attribute(tiles), maps)


def test_noise_draws_from_no_global_generator_and_differs_between_tiles():
    tiles = torch.rand(2, 3, 8, 8)
    state = torch.get_rng_state()
    maps = random_noise(tiles)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(maps[0], maps[1])
    assert not torch.equal(maps, random_noise(tiles, seed=1))


def test_brightness_and_edges_of_a_step():
    tile = torch.zeros(1, 2, 9, 16)
    tile[..., 8:] = 10
    assert torch.equal(brightness(tile)[0, 0], tile[0, 0])
    slopes = edges(tile, sigma=1)[0, 0]
    assert set(slopes.argmax(1).tolist()) <= {7, 8}
    # half a pixel beside a blurred step, the slope is about the density of the Gaussian
    density = np.exp(-0.125) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(slopes[:, 7], 10 * density, rtol=0.1)
    assert slopes[:, 0].max() < 1e-6


def test_the_gaussian_is_centred():
    plane = centre_gaussian(torch.zeros(1, 3, 8, 8), width=0.25)[0, 0]
    assert torch.equal(plane, plane.flip(0))
    assert torch.equal(plane, plane.T)
    assert plane[3, 3] == plane.max()
    assert plane[0, 3] / plane[3, 3] == pytest.approx(
        np.exp(-(0.4375**2 - 0.0625**2) / (2 * 0.0625)), rel=1e-5
    )
