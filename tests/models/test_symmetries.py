"""The eight symmetric views and the mean of P(road) over them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.checkpoints import saved
from tests.helpers.nets import with_statistics
from vbp_lightning import RoadClassifier
from vbp_lightning.models.symmetries import SYMMETRIES, symmetric_view, undo_symmetry


def reference_views(tiles):
    """Rotations by multiples of 90° of the tiles and of their mirror images."""
    for mirrored in (tiles, tiles[..., ::-1]):
        for quarters in range(4):
            yield np.ascontiguousarray(np.rot90(mirrored, quarters, (-2, -1)))


def test_the_views_are_the_eight_symmetries_of_the_square():
    square = torch.arange(9).view(1, 3, 3)
    found = {tuple(symmetric_view(square, each).flatten().tolist()) for each in SYMMETRIES}
    assert found == {tuple(view.ravel().tolist()) for view in reference_views(square.numpy())}
    assert len(found) == 8
    assert torch.equal(symmetric_view(square, SYMMETRIES[0]), square)


@given(
    height=st.integers(1, 5), width=st.integers(1, 5), symmetry=st.sampled_from(list(SYMMETRIES))
)
def test_undoing_a_view_gives_the_image(height, width, symmetry):
    image = torch.arange(2 * height * width).view(2, height, width)
    view = symmetric_view(image, symmetry)
    assert view.shape == ((2, width, height) if symmetry[2] else (2, height, width))
    assert torch.equal(undo_symmetry(view, symmetry), image)


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    model = RoadClassifier("strided", mean=[120.0] * 3, std=[60.0] * 3, context=8)
    with_statistics(model.network)
    return model.eval()


@pytest.fixture
def tiles():
    return torch.rand(5, 3, 112, 112, generator=torch.Generator().manual_seed(1)) * 255


@torch.no_grad()
def test_probabilities_are_means_over_the_views(classifier, tiles):
    plain = classifier(tiles)[:, 0].double().sigmoid()
    assert torch.equal(classifier.probability(tiles), plain)
    classifier.hparams["tta"] = True
    parts = [classifier(torch.from_numpy(view)) for view in reference_views(tiles.numpy())]
    expected = torch.stack([part[:, 0].double().sigmoid() for part in parts]).mean(0)
    found = classifier.probability(tiles)
    assert torch.allclose(found, expected, rtol=0, atol=1e-7)
    assert torch.equal(found, classifier.predict_step((tiles, torch.zeros(5)), 0))
    assert (found - plain).abs().max() > 1e-4


@torch.no_grad()
def test_tests_use_the_mean_and_validation_does_not(classifier, tiles):
    labels = torch.zeros(5)
    plain = classifier(tiles)[:, 0]
    classifier.hparams["tta"] = True
    classifier.validation_step((tiles, labels), 0)
    assert torch.equal(classifier.logits.compute(), plain)
    classifier.logits.reset()
    classifier.test_step((tiles, labels), 0)
    found = classifier.logits.compute().double().sigmoid()
    assert torch.allclose(found, classifier.probability(tiles), rtol=0, atol=1e-6)


def test_a_mean_does_not_depend_on_the_orientation_of_the_tile(classifier, tiles):
    classifier.hparams["tta"] = True
    with torch.no_grad():
        one, other = (classifier.probability(each) for each in (tiles, tiles.rot90(1, (2, 3))))
    assert torch.allclose(one, other, rtol=0, atol=1e-6)


def test_checkpoints_keep_it_and_older_ones_lack_it(classifier, tmp_path):
    del classifier.hparams["tta"]
    path = saved(tmp_path / "old.ckpt", classifier)
    assert RoadClassifier.load_from_checkpoint(path).hparams["tta"] is False
    averaging = RoadClassifier.load_from_checkpoint(path, tta=True)
    assert averaging.hparams["tta"] is True
    path = saved(tmp_path / "new.ckpt", averaging)
    assert RoadClassifier.load_from_checkpoint(path).hparams["tta"] is True
