"""Runs with corrected labels, and the suspects among the labels of a run."""

import csv
import shutil

import pytest

from vbp_lightning.data.datamodule import RoadTileDataModule
from vbp_lightning.data.datasets.scene import SPLITS, DataError
from vbp_lightning.data.tiles.corrections import Correction, Corrections
from vbp_lightning.data.tiles.tile import Label, Tile
from vbp_lightning.explaining.tile_sources import own_data
from vbp_lightning.models import RoadClassifier

SAID = "Corrected labels of train: 0 road, 0 non-road, 1 ignore, 0 unsure"


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def errors(process):
    assert process.returncode == 1, process.stdout
    return [line for line in process.stderr.splitlines() if line.startswith("error: ")]


@pytest.fixture
def corrected(call, tiny, scenes, tmp_path):
    """A finished run with one correction, and the tile of that."""
    source = {"_target_": "vbp_lightning.data.SyntheticScenes", "scenes": 8, "size": 288}
    plain = RoadTileDataModule(source, root=scenes)
    plain.setup()
    item = next(tile for tile in plain.tiles_of("train") if tile.label == Label.NON_ROAD)
    each = Correction("ignore", "a parking place", plain.tile_digests([item])[0])
    Corrections(by_tile={item.tile: each}).write(tmp_path / "new.csv")
    process = call("train.py", *tiny, "data.corrections=new.csv", "hydra.run.dir=run")
    assert process.returncode == 0, process.stderr
    assert f"{SAID}\nTraining tiles left out" in process.stdout
    return plain, item


def test_a_run_keeps_its_corrections_and_its_suspects_are_such_a_file(
    call, tiny, corrected, tmp_path
):
    check_suspects(call, corrected, tmp_path)
    check_corrections(call, tiny, corrected, tmp_path)


def check_corrections(call, tiny, corrected, tmp_path):
    plain, item = corrected
    rows = rows_of(tmp_path / "run" / "tiles.csv")
    place = item.tile.scene, item.tile.row, item.tile.col
    for row in rows:
        if (row["scene"], int(row["row"]), int(row["col"])) == place:
            assert row["label"] == "ignored"
        elif row["scene"] == place[0]:
            apart = max(abs(int(row["row"]) - place[1]), abs(int(row["col"]) - place[2]))
            assert apart >= 96
    assert len(rows) < sum(len(plain.tiles_of(split)) for split in SPLITS)

    # the checkpoint holds the corrections, and the file that it names is not read
    stored = (tmp_path / "new.csv").read_bytes()
    (tmp_path / "new.csv").unlink()
    model = RoadClassifier.load_from_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")
    answers = [tile.answer for tile in own_data(model, {}).tiles_of("train") if tile.answer]
    assert answers == ["ignore"]
    (tmp_path / "other.csv").write_bytes(stored.replace(b",ignore,", b",road,"))
    replaced = own_data(model, {"corrections": str(tmp_path / "other.csv")})
    assert [tile.answer for tile in replaced.tiles_of("train") if tile.answer] == ["road"]
    with pytest.raises(DataError, match=r"gone\.csv.*data\.corrections"):
        own_data(model, {"corrections": str(tmp_path / "gone.csv")})

    # a resumed run goes on with its own, and another content is another run
    for name in ("metrics.json", "corrections.csv"):
        (tmp_path / "run" / name).unlink()
    resumed = call("train.py", "resume=run")
    assert resumed.returncode == 0, resumed.stderr
    assert SAID in resumed.stdout
    assert rows_of(tmp_path / "run" / "tiles.csv") == rows
    same = (*tiny, "data.corrections=new.csv", "hydra.run.dir=run")
    shutil.copy(tmp_path / "other.csv", tmp_path / "new.csv")
    (line,) = errors(call("train.py", *same))
    assert "corrections_sha256 was" in line
    (line,) = errors(call("train.py", "resume=run", "data.corrections=other.csv"))
    assert "is finished with other values of data.corrections" in line
    (tmp_path / "new.csv").write_bytes(stored)
    assert "run is done" in call("train.py", *same).stdout


def check_suspects(call, corrected, tmp_path):
    asked = ("explain.py", "ckpt=run/checkpoints/best.ckpt", "task=suspects", "output=out")
    asked += ("folds=2", "epochs=1")
    judged = call(*asked)
    assert judged.returncode == 0, judged.stderr
    table = tmp_path / "out" / "suspects.csv"
    rows = rows_of(table)
    tiles = rows_of(tmp_path / "run" / "tiles.csv")
    known = {(row["scene"], row["row"], row["col"]): row for row in tiles}
    assert {row["fold"] for row in rows} == {"1", "2"}
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert corrected[1].tile not in [Tile(r["scene"], int(r["row"]), int(r["col"])) for r in rows]
    for row in rows:
        if own := known.get((row["scene"], row["row"], row["col"])):  # not left out of training
            assert (own["label"], own["bounds"]) == (row["label"], row["bounds"])
            assert own["split"] in ("train", "val")
        p = float(row["probability"])
        assert float(row["score"]) == pytest.approx(1 - p if row["label"] == "road" else p)
        assert row["new_label"] == ""
    flagged = [row for row in rows if row["flagged"] == "1"]
    assert f"{sum(row['label'] == 'road' for row in flagged)} of " in judged.stdout
    with pytest.raises(DataError, match="answers nothing"):
        Corrections.read(table)

    # finished folds are used again
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / ".folds").iterdir()}
    assert len(finished) == 2
    content = table.read_bytes()
    table.unlink()
    path = next(iter(finished))
    path.unlink()
    again = call(*asked)
    assert again.returncode == 0, again.stderr
    assert table.read_bytes() == content
    assert {p for p in finished if p.stat().st_mtime_ns != finished[p]} == {path}
