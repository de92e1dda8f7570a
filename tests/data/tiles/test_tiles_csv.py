"""tiles.csv."""

import csv

import pytest

from vbp_lightning.data.datasets.scene import SPLITS
from vbp_lightning.data.tiles.tiles_csv import write_tiles


def test_every_tile_reads_back_exactly(datamodule, tmp_path):
    path = tmp_path / "run" / "tiles.csv"
    path.parent.mkdir()
    datamodule.write_tiles(path)
    tiles = [tile for split in SPLITS for tile in datamodule.tiles_of(split)]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["scene", "row", "col", "bounds", "share", "label", "split"]
    assert len(rows) == len(tiles)
    for row, tile in zip(rows, tiles, strict=True):
        assert row["scene"] == tile.tile.scene
        assert (int(row["row"]), int(row["col"])) == (tile.tile.row, tile.tile.col)
        assert tuple(float(edge) for edge in row["bounds"].split()) == tile.bounds
        assert float(row["share"]) == tile.share
        assert row["label"] == {1: "road", 0: "non_road", -1: "ignored"}[tile.label]
        assert row["split"] == tile.split
    assert {row["label"] for row in rows} == {"road", "non_road", "ignored"}


def test_a_failure_leaves_the_older_file(datamodule, tmp_path):
    path = tmp_path / "tiles.csv"
    path.write_text("older")

    def failing():
        yield datamodule.tiles_of("val")[0]
        raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        write_tiles(path, failing())
    assert path.read_text() == "older"
    assert list(tmp_path.glob("*.csv")) == [path]
    assert not list(tmp_path.glob(".*"))
