"""``task=scene`` with networks of other kinds in a road classifier."""

import numpy as np
import rasterio
import torch
from torch import nn

from tests.helpers.composed import composed
from tests.helpers.mapping import classifier, noise, write_scene
from vbp_lightning.data.imagery.raster import Reading
from vbp_lightning.explaining.image_inputs import CutImages
from vbp_lightning.explaining.subject import Subject
from vbp_lightning.explaining.tasks import scene


class Gate(nn.Module):
    def forward(self, x):
        return x * x.mean((2, 3), keepdim=True).sigmoid()


def mapped(folder, between, *overrides):
    """The tags of the mask and the values of P(road) of a scene of 150 × 130 px."""
    torch.manual_seed(0)
    model = classifier()
    model.network = nn.Sequential(
        nn.Conv2d(3, 4, 4, 4), between, nn.ReLU(), nn.Conv2d(4, 4, 3, 4, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1),
    ).eval()  # fmt: skip
    fill = (100.0,) * 3
    reader = CutImages(Reading(), fill, tile_size=64)
    subject = Subject(model, reader, fill, model, "abc", torch.device("cpu"))
    image = write_scene(folder / "a.tif", noise((150, 130)))
    (folder / "maps").mkdir(exist_ok=True)
    cfg = composed(
        "explain", "task=scene", f"input={image}", f"output={folder / 'maps'}", "stride=16",
        "quick_look=false", *overrides,
    )  # fmt: skip
    probability, mask, *styles = list(scene.run(cfg, subject))
    assert styles == [probability.with_suffix(".qml"), mask.with_suffix(".qml")]
    with rasterio.open(mask) as dataset:
        tags = dataset.tags()
    with rasterio.open(probability) as dataset:
        return model, tags, dataset.read(1)


def test_a_network_with_another_stride_is_mapped_for_windows_of_its_tile_size(tmp_path, capsys):
    """Blocks are rounded up to the stride of 16 px."""
    _, tags, found = mapped(tmp_path, nn.Identity(), "block=72")
    assert "mode=" not in capsys.readouterr().out
    assert tags["MODE"] == "seamless"
    assert tags["CONTEXT"].endswith("seamless probabilities differ from those of its tiles")
    assert found.shape == (10, 9)
    rows, cols = np.isfinite(found).nonzero()
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (2, 7, 2, 6)


def test_a_network_that_is_not_convolutional_is_mapped_window_by_window(tmp_path, capsys):
    model, tags, found = mapped(tmp_path, Gate())
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == (
        "mode=seamless: 1 (Gate): mean mixes all places of the image; "
        "so the map is computed window by window (mode=tiles)"
    )
    assert (tags["MODE"], tags["STRIDE"], tags["MASK_SCALING"]) == ("tiles", "16", "extremes")
    with rasterio.open(tmp_path / "a.tif") as dataset:
        image = torch.from_numpy(dataset.read().astype(np.float32))
    with torch.no_grad():
        expected = model(image[None, :, 32:96, 16:80]).sigmoid().item()
    np.testing.assert_allclose(found[4, 3], expected, atol=1e-6)
    # the same job with mode=tiles finds its maps, a style that was changed, and one that is missing
    styles = sorted(tmp_path.glob("maps/*.qml"))
    before = styles[1].read_text()
    styles[0].write_text("mine")
    styles[1].unlink()
    mapped(tmp_path, Gate(), "mode=tiles")
    assert "Mpx/s" not in capsys.readouterr().out
    assert (styles[0].read_text(), styles[1].read_text()) == ("mine", before)
