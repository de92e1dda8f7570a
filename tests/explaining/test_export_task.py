"""``task=export``: files of a network and its mask, and what they return."""

import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.helpers.composed import composed
from tests.helpers.mapping import classifier, noise
from tests.helpers.nets import randomised
from vbp_lightning.attribution import UPSAMPLINGS, VisualBackProp
from vbp_lightning.data.imagery.raster import Reading
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.exported_networks import SceneModel, TileModel
from vbp_lightning.explaining.image_inputs import CutImages
from vbp_lightning.explaining.subject import Subject
from vbp_lightning.explaining.tasks import export
from vbp_lightning.models import RoadClassifier
from vbp_lightning.scene_maps.block_maps import block_maps
from vbp_lightning.scene_maps.output_grid import Block
from vbp_lightning.scene_maps.seamless import SeamlessMapper
from vbp_lightning.scene_maps.split_network import split_network

FILL = (100.0,) * 3


class Joined(nn.Module):
    """Pools by maxima with overlap, enlarges a map, joins it to another one."""

    def __init__(self, enlarges=True):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 1, 1)
        self.enlarges = enlarges
        self.head = nn.Linear(10 if enlarges else 6, 1)

    def forward(self, images):
        low = F.relu(self.first(images))
        high = F.max_pool2d(F.relu(self.second(low)), 3, 2, 1)
        if self.enlarges:
            high = torch.cat([low, F.interpolate(high, scale_factor=2, mode="bilinear")], 1)
        return self.head(F.relu(high).amax((2, 3)))


def subject(network=None, tile_size=32, **settings):
    torch.manual_seed(0)
    model = RoadClassifier(mean=FILL, std=(50.0,) * 3, network=network, **settings)
    model = randomised(model)
    reader = CutImages(Reading(), FILL, tile_size, model.hparams["context"])
    return Subject(model, reader, FILL, model, "abc", torch.device("cpu"))


def exported(folder, its, *overrides):
    folder.mkdir(exist_ok=True)
    cfg = composed("explain", "task=export", f"output={folder}", *overrides)
    (path,) = export.run(cfg, its)
    return path


def images(count, height, width):
    return torch.from_numpy(
        np.stack([noise((height, width), seed=n) for n in range(count)])
    ).float()


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_the_operations_of_tiles_give_the_masks_of_the_method(upsampling):
    """Also in the form that is exported, where no size of a batch may be looked at."""
    network = subject(Joined()).model.network
    model, tiles = TileModel(network, 3, 32, upsampling, tta=False), images(3, 32, 32)
    expected = VisualBackProp(network, upsampling).attribute(tiles)
    for compiling in (False, True):
        with torch.no_grad(), patch("torch.compiler.is_compiling", lambda is_it=compiling: is_it):
            probability, mask = model(tiles)
        assert torch.allclose(probability, network(tiles)[:, 0].sigmoid(), atol=1e-6)
        assert torch.allclose(mask, expected, atol=1e-5)


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_the_operations_of_scenes_give_the_maps_of_a_scene(upsampling):
    """For images of other sizes than that of the graph, one of them a single window."""
    architecture, context = (
        ("maxpool", 8) if upsampling in ("unpool", "bilinear") else ("strided", 0)
    )
    network = classifier(context=context, architecture=architecture).network
    side = 96 + 2 * context
    split = split_network(network, torch.empty(1, 3, side, side))
    model = SceneModel(split, 3, 96, upsampling, context, FILL, tta=False)
    mapper = SeamlessMapper(network, 3, upsampling, context=context)
    for shape in ((96, 96), (104, 136)):
        image = images(1, *shape)[0]
        filled = F.pad(image - 100, [context] * 4) + 100

        def read(row, col, height, width, filled=filled):
            rows, cols = (
                slice(a + context, a + context + b) for a, b in ((row, height), (col, width))
            )
            values = filled[:, rows, cols].contiguous().numpy()
            return values, np.ones(values.shape[1:], bool)

        expected = block_maps(mapper, read, shape, Block(0, 0, *shape))
        for compiling in (False, True):
            with (
                torch.no_grad(),
                patch("torch.compiler.is_compiling", lambda is_it=compiling: is_it),
            ):
                probability, mask = model(image[None])
            assert probability.shape == (1, 1, shape[0] // 8, shape[1] // 8)
            assert np.allclose(probability[0, 0], expected.probability, atol=1e-6, equal_nan=True)
            assert np.isfinite(expected.probability).sum() == (shape[0] // 8 - 11) * (
                shape[1] // 8 - 11
            )
            largest = expected.mask.max()
            assert np.allclose(mask[0, 0] / largest, expected.mask / largest, atol=1e-5)


@pytest.mark.parametrize("scene", [False, True])
def test_the_mean_over_symmetric_views(scene):
    network = classifier().network
    image = images(1, 96, 96)
    expected = np.mean(
        [
            network(image.rot90(k, (2, 3)).flip(flipped)).sigmoid().item()
            for k in range(4)
            for flipped in ([], [3])
        ]
    )
    if scene:
        split = split_network(network, torch.empty(1, 3, 96, 96))
        model = SceneModel(split, 3, 96, "deconv", 0, FILL, tta=True)
    else:
        model = TileModel(network, 3, 96, "deconv", tta=True)
    with torch.no_grad():
        probability, _ = model(image)
    assert abs(probability[0, 0, 6, 6] - expected if scene else probability - expected) < 1e-6


def test_the_global_maximum_is_written_without_its_own_operation():
    """Torch 2.11 and older cannot convert it."""
    operation = torch.ops.aten.adaptive_max_pool2d.default

    class Pools(nn.Module):
        def forward(self, images):
            return F.adaptive_max_pool2d(images, 1), F.adaptive_max_pool2d(images, 2)

    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(Pools(), (images,))
    program = program.run_decompositions(export._DECOMPOSITIONS)
    kept = [node.args[1] for node in program.graph.nodes if node.target is operation]
    assert kept == [[2, 2]]
    for found, expected in zip(program.module()(images), Pools()(images), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_an_archive_of_scenes_takes_any_size(tmp_path):
    network = nn.Sequential(
        nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)
    )
    its = subject(network)
    its.classifier.threshold.fill_(0.25)
    path = exported(tmp_path, its, "format=torch_export", "scene=true", "upsampling=bilinear")
    assert [each.name for each in tmp_path.iterdir()] == ["scene.pt2"]
    extra = {export.METADATA: ""}
    model = torch.export.load(path, extra_files=extra).module()
    for shape in ((36, 36), (48, 60)):
        probability, mask = model(images(2, *shape))
        assert probability.shape[2:] == (shape[0] / 4, shape[1] / 4)
        assert mask.shape == (2, 1, *shape)
    facts = json.loads(extra[export.METADATA])
    assert (facts["threshold"], facts["fill"], facts["tile_size"]) == (0.25, list(FILL), 32)
    assert (facts["upsampling"], facts["tta"], facts["bands"]) == ("bilinear", False, 3)
    assert (facts["checkpoint_sha256"], facts["classes"]) == ("abc", ["non-road", "road"])


def test_scenes_need_a_convolutional_network(tmp_path):
    with pytest.raises(
        UserError, match=r"^scene=true: backbone \(Joined\): upsample_bilinear2d .*"
    ):
        exported(tmp_path, subject(Joined()), "format=torch_export", "scene=true")


def test_a_file_that_gives_other_results_is_not_kept(tmp_path):
    with (
        patch.object(export, "write_torch", lambda model, path, metadata: path.touch()),
        patch.object(
            export, "_torch", lambda path: lambda tiles: (tiles[:, 0, 0, 0].numpy(), tiles)
        ),
        pytest.raises(
            UserError, match=r"tiles\.pt2: is not kept: for \(1, 3, 32, 32\) its results"
        ),
    ):
        exported(tmp_path, subject(Joined(enlarges=False)), "format=torch_export")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("mine", "difference"),
    [([[1, np.nan]], 0), ([[np.nan, 1]], np.inf), ([[1.5, np.nan]], 0.5), ([1], np.inf)],
)
def test_the_largest_difference(mine, difference):
    other = np.array([[1, np.nan]])
    assert export._difference([np.array(mine)], [other], raw=False) == difference
    masks = [np.zeros(1), np.array([3.0, 4.0])], [np.zeros(1), np.array([3.0, 5.0])]
    assert export._difference(*masks, raw=True) == 0.2


def test_missing_packages_are_named(tmp_path):
    there = lambda name: None if name == "onnxruntime" else name  # noqa: E731
    with (
        patch.object(export, "find_spec", there),
        pytest.raises(
            UserError, match=r"needs onnxruntime: .* pip install 'vbp_lightning\[onnx\]'"
        ),
    ):
        exported(tmp_path, subject(Joined()))


def test_the_program_of_the_page_runs_the_exported_model(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    its = subject(Joined(enlarges=False))
    exported(tmp_path / "model", its, "upsampling=deconv")
    tiles = images(5, 32, 32)
    expected = its.classifier.probability(tiles).tolist()
    tiles[0, :, 0, 0], given = 100, tiles.numpy().copy()
    given[0, :, 0, 0] = np.nan
    np.save(tmp_path / "tiles.npy", given)
    page = Path(__file__).parents[2] / "docs" / "deploy.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    assert len([line for line in code.splitlines() if line]) <= 15
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(code, {})
    lines = printed.getvalue().splitlines()
    masks = VisualBackProp(its.model, "deconv").attribute(tiles)
    for number, line in enumerate(lines):
        found = re.fullmatch(
            r"tile (\d): (non-road|road), P\(road\) (\d\.\d{3}), strongest at (\d+), (\d+)", line
        )
        assert found is not None
        assert int(found[1]) == number
        assert (found[2] == "road") == (float(expected[number]) >= 0.5)
        if number:
            assert abs(float(found[3]) - expected[number]) <= 1e-3
        assert masks[number, 0, int(found[4]), int(found[5])] > 1 - 1e-5
    assert len(lines) == 5
