"""``python explain.py``, end to end on an untrained network."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.helpers.checkpoints import saved
from tests.helpers.nets import AlexNet
from tests.helpers.programs import started
from vbp_lightning import RoadClassifier
from vbp_lightning.attribution import GradCam


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


METHODS = (
    *(
        "visual_backprop",
        "symmetric_visual_backprop",
        "saliency",
        "guided_backprop",
        "deconvnet",
        "cam",
        "grad_cam",
    ),
    *("hires_cam", "layer_cam", "symmetric_hires_cam", "symmetric_layer_cam", "eigen_cam"),
    *("guided_grad_cam", "occlusion", "integrated_gradients", "smoothgrad", "lrp"),
)


@pytest.fixture
def checkpoint(tmp_path):
    def make(head):
        torch.manual_seed(0)
        model = RoadClassifier("strided", head, mean=[120.0] * 3, std=[60.0] * 3)
        return saved(tmp_path / f"{head}.ckpt", model)

    return make


def test_all_methods(call, checkpoint, image, tmp_path):
    path = checkpoint("gap")
    options = ("method=all", "tiles=4", "output=out", "method.occlusion.stride=16")
    process = call("explain.py", f"ckpt={path}", f"input={image}", *options)
    assert process.returncode == 0, process.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"gap.ckpt", "out", "scene.tif"}
    arrays = np.load(tmp_path / "out" / "attribution.npz")
    assert tuple(arrays["methods"]) == METHODS
    assert all(arrays[name].shape == (4, 96, 96) for name in METHODS)
    expected = GradCam(RoadClassifier.load_from_checkpoint(path)).attribute(
        torch.from_numpy(arrays["tiles"]), 1
    )
    assert np.allclose(arrays["grad_cam"], expected[:, 0].numpy(), atol=1e-5)
    with Image.open(tmp_path / "out" / "attribution.png") as sheet:
        assert sheet.width > len(METHODS) * 128


def test_a_method_that_does_not_suit_the_network(call, checkpoint, image, tmp_path):
    path = checkpoint("hidden")
    here = (f"ckpt={path}", f"input={image}", "tiles=4", "output=out")
    alone = call("explain.py", *here, "method=cam")
    assert alone.returncode == 1
    assert "error: method.cam: " in alone.stderr
    assert "model.head=gap" in alone.stderr
    assert not (tmp_path / "out").exists()
    several = call("explain.py", *here, "method=[saliency,visual_backprop]", "scale=shared")
    assert several.returncode == 0, several.stderr
    assert list(np.load(tmp_path / "out" / "attribution.npz")["methods"]) == [
        "saliency",
        "visual_backprop",
    ]


def test_calls_at_once_write_to_different_folders(checkpoint, tmp_path):
    """A call that fails, and one that shows its settings, leave none."""
    options = (f"ckpt={checkpoint('hidden')}", "task=filters")
    failing = (options[0], "task=scene", f"input={tmp_path / 'none.tif'}")
    calls = (options, options, (*options, "--cfg", "job"), failing)
    programs = [started(tmp_path, "explain.py", *arguments) for arguments in calls]
    ended = [program.finished() for program in programs]
    assert [each.returncode for each in ended] == [0, 0, 0, 1], ended[0].stderr
    written = [Path(each.stdout.split()[0]).parent for each in ended[:2]]
    assert written[0] != written[1]
    folders = sorted((tmp_path / "outputs" / "explain").iterdir())
    assert folders == sorted(tmp_path / folder for folder in written)
    assert all(
        {path.name for path in folder.iterdir()} == {"filters.png", "filters.npz"}
        for folder in folders
    )


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("target=river", "target=river: choose road, non_road or the number of a class"),
        ("scale=both", "scale=both: must be each or shared"),
        ("method.saliency.form=3", "method.saliency.form=3: must be absolute or signed"),
        ("tiles=0", "tiles=0: must be at least 1"),
        ("split=all", "split=all: must be train or val or test"),
        ("device=gpu", "device=gpu: is not available on this machine; choose auto, "),
        ("method=[]", "method=[]: choose a method, a list of methods, or all"),
        ("target=7", "target=7: the network knows classes 0 to 1"),
    ],
)
def test_wrong_options_are_one_line(call, checkpoint, image, option, said):
    path = checkpoint("hidden")
    process = call("explain.py", f"ckpt={path}", f"input={image}", "method=saliency", option)
    assert process.returncode == 1
    assert f"error: {said}" in process.stderr


def test_an_unknown_method_is_refused_with_all_that_there_are(call, checkpoint, image):
    process = call("explain.py", f"ckpt={checkpoint('hidden')}", f"input={image}", "method=kam")
    assert process.returncode == 1
    assert "Could not find 'method/kam'" in process.stderr
    assert set(process.stderr.split()) >= {"all", *METHODS}
    assert "Traceback" not in process.stderr


def test_a_folder_of_images_one_of_them_damaged(call, checkpoint, image, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.tif", "b.tif", "z.tif"):
        (folder / name).write_bytes(image.read_bytes())
    (folder / "b.tif").write_bytes(image.read_bytes()[:20_000])
    (folder / "c.png").write_text("no picture")
    process = call("explain.py", f"ckpt={checkpoint('hidden')}", f"input={folder}", "output=out")
    assert process.returncode == 1
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert any(f"{folder / 'b.tif'}: " in line for line in errors)
    assert any(f"{folder / 'c.png'}: " in line for line in errors)
    arrays = np.load(tmp_path / "out" / "attribution.npz")
    assert set(arrays["scenes"]) == {"a", "z"}


@pytest.fixture
def alexnet(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "alexnet.safetensors"
    save_file(AlexNet().state_dict(), path)
    return ("network._target_=tests.helpers.nets.AlexNet", f"network.weights={path}")


def test_a_custom_model(call, alexnet, image, tmp_path):
    names = "method=[visual_backprop,saliency,grad_cam,occlusion]"
    options = (f"input={image}", names, "target=1", "output=out")
    process = call("explain.py", *alexnet, *options)
    assert process.returncode == 0, process.stderr
    arrays = np.load(tmp_path / "out" / "attribution.npz")
    assert arrays["saliency"].shape == (1, 224, 224)
    torch.manual_seed(0)
    network = AlexNet().eval()
    tile = torch.from_numpy(arrays["tiles"])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    scores = network((tile / 255 - mean[:, None, None]) / std[:, None, None])
    assert np.allclose(arrays["probabilities"], scores.softmax(1)[:, 1].detach(), atol=1e-6)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "network._target_=tests.helpers.nets.vgg",
            "does not fit the network: Error(s) in loading",
        ),
        ("network._target_=tests.helpers.nets.Nothing", "nets.Nothing: cannot be built"),
        ("network._target_=os.getcwd", "os.getcwd: returns a str, not a network"),
        ("network.weights=none.pt", "none.pt: no such file (network.weights)"),
        ("network.weights=evil.pt", "evil.pt: holds more than tensors"),
        ("network.weights=cut.safetensors", "cut.safetensors: cannot be read as weights"),
        ("target=7", "target=7: the network knows classes 0 to 1"),
        ("preprocess.bands=[1,2]", "preprocess: 2 bands, 3 means and 3 deviations"),
        ("ckpt=some.ckpt", "give either a run's checkpoint"),
        ("input=null", "input=null: the data of a custom model are not known"),
    ],
)
def test_errors_of_a_custom_model(call, alexnet, image, tmp_path, override, said):
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"weight": Evil(tmp_path / "ran")}))
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "alexnet.safetensors").read_bytes()[:99])
    process = call("explain.py", *alexnet, f"input={image}", override)
    assert process.returncode == 1
    assert f"{said}" in process.stderr
    assert len([line for line in process.stderr.splitlines() if "error:" in line]) == 1
    assert not (tmp_path / "ran").exists()
    # the folder itself goes when the process ends
    assert not any(path.is_file() for path in (tmp_path / "outputs").rglob("*"))
