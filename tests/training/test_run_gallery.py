"""Which runs leave a gallery of their validation tiles, and what it is made of."""

from types import SimpleNamespace

import pytest
import torch
from hydra.types import RunMode
from omegaconf import OmegaConf

from tests.helpers.examples import images
from vbp_lightning.attribution import VisualBackProp
from vbp_lightning.files import file_digest
from vbp_lightning.models import RoadClassifier
from vbp_lightning.training import run_gallery


@pytest.fixture
def written(monkeypatch, tmp_path):
    """Gives the arguments with which the gallery of a run is written; None if it is not."""

    def write(mode=RunMode.RUN, tiles=2000, upsampling="deconv", **settings):
        got = []
        monkeypatch.setattr(
            run_gallery.HydraConfig, "get", lambda: SimpleNamespace(mode=mode), raising=True
        )
        monkeypatch.setattr(
            run_gallery, "gallery", lambda *each, **named: got.append((each, named)) or iter([1])
        )
        source = SimpleNamespace(of_data=lambda datamodule, tiles: tiles)
        monkeypatch.setattr(run_gallery, "GallerySource", source)
        data = SimpleNamespace(tiles_of=lambda split: {"val": range(tiles)}[split])
        cfg = OmegaConf.create({"upsampling": {"name": upsampling}, **settings})
        OmegaConf.set_struct(cfg, True)
        model = RoadClassifier()
        pages = [
            *run_gallery.write_run_gallery(cfg, tmp_path, model, data, torch.full((tiles,), 0.25))
        ]
        assert len(pages) == len(got)
        return (model, *got[0]) if got else None

    return write


def test_single_runs_with_few_tiles_leave_one_unless_it_is_turned_off(written):
    assert written() is not None  # an older run, which has no such setting
    for mode in (RunMode.RUN, RunMode.MULTIRUN):
        for tiles in (2000, 2001):
            by_default = mode == RunMode.RUN and tiles == 2000
            assert (written(mode, tiles, gallery=None) is not None) == by_default
            assert written(mode, tiles, gallery=True) is not None
            assert written(mode, tiles, gallery=False) is None


def test_it_shows_the_masks_of_all_upsamplings(written, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    best = tmp_path / "checkpoints" / "best.ckpt"
    best.write_bytes(b"weights")
    model, given, named = written(tiles=7, upsampling=["deconv", "nearest"])
    folder, name, title, source, probabilities, methods = given
    assert (folder, name, title) == (tmp_path, "gallery", f"{tmp_path.name}, split val")
    assert source == range(7)
    assert probabilities.tolist() == [0.25] * 7
    assert named == {"threshold": 0.5, "checkpoint": file_digest(best)}
    tiles = 255 * images(2, 96)
    for upsampling in ("deconv", "nearest"):
        explained = methods.pop(f"VisualBackProp, {upsampling}")(tiles)
        assert torch.equal(explained, VisualBackProp(model, upsampling).attribute(tiles))
    assert not methods
