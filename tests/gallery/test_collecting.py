"""What a gallery shows of tiles, against loops over single tiles."""

import math

import numpy as np
import pytest
import torch
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

from vbp_lightning.data.imagery.extent import PixelGrid
from vbp_lightning.data.tiles.corrections import Correction
from vbp_lightning.data.tiles.tile import Label, LabelledTile, Tile
from vbp_lightning.gallery import collecting
from vbp_lightning.gallery.collecting import GallerySource, Suspicions, gallery, tile_losses
from vbp_lightning.plotting.display import to_rgb

SIZE, MARGIN, COUNT = 48, 8, 70
UTM = PixelGrid(400, 4000, Affine(2, 0, 600_000, 0, -2, 5_300_000), CRS.from_epsg(32632))
NOWHERE = PixelGrid(400, 4000, Affine.identity(), None)


class Tiles:
    """Random tiles and road masks, and the numbers that were read."""

    def __init__(self):
        chance = np.random.default_rng(0)
        side = SIZE + 2 * MARGIN
        self.raw = torch.from_numpy(chance.uniform(0, 255, (COUNT, 3, side, side)).astype("f4"))
        self.roads = np.zeros((COUNT, side, side), bool)
        self.roads[:, 20:24] = True
        self.roads[::5] = False
        self.roads[1] = True  # the label of a whole image
        self.roads[64:] = False  # a batch without road
        self.labels = chance.permutation([1, 0, -1] * 24)[:COUNT]
        self.places = [Tile(f"s{n % 3}", 0, SIZE * n) for n in range(COUNT)]
        self.read = []

    def source(self, grid=UTM, is_labelled=True, **others):
        def numbered(values):
            def read(numbers):
                assert list(numbers) == sorted(numbers)
                return values[list(numbers)]

            return read

        known = [
            LabelledTile(place, (0, 0, 1, 1), 0.25, Label(label), "val")
            for place, label in zip(self.places, self.labels.tolist(), strict=True)
        ]
        return GallerySource(
            self.places,
            lambda number: grid,
            numbered(self.raw),
            lambda numbers: [f"digest {number}" for number in numbers],
            SIZE,
            known if is_labelled else (),
            numbered(self.roads) if is_labelled else None,
            **others,
        )


def brightness(tiles):
    return tiles.mean(dim=1, keepdim=True) - 100  # of both signs


@pytest.fixture
def shown(monkeypatch, tmp_path):
    """Gives the tiles that the writer gets, and their pictures read in two parts."""

    def collect(*arguments, **options):
        got = {}

        def write(folder, name, title, tiles, read, **others):
            got.update(others, tiles=tiles, parts=[read(slice(0, 30)), read(slice(30, None))])
            yield folder / f"{name}.html"

        monkeypatch.setattr(collecting, "write_gallery", write)
        files = gallery(
            *(tmp_path, "gallery", "a title", *arguments),
            **{"threshold": 0.4, "checkpoint": "c", **options},
        )
        assert list(files) == [tmp_path / "gallery.html"]
        return got

    return collect


def slow_map(plane):
    """The 24 × 24 map of a relevance ``(48, 48)``, each of whose pixels is the mean of four."""
    plane = np.maximum(plane, 0)
    small = np.zeros((24, 24))
    low, high = plane.min(), plane.max()
    for row in range(24):
        for col in range(24):
            four = plane[2 * row : 2 * row + 2, 2 * col : 2 * col + 2]
            small[row, col] = ((four - low) / (high - low)).mean()
    return 255 * ((small - small.min()) / (small.max() - small.min())) ** 0.5


def test_each_tile_keeps_its_place_maps_and_pictures(shown):
    data = Tiles()
    probabilities = np.random.default_rng(1).uniform(size=COUNT)
    corrections = {data.places[7]: Correction("unsure", "a track", "digest 7")}
    methods = {"brightness": brightness, "darkness": lambda tiles: -brightness(tiles)}
    got = shown(data.source(corrections=corrections), probabilities, methods)
    tiles, images = got["tiles"], np.concatenate([part.images for part in got["parts"]])
    order = [data.places.index(place) for place in tiles.places]
    assert sorted(order) == list(range(COUNT))
    losses = [
        -1 if label < 0 else -math.log(p if label else 1 - p)
        for p, label in zip(probabilities, data.labels, strict=True)
    ]
    assert [losses[number] for number in order] == sorted(losses, reverse=True)
    own = slice(MARGIN, MARGIN + SIZE)
    assert (images == to_rgb(data.raw)[order][:, own, own]).all()
    roads = np.concatenate([part.roads for part in got["parts"]])
    assert (roads == data.roads[order][:, own, own]).all()
    for name, sign in (("brightness", 1), ("darkness", -1)):
        maps = np.concatenate([part.maps[name] for part in got["parts"]])
        for place, number in enumerate(order):
            plane = sign * brightness(data.raw[number][None])[0, 0, own, own].double().numpy()
            assert np.abs(maps[place] - slow_map(plane)).max() <= 0.51
    for place, number in enumerate(order):
        assert tiles.digests[place] == f"digest {number}"
        assert tiles.probabilities[place] == probabilities[number]
        assert tiles.labels[place] == data.labels[number]
        answer = ("unsure", "a track") if number == 7 else ("", "")
        assert (tiles.answers[place], tiles.notes[place]) == answer
        own_roads = data.roads[number, own, own]
        if own_roads.any() and not own_roads.all():
            plane = np.maximum(brightness(data.raw[number][None])[0, 0, own, own].numpy(), 0)
            assert tiles.on_road[place] == pytest.approx(plane[own_roads].sum() / plane.sum(), 1e-5)
        else:
            assert math.isnan(tiles.on_road[place])
        col = tiles.places[place].col
        assert tuple(tiles.bounds[place]) == (
            *(600_000 + 2 * col, 5_300_000 - 2 * SIZE),
            *(600_000 + 2 * (col + SIZE), 5_300_000),
        )
    assert list(got["metrics"]) == ["val"]
    assert np.isnan(tiles.suspicion).all()
    # the first corner is the upper left one: 9° east is the central meridian, 500 km east
    assert (tiles.corners[:, 0, 0] > 9).all()
    assert (tiles.corners[:, 1, 0] > tiles.corners[:, 0, 0]).all()
    assert (tiles.corners[:, 2, 1] < tiles.corners[:, 1, 1]).all()


def test_images_without_labels_come_by_their_probability(shown):
    data = Tiles()
    probabilities = np.random.default_rng(2).uniform(size=COUNT)
    got = shown(data.source(NOWHERE, is_labelled=False), probabilities, {"b": brightness})
    tiles = got["tiles"]
    assert tiles.probabilities.tolist() == sorted(probabilities.tolist(), reverse=True)
    assert not tiles.is_labelled
    assert got["metrics"] == {}
    assert set(tiles.splits) == {""}
    assert got["parts"][0].roads is None
    assert np.isnan(tiles.corners).all()
    assert np.isnan(tiles.shares).all()
    assert tiles.bounds[0].tolist() == [tiles.places[0].col, SIZE, tiles.places[0].col + SIZE, 0]


def test_suspicions_set_the_order(shown):
    data = Tiles()
    scores = np.random.default_rng(3).uniform(size=COUNT)
    got = shown(data.source(), np.full(COUNT, 0.5), {}, suspicions=Suspicions(scores, scores > 0.9))
    assert got["tiles"].suspicion.tolist() == sorted(scores.tolist(), reverse=True)
    assert got["tiles"].flagged.sum() == (scores > 0.9).sum() > 0
    assert got["tiles"].flagged[: (scores > 0.9).sum()].all()


@given(st.floats(0, 1), st.sampled_from([1, 0, -1]))
def test_the_loss_is_the_cross_entropy(probability, label):
    found = float(tile_losses(np.array([probability]), np.array([label]))[0])
    if label < 0:
        assert math.isnan(found)
    else:
        given_label = probability if label else 1 - probability
        assert found == pytest.approx(-math.log(given_label) if given_label > 1e-300 else found)
        assert 0 <= found < 800
