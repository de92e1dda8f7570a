"""Neighbours against a loop over all pairs."""

import numpy as np

from vbp_lightning.inspection.neighbors import nearest

TILES = np.random.default_rng(0).normal(size=(40, 3, 6, 6)).astype(np.float32)
QUERIES = np.array([0, 17, 39])


def by_hand(vectors, query, count):
    distances = [float(np.linalg.norm(vector - vectors[query])) for vector in vectors]
    order = [place for place in np.argsort(distances) if place != query][:count]
    return order, [distances[place] for place in order]


def test_both_spaces():
    flat = TILES.reshape(40, -1)
    pixels = nearest(np.array_split(TILES, 7), TILES[QUERIES], QUERIES, 5)
    features = nearest([flat], flat[QUERIES], QUERIES, 5)
    for found in (pixels, features):
        for place, query in enumerate(QUERIES):
            order, distances = by_hand(flat, query, 5)
            assert found.indices[place].tolist() == order
            assert np.allclose(found.distances[place], distances, atol=1e-4)


def test_an_identical_tile_is_a_neighbour_and_the_tile_itself_is_not():
    doubled = np.concatenate([TILES, TILES[:1]])
    pixels = nearest([doubled], doubled[[0, 40]], np.array([0, 40]), 1)
    assert pixels.indices.tolist() == [[40], [0]]


def test_fewer_tiles_than_neighbors():
    pixels = nearest([TILES[:4]], TILES[2:3], np.array([2]), 9)
    assert pixels.indices.shape == (1, 3)
    assert 2 not in pixels.indices
