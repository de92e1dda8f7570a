"""The network of ``explain.py``: its device, its classes and its layers."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from vbp_lightning import RoadClassifier
from vbp_lightning.errors import UserError
from vbp_lightning.explaining.image_inputs import ResizedImages
from vbp_lightning.explaining.subject import Subject, class_of, device_named, layer_name


@pytest.fixture
def available(monkeypatch):
    """Sets the devices that torch reports in addition to the CPU."""

    def set_to(*names):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in names)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in names)

    return set_to


@pytest.mark.parametrize(("there", "chosen"), [((), "cpu"), (("mps",), "mps"), (("cuda",), "cuda")])
def test_auto_is_a_gpu_if_there_is_one(available, there, chosen):
    available(*there)
    assert device_named("auto").type == chosen
    assert device_named("cpu").type == "cpu"
    assert all(device_named(name).type == name for name in there)


@pytest.mark.parametrize("name", ["cuda", "mps", "gpu", "cuda:9", 0])
def test_a_missing_device_is_one_line_with_those_there_are(available, name):
    available()
    with pytest.raises(UserError) as caught:
        device_named(name)
    assert caught.value.lines == (
        f"device={name}: is not available on this machine; choose auto, cpu",
    )


def custom(classes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, classes))
    reader = ResizedImages((1, 2, 3), (0.0,) * 3, None, None)
    return Subject(model, reader, reader.fill, None, "", torch.device("cpu"))


def test_scores_and_probabilities_of_many_tiles():
    subject = custom(3)
    tiles = torch.rand(130, 3, 2, 2)
    expected = tiles.flatten(1) @ subject.model[1].weight.T + subject.model[1].bias
    scores = subject.scores(tiles)
    assert torch.allclose(scores, expected, atol=1e-6)
    assert not scores.requires_grad
    chosen, names = subject.probabilities(tiles, None)
    shares = torch.exp(expected.double()) / torch.exp(expected.double()).sum(1, keepdim=True)
    assert torch.allclose(chosen, shares.max(dim=1).values, atol=1e-6)
    assert names == [f"class {each}" for each in shares.argmax(dim=1).tolist()]
    third, names = subject.probabilities(tiles, 2)
    assert torch.allclose(third, shares[:, 2], atol=1e-6)
    assert set(names) == {"class 2"}
    with pytest.raises(UserError, match=r"^target=3: the network knows classes 0 to 2$"):
        subject.probabilities(tiles, 3)


def test_one_class():
    subject = custom(2)
    assert subject.one_class(1) == 1
    with pytest.raises(UserError, match="target=null: give the class, as a number"):
        subject.one_class(None)
    classifier = RoadClassifier("strided", mean=[9.0] * 3, std=[2.0] * 3)
    of_roads = replace(subject, model=classifier, classifier=classifier)
    assert (of_roads.one_class(None), of_roads.one_class("non_road")) == (1, 0)
    assert not of_roads.knows_its_data
    assert torch.equal(
        of_roads.standardised.raw(torch.ones(1, 3, 2, 2)), torch.full((1, 3, 2, 2), 11.0)
    )


def test_names():
    assert [class_of(each) for each in ("road", "non_road", 7, None)] == [1, 0, 7, None]
    for wrong in ("river", True):
        with pytest.raises(UserError, match=f"^target={wrong}: choose road, non_road or"):
            class_of(wrong)
    assert layer_name("network.block1.0") == "block1.0"
    assert layer_name("network.features.network.0") == "features.network.0"
    assert layer_name("block1.0") == "block1.0"
