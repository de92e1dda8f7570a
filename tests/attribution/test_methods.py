"""What all attribution methods share: inputs, types, contexts, several outputs, copies."""

import copy
import pickle
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from vbp_lightning import attribution
from vbp_lightning.attribution import (
    Cam,
    DeconvNet,
    GradCam,
    GuidedBackprop,
    GuidedGradCam,
    HiResCam,
    IntegratedGradients,
    Lrp,
    Method,
    Occlusion,
    Saliency,
    SmoothGrad,
    SymmetricVisualBackProp,
    UnsupportedNetworkError,
    VisualBackProp,
)
from vbp_lightning.attribution.scores import class_scores, head_of

OPTIONS = {
    "IntegratedGradients": {"steps": 4},
    "Occlusion": {"window": 8, "stride": 8},
    "SmoothGrad": {"samples": 3},
    "SymmetricVisualBackProp": {"skip": 0, "rotations": 2},
    "VisualBackProp": {"weighting": "gradient"},
}
CLASSES = {
    name: each
    for name, each in vars(attribution).items()
    if isinstance(each, type) and issubclass(each, Method) and each is not Method
}
METHODS = [pytest.param(each, OPTIONS.get(name, {}), id=name) for name, each in CLASSES.items()]
every_method = pytest.mark.parametrize(("method", "options"), METHODS)


class Net(nn.Module):
    """A network that every method can explain; ``pack`` makes its output of two heads."""

    def __init__(self, pack=None, act=nn.ReLU):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), act(),
            nn.MaxPool2d(2), nn.Conv2d(6, 5, 3), act(),
        )  # fmt: skip
        self.roads = nn.Linear(5, 3)
        self.houses = nn.Linear(5, 2)
        self.pack = pack
        self.eval()

    def forward(self, x):
        pooled = self.features(x).mean((2, 3))
        if self.pack is None:
            return self.roads(pooled)
        return self.pack(self.roads(pooled), self.houses(pooled))


@cache
def net(pack=None, act=nn.ReLU, dtype=torch.float32):
    """The same network in every test, since each is exported once."""
    return Net(PACKS[pack][0] if pack else None, act).to(dtype)


def images(count=3, size=16):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_every_public_method_is_tested():
    assert len(CLASSES) == 15
    assert set(OPTIONS) <= set(CLASSES)


@every_method
def test_inference_mode_also_with_inputs_made_in_it(method, options):
    model = net()
    expected = method(model, **options).attribute(images(), 1)
    with torch.inference_mode():
        made = method(model, **options).attribute(images().clone(), 1)
    torch.testing.assert_close(made, expected)
    assert not made.is_inference()


@every_method
def test_no_images_give_no_maps(method, options):
    made = method(net(), **options).attribute(images(0), torch.zeros(0, dtype=torch.long))
    assert made.shape == (0, 1, 16, 16)


@every_method
def test_arrays_and_wrong_inputs(method, options):
    made = method(net(), **options)
    expected = made.attribute(images(), 1)
    channels_last = images().permute(0, 2, 3, 1).double().numpy().copy().transpose(0, 3, 1, 2)
    big_endian = images().numpy().astype(">f4")[::-1][::-1]
    for array in (channels_last, big_endian):
        torch.testing.assert_close(made.attribute(array, 1), expected, rtol=1e-5, atol=1e-6)
    wrong = {
        "uint8": (255 * images()).byte().numpy(),
        "int64": (255 * images()).long(),
        r"as inputs\[None\]": images()[0],
        r"\(16, 16\)": images()[0, 0].numpy(),
    }
    for text, inputs in wrong.items():
        with pytest.raises(ValueError, match=rf"^inputs are .*{text}") as caught:
            made.attribute(inputs, 1)
        assert "give (N, C, H, W) floating point" in str(caught.value)
        assert "\n" not in str(caught.value)


def agreement(made, expected):
    return np.corrcoef(made.flatten().double(), expected.flatten().double())[0, 1]


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_nearly_the_same_maps_in_float32(method, options, dtype):
    expected = method(net(), **options).attribute(images(), 1)
    made = method(net(dtype=dtype), **options).attribute(images().to(dtype), 1)
    assert made.dtype is torch.float32
    assert agreement(made, expected) > 0.97
    exact = method(net(dtype=torch.float64), **options).attribute(images().double(), 1)
    assert exact.dtype is torch.float64


@every_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_the_precision_only(method, options, dtype):
    model = net()
    expected = method(model, **options).attribute(images(), 1)
    with torch.autocast("cpu", torch.bfloat16):
        made = method(model, **options).attribute(images().to(dtype), 1)
    assert made.dtype is torch.float32
    assert agreement(made, expected) > 0.97


Pair = namedtuple("Pair", ["roads", "houses"])


@dataclass
class Heads:
    roads: torch.Tensor
    houses: torch.Tensor


torch.export.register_dataclass(Heads)

PACKS = {
    "tuple": (lambda r, h: (r, h), 0),
    "from the end": (lambda r, h: (r, h), -2),
    "list": (lambda r, h: [r, h], 0),
    "dict": (lambda r, h: {"roads": r, "houses": h}, "roads"),
    "named": (Pair, "roads"),
    "index of named": (Pair, 0),
    "dataclass": (Heads, "roads"),
    "nested": (lambda r, h: {"all": (r, h)}, "all.0"),
    "single": (lambda r, h: OrderedDict(roads=r), None),
}


@every_method
@pytest.mark.parametrize("pack", ["tuple", "dataclass"])
def test_one_of_several_outputs_is_explained(method, options, pack):
    head = PACKS[pack][1]
    several, single = method(net(pack), **options), method(net(), **options)
    for target in (None, torch.tensor([0, 2, 1])):
        made = several.attribute(images(), (head, target))
        torch.testing.assert_close(made, single.attribute(images(), target), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match=r"returns (0, 1|roads, houses): give target="):
        several.attribute(images(), 1)


@pytest.mark.parametrize("pack", PACKS)
def test_names_of_outputs(pack):
    make, head = PACKS[pack]
    roads, houses = torch.rand(2, 3), torch.rand(2, 4)
    output = make(roads, houses)
    found, wanted = head_of(output, (head, 2))
    assert found is roads
    assert wanted == 2
    assert torch.equal(class_scores(output, (head, 2)), roads[:, 2])
    for wrong in ("road", 2, -3):
        with pytest.raises(ValueError, match=f"names the output {wrong!r}"):
            head_of(output, (wrong, 0))
    with pytest.raises(ValueError, match="names no output"):
        head_of(None)


@every_method
def test_copies_and_pickles_hold_the_settings_but_no_graph(method, options):
    made = method(net(), **options, chunk=2)
    made.attribute(images(), 1)
    assert len(pickle.dumps(made)) < len(pickle.dumps(made.model)) + 2000
    for copied in (copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert repr(copied) == repr(made)
        assert vars(copied).keys() == vars(method(net(), **options)).keys()
        assert copied.model is not made.model


@pytest.mark.parametrize("method", [Saliency, GuidedGradCam, SymmetricVisualBackProp])
def test_a_copy_of_a_method_explains_its_own_copy_of_the_network(method):
    made = method(Net(), **OPTIONS.get(method.__name__, {}))
    expected = made.attribute(images(), 1)
    copied = copy.deepcopy(made)
    copied.model.features[0].weight.data.neg_()
    torch.testing.assert_close(made.attribute(images(), 1), expected)
    assert not torch.allclose(copied.attribute(images(), 1), expected)


def test_a_method_whose_network_is_replaced_explains_the_new_one():
    made = Saliency(net())
    made.attribute(images(), 1)
    made.model = net("tuple")
    with pytest.raises(ValueError, match="returns 0, 1"):
        made.attribute(images(), 1)


def test_the_representation_names_the_method_and_its_settings():
    shown = repr(GradCam(Net(), relu=False))
    assert shown == "GradCam(rotations=1, chunk=64, layer=None, relu=False)"


@every_method
def test_wrong_settings_and_targets_are_named(method, options):
    with pytest.raises(ValueError, match=r"^chunk=0: must be at least 1$"):
        method(Net(), **options, chunk=0)
    made = method(net(), **options)
    with pytest.raises(ValueError, match="target has 2 classes for 3 samples"):
        made.attribute(images(), torch.tensor([0, 1]))
    for target in (3, -1, torch.tensor([0, 1, 3])):
        with pytest.raises(ValueError, match="the network knows classes 0 to 2"):
            made.attribute(images(), target)
    with pytest.raises(ValueError, match="give one class"):
        made.attribute(images(), torch.tensor([0.0, 1.0, 2.0]))


@every_method
def test_no_global_generator_is_reseeded(method, options, monkeypatch):
    def refused(*args, **options):
        raise AssertionError("a global generator was changed")

    made = method(net(), **options)
    state = torch.get_rng_state()
    for module in (torch, torch.random, torch.cuda):
        for name in ("manual_seed", "manual_seed_all", "seed", "set_rng_state"):
            monkeypatch.setattr(module, name, refused, raising=False)
    made.attribute(images(), 1)
    assert torch.equal(torch.get_rng_state(), state)


NEEDS_RELU = (GuidedBackprop, DeconvNet, GuidedGradCam)


@every_method
def test_a_network_without_relus(method, options):
    made = method(net(act=nn.SiLU), **options)
    if method in NEEDS_RELU:
        with pytest.raises(UnsupportedNetworkError, match=r"cannot explain Net: it has no ReLU"):
            made.attribute(images(), 1)
    else:
        assert made.attribute(images(), 1).isfinite().all()


@pytest.mark.parametrize("method", NEEDS_RELU)
def test_a_clamp_of_the_pixels_is_no_relu(method):
    class Clamped(Net):
        def forward(self, x):
            return super().forward(x.clamp(0, 1))

    with pytest.raises(UnsupportedNetworkError, match="it has no ReLU"):
        method(Clamped(act=nn.SiLU)).attribute(images(), 1)
    inside = 0.1 + 0.8 * images()
    torch.testing.assert_close(
        method(Clamped(), form="signed").attribute(inside, 1),
        method(Net(), form="signed").attribute(inside, 1),
    )


def test_a_model_made_in_inference_mode_is_refused_or_explained():
    with torch.inference_mode():
        model = Net()
    for method in (Saliency, Cam, Lrp, VisualBackProp, SymmetricVisualBackProp):
        with pytest.raises(UnsupportedNetworkError, match="inference tensor"):
            method(model).attribute(images(), 1)
    for method in (IntegratedGradients, SmoothGrad):
        with pytest.raises(UnsupportedNetworkError, match="explain Net: Inference tensors cannot"):
            method(model).attribute(images(), 1)
    assert Occlusion(model).attribute(images(), 1).isfinite().all()


class Steps(Net):
    """Its score is piecewise constant: no gradient leads to the image."""

    def forward(self, x):
        return self.roads((self.features(x) > 0.1).float().mean((2, 3)))


class Places(Net):
    """It returns a map."""

    def forward(self, x):
        return self.features(x)


class Flow(Net):
    """Its operations depend on the values of the image."""

    def forward(self, x):
        out = super().forward(x)
        return 2 * out if out.sum() > 0 else out


@cache
def other(network):
    return network()


WORKS = {(Flow, Occlusion), (Flow, IntegratedGradients), (Flow, SmoothGrad), (Steps, Occlusion)}


@every_method
def test_networks_that_cannot_be_explained_are_named_in_one_line(method, options):
    for network in (Steps, Places, Flow):
        made = method(other(network), **options)
        if (network, method) in WORKS:
            assert made.attribute(images(1, 12), 1).isfinite().all()
            continue
        named = network.__name__ if network is not Places else r"returns \(N, 5, 4, 4\)|Places"
        with pytest.raises((UnsupportedNetworkError, ValueError), match=named) as caught:
            made.attribute(images(1, 12), 1)
        assert "\n" not in str(caught.value)


class Branches(nn.Module):
    """Two outputs behind a shared part, each with an activation of its own."""

    def __init__(self, heads=("roads", "houses")):
        super().__init__()
        torch.manual_seed(0)
        self.shared = nn.Conv2d(3, 4, 3)
        self.own = nn.ModuleDict({name: nn.Conv2d(4, 4, 3) for name in ("roads", "houses")})
        self.heads = heads

    def forward(self, x):
        x = torch.relu(self.shared(x))
        return {name: torch.relu(self.own[name](x)).mean((2, 3)) for name in self.heads}


def test_the_mask_of_an_output_follows_the_paths_to_it():
    masks = {
        head: VisualBackProp(Branches()).attribute(images(), (head, None))
        for head in ("roads", "houses")
    }
    assert not torch.allclose(masks["roads"], masks["houses"])
    for head, mask in masks.items():
        torch.testing.assert_close(mask, VisualBackProp(Branches((head,))).attribute(images()))


def test_the_last_map_is_that_of_the_output():
    for head in ("roads", "houses"):
        made = GradCam(Branches()).attribute(images(), (head, None))
        alone = GradCam(Branches((head,))).attribute(images())
        assert made.any()
        torch.testing.assert_close(made, alone)
    with pytest.raises(UnsupportedNetworkError, match=r"own\.houses .*does not depend on it"):
        GradCam(Branches(), "own.houses").attribute(images(), ("roads", 1))


def turned(maps, turn, mirrored):
    maps = torch.rot90(maps, turn, (2, 3))
    return maps.flip(3) if mirrored else maps


@pytest.mark.parametrize(
    ("rotations", "views"),
    [
        (2, [(0, False), (2, False)]),
        (4, [(turn, False) for turn in range(4)]),
        (8, [(turn, mirrored) for turn in range(4) for mirrored in (False, True)]),
    ],
)
@pytest.mark.parametrize("method", [HiResCam, VisualBackProp, Occlusion, Saliency])
def test_the_mean_over_rotations(method, rotations, views):
    options = OPTIONS.get(method.__name__, {}) if method is Occlusion else {}
    single = method(net(), **options)
    inverse = {turn: -turn for turn in range(4)}
    total = 0
    for turn, mirrored in views:
        image = torch.rot90(images().flip(3) if mirrored else images(), turn, (2, 3))
        total = total + turned(single.attribute(image, 1), inverse[turn], mirrored)
    found = method(net(), rotations=rotations, **options).attribute(images(), 1)
    torch.testing.assert_close(found, total / len(views), atol=1e-6, rtol=1e-4)
    if rotations > 2:
        again = method(net(), rotations=rotations, **options)
        rotated = again.attribute(torch.rot90(images(), 1, (2, 3)), 1)
        torch.testing.assert_close(rotated, torch.rot90(found, 1, (2, 3)), atol=1e-6, rtol=1e-4)


def test_other_shapes_are_rotated_by_half_a_turn_and_units_not_at_all():
    wide = images()[:, :, :10]
    found = [HiResCam(net(), rotations=each).attribute(wide, 0) for each in (2, 4)]
    assert torch.equal(*found)
    assert found[0].shape == (3, 1, 10, 16)
    with pytest.raises(ValueError, match="rotations: the unit of a layer"):
        Saliency(net(), layer="features", unit=(0, 0, 0), rotations=4)
