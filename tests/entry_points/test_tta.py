"""``tta=true`` of ``train.py`` and ``explain.py``: P(road) averaged over symmetric views."""

import csv
import json

import numpy as np
import pytest
import rasterio
import torch

from tests.helpers.checkpoints import saved
from tests.helpers.nets import with_statistics
from vbp_lightning import RoadClassifier
from vbp_lightning.data import RoadTileDataModule
from vbp_lightning.data.tiles.splits import KnownSplits


@torch.no_grad()
def mean_of_views(model, tiles):
    views = [
        torch.rot90(each, quarters, (2, 3))
        for each in (tiles, tiles.flip(3))
        for quarters in range(4)
    ]
    return torch.stack([model(view)[:, 0].double().sigmoid() for view in views]).mean(0)


def test_a_finished_run_is_evaluated_again(call, tiny, tmp_path):
    assert call("train.py", *tiny, "hydra.run.dir=run").returncode == 0
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    plain = RoadClassifier.load_from_checkpoint(best)
    first = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert call("train.py", "resume=run", "tta=true").returncode == 0
    model = RoadClassifier.load_from_checkpoint(best)
    assert model.hparams["tta"]
    for name, weights in plain.network.state_dict().items():
        assert torch.equal(weights, model.network.state_dict()[name])

    settings = model.hparams
    splits = KnownSplits.of_checkpoint(settings["splits"], settings["digests"])
    datamodule = RoadTileDataModule.from_config(settings["data"], splits)
    datamodule.setup()
    rows = list(csv.DictReader((tmp_path / "run" / "predictions.csv").open()))
    threshold = float(model.threshold)
    found = {}
    for split in ("val", "test"):
        tiles = datamodule.tiles_of(split)
        expected = mean_of_views(plain, datamodule.read_tiles(list(tiles)))
        own = [row for row in rows if row["split"] == split]
        found[split] = torch.tensor([float(row["probability"]) for row in own])
        assert torch.allclose(found[split].double(), expected, rtol=0, atol=1e-6)
        assert [int(row["called_road"]) for row in own] == (expected >= threshold).int().tolist()
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["threshold"] == threshold
    labels = torch.tensor(datamodule.tiles_of("val").labels)
    accuracies = [
        ((found["val"] >= cut)[labels == 1].double().mean()
        + (found["val"] < cut)[labels == 0].double().mean()) / 2
        for cut in found["val"]
    ]  # fmt: skip
    assert metrics["val/balanced_accuracy"] == pytest.approx(float(max(accuracies)))

    assert call("train.py", "resume=run", "tta=false").returncode == 0
    again = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert again == pytest.approx(first, abs=1e-6)


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    model = RoadClassifier("strided", mean=[120.0] * 3, std=[60.0] * 3)
    with_statistics(model.network)
    return saved(tmp_path / "a.ckpt", model)


def test_explanations_show_the_mean_and_keep_their_masks(call, checkpoint, image, tmp_path):
    settings = (f"ckpt={checkpoint}", f"input={image}", "tiles=4")
    assert call("explain.py", *settings, "output=plain").returncode == 0
    finished = call("explain.py", *settings, "output=mean", "tta=true")
    assert finished.returncode == 0
    assert finished.stdout.count("was chosen with tta=false") == 1
    plain, mean = (np.load(tmp_path / name / "attribution.npz") for name in ("plain", "mean"))
    assert np.array_equal(plain["visual_backprop"], mean["visual_backprop"])
    model = RoadClassifier.load_from_checkpoint(checkpoint)
    expected = mean_of_views(model, torch.from_numpy(mean["tiles"]))
    assert np.allclose(mean["probabilities"], expected, rtol=0, atol=1e-7)
    assert np.abs(mean["probabilities"] - plain["probabilities"]).max() > 1e-5

    averaging = RoadClassifier.load_from_checkpoint(checkpoint, tta=True)
    own = saved(tmp_path / "b.ckpt", averaging)
    finished = call("explain.py", f"ckpt={own}", *settings[1:], "output=own")
    assert "tta" not in finished.stdout
    stored = np.load(tmp_path / "own" / "attribution.npz")
    assert np.array_equal(stored["probabilities"], mean["probabilities"])


@pytest.mark.parametrize("mode", ["tiles", "seamless"])
def test_maps_of_means_are_not_taken_for_others(call, checkpoint, image, tmp_path, mode):
    settings = (f"ckpt={checkpoint}", f"input={image}", "task=scene", f"mode={mode}", "output=maps")
    assert call("explain.py", *settings).returncode == 0
    refused = call("explain.py", *settings, "tta=true")
    assert refused.returncode == 1
    assert "TTA" in refused.stderr
    with rasterio.open(tmp_path / "maps" / "scene_visual_backprop.tif") as raster:
        mask = raster.read(1)
    assert call("explain.py", *settings, "tta=true", "overwrite=true").returncode == 0
    with rasterio.open(tmp_path / "maps" / "scene_visual_backprop.tif") as raster:
        assert np.array_equal(mask, raster.read(1), equal_nan=True)


@pytest.mark.parametrize("script", ["train.py", "explain.py"])
def test_other_values_are_refused(call, checkpoint, tiny, script):
    own = tiny if script == "train.py" else (f"ckpt={checkpoint}",)
    finished = call(script, *own, "tta=8")
    assert finished.returncode == 1
    (line,) = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: tta=8: must be true or false")
