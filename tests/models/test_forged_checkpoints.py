"""Checkpoints that are damaged or forged: one line, no code, no memory beyond the file's size."""

import io
import pickle
import resource
import zipfile
from copy import deepcopy
from math import inf, nan

import pytest
import torch

from tests.helpers.checkpoints import saved
from vbp_lightning import RoadClassifier
from vbp_lightning.models import CheckpointError, read_checkpoint, tensor_file
from vbp_lightning.models.fine_tuning import initialize_from
from vbp_lightning.models.tensor_file import ForeignContentError, UnreadableError, load_tensors

SETTINGS = {"mean": [100.0] * 3, "std": [40.0] * 3, "splits": {"a": "train"}, "data": {}}
FIRST = "network.block0.0.weight"


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("whole") / "best.ckpt"
    return torch.load(saved(path, RoadClassifier(**SETTINGS)), weights_only=True)


@pytest.fixture
def refused(content, tmp_path):
    """Saves a changed copy of a checkpoint and returns the one line that refuses it."""

    def refuse(change):
        forged = deepcopy(content)
        change(forged)
        torch.save(forged, path := tmp_path / "forged.ckpt")
        with pytest.raises(CheckpointError) as caught:
            RoadClassifier.load_from_checkpoint(path)
        (line,) = caught.value.lines
        assert line.startswith(str(path))
        assert "(ckpt)" in line
        assert "\n" not in line
        assert len(line) < 1500
        with pytest.raises(CheckpointError):
            initialize_from(RoadClassifier(), path)
        return line

    return refuse


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def shared(levels):
    value = []
    for _ in range(levels):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("architecture", value) for value in ("dilated", None, 5, ["strided"])),
        *(("head", value) for value in ("", {"a": 1})),
        *(("mean", value) for value in ([], None, "abc", [1.0], [nan] * 3, [inf] * 3, [1e300] * 3)),
        *(("mean", value) for value in ([True] * 3, [0.0] * 20_000, {1: 2}, torch.ones(3))),
        *(("std", value) for value in ([0.0] * 3, [-1.0] * 3, [1.0] * 4)),
        *(("low", value) for value in ([1.0], "x")),
        *(("context", value) for value in (-8, 7, 8 * 10**9, 1.5, True, "8")),
        *(("data", value) for value in (5, "x", [1], {1: 2})),
        *(("splits", value) for value in ("a", {"a": "else"}, {"a": [[0, 0, 5]]}, {5: "train"})),
        *(
            ("splits", value)
            for value in ({"a": [[0, 0, -1, 5, "val"]]}, {"a": [0]}, [["a", "val"]])
        ),
        *(("digests", value) for value in ({"a": 5}, ["a"], 1)),
        *(("imagery", value) for value in ({}, {"tile_size": 96}, "x")),
        *(("tta", value) for value in (None, "yes", 2)),
        *(("learning_rate", value) for value in (nan, "fast", None)),
        *(("format", value) for value in ("2", None, 2.5, [2])),
        *(("added", value) for value in (1, "\x1b[31m", "x" * 100_000)),
        *(("data", value) for value in ({"a": nested(200)}, {"a": 1 << 70})),
    ],
)
def test_a_hyperparameter_of_another_type_or_range_is_named(refused, key, value):
    line = refused(lambda forged: forged["hyper_parameters"].update({key: value}))
    if key not in ("data", "mean", "added"):
        assert f"hyper_parameters.{key}" in line or "one value for each band" in line


@pytest.mark.parametrize("name", ["mean", "std", "architecture", "head"])
def test_a_missing_hyperparameter_is_named(refused, name):
    line = refused(lambda forged: forged["hyper_parameters"].pop(name))
    assert f"hyper_parameters.{name}: is not set" in line


@pytest.mark.parametrize(
    "weights",
    [
        *(
            torch.zeros(8, 3, 1, 1, dtype=kind)
            for kind in (torch.int8, torch.bool, torch.complex64)
        ),
        *(torch.zeros(8, 3), torch.zeros(8, 4, 1, 1), torch.zeros(0), torch.zeros(())),
        *(torch.zeros(1).expand(1 << 40), torch.empty(1 << 40, device="meta")),
        *(torch.zeros(8, 3).to_sparse(), None, "weights", 5, [1.0]),
        torch.quantize_per_tensor(torch.ones(8, 3, 1, 1), 0.1, 0, torch.qint8),
    ],
    ids=str,
)
def test_a_tensor_of_another_type_or_shape_is_refused(refused, weights):
    if isinstance(weights, torch.Tensor) and weights.shape == (8, 4, 1, 1):
        with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):  # init_from takes it
            refused(lambda forged: forged["state_dict"].update({FIRST: weights}))
    else:
        refused(lambda forged: forged["state_dict"].update({FIRST: weights}))


@pytest.mark.parametrize("value", [nan, inf, -inf])
@pytest.mark.parametrize("name", [FIRST, "network.prob.bias", "network.normalize.std"])
def test_weights_that_are_not_finite_say_that_the_training_diverged(refused, name, value):
    def change(forged):
        forged["state_dict"][name].view(-1)[0] = value

    assert "1 of its 35 tensors hold numbers that are not finite (ckpt)" in refused(change)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("threshold", 1.5), ("threshold", -0.1)),
        *(("network.normalize.std", 0.0), ("network.block2.1.running_var", -1.0)),
    ],
)
def test_weights_out_of_their_range_are_named(refused, name, value):
    def change(forged):
        forged["state_dict"][name].view(-1)[0] = value

    assert f"state_dict.{name}: must be" in refused(change)


@pytest.mark.parametrize(
    "change",
    [
        lambda forged: forged["state_dict"].update({5: torch.ones(1)}),
        lambda forged: forged["state_dict"].update(more=torch.ones(1)),
        lambda forged: forged["state_dict"].pop("network.prob.bias"),
        lambda forged: forged["hyper_parameters"].update({5: 1}),
        lambda forged: forged.update(state_dict=[]),
        lambda forged: forged.update(epoch="3"),
        lambda forged: forged.update(epoch=1 << 40),
        lambda forged: forged.update(epoch=None),
        lambda forged: forged.update(hyper_parameters=nested(300)),
        lambda forged: forged.clear(),
    ],
)
def test_other_fields_are_checked(refused, change):
    refused(change)


def test_scenes_of_many_parts_and_other_float_types_are_read(content, tmp_path):
    forged = deepcopy(content)
    parts = [[row, 0, 1, 96, "val"] for row in range(1000)]
    forged["hyper_parameters"]["splits"] = {f"s{n}": parts for n in range(20)}
    state = forged["state_dict"]
    half = {key: v.bfloat16() if v.is_floating_point() else v for key, v in state.items()}
    forged["state_dict"] = half
    torch.save(forged, tmp_path / "large.ckpt")
    model = RoadClassifier.load_from_checkpoint(tmp_path / "large.ckpt")
    assert len(model.hparams["splits"]["s19"]) == 1000
    assert torch.equal(model.network.block0[0].weight, half[FIRST].float())


def test_lists_that_hold_each_other_many_times_are_not_followed(refused, monkeypatch):
    monkeypatch.setattr(tensor_file, "_MOST", 50_000)
    refused(lambda forged: forged["hyper_parameters"].update(data={"a": shared(40)}))


class Called:
    """Pickled as a call of a function that weights_only allows."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def test_what_torch_allows_beyond_tensors_is_not_made(tmp_path):
    for value in (Called(bytearray, (1 << 36,)), {1, 2}, Called(complex, (1, 2))):
        torch.save({"a": value}, path := tmp_path / "called.pt")
        with pytest.raises(ForeignContentError):
            load_tensors(path)


def test_a_compressed_archive_is_not_unpacked(content, tmp_path):
    plain, path = io.BytesIO(), tmp_path / "bomb.ckpt"
    torch.save(content, plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
        new.writestr("archive/data/more", bytes(1 << 26))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"bomb\.ckpt: cannot be read"):
        read_checkpoint(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 16


def test_a_huge_sparse_file_is_not_read(tmp_path):
    path = tmp_path / "huge.ckpt"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match=r"huge\.ckpt: has more than 1024 MiB"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x05\x06" + bytes(18),
        b"x" * 500,
        pickle.dumps([]),
        b"\x80\x02]q\x00h\x09.",
        bytes(90),
    ],
)
def test_other_files_cannot_be_read(tmp_path, data):
    (tmp_path / "other.pt").write_bytes(data)
    with pytest.raises((UnreadableError, ForeignContentError)):
        load_tensors(tmp_path / "other.pt")


def test_each_flipped_byte_is_noticed_or_changes_nothing(content, tmp_path):
    torch.save(content, path := tmp_path / "flipped.ckpt")
    whole = path.read_bytes()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        flips = torch.randint(len(whole), (40,)).tolist()
    for place in flips:
        own = bytearray(whole)
        own[place] ^= 0x10
        path.write_bytes(own)
        try:
            read = read_checkpoint(path)
        except CheckpointError:
            continue
        for name, tensor in content["state_dict"].items():
            assert torch.equal(read["state_dict"][name], tensor), (place, name)


@pytest.mark.parametrize("old_format", [False, True])
def test_state_dicts_of_both_formats_of_torch_are_read(tmp_path, old_format):
    state = {"a": torch.arange(6.0).view(2, 3), "b": torch.nn.Parameter(torch.ones(2))}
    content = {"state_dict": state, "epoch": 3, "dtype": torch.float32}
    path = tmp_path / "weights.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not old_format)
    read = load_tensors(path)
    assert read["epoch"] == 3
    assert all(torch.equal(read["state_dict"][key], state[key]) for key in state)
