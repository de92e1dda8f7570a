"""Networks of other packages through both programs: trained, resumed, explained, mapped."""

import json

import pytest
import torch
from omegaconf import OmegaConf

from vbp_lightning.models import RoadClassifier

TARGET = "tests.helpers.backbones.residual"
CHOSEN = ("model=custom", f"model.network._target_={TARGET}", "model.network.num_classes=2")


def test_a_network_of_ones_own_goes_through_both_programs(
    call, tiny, with_masks, scenes, image, tmp_path
):
    place = ("hydra.run.dir=run", "callbacks.scores.tiles=4", "trainer.max_epochs=1")
    done = call(
        "train.py", *CHOSEN, *with_masks, *place, "data.tile_size=60", "data.augment.jitter=4"
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "run"
    assert (run / "panels" / "epoch_000.png").is_file()
    assert "explanation/average_precision" in json.loads((run / "metrics.json").read_text())
    stored = OmegaConf.load(run / ".hydra" / "run.yaml")
    assert stored.model.network == {"_target_": TARGET, "num_classes": 2}

    longer = ("resume=run", "trainer.max_epochs=2", f"data.root={scenes}")
    refused = call("train.py", *longer)
    assert refused.returncode == 1
    assert f"add trust={TARGET}" in refused.stderr
    assert "num_classes=2" in refused.stderr
    done = call("train.py", *longer, f"trust={TARGET}")
    assert done.returncode == 0, done.stderr
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 1
    assert OmegaConf.load(run / ".hydra" / "run.yaml").trust is None

    ckpt = "ckpt=run/checkpoints/best.ckpt"
    refused = call("explain.py", ckpt, "output=out")
    assert refused.returncode == 1
    assert f"nothing was run (ckpt): if you trust both, add trust={TARGET}" in refused.stderr
    trusted = (ckpt, f"trust={TARGET}", "device=cpu")
    methods = "method=[visual_backprop,grad_cam,lrp]"
    done = call("explain.py", *trusted, methods, "tiles=2", "output=out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").is_dir()
    done = call("explain.py", *trusted, "task=scene", f"input={image}", "output=maps", "threads=1")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "maps").glob("*.tif"))) >= 2

    fresh = ("hydra.run.dir=finer", "init_from=run/checkpoints/best.ckpt", "callbacks.panels=null")
    done = call("train.py", *CHOSEN, *tiny, *fresh, "data.tile_size=60", "data.augment.jitter=4")
    assert done.returncode == 0, done.stderr
    model = RoadClassifier.load_from_checkpoint("finer/checkpoints/best.ckpt", trust=TARGET)
    assert model.hparams["network"] == {"_target_": TARGET, "num_classes": 2}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("model=custom",), "model.network._target_: is not set; name a callable"),
        ((*CHOSEN, "data.context=8"), "data.context=8: only strided and maxpool crop the margin"),
        (
            ("model=strided", "model.network.depth=3"),
            "model.network: only model=custom takes a network of your own",
        ),
        ((*CHOSEN, "model.weights=''"), "model.weights=: must be the name of a file"),
    ],
)
def test_wrong_settings_end_before_anything_is_read(call, tiny, settings, said):
    ended = call("train.py", *tiny, *settings, "hydra.run.dir=run")
    assert ended.returncode == 1
    assert f"error: {said}" in ended.stderr


def test_a_sweep_over_arguments_of_a_network(call, tiny, tmp_path):
    quick = ("callbacks.panels=null", "callbacks.scores=null", "callbacks.summary=null")
    place = ("hydra.sweep.dir=sweep", "data.augment.jitter=4")
    done = call("train.py", "-m", *CHOSEN, "model.network.width=4,6", *tiny, *quick, *place)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert names == ["model.network.width-4", "model.network.width-6"]
    header = (tmp_path / "sweep" / "summary.csv").read_text().partition("\n")[0]
    assert "model.network.width" in header.split(",")

    (tmp_path / "sweep" / names[0] / "metrics.json").unlink()
    refused = call("train.py", "resume=sweep")
    assert refused.returncode == 1
    assert f"add trust={TARGET}" in refused.stderr
    done = call("train.py", "resume=sweep", f"trust={TARGET}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sweep" / names[0] / "metrics.json").is_file()
    assert names == sorted(each.name for each in (tmp_path / "sweep").iterdir() if each.is_dir())
