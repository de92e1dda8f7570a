"""Checkpoints and weights that a stranger wrote: what ``explain.py`` does with them."""

import json
import struct

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn

from tests.helpers.checkpoints import saved
from vbp_lightning import RoadClassifier
from vbp_lightning.data.synthetic.generator import SyntheticScenes
from vbp_lightning.errors import UserError
from vbp_lightning.explaining import tile_sources
from vbp_lightning.explaining.custom_model import load_weights
from vbp_lightning.explaining.subject import load_subject
from vbp_lightning.explaining.tile_sources import own_data

SYNTHETIC = {"_target_": "vbp_lightning.data.SyntheticScenes", "scenes": 3, "size": 192}
FOLDER = {"_target_": "vbp_lightning.data.PatternScenes", "images": "**/{name}.tif"}
LISTED = {"_target_": "vbp_lightning.data.LabelledImages"}


def classifier(**data):
    return RoadClassifier(mean=[100.0] * 3, std=[40.0] * 3, data=data)


@pytest.fixture(autouse=True)
def _never_set_up(monkeypatch):
    monkeypatch.setattr(tile_sources.RoadTileDataModule, "setup", lambda self: None)


@pytest.mark.parametrize(
    ("root", "source"),
    [
        *((root, FOLDER) for root in ("/", "//", "/usr/..", "/proc", "/proc/self/root", "/dev/fd")),
        ("/tmp/data", LISTED | {"images": "/"}),
        ("/tmp/data", LISTED | {"images": "../../.."}),
    ],
)
def test_no_whole_file_system_is_searched_for_a_checkpoint(root, source):
    with pytest.raises(UserError, match=r"the checkpoint names this .*not searched.*data\.root"):
        own_data(classifier(root=root, source=source), {})


@pytest.mark.parametrize(
    "changes",
    [
        *({"root": root} for root in ("https://a.invalid/b", "s3://a/b", "/vsicurl/http://a/b")),
        {"source": FOLDER | {"labels": "https://a.invalid/roads.geojson"}},
        {"source": FOLDER | {"labels": ["/vsizip//vsicurl/http://a.invalid/b.zip/{name}.shp"]}},
    ],
)
def test_nothing_is_fetched_for_a_checkpoint(changes, tmp_path):
    data = {"root": str(tmp_path), "source": FOLDER} | changes
    with pytest.raises(UserError, match=r"not on this machine.*nothing was fetched"):
        own_data(classifier(**data), {})


def test_procedural_scenes_are_read_but_not_written_where_a_checkpoint_says(tmp_path):
    stranger = classifier(root=str(tmp_path), source=SYNTHETIC)
    with pytest.raises(UserError, match=r"3 of 3 procedural scenes are missing.*data\.root"):
        own_data(stranger, {})
    assert not list(tmp_path.iterdir())
    assert own_data(stranger, {"root": str(tmp_path / "mine")}).source.root == tmp_path / "mine"
    SyntheticScenes(tmp_path, scenes=3, size=192)()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    own_data(stranger, {})
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("scenes", 10**6), ("scenes", 1 << 62), ("size", 10**6), ("workers", 10**9), ("mark", 10**9)],
)
def test_numbers_of_procedural_scenes_are_bounded(name, value, tmp_path):
    source = SYNTHETIC | {name: value}
    with pytest.raises(UserError, match=rf"data\.source\.{name}={value}: must be at most"):
        own_data(classifier(root=str(tmp_path), source=source), {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("tile_size", value) for value in (10**9, 0, "96", 96.5, None)),
        *(("bands", value) for value in ([1.5], {}, [None])),
        *(("nodata", value) for value in (float("nan"), "0", [0])),
        *(("resolution", value) for value in (0, 1e-12, "x")),
        *(("memory", 1e300), ("context", 10**9), ("num_workers", 10**6), ("unknown", 1)),
        *(("source", value) for value in ({"white_area": "x"}, {"white_area": -1}, "x", [1])),
    ],
)
def test_data_settings_are_checked_before_an_image_is_read(name, value, tmp_path):
    path = saved(tmp_path / "a.ckpt", classifier(**{name: value}))
    network = {"_target_": None}
    cfg = OmegaConf.create({"ckpt": str(path), "device": "cpu", "tta": None, "network": network})
    with pytest.raises(UserError) as caught:
        load_subject(cfg)
    assert all(f"{path}: its data settings do not fit" in line for line in caught.value.lines)
    assert f"data.{name}" in str(caught.value)


def test_memory_that_a_checkpoint_claims_is_bounded(tmp_path):
    data = {"root": str(tmp_path), "source": FOLDER, "memory": 500.0}
    assert own_data(classifier(**data), {}).settings.memory == 8


def small():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("0.weight", torch.zeros(2, 3, dtype=torch.int64), "0.weight holds int64"),
        ("0.weight", torch.zeros(2, 3, dtype=torch.complex64), "0.weight holds complex64"),
        ("0.weight", torch.zeros(2, 4), "does not fit the network"),
        ("0.weight", torch.full((2, 3), torch.nan), "1 of its 7 tensors hold numbers"),
        ("1.running_var", torch.full((2,), torch.inf), "1 of its 7 tensors hold numbers"),
        ("more", torch.zeros(1), "does not fit the network"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(tmp_path, suffix, name, value, said):
    state, path = small().state_dict() | {name: value}, tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(state, path)
    with pytest.raises(UserError, match=r"\(network\.weights\)") as caught:
        load_weights(small(), path)
    assert said in caught.value.lines[0]
    assert len(caught.value.lines) == 1


HEADER = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}})


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 1 << 62),
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", len(HEADER)) + HEADER.encode(),
        struct.pack("<Q", 4) + b"[[[[",
        b"",
    ],
)
def test_safetensors_with_a_forged_header_cannot_be_read(tmp_path, data):
    (tmp_path / "weights.safetensors").write_bytes(data)
    with pytest.raises(UserError, match=r"cannot be read as weights \(network\.weights\)"):
        load_weights(small(), tmp_path / "weights.safetensors")


@pytest.mark.parametrize("content", [{5: torch.ones(1)}, {"a": [torch.ones(1)]}, [1], 5, None])
def test_other_content_is_no_state_dict(tmp_path, content):
    torch.save(content, path := tmp_path / "weights.pt")
    with pytest.raises(UserError, match="holds no state dict"):
        load_weights(small(), path)
