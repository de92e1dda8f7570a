"""Tiles with a margin of the pixels around them."""

import numpy as np
import pytest
import torch

from vbp_lightning.data.datasets.scene import DataError
from vbp_lightning.data.imagery.raster import Reading
from vbp_lightning.data.tiles.augmentation import Augmentation
from vbp_lightning.data.tiles.tile import Tile
from vbp_lightning.explaining.image_inputs import CutImages


def padded_scene(datamodule, name, context):
    """A scene as float with a wide margin that holds the fill value of nodata: rounded means."""
    scene = next(item for item in datamodule.source() if item.name == name)
    import rasterio

    with rasterio.open(scene.image) as raster:
        image = raster.read().astype(np.float32)
    fill = np.round(datamodule.mean).astype(np.float32)
    wide = np.empty((3, 64 + 2 * context, 80 + 2 * context), np.float32)
    wide[...] = fill[:, None, None]
    wide[:, context:-context, context:-context] = image
    return wide


@pytest.mark.parametrize("memory", [2.0, 1e-5], ids=["in memory", "streamed"])
def test_tiles_hold_the_pixels_around_them_and_the_mean_beyond_the_scene(make_datamodule, memory):
    made = make_datamodule(context=24, memory=memory, cover_edges=True)
    made.setup()
    tiles = made.tiles_of("val")
    pixels = made.read_tiles(tiles)
    assert pixels.shape == (len(tiles), 3, 64, 64)
    for item, tile in zip(tiles, pixels, strict=True):
        wide = padded_scene(made, item.tile.scene, 24)
        row, col = item.tile.row, item.tile.col
        assert np.array_equal(tile.numpy(), wide[:, row : row + 64, col : col + 64])


def test_labels_shares_and_grids_are_those_of_the_tile_alone(make_datamodule):
    plain, wide = make_datamodule(), make_datamodule(context=8)
    plain.setup()
    wide.setup()
    for split in ("train", "val", "test"):
        assert list(wide.tiles_of(split)) == list(plain.tiles_of(split))
    assert wide.counts == plain.counts


def test_loaders_give_the_tiles_of_plain_ones_in_their_middle(make_datamodule, attach):
    plain, wide = make_datamodule(seed=3), make_datamodule(seed=3, context=8)
    for made in (plain, wide):
        made.setup()
        attach(made)
    for loader in ("train_dataloader", "val_dataloader"):
        for (small, labels), (large, same) in zip(
            getattr(plain, loader)(), getattr(wide, loader)(), strict=True
        ):
            assert large.shape[2:] == (32, 32)
            assert torch.equal(large[:, :, 8:-8, 8:-8], small)
            assert torch.equal(labels, same)


def test_road_masks_cover_the_same_pixels_as_tiles(make_datamodule):
    plain, wide = make_datamodule(), make_datamodule(context=8)
    plain.setup()
    wide.setup()
    scene = plain.tiles_of("val")[0].tile.scene
    inner, corner = Tile(scene, 16, 32), Tile(scene, 0, 0)
    masks = wide.read_road_masks([inner, corner])
    assert torch.equal(masks[:, 8:-8, 8:-8], plain.read_road_masks([inner, corner]))
    around = [Tile(scene, row, col) for row in (8, 24) for col in (24, 40)]
    quarters = plain.read_road_masks(around).view(2, 2, 16, 16)
    assert torch.equal(masks[0], quarters.permute(0, 2, 1, 3).reshape(32, 32))
    assert not masks[1, :8].any()
    assert not masks[1, :, :8].any()


def test_training_and_held_out_tiles_share_no_pixel_of_their_context(make_datamodule):
    made = make_datamodule(
        split_by="block",
        block_size=32,
        block_unit="px",
        context=8,
        augment=Augmentation(jitter=2),
        val_fraction=0.2,
        test_fraction=0.2,
    )
    scan = made.scan()
    used = {split: set() for split in ("train", "held out")}
    for split in ("train", "val", "test"):
        for scene, row, col in scan.tiles[split].positions.tolist():
            reach = 8 + (2 if split == "train" else 0)
            pixels = {
                (scene, y, x)
                for y in range(row - reach, row + 16 + reach)
                for x in range(col - reach, col + 16 + reach)
            }
            used["train" if split == "train" else "held out"] |= pixels
    assert used["held out"]
    assert not used["train"] & used["held out"]


def test_a_margin_below_the_context_is_refused(listed):
    from vbp_lightning.data.datamodule import RoadTileDataModule

    with pytest.raises(DataError, match=r"block_margin=30: .*data\.context = 40"):
        RoadTileDataModule(listed(()), block_margin=30, context=8, augment=Augmentation(jitter=24))
    with pytest.raises(DataError, match=r"data\.context=-8: must be at least 0"):
        RoadTileDataModule(listed(()), context=-8)


def test_tiles_of_an_unlabelled_image_have_the_same_margin(make_datamodule):
    made = make_datamodule(context=24)
    made.setup()
    scene = next(item for item in made.source() if item.name == "val0")
    images = CutImages(Reading(), tuple(made.mean), 16, context=24)
    tiles = images.places(scene.image)
    assert torch.equal(images.read(scene.image, tiles), made.read_tiles(tiles))
