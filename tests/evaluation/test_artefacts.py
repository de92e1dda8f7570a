import numpy as np
import pytest
import torch
from torch import nn

from vbp_lightning.attribution import UPSAMPLINGS, VisualBackProp
from vbp_lightning.evaluation.artefacts import (
    artefacts,
    block_ratio,
    border_ratio,
    comb_energy,
    coverage_variation,
)
from vbp_lightning.models import RoadNetwork

TILE = torch.zeros(1, 3, 96, 96)


def network(architecture):
    return RoadNetwork(architecture, "hidden", [0.0] * 3, [1.0] * 3)


def naive_comb_energy(mask, stride):
    """The discrete Fourier transform written out as matrices."""
    windows, waves = [], []
    for side in mask.shape:
        windows.append(np.sin(np.pi * np.arange(side) / side) ** 2)
        waves.append(np.exp(-2j * np.pi * np.outer(np.arange(side), np.arange(side)) / side))
    windowed = (mask - mask.mean()) * windows[0][:, None] * windows[1][None]
    power = np.abs(waves[0] @ windowed @ waves[1].T) ** 2
    height, width = mask.shape
    comb = sum(
        power[row, column]
        for row in range(height)
        for column in range(width)
        if row * stride % height == 0 and column * stride % width == 0 and (row, column) != (0, 0)
    )
    return comb / power.sum()


def test_comb_energy_against_the_transform_written_out():
    masks = np.random.default_rng(0).random((3, 24, 40))
    expected = [naive_comb_energy(mask, 4) for mask in masks]
    np.testing.assert_allclose(comb_energy(masks, 4), expected, rtol=1e-9)


def test_comb_energy_of_a_grid_and_of_a_constant():
    rows, columns = np.mgrid[:48, :48]
    grid = ((rows % 4 == 0) & (columns % 4 == 0)).astype(float)
    wave = np.cos(2 * np.pi * rows / 48 * 5)
    # a Hann window leaves two thirds of a wave's power on its own frequency, on each axis
    checks = np.cos(np.pi * rows) * np.cos(np.pi * columns)
    energy = comb_energy(np.stack([checks, wave, np.full((48, 48), 0.7)]), 4)
    np.testing.assert_allclose(energy, [4 / 9, 0, 0], atol=1e-9)
    assert comb_energy(grid[None], 4)[0] > 0.3
    with pytest.raises(ValueError, match="multiples"):
        comb_energy(grid[None], 7)


def test_block_ratio_by_hand():
    blocks = np.kron(np.arange(9).reshape(3, 3), np.ones((4, 4)))[None]
    ramp = np.arange(12.0)[None, None].repeat(12, axis=1)
    assert block_ratio(blocks, 4) == np.inf
    assert block_ratio(np.ones((1, 12, 12)), 4) == 1
    # steps across the ramp are 0, steps along it 1
    assert block_ratio(ramp, 4) == 1
    assert block_ratio(ramp + 2 * blocks[0, :1], 4) > 1


def test_coverage_and_border_by_hand():
    mask = np.ones((8, 8))
    mask[0, 0] = 0.25
    assert border_ratio(mask) == 0.25
    assert coverage_variation(mask) == 0
    mask[2:6, 2:4] = 3
    assert coverage_variation(mask) == pytest.approx(0.5)


def test_the_upsampling_of_the_paper_has_grids_blocks_and_dark_borders():
    found = artefacts(network("strided"), "deconv", TILE)
    assert found.coverage_variation == pytest.approx(0.57, abs=0.01)
    assert found.comb_energy == pytest.approx(0.30, abs=0.02)
    assert found.block_ratio == pytest.approx(1.46, abs=0.05)
    assert 0.05 < found.border_ratio < 0.2


@pytest.mark.parametrize("upsampling", ["deconv_normalized", "resize_conv"])
@pytest.mark.parametrize("architecture", ["strided", "maxpool"])
def test_normalisation_by_coverage_and_resizing_remove_the_artefacts(architecture, upsampling):
    found = artefacts(network(architecture), upsampling, TILE)
    assert found.coverage_variation < 1e-6
    assert found.comb_energy < 0.01
    assert found.block_ratio <= 1.2
    assert found.border_ratio == pytest.approx(1, abs=0.05)


def test_flat_activations_against_visual_backprop():
    """VisualBackProp gives the same mask for a network whose feature maps are all one."""
    layers = []
    for stride in (1, 2, 2):
        conv = nn.Conv2d(1, 1, 3, stride, padding=1)
        nn.init.zeros_(conv.weight)
        nn.init.ones_(conv.bias)
        layers += [conv, nn.ReLU()]
    net = nn.Sequential(*layers)
    tile = torch.zeros(1, 1, 32, 32)
    for name in UPSAMPLINGS:
        mask = VisualBackProp(net, name).attribute(tile, normalize=False)[0, 0].numpy()
        found = artefacts(net, name, tile)
        assert found.coverage_variation == pytest.approx(coverage_variation(mask), abs=1e-6)
        assert found.border_ratio == pytest.approx(border_ratio(mask), rel=1e-5)


def test_the_network_is_left_unchanged_and_the_seed_decides():
    net = network("maxpool").train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first = artefacts(net, "bilinear", TILE, draws=4)
    assert artefacts(net, "bilinear", TILE, draws=4) == first
    assert artefacts(net, "bilinear", TILE, draws=4, seed=1).comb_energy != first.comb_energy
    assert net.training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def test_tiles_that_the_stride_does_not_divide():
    net = nn.Sequential(nn.Conv2d(1, 2, 5, 3), nn.ReLU(), nn.Conv2d(2, 2, 3, 2), nn.ReLU())
    for side in (20, 47, 50):
        found = artefacts(net, "deconv", torch.zeros(1, 1, side, side))
        assert 0 <= found.comb_energy <= 1
        assert found.block_ratio > 0
