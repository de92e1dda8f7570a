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


def best_accuracy(probabilities, labels):
    """The largest balanced accuracy of any threshold."""
    accuracies = [
        (probabilities >= cut)[labels == 1].double().mean()
        + (probabilities < cut)[labels == 0].double().mean()
        for cut in probabilities
    ]
    return float(max(accuracies)) / 2


def test_a_run_is_evaluated_by_the_mean_and_again_without_it(call, tiny, tmp_path):
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    weights = []
    for command, tta in (((*tiny, "hydra.run.dir=run"), True), (("resume=run",), False)):
        process = call("train.py", *command, f"tta={str(tta).lower()}")
        assert process.returncode == 0, process.stderr
        model = RoadClassifier.load_from_checkpoint(best)
        assert model.hparams["tta"] is tta
        weights.append(model.network.state_dict())

        settings = model.hparams
        splits = KnownSplits.of_checkpoint(settings["splits"], settings["digests"])
        datamodule = RoadTileDataModule.from_config(settings["data"], splits)
        datamodule.setup()
        rows = list(csv.DictReader((tmp_path / "run" / "predictions.csv").read_text().splitlines()))
        threshold = float(model.threshold)
        for split in ("val", "test"):
            raw = datamodule.read_tiles(list(datamodule.tiles_of(split)))
            with torch.no_grad():
                plain = model(raw)[:, 0].double().sigmoid()
            expected = mean_of_views(model, raw) if tta else plain
            own = [row for row in rows if row["split"] == split]
            found = torch.tensor([float(row["probability"]) for row in own]).double()
            assert torch.allclose(found, expected, rtol=0, atol=1e-6)
            assert [int(row["called_road"]) for row in own] == (found >= threshold).int().tolist()
            if split == "val":
                labels = torch.tensor(datamodule.tiles_of(split).labels)
                expected_accuracy = best_accuracy(found[labels >= 0], labels[labels >= 0])
        metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
        assert metrics["threshold"] == threshold
        assert metrics["val/balanced_accuracy"] == pytest.approx(expected_accuracy)
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name])


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
