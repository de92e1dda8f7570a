"""Patches in the colours of the tiles that they were cut from."""

import numpy as np

from vbp_lightning.plotting.display import to_rgb
from vbp_lightning.plotting.picture_grid import patches_to_rgb


def test_patches_have_the_colours_of_their_tiles_and_padding_is_chequered():
    tiles = np.random.default_rng(0).gamma(2, 300, (4, 3, 20, 24)).astype(np.float32)
    tiles[2, 1, 5, 5] = np.nan
    whole = to_rgb(tiles)
    padded = np.full((3, 9, 7), np.nan, np.float32)
    padded[:, 2:, 3:] = tiles[1, :, :7, :4]
    first, second, last = patches_to_rgb([tiles[0, :, 3:8, 4:15], padded, tiles[2]], tiles)
    assert (first == whole[0, 3:8, 4:15]).all()
    assert (second[2:, 3:] == whole[1, :7, :4]).all()
    assert (last == whole[2]).all()
    above = second[:2].astype(int)
    assert {tuple(pixel) for pixel in above.reshape(-1, 3)} == {(150,) * 3, (190,) * 3}
    assert (np.abs(np.diff(above, axis=1)) == 40).all()
    assert patches_to_rgb([], tiles) == []
