import numpy as np
import torch

from vbp_lightning.evaluation.robustness import BRIGHTNESS, NOISE, changed_tiles, robustness
from vbp_lightning.evaluation.sanity import rank_correlation


def tiles():
    return 100 + 30 * torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def test_tiles_are_changed_by_shares_of_the_deviation_of_each_band():
    given = tiles()
    given[:, 1] *= 10
    state = torch.get_rng_state()
    changed = changed_tiles(given, draws=2)
    assert torch.equal(state, torch.get_rng_state())
    spread = given.std((0, 2, 3))
    darker, brighter = (each - given for each in changed["brightness"])
    for band in range(2):
        assert torch.allclose(brighter[:, band], BRIGHTNESS * spread[band], rtol=1e-3)
    assert torch.allclose(darker, -brighter, rtol=1e-3)
    first, second = (each - given for each in changed["noise"])
    assert not torch.equal(first, second)
    assert torch.allclose(first.std((0, 2, 3)), NOISE * spread, rtol=0.15)


def test_robustness_is_the_rank_correlation_at_equal_probability():
    given = tiles()
    copies = [given + each for each in (1, 2, 50)]
    seen = []

    def explain(images):
        rng = np.random.default_rng(len(seen))
        seen.append(images)
        return images[:, 0].numpy() + 20 * rng.standard_normal((3, 8, 8))

    def probability(images):
        """Equal for small changes; the third tile's differs always."""
        shift = (images - given)[:, 0, 0, 0].numpy()
        return 0.5 + 0.001 * shift + np.array([0, 0, 0.1]) * (shift > 0)

    found = robustness(explain, probability, given, copies)
    before = explain_again(0, given)
    one, two = (explain_again(number, copies[number - 1]) for number in (1, 2))
    expected = (rank_correlation(before, one) + rank_correlation(before, two)) / 2
    np.testing.assert_allclose(found[:2], expected[:2])
    assert np.isnan(found[2])


def explain_again(number, images):
    rng = np.random.default_rng(number)
    return images[:, 0].numpy() + 20 * rng.standard_normal((3, 8, 8))
