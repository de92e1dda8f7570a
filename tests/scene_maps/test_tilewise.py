"""Maps of tiles against separately computed tiles, implemented independently."""

import numpy as np
import pytest
import rasterio
import torch

from tests.helpers.mapping import classifier, make_maps, noise, write_scene
from vbp_lightning.attribution import VisualBackProp
from vbp_lightning.scene_maps.tilewise import TileMapper

SHAPE = (170, 210)
STRIDE = 32


def tiles_of(model, image, context):
    """Corners of all windows that fit, their P(road) and their VisualBackProp masks."""
    padding = ((0, 0), (context, context), (context, context))
    wide = np.pad(image.astype(np.float32), padding, constant_values=100)
    size = 96 + 2 * context
    corners = [
        (row, col)
        for row in range(0, SHAPE[0] - 95, STRIDE)
        for col in range(0, SHAPE[1] - 95, STRIDE)
    ]
    found = {}
    for row, col in corners:
        tile = torch.from_numpy(wide[None, :, row : row + size, col : col + size].copy())
        with torch.no_grad():
            probability = model(tile).sigmoid().item()
        mask = VisualBackProp(model, fuse=False).attribute(tile)[0, 0]
        found[row, col] = probability, mask[context : context + 96, context : context + 96].numpy()
    return found


@pytest.mark.parametrize("context", [0, 8])
@pytest.mark.parametrize("blend", ["mean", "centre"])
def test_maps_are_composed_of_the_tiles(tmp_path, context, blend):
    """By a trainer, whose inference mode the masks of a network with context must survive."""
    model = classifier(context=context)
    image = noise(SHAPE)
    path = write_scene(tmp_path / "a.tif", image)
    (job,) = make_maps(
        [path], tmp_path / "out", model, mode="tiles", block=64, scaling="none",
        stride=STRIDE, blend=blend, context=context,
    )  # fmt: skip
    tiles = tiles_of(model, image, context)
    sums, counts = np.zeros(SHAPE), np.zeros(SHAPE)
    nearest, central = np.full(SHAPE, np.inf), np.full(SHAPE, np.nan)
    ties = np.zeros(SHAPE, bool)
    rows, cols = np.indices((96, 96)) - 47.5
    distance = rows**2 + cols**2
    for (row, col), (_, mask) in tiles.items():
        place = np.s_[row : row + 96, col : col + 96]
        sums[place] += mask
        counts[place] += 1
        ties[place] = np.where(distance == nearest[place], True, ties[place])
        nearer = distance < nearest[place]
        ties[place][nearer] = False
        central[place][nearer] = mask[nearer]
        nearest[place][nearer] = distance[nearer]
    with np.errstate(invalid="ignore"):
        expected = sums / counts if blend == "mean" else central
    with rasterio.open(job.mask_path) as raster:
        mask = raster.read(1)
    assert np.array_equal(np.isnan(mask), counts == 0)
    decided = np.isfinite(expected) & (~ties if blend == "centre" else True)
    assert decided.mean() > 0.8
    assert np.abs(mask - expected)[decided].max() <= 1e-4
    with rasterio.open(job.probability_path) as raster:
        probability = raster.read(1)
    assert np.isfinite(probability).sum() == len(tiles)
    for (row, col), (value, _) in tiles.items():
        cell = (row + 48) // STRIDE, (col + 48) // STRIDE  # the first centre lies at 16 px
        assert probability[cell] == pytest.approx(value, abs=1e-5)


def test_an_unknown_blend_is_refused():
    with pytest.raises(ValueError, match="blend is 'max'; choose mean or centre"):
        TileMapper(classifier(), blend="max")
