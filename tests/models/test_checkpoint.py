"""Checkpoints: what is stored, what is refused, what fine-tuning copies."""

import os
import pickle

import pytest
import pytorch_lightning as pl
import torch

from vbp_lightning import RoadClassifier
from vbp_lightning.models import CheckpointError, read_checkpoint
from vbp_lightning.models.fine_tuning import initialize_from


def save(model, path):
    trainer = pl.Trainer(accelerator="cpu", logger=False, barebones=True)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(path)
    return path


def classifier(seed=0, bands=3, **settings):
    torch.manual_seed(seed)
    model = RoadClassifier(
        mean=[100.0] * bands, std=[40.0] * bands, data={"road_share": 0.05}, **settings
    )
    model.threshold.fill_(0.25)
    return model


@pytest.mark.parametrize("architecture", ["strided", "maxpool"])
@pytest.mark.parametrize("head", ["hidden", "gap"])
def test_a_checkpoint_needs_nothing_but_its_path(tmp_path, architecture, head):
    model = classifier(architecture=architecture, head=head, splits={"a": "train"})
    loaded = RoadClassifier.load_from_checkpoint(save(model, tmp_path / "best.ckpt"))
    tiles = torch.rand(2, 3, 96, 96) * 255
    assert torch.equal(loaded(tiles), model.eval()(tiles))
    assert float(loaded.threshold) == 0.25
    assert loaded.hparams["data"] == {"road_share": 0.05}
    assert loaded.hparams["splits"] == {"a": "train"}


class Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_a_checkpoint_with_a_pickled_payload_is_refused_and_runs_nothing(tmp_path):
    path = save(classifier(), tmp_path / "evil.ckpt")
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["data"] = Payload(tmp_path / "was_here")
    torch.save(content, path)
    for load in (RoadClassifier.load_from_checkpoint, read_checkpoint):
        with pytest.raises(CheckpointError, match=r"evil\.ckpt.*refused, nothing was run \(ckpt\)"):
            load(path)
    assert not (tmp_path / "was_here").exists()


def test_a_bare_pickle_is_refused(tmp_path):
    path = tmp_path / "evil.ckpt"
    path.write_bytes(pickle.dumps(Payload(tmp_path / "was_here")))
    with pytest.raises(CheckpointError, match=r"evil\.ckpt"):
        read_checkpoint(path)
    assert not (tmp_path / "was_here").exists()


def test_missing_cut_off_and_unrelated_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.ckpt: no such file \(resume\)"):
        read_checkpoint(tmp_path / "none.ckpt", config_key="resume")
    path = save(classifier(), tmp_path / "cut.ckpt")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"cut\.ckpt: cannot be read"):
        read_checkpoint(path)
    torch.save({"state_dict": {}, "hyper_parameters": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"other\.ckpt: is not a checkpoint of a road"):
        read_checkpoint(tmp_path / "other.ckpt")


def test_a_checkpoint_of_other_code_is_one_line(tmp_path):
    path = save(classifier(), tmp_path / "old.ckpt")
    content = torch.load(path, weights_only=True)
    content["hyper_parameters"]["architecture"] = "dilated"
    torch.save(content, path)
    renamed = tmp_path / "renamed.ckpt"
    content["hyper_parameters"]["architecture"] = "strided"
    content["state_dict"]["network.block9.weight"] = content["state_dict"].pop(
        "network.block0.0.weight"
    )
    torch.save(content, renamed)
    for file in (path, renamed):
        with pytest.raises(CheckpointError, match=r"does not fit this version.*\(ckpt\)") as error:
            RoadClassifier.load_from_checkpoint(file)
        assert len(error.value.lines) == 1
        assert "\n" not in error.value.lines[0]


@pytest.mark.parametrize(
    ("other", "key"),
    [
        ({"architecture": "maxpool"}, "model"),
        ({"head": "gap"}, r"model\.head"),
        ({"bands": 4}, r"data\.bands"),
    ],
)
def test_resuming_with_another_network_names_the_key(tmp_path, other, key):
    checkpoint = read_checkpoint(save(classifier(), tmp_path / "last.ckpt"))
    with pytest.raises(CheckpointError, match=rf"\({key}\)"):
        classifier(**other).on_load_checkpoint(checkpoint)


def test_fine_tuning_takes_all_weights_but_keeps_the_new_normalisation(tmp_path):
    path = save(classifier(seed=1), tmp_path / "best.ckpt")
    model = RoadClassifier(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])
    assert initialize_from(model, path) == f"starting from {path}"
    given = read_checkpoint(path)["state_dict"]
    for name, value in model.state_dict().items():
        kept = "normalize" in name or name == "threshold"
        assert torch.equal(value, given[name]) != kept, name
    assert model.network.normalize.mean.flatten().tolist() == [1.0, 2.0, 3.0]


def test_fine_tuning_on_other_bands_initialises_the_first_layer_and_reports_it(tmp_path):
    path = save(classifier(seed=1), tmp_path / "best.ckpt")
    model = classifier(seed=2, bands=4)
    fresh = model.network.block0[0].weight.clone()
    assert "it had 3 bands, the data has 4" in initialize_from(model, path)
    assert torch.equal(model.network.block0[0].weight, fresh)
    given = read_checkpoint(path)["state_dict"]
    assert torch.equal(model.network.block1[0].weight, given["network.block1.0.weight"])


def test_fine_tuning_from_another_head_names_what_does_not_fit(tmp_path):
    path = save(classifier(head="gap"), tmp_path / "best.ckpt")
    with pytest.raises(CheckpointError, match=r"best\.ckpt.*\(init_from, model\).*network\.hidden"):
        initialize_from(classifier(), path)
