"""Class models and fooling images for scores whose best image is known."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.examples import NETS
from vbp_lightning.inspection.class_model import LogOdds, ScoreModel, Standardised, ascend, fool
from vbp_lightning.inspection.layers import UnitScore


class Linear(nn.Module):
    """The score w · I, whose best image is w / 2λ."""

    def __init__(self, weights):
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, images):
        return (images * self.weights).sum(dim=(1, 2, 3))[:, None]


WEIGHTS = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0))


def test_ascent_ends_at_the_best_image_of_a_linear_score():
    score = ScoreModel(Linear(WEIGHTS), 1)
    ascent = ascend(score, torch.zeros(3, 4, 4), range(300), 300, penalty=0.5, step=0.05)
    assert torch.allclose(ascent.image, WEIGHTS, atol=0.02)
    assert ascent.scores[0] == ascent.penalties[0] == 0
    square = float(WEIGHTS.square().sum())
    assert ascent.scores[-1] == pytest.approx(square, rel=0.01)
    assert ascent.penalties[-1] == pytest.approx(0.5 * square, rel=0.02)
    assert len(ascent.scores) == 301
    assert sorted(ascent.snapshots) == [0, 60, 120, 180, 240, 300]
    assert torch.equal(ascent.snapshots[300], ascent.image)


@pytest.mark.parametrize("name", NETS)
def test_the_score_of_every_net_rises_and_the_net_is_left_unchanged(name):
    net = NETS[name]().train()
    model = Standardised(net, torch.full((3,), 0.5), torch.full((3,), 0.25)).train()
    before = [parameter.clone() for parameter in net.parameters()]
    start = torch.zeros(3, 96, 96)
    options = {"jitter": 2, "blur": 0.5, "snapshots": 2, "seed": 1}
    ascent = ascend(ScoreModel(model, 1), start, range(12), 12, **options)
    again = ascend(ScoreModel(model, 1), start, range(12), 12, **options)
    assert ascent.scores[-1] > ascent.scores[0]
    assert torch.equal(ascent.image, again.image)
    assert not start.any()
    assert net.training
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in net.parameters())


def test_an_inactive_unit_is_reported():
    net = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU())
    net[0].bias.data.fill_(-9)
    with pytest.raises(ValueError, match="no gradient"):
        ascend(UnitScore(net, "1", 0), torch.zeros(3, 4, 4), range(3), 3)


def test_log_odds():
    output = torch.tensor([[1.0, -2.0, 0.5]])
    probability = output.softmax(1)[0, 2]
    assert float(LogOdds(nn.Identity(), 2)(output)) == pytest.approx(
        float((probability / (1 - probability)).log())
    )
    assert float(LogOdds(nn.Identity())(output)) == float(LogOdds(nn.Identity(), 0)(output))
    assert LogOdds(nn.Identity(), 0)(torch.tensor([[0.3]])).tolist() == pytest.approx([-0.3])


def test_the_smallest_change_of_a_linear_score():
    odds = LogOdds(Linear(WEIGHTS), 1)
    start = -0.3 * WEIGHTS + 0.1
    found = fool(odds, start, range(60), 0.99)
    assert found.reached
    before = float((start * WEIGHTS).sum())
    least = (np.log(99) - before) / float(WEIGHTS.norm())
    assert float((found.image - start).norm()) == pytest.approx(least, rel=2e-3)
    with torch.no_grad():
        assert float(odds(found.image[None]).sigmoid()) >= 0.99
    assert found.change == pytest.approx(least / np.sqrt(48), rel=2e-3)


def test_a_start_that_has_the_probability_stays_and_an_unreachable_one_is_reported():
    odds = LogOdds(Linear(WEIGHTS), 1)
    sure = fool(odds, 9 * WEIGHTS, range(5))
    assert sure.reached
    assert sure.change == 0
    flat = fool(LogOdds(Linear(torch.zeros(3, 4, 4)), 1), WEIGHTS, range(5))
    assert not flat.reached
    with pytest.raises(ValueError, match="between 0 and 1"):
        fool(odds, WEIGHTS, range(5), 1.0)


@pytest.mark.parametrize("name", NETS)
def test_noise_reaches_the_requested_probability(name):
    model = Standardised(NETS[name](), torch.full((3,), 0.5), torch.full((3,), 0.25))
    start = torch.randn(3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = LogOdds(model, 1)(start[None])
        target = int(before < 0)
        found = fool(LogOdds(model, target), start, range(25), 0.99)
        after = LogOdds(model, target)(found.image[None])
    assert float(after) > -abs(float(before))
    assert found.reached == (float(after.sigmoid()) >= 0.99)
    assert torch.equal(found.start, start)


def test_standardised_images():
    model = Standardised(nn.Identity(), torch.tensor([10.0, 20.0]), torch.tensor([2.0, 5.0]))
    tiles = torch.tensor([12.0, 10.0]).view(1, 2, 1, 1)
    assert model.standardised(tiles).flatten().tolist() == [1.0, -2.0]
    assert torch.equal(model(model.standardised(tiles)), tiles)
