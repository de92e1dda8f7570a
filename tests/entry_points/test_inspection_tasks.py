"""The tasks of ``explain.py`` that inspect the network, end to end on untrained networks."""

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.helpers.checkpoints import saved
from tests.helpers.gallery import payload
from tests.helpers.nets import AlexNet
from vbp_lightning import RoadClassifier, RoadTileDataModule
from vbp_lightning.data.synthetic.generator import SyntheticScenes
from vbp_lightning.data.tiles.corrections import tile_digest
from vbp_lightning.inspection.layers import UnitScore, layer_outputs


@pytest.fixture
def here(tmp_path, image):
    """Overrides: an untrained network, nine tiles of noise, an output folder."""
    torch.manual_seed(0)
    path = saved(tmp_path / "a.ckpt", RoadClassifier("strided", mean=[120.0] * 3, std=[60.0] * 3))
    return (f"ckpt={path}", f"input={image}", "output=out")


def arrays_of(folder, task):
    with Image.open(folder / "out" / f"{task}.png") as sheet:
        assert min(sheet.size) > 100
    arrays = np.load(folder / "out" / f"{task}.npz")
    assert f"tasks.{task}.run" in str(arrays["config"])
    return arrays


def test_feature_maps(call, here, tmp_path):
    process = call("explain.py", *here, "task=feature_maps", "tile=3", "channels=4")
    assert process.returncode == 0, process.stderr
    arrays = arrays_of(tmp_path, "feature_maps")
    model = RoadClassifier.load_from_checkpoint(tmp_path / "a.ckpt")
    expected = layer_outputs(model.network, torch.from_numpy(arrays["tile"])[None])
    assert list(arrays["layers"]) == list(expected)
    for name, values in expected.items():
        assert np.allclose(arrays[name], values[0].numpy(), atol=1e-4), name
    assert call("explain.py", *here, "task=feature_maps", "layer=block2").returncode == 0
    few = arrays_of(tmp_path, "feature_maps")
    assert list(few["layers"]) == ["block2.0", "block2.1", "block2.2"]


def test_filters(call, here, tmp_path):
    assert call("explain.py", here[0], here[2], "task=filters").returncode == 0
    assert arrays_of(tmp_path, "filters")["weights"].shape == (8, 3, 1, 1)
    deeper = call("explain.py", here[0], here[2], "task=filters", "layer=block3", "filters=5")
    assert deeper.returncode == 0, deeper.stderr
    assert str(arrays_of(tmp_path, "filters")["layer"]) == "block3.0"


def test_neighbors(call, here, tmp_path):
    options = (*here, "task=neighbors", "queries=[5,0]", "neighbors=3")
    process = call("explain.py", *options)
    assert process.returncode == 0, process.stderr
    arrays = arrays_of(tmp_path, "neighbors")
    assert arrays["queries"].tolist() == [5, 0]
    assert arrays["tiles"].tolist() == list(range(9))
    assert arrays["labels"].tolist() == [-1] * 9
    with rasterio.open(tmp_path / "scene.tif") as raster:
        scene = raster.read().astype(np.float32)
    corners = zip(arrays["rows"], arrays["cols"], strict=True)
    tiles = np.stack([scene[:, row : row + 96, col : col + 96] for row, col in corners])
    model = RoadClassifier.load_from_checkpoint(tmp_path / "a.ckpt")
    features = layer_outputs(model, torch.from_numpy(tiles))["network.hidden.2"].numpy()
    for space, vectors in (("feature", features), ("pixel", tiles)):
        for rank, query in enumerate((5, 0)):
            distances = np.sqrt(((vectors - vectors[query]) ** 2).reshape(9, -1).sum(axis=1))
            distances[query] = np.inf
            nearest = np.argsort(distances)[:3]
            assert arrays[f"{space}_neighbors"][rank].tolist() == nearest.tolist()
            expected = distances[nearest]
            assert np.allclose(arrays[f"{space}_distances"][rank], expected, rtol=1e-3)


def test_projection(call, here, tmp_path):
    process = call("explain.py", *here, "task=projection", "thumbnails=6")
    assert process.returncode == 0, process.stderr
    arrays = arrays_of(tmp_path, "projection")
    assert arrays["pca"].shape == arrays["tsne"].shape == (9, 2)
    assert len(arrays["cells"]) == 6
    projector = tmp_path / "out" / "projector"
    assert (projector / "projector_config.pbtxt").is_file()
    (metadata,) = projector.rglob("metadata.tsv")
    assert metadata.read_text().splitlines()[0].split("\t")[0] == "label"
    assert len(metadata.read_text().splitlines()) == 10
    assert list(projector.rglob("sprite.png"))


def test_maximal_patches(call, here, tmp_path):
    process = call("explain.py", *here, "task=maximal_patches", "layer=block2", "channels=[1,4]")
    assert process.returncode == 0, process.stderr
    arrays = arrays_of(tmp_path, "maximal_patches")
    assert arrays["receptive_field"].tolist() == [7, 7]
    assert arrays["channels"].tolist() == [1, 4]
    assert (np.diff(arrays["values"]) <= 0).all()
    boxes = arrays["boxes"]
    assert (boxes[..., 2] - boxes[..., 0] == 7).all()


def test_class_model_of_a_class_and_of_a_unit(call, here, tmp_path):
    options = (*here, "task=class_model", "steps=20", "start=noise")
    process = call("explain.py", *options, "target=non_road", "jitter=1", "blur=0.5")
    assert process.returncode == 0, process.stderr
    arrays = arrays_of(tmp_path, "class_model")
    assert len(arrays["scores"]) == len(arrays["penalties"]) == 21
    assert len(arrays["tile_scores"]) == 9
    assert arrays["scores"][-1] > arrays["scores"][0]
    model = RoadClassifier.load_from_checkpoint(tmp_path / "a.ckpt")
    with torch.no_grad():
        score = -float(model(torch.from_numpy(arrays["image"])[None]))
    assert score == pytest.approx(arrays["scores"][-1], abs=1e-3)
    unit = call("explain.py", *options, "layer=block3.1", "unit=5", "position=[3,4]")
    assert unit.returncode == 0, unit.stderr
    arrays = arrays_of(tmp_path, "class_model")
    with torch.no_grad():
        score = UnitScore(model, "network.block3.1", 5, (3, 4))(
            torch.from_numpy(arrays["image"])[None]
        )
    assert float(score) == pytest.approx(arrays["scores"][-1], abs=1e-3)


def test_class_model_beside_the_training_tiles(call, scenes, tmp_path):
    data = RoadTileDataModule(SyntheticScenes(root=scenes, scenes=8, size=288))
    data.setup()
    torch.manual_seed(0)
    model = RoadClassifier("strided", mean=data.mean, std=data.std, data=data.data_config)
    path = saved(tmp_path / "b.ckpt", model)
    # under jitter an untrained network hardly lets one climb, and its scores are small beside λ
    options = (
        "task=class_model",
        "output=out",
        "start=noise",
        "penalty=1e-7",
        "steps=64",
        "jitter=0",
        "blur=0",
    )
    process = call("explain.py", f"ckpt={path}", *options)
    assert process.returncode == 0, process.stderr
    arrays = arrays_of(tmp_path, "class_model")
    labelled = [tile for tile in data.tiles_of("train") if tile.label >= 0]
    assert len(arrays["tile_scores"]) == len(labelled)
    assert arrays["scores"][-1] > np.percentile(arrays["tile_scores"], 99)
    share = (arrays["tile_scores"] < arrays["scores"][-1]).mean()
    assert f"above {share:.2%} of {len(labelled)} train tiles" in process.stdout


def test_fool(call, here, tmp_path):
    process = call("explain.py", *here, "task=fool", "steps=10", "images=1", "probability=0.6")
    assert process.returncode == 0, process.stderr
    arrays = arrays_of(tmp_path, "fool")
    assert len(arrays["names"]) == 2
    model = RoadClassifier.load_from_checkpoint(tmp_path / "a.ckpt")
    with torch.no_grad():
        probabilities = model(torch.from_numpy(arrays["images"])).sigmoid()[:, 0]
    assert ((probabilities >= 0.599) == torch.from_numpy(arrays["reached"])).all()


def test_images_are_as_large_as_a_network_with_context_takes_them(call, here, tmp_path):
    wide = RoadClassifier("strided", mean=[120.0] * 3, std=[60.0] * 3, context=16)
    saved(tmp_path / "a.ckpt", wide)
    options = ("task=class_model", "steps=2", "start=noise")
    alone = call("explain.py", *here, *options)
    assert alone.returncode == 0, alone.stderr
    assert arrays_of(tmp_path, "class_model")["image"].shape == (3, 128, 128)
    # noise and tiles, side by side in one array
    both = call("explain.py", *here, "task=fool", "steps=2", "images=1", "noise=1")
    assert both.returncode == 0, both.stderr
    assert arrays_of(tmp_path, "fool")["images"].shape == (2, 3, 128, 128)


def test_gradient_flow(call, here, tmp_path):
    process = call("explain.py", *here, "task=gradient_flow", "tiles=4")
    assert process.returncode == 0, process.stderr
    arrays = arrays_of(tmp_path, "gradient_flow")
    assert list(arrays["layers"])[-1] == "prob"
    assert arrays["norms"].shape == (len(arrays["layers"]), 4)
    assert np.allclose(arrays["norms"][-1], 1)


@pytest.mark.parametrize("task", ["filters", "feature_maps", "neighbors", "maximal_patches"])
def test_a_custom_model(call, here, tmp_path, monkeypatch, task):
    torch.manual_seed(0)
    path = tmp_path / "alexnet.safetensors"
    save_file(AlexNet().state_dict(), path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.tif", "b.tif", "c.tif"):
        (folder / name).write_bytes((tmp_path / "scene.tif").read_bytes())
    custom = (
        "network._target_=tests.helpers.nets.AlexNet",
        f"network.weights={path}",
        f"input={folder}",
    )
    process = call("explain.py", *custom, f"task={task}", "output=out")
    assert process.returncode == 0, process.stderr
    arrays_of(tmp_path, task)


@pytest.mark.parametrize(
    ("task", "option", "said"),
    [
        ("feature_maps", "layer=blok", "layer is 'blok'; choose one of "),
        ("feature_maps", "tile=99", "tile=99: tiles 0 to "),
        ("feature_maps", "scale=both", "scale=both: must be each or shared"),
        ("filters", "layer=prob", "layer is 'prob'; choose a convolution: "),
        ("neighbors", "queries=[99]", "queries=[99]: give numbers from 0 to 8, or how many"),
        ("maximal_patches", "channels=[99]", "channels has [99]; "),
        ("class_model", "start=grey", "start=grey: must be mean or zero or noise"),
        ("class_model", "target=7", "target is 7; the network knows classes 0 to 1"),
        ("neighbors", "neighbors=0", "neighbors=0: must be at least 1"),
        ("fool", "target=7", "target is 7; the network knows classes 0 to 1"),
        ("fool", "probability=2", "probability is 2; give one between 0 and 1"),
        ("gradient_flow", "target=7", "target is 7; the network knows classes 0 to 1"),
    ],
)
def test_wrong_options_are_one_line(call, here, task, option, said):
    process = call("explain.py", *here, f"task={task}", option)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert f"error: {said}" in process.stderr


def test_the_gallery_of_an_image(call, here, tmp_path):
    process = call("explain.py", *here, "task=gallery", "method=[visual_backprop,saliency]")
    assert process.returncode == 0, process.stderr
    assert process.stdout == "out/gallery.html\n"
    found = payload(tmp_path / "out" / "gallery.html")
    assert [*found["sprites"]["maps"]] == ["visual backprop", "saliency"]
    tiles = found["tiles"]
    with rasterio.open(tmp_path / "scene.tif") as raster:
        scene = raster.read()
    model = RoadClassifier.load_from_checkpoint(tmp_path / "a.ckpt")
    assert found["threshold"] == float(model.threshold)
    places = list(zip(tiles["row"], tiles["col"], strict=True))
    assert sorted(places) == [(row, col) for row in (0, 96, 104) for col in (0, 96, 104)]
    assert tiles["p"] == sorted(tiles["p"], reverse=True)
    for number, (row, col) in enumerate(places):
        pixels = scene[:, row : row + 96, col : col + 96]
        raw = torch.from_numpy(pixels.astype(np.float32))[None]
        assert tiles["p"][number] == pytest.approx(model(raw).sigmoid().item(), abs=1e-6)
        assert tiles["digest"][number] == tile_digest(pixels, np.ones((96, 96), bool))
    assert {*tiles["scene"]} == {"scene"}
    assert {*tiles["label"]} == {*tiles["split"]} == {""}

    again = call("explain.py", "network._target_=torch.nn.Identity", here[1], "task=gallery")
    assert again.returncode == 1
    assert "task=gallery: shows the tiles of a road classifier (ckpt)" in again.stderr
