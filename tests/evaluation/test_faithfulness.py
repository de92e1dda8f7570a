import numpy as np
import pytest
import torch
from torch import nn

from vbp_lightning.evaluation.faithfulness import (
    deletion,
    insertion,
    pixel_ranks,
    removal_curves,
    road,
    shift_response,
)
from vbp_lightning.evaluation.imputation import linear_imputation

REGION = np.zeros((16, 16), bool)
REGION[4:8, 5:11] = True


class RegionNet(nn.Module):
    """A network whose score depends only on the mean of the first band in a region."""

    def __init__(self, region=REGION, several=False):
        super().__init__()
        self.several = several
        self.register_buffer("region", torch.from_numpy(region).float() / region.sum())
        self.dropout = nn.Dropout(0.5)

    def forward(self, tiles):
        score = self.dropout((tiles[:, 0] * self.region).sum((1, 2)))[:, None] * 8
        return torch.cat([-score, score], 1) / 2 if self.several else score


def bright_tile():
    """Tiles that are bright in the region and dark elsewhere."""
    tile = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) - 1
    tile[:, :, torch.from_numpy(REGION)] += 2
    return tile


def relevance_of(region):
    noise = np.random.default_rng(0).random((2, 16, 16)) / 10
    return region + noise


def naive_curve(model, tile, relevance, shares):
    order = sorted(range(relevance.size), key=lambda pixel: -relevance.ravel()[pixel])
    values = []
    for share in shares:
        changed = tile.clone().reshape(3, -1)
        for pixel in order[: round(share * relevance.size)]:
            changed[:, pixel] = tile.reshape(3, -1).mean(1)
        values.append(float(model.eval()(changed.reshape(1, 3, 16, 16)).sigmoid()))
    return values


@pytest.mark.parametrize("several", [False, True])
def test_removal_written_out(several):
    tiles, maps = bright_tile(), relevance_of(REGION)
    model = RegionNet(several=several).train()
    shares = [0, 0.05, 0.5, 1]
    found = deletion(model, tiles, maps, 1, steps=4)
    expected = [
        naive_curve(RegionNet(), tiles[i], maps[i], [0, 0.25, 0.5, 0.75, 1]) for i in (0, 1)
    ]
    np.testing.assert_allclose(found, np.trapezoid(expected, dx=0.25, axis=1), rtol=1e-5)
    back = insertion(model, tiles, -maps, 1, steps=4)
    np.testing.assert_allclose(back, found, rtol=1e-5)
    assert model.training

    def keep(tile, removed):
        return tile

    kept = removal_curves(model, tiles, maps, shares, keep, None)
    np.testing.assert_allclose(kept, kept[:, :1].repeat(4, axis=1))


def test_a_true_map_scores_above_noise_and_noise_above_its_opposite():
    tiles, model = bright_tile(), RegionNet()
    noise = np.random.default_rng(1).random((2, 16, 16))
    for score, good_is_large in ((deletion, False), (insertion, True), (road, True)):
        true, none, false = (
            score(model, tiles, maps).mean()
            for maps in (relevance_of(REGION), noise, -relevance_of(REGION))
        )
        assert (true > none > false) if good_is_large else (true < none < false)


def test_road_written_out():
    """Half the mean difference of P without the least and without the most relevant pixels."""
    tiles, maps, model = bright_tile(), relevance_of(REGION), RegionNet().eval()
    shares = (0.1, 0.3, 0.8)
    expected = []
    for tile, relevance in zip(tiles, maps, strict=True):
        order = np.argsort(-relevance.ravel())
        total = 0.0
        for share in shares:
            count = round(share * 256)
            for sign, places in ((-1, order[:count]), (1, order[-count:])):
                removed = np.zeros(256, bool)
                removed[places] = True
                image = linear_imputation(tile, removed.reshape(16, 16))
                total += sign * float(model(image[None]).sigmoid())
        expected.append(total / len(shares) / 2)
    np.testing.assert_allclose(road(model, tiles, maps, shares=shares), expected, rtol=1e-5)
    assert min(expected) > 0.1


def test_road_is_zero_for_a_constant_network():
    blind = RegionNet()
    blind.region.zero_()
    assert road(blind, bright_tile(), relevance_of(REGION)).tolist() == [0, 0]


def test_ties_have_the_same_order_in_every_map():
    ranks = pixel_ranks(np.zeros((2, 4, 4)))
    assert sorted(ranks[0].ravel()) == list(range(16))
    np.testing.assert_array_equal(ranks[0], ranks[1])
    assert ranks[0].ravel().tolist() != list(range(16))
    assert pixel_ranks(np.array([[[3.0, -1.0, 7.0]]])).tolist() == [[[1, 2, 0]]]


def test_imputation_solves_its_equations():
    rng = np.random.default_rng(0)
    tile = torch.rand(2, 9, 8, generator=torch.Generator().manual_seed(1))
    removed = rng.random((9, 8)) < 0.6
    filled = linear_imputation(tile, removed, noise=0).numpy()
    np.testing.assert_array_equal(filled[:, ~removed], tile.numpy()[:, ~removed])
    for row, column in np.argwhere(removed):
        total = weights = 0.0
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                place = row + down, column + right
                if (down or right) and 0 <= place[0] < 9 and 0 <= place[1] < 8:
                    weight = 1 / 6 if 0 in (down, right) else 1 / 12
                    total, weights = total + weight * filled[(0, *place)], weights + weight
        assert filled[0, row, column] == pytest.approx(total / weights, abs=1e-6)


def test_imputation_continues_a_slope():
    ramp = (torch.arange(12.0)[:, None] * 2 + torch.arange(12.0))[None]
    removed = np.zeros((12, 12), bool)
    removed[3:9, 2:10] = True
    torch.testing.assert_close(linear_imputation(ramp, removed, noise=0), ramp)


def test_imputation_of_all_and_of_no_pixels():
    tile = torch.rand(3, 6, 6)
    nothing = np.zeros((6, 6), bool)
    assert torch.equal(linear_imputation(tile, nothing), tile)
    whole = linear_imputation(tile, ~nothing, noise=0)
    torch.testing.assert_close(whole, tile.mean((1, 2), keepdim=True).expand_as(tile))
    noisy = linear_imputation(tile, ~nothing, noise=0.1, seed=3)
    assert torch.equal(noisy, linear_imputation(tile, ~nothing, noise=0.1, seed=3))
    assert 0.03 < float((noisy - whole).std() / tile.std()) < 0.3


class ColumnNet(nn.Module):
    """The score is the column of the centre of brightness."""

    def forward(self, tiles):
        mass = tiles[:, 0].sum((1, 2))
        columns = torch.arange(tiles.shape[3]).to(tiles)
        return ((tiles[:, 0] * columns).sum((1, 2)) / mass)[:, None]


def test_shifting_a_bright_square_on_black():
    """Moving the square changes the score as moving all does; rest and control change nothing."""
    tile = torch.zeros(1, 3, 20, 20)
    tile[:, :, 2:6, 8:13] = 1
    relevance = tile[:, 0].numpy()
    response = shift_response(ColumnNet(), tile, relevance, area=20 / 400, distances=(2, 4))
    np.testing.assert_allclose(response.salient, 3, rtol=1e-5)
    np.testing.assert_allclose(response.whole, 3, rtol=1e-5)
    np.testing.assert_allclose(response.control, 0, atol=1e-5)
    np.testing.assert_allclose(response.rest, 0, atol=1e-5)


def test_rest_and_control_move_the_square_if_the_map_is_at_the_wrong_place():
    tile = torch.zeros(1, 3, 20, 20)
    tile[:, :, 2:6, 8:13] = 1
    relevance = np.roll(tile[:, 0].numpy(), (10, 10), (1, 2))
    response = shift_response(ColumnNet(), tile, relevance, area=20 / 400, distances=(2,))
    np.testing.assert_allclose(response.salient, 0, atol=1e-5)
    np.testing.assert_allclose(response.rest, 2, rtol=1e-5)
    np.testing.assert_allclose(response.control, 2, rtol=1e-5)


def test_the_control_of_a_centred_map_lies_elsewhere():
    tile = torch.zeros(1, 3, 20, 20)
    tile[:, :, 8:12, 8:12] = 1
    response = shift_response(ColumnNet(), tile, tile[:, 0].numpy(), area=16 / 400, distances=(2,))
    np.testing.assert_allclose(response.salient, 2, rtol=1e-5)
    np.testing.assert_allclose(response.control, 0, atol=1e-5)
