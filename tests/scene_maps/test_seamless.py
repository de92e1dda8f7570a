"""Seamless maps against one pass over the whole scene, implemented independently."""

import numpy as np
import pytest
import torch

from tests.helpers.nets import with_statistics
from vbp_lightning.attribution import UPSAMPLINGS, VisualBackProp
from vbp_lightning.models import RoadNetwork
from vbp_lightning.scene_maps.block_maps import block_maps
from vbp_lightning.scene_maps.output_grid import Block, CellGrid, blocks_of
from vbp_lightning.scene_maps.seamless import SeamlessMapper
from vbp_lightning.scene_maps.tilewise import TileMapper

MEAN, STD = [120.0, 100.0], [40.0, 50.0]


def network(architecture="strided", head="hidden", context=0, seed=0):
    """A network whose batch norms are no identity, like those of a trained one."""
    torch.manual_seed(seed)
    return with_statistics(RoadNetwork(architecture, head, MEAN, STD, context=context))


def seamless_mapper(model, upsampling="deconv", **options):
    return SeamlessMapper(model, len(MEAN), upsampling, context=model.context, **options)


def scene_of(height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(2, height // 16 + 2, width // 16 + 2)).repeat(16, 1).repeat(16, 2)
    noise = rng.normal(size=(2, height, width))
    return (110 + 40 * coarse[:, :height, :width] + 15 * noise).astype(np.float32)


def reader(scene, valid=None):
    """A function that reads windows of an array; nodata and what lies beyond hold the mean."""
    valid = np.ones(scene.shape[1:], bool) if valid is None else valid
    margin = 160
    shape = (len(scene), *(size + 2 * margin for size in scene.shape[1:]))
    wide = np.empty(shape, np.float32)
    wide[...] = np.array(MEAN, np.float32)[:, None, None]
    seen = np.zeros(wide.shape[1:], bool)
    inside = np.s_[margin : margin + scene.shape[1], margin : margin + scene.shape[2]]
    seen[inside] = valid
    wide[:, inside[0], inside[1]][:, valid] = scene[:, valid]

    def read(row, col, height, width):
        place = np.s_[row + margin : row + margin + height, col + margin : col + margin + width]
        return wide[:, place[0], place[1]].copy(), seen[place].copy()

    return read


def map_of_blocks(mapper, read, shape, size):
    grid = CellGrid(shape, mapper.window, mapper.step)
    probability = np.full(grid.cells, np.inf, np.float32)
    mask = np.full(shape, np.inf, np.float32)
    for block in blocks_of(shape, size):
        maps = block_maps(mapper, read, shape, block)
        probability[grid.block_cells(block)] = maps.probability
        mask[block.row : block.row + block.height, block.col : block.col + block.width] = maps.mask
    assert not np.isinf(probability).any()
    assert not np.isinf(mask).any()
    return probability, mask


def one_pass(model, read, shape, upsampling="deconv"):
    """Maps from one pass over the scene, padded to multiples of 8 px and by the context."""
    context = model.context
    height, width = (size + -size % 8 for size in shape)
    pixels, _ = read(-context, -context, height + 2 * context, width + 2 * context)
    whole = torch.from_numpy(np.ascontiguousarray(pixels))[None]
    with torch.no_grad():
        features = whole
        for name, module in model.named_children():
            if name in ("crop", "global_pool"):
                break
            features = module(features)
        cut = context // 8
        features = features[:, :, cut : features.shape[2] - cut, cut : features.shape[3] - cut]
        rows, cols = ((size - 96) // 8 + 1 for size in shape)
        probability = np.empty((rows, cols))
        head = [module for name, module in model.named_children() if name in ("hidden", "prob")]
        for row in range(rows):
            for col in range(cols):
                values = model.global_pool(features[:, :, row : row + 12, col : col + 12])
                values = values.flatten(1)
                for module in head:
                    values = module(values)
                probability[row, col] = values.sigmoid()
    if upsampling is None:
        return probability, None
    mask = VisualBackProp(model, upsampling, fuse=False).attribute(whole, normalize=False)[0, 0]
    own = np.s_[context : context + shape[0], context : context + shape[1]]
    return probability, mask.numpy()[own]


def assert_close(found, expected):
    """Asserts equality up to 1e-5 of the maximum."""
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("architecture", "context", "shape"),
    [
        ("strided", 0, (301, 301)),
        ("strided", 16, (240, 317)),
        ("maxpool", 0, (240, 317)),
        ("maxpool", 16, (301, 301)),
    ],
)
def test_blocks_of_every_size_give_what_one_pass_gives(architecture, context, shape):
    model, read = network(architecture, context=context), reader(scene_of(*shape))
    probability, mask = one_pass(model, read, shape)
    rows, cols = probability.shape
    for size in (64, 256, 512):
        found, relevance = map_of_blocks(seamless_mapper(model), read, shape, size)
        assert_close(relevance, mask)
        assert_close(found[6 : 6 + rows, 6 : 6 + cols], probability)
        found[6 : 6 + rows, 6 : 6 + cols] = np.nan
        assert np.isnan(found).all()


@pytest.mark.parametrize("architecture", ["strided", "maxpool"])
def test_large_blocks_agree_with_the_whole_scene(architecture):
    shape = (600, 1104)
    model, read = network(architecture), reader(scene_of(*shape))
    probability, mask = map_of_blocks(seamless_mapper(model), read, shape, 1104)
    for size in (256, 512, 1000):
        found, relevance = map_of_blocks(seamless_mapper(model), read, shape, size)
        assert_close(relevance, mask)
        assert np.array_equal(np.isnan(found), np.isnan(probability))
        assert np.nanmax(np.abs(found - probability)) <= 1e-5 * np.nanmax(probability)


@pytest.mark.parametrize(
    ("architecture", "upsampling"),
    [*(("maxpool", name) for name in UPSAMPLINGS), ("strided", "deconv"), ("strided", "bilinear")],
)
def test_every_upsampling_is_local(architecture, upsampling):
    shape = (300, 264)
    model, read = network(architecture), reader(scene_of(*shape))
    _, expected = one_pass(model, read, shape, upsampling)
    _, found = map_of_blocks(seamless_mapper(model, upsampling), read, shape, 104)
    assert_close(found, expected)


@pytest.mark.parametrize("architecture", ["strided", "maxpool"])
def test_average_pooling_slides_as_well(architecture):
    shape = (200, 200)
    model, read = network(architecture, "gap"), reader(scene_of(*shape))
    probability, _ = one_pass(model, read, shape, None)
    found, _ = map_of_blocks(seamless_mapper(model), read, shape, 96)
    assert_close(found[6:20, 6:20], probability)


@pytest.mark.parametrize("architecture", ["strided", "maxpool"])
@pytest.mark.parametrize(
    ("context", "tta", "shape"),
    [(8, False, (155, 178)), (16, False, (155, 178)), (8, True, (107, 130))],
)
def test_tiles_and_scenes_give_the_same_with_context(architecture, context, tta, shape):
    model = network(architecture, context=context)
    read = reader(scene_of(*shape))
    seamless, _ = map_of_blocks(seamless_mapper(model, tta=tta), read, shape, 96)
    by_tile = TileMapper(model, 8, context=context, tta=tta)
    tiles, _ = map_of_blocks(by_tile, read, shape, 256)
    assert_close(np.nan_to_num(tiles), np.nan_to_num(seamless))
    assert np.isfinite(tiles).sum() == np.prod([(side - 96) // 8 + 1 for side in shape])


@pytest.mark.parametrize(
    ("architecture", "shape"), [("strided", (155, 178)), ("maxpool", (96, 200))]
)
def test_test_time_augmentation_averages_the_maps_of_symmetric_scenes(architecture, shape):
    """For scenes whose sides are multiples of 8 px; in blocks and in one pass."""
    height, width = (size - size % 8 for size in shape)
    model, scene = network(architecture), scene_of(height, width)
    views = []
    for mirrored in (scene, scene[:, :, ::-1]):
        for quarters in range(4):
            turned = np.rot90(mirrored, quarters, (1, 2))
            found, _ = one_pass(model, reader(turned), turned.shape[1:], None)
            found = np.rot90(found, -quarters)
            views.append(found if mirrored is scene else found[:, ::-1])
    plain = seamless_mapper(model)
    averaged = seamless_mapper(model, tta=True)
    for size in (64, 256):
        _, mask = map_of_blocks(plain, reader(scene), (height, width), size)
        found, same_mask = map_of_blocks(averaged, reader(scene), (height, width), size)
        assert_close(found[6 : 6 + len(views[0]), 6 : 6 + views[0].shape[1]], np.mean(views, 0))
        assert np.array_equal(mask, same_mask)
    assert np.ptp(views, axis=0).max() > 1e-3


def test_tiles_and_scenes_differ_without_context():
    shape = (155, 178)
    model, read = network("maxpool"), reader(scene_of(*shape))
    seamless, _ = map_of_blocks(seamless_mapper(model), read, shape, 96)
    tiles, _ = map_of_blocks(TileMapper(model, 8), read, shape, 256)
    assert np.nanmax(np.abs(tiles - seamless)) > 1e-3


@pytest.mark.parametrize("architecture", ["strided", "maxpool"])
def test_a_constant_scene_gives_a_constant_interior(architecture):
    shape = (256, 256)
    scene = np.full((2, *shape), 137, np.float32)
    model = network(architecture)
    mapper = seamless_mapper(model, "deconv_normalized")
    probability, mask = map_of_blocks(mapper, reader(scene), shape, 128)
    inner = mask[32:-32, 32:-32]
    assert np.ptp(inner) <= 1e-5 * mask.max()
    # a window's features see 7 px around it, and the zero padding of the scene's border
    assert np.ptp(probability[7:25, 7:25]) <= 1e-6


def test_the_halo_is_no_wider_than_needed_for_the_window():
    shape = (320, 320)
    model, scene = network("maxpool"), scene_of(320, 320)
    block = Block(104, 104, 104, 104)
    halo = seamless_mapper(model).halo
    assert halo == 56
    before = block_maps(seamless_mapper(model), reader(scene), shape, block)
    for reach in (halo, halo - 8):
        changed = scene.copy()
        changed[:, : 104 - reach] += 500
        after = block_maps(seamless_mapper(model), reader(changed), shape, block)
        same = np.abs(after.probability - before.probability).max() <= 1e-6
        assert same == (reach == halo)


def test_nodata_pixels_have_no_values():
    shape = (240, 240)
    valid = np.ones(shape, bool)
    valid[:, 200:] = False
    valid[100:110, 100:110] = False
    read = reader(scene_of(*shape), valid)
    for mapper in (seamless_mapper(network()), TileMapper(network(), 8)):
        probability, mask = map_of_blocks(mapper, read, shape, 128)
        assert np.array_equal(np.isnan(mask), ~valid)
        centres = 8 * np.arange(30)
        rows, cols = np.meshgrid(centres, centres, indexing="ij")
        fits = (rows >= 48) & (rows <= 192) & (cols >= 48) & (cols <= 192)
        # the hole of 10×10 px is small, but all 8×8 px of the cell around (104, 104) are missing
        assert np.isnan(probability[13, 13])
        fits[13, 13] = False
        share = np.array(
            [[(~valid)[r - 48 : r + 48, c - 48 : c + 48].mean() if r >= 48 and c >= 48 else 1
              for c in centres] for r in centres]
        )  # fmt: skip
        assert np.array_equal(~np.isnan(probability), fits & (share <= 0.25))
