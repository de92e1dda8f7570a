"""``python explain.py``, end to end on an untrained network."""

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image

from vbp_lightning import RoadClassifier
from vbp_lightning.attribution import GradCam

METHODS = (
    *("visual_backprop", "saliency", "guided_backprop", "deconvnet", "cam", "grad_cam"),
    *("guided_grad_cam", "occlusion", "integrated_gradients", "smoothgrad"),
)


@pytest.fixture
def checkpoint(tmp_path):
    def make(head):
        torch.manual_seed(0)
        model = RoadClassifier("strided", head, mean=[120.0] * 3, std=[60.0] * 3)
        path = tmp_path / f"{head}.ckpt"
        torch.save(
            {
                "state_dict": model.state_dict(),
                "hyper_parameters": dict(model.hparams),
                "pytorch-lightning_version": "2.6.0",
            },
            path,
        )
        return path

    return make


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (3, 200, 200), dtype=np.uint8)
    path = tmp_path / "scene.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=200, height=200, count=3, dtype="uint8"
    ) as raster:
        raster.write(pixels)
    return path


def test_all_methods(run, checkpoint, image, tmp_path):
    path = checkpoint("gap")
    options = ("method=all", "tiles=4", "output=out", "methods.occlusion.stride=16")
    process = run("explain.py", f"ckpt={path}", f"input={image}", *options)
    assert process.returncode == 0, process.stderr
    arrays = np.load(tmp_path / "out" / "attribution.npz")
    assert tuple(arrays["methods"]) == METHODS
    assert all(arrays[name].shape == (4, 96, 96) for name in METHODS)
    expected = GradCam(RoadClassifier.load_from_checkpoint(path)).attribute(
        torch.from_numpy(arrays["tiles"]), 1
    )
    assert np.allclose(arrays["grad_cam"], expected[:, 0].numpy(), atol=1e-5)
    with Image.open(tmp_path / "out" / "attribution.png") as sheet:
        assert sheet.width > 10 * 128


def test_a_method_that_does_not_suit_the_network(run, checkpoint, image, tmp_path):
    path = checkpoint("hidden")
    here = (f"ckpt={path}", f"input={image}", "tiles=4", "output=out")
    alone = run("explain.py", *here, "method=cam")
    assert alone.returncode == 1
    assert "error: methods.cam: " in alone.stderr
    assert "model.head=gap" in alone.stderr
    assert not (tmp_path / "out").exists()
    several = run("explain.py", *here, "method=[saliency,visual_backprop]", "scale=shared")
    assert several.returncode == 0, several.stderr
    assert list(np.load(tmp_path / "out" / "attribution.npz")["methods"]) == [
        "saliency",
        "visual_backprop",
    ]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("method=kam", "method=kam: choose among visual_backprop, saliency"),
        ("target=river", "target=river: choose road or non_road"),
        ("scale=both", "scale=both: choose each or shared"),
        ("target=7", "methods.saliency: target is 7; the network knows classes 0 to 1"),
    ],
)
def test_faults_are_one_line(run, checkpoint, image, option, said):
    path = checkpoint("hidden")
    process = run("explain.py", f"ckpt={path}", f"input={image}", "method=saliency", option)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert f"error: {said}" in process.stderr
