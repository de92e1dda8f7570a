"""The fused pass: used only where its result is the same, and always with present weights."""

import copy

import pytest
import torch
from torch import nn

from tests.helpers.nets import images, randomised
from vbp_lightning.attribution import UnsupportedNetworkError, VisualBackProp, fusing


def chain():
    return randomised(
        nn.Sequential(
            nn.BatchNorm2d(3),
            nn.ReLU(inplace=True),
            nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
            nn.MaxPool2d(2),
            nn.Sequential(
                nn.Conv2d(4, 6, 3, padding=1), nn.Dropout(), nn.BatchNorm2d(6, affine=False)
            ),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.AvgPool2d(2, ceil_mode=True),
            nn.Conv2d(6, 4, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 1),
        )
    )


def agree(method, inputs=None):
    """Asserts that output and raw mask agree with the model in float64 without fusing."""
    inputs = images(9) if inputs is None else inputs
    reference = VisualBackProp(copy.deepcopy(method.model).double(), method.upsampling, fuse=False)
    expected_output, expected = reference.attribute_with_logits(inputs.double(), normalize=False)
    output, mask = method.attribute_with_logits(inputs, normalize=False)
    torch.testing.assert_close(output.double(), expected_output, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        mask.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.max())
    )


@pytest.fixture
def runs(monkeypatch):
    """The layers of each fused run."""
    taken = []
    original = fusing._Run.run

    def counted(run, *args):
        taken.append([type(module) for module in run.modules])
        return original(run, *args)

    monkeypatch.setattr(fusing._Run, "run", counted)
    return taken


@pytest.mark.parametrize("samples", [1, 2, 9])
@pytest.mark.parametrize("upsampling", ["deconv", "bilinear", "unpool"])
def test_same_result(runs, samples, upsampling):
    agree(VisualBackProp(chain(), upsampling), images(samples))
    assert len(runs) == 1
    assert len(runs[0]) == 12  # from the first convolution to the last ReLU


def test_chunks_make_no_difference(monkeypatch):
    method = VisualBackProp(chain(), "unpool")
    whole = method.attribute(images(9))
    sizes = []
    original = fusing._Run._portion

    def counted(run, features, *args):
        sizes.append(len(features))
        return original(run, features, *args)

    monkeypatch.setattr(fusing._Run, "_portion", counted)
    monkeypatch.setattr(fusing, "_CACHED_BYTES", 4 * 4 * 30 * 30 * 4)
    torch.testing.assert_close(method.attribute(images(9)), whole, rtol=1e-5, atol=1e-5)
    assert sizes == [4, 4, 1]  # the largest map of a sample has 4 × 30 × 30 values of 4 bytes


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net[2][0].weight.data.mul_(1.5),
        lambda net: net[2][0].weight.detach().numpy().__imul__(1.5),
        lambda net: setattr(net[2][0], "weight", nn.Parameter(torch.rand(4, 3, 3, 3))),
        lambda net: setattr(net[2][0].weight, "data", torch.rand(4, 3, 3, 3)),
        lambda net: net[2][1].running_mean.data.add_(0.1),
        lambda net: net[2][1].running_var.copy_(torch.rand(4) + 0.5),
        lambda net: net[2][1].bias.data.add_(0.1),
        lambda net: setattr(net[2][1], "eps", 0.5),
        lambda net: net[4][0].bias.data.add_(0.3),
        lambda net: setattr(net[4][0], "bias", None),
        lambda net: net[4].__setitem__(0, randomised(nn.Conv2d(4, 6, 5, padding=2), seed=5)),
        lambda net: net.__setitem__(3, nn.MaxPool2d(3)),
        lambda net: net[8].weight.data.neg_(),
    ],
)
def test_changed_weights_are_noticed(change):
    net = chain()
    method = VisualBackProp(net)
    before = method.attribute(images(3), normalize=False)
    with torch.no_grad():
        change(net)
    agree(method)
    assert not torch.equal(method.attribute(images(3), normalize=False), before)


def test_training_step_between_two_masks_is_noticed():
    net = chain()
    method = VisualBackProp(net)
    method.attribute(images(3))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05)
    net.train()
    net(images(9)).square().mean().backward()
    optimizer.step()
    agree(method)


def test_hooks_of_the_user_are_called(runs):
    net = chain()
    net[2][0].register_forward_hook(lambda module, args, output: 2 * output)
    net[5].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    net[4].register_forward_hook(lambda module, args, output: 0.5 * output)
    seen = []
    net.register_forward_hook(lambda module, args, output: seen.append(output))
    agree(VisualBackProp(net))
    assert len(seen) == 2
    assert all(len(run) < 12 for run in runs)


def test_hooks_on_all_modules_see_all_modules(runs):
    seen = []
    net = chain()
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, output: seen.append(module)
    )
    try:
        VisualBackProp(net).attribute(images())
    finally:
        handle.remove()
    assert {*net.modules()} <= {*seen}
    assert not runs


def test_other_types_and_autocast_are_not_fused(runs):
    VisualBackProp(chain().double()).attribute(images().double())
    with torch.autocast("cpu", torch.bfloat16):
        VisualBackProp(chain()).attribute(images())
    assert not runs


def test_nested_containers_are_fused(runs):
    class Wrapper(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, inputs):
            return self.network(inputs)

    agree(VisualBackProp(Wrapper(Wrapper(chain()))))
    assert len(runs) == 1


def test_parametrised_and_reshaping_convolutions_run_unchanged():
    net = chain()
    nn.utils.parametrizations.weight_norm(net[2][0])
    net[4][0] = randomised(nn.Conv2d(4, 6, 3, padding="same"), seed=2)
    reference = VisualBackProp(net, fuse=False).attribute(images(3))
    torch.testing.assert_close(VisualBackProp(net).attribute(images(3)), reference)


def test_sequential_sliced_by_its_owner_is_followed():
    class Slices(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = chain()

        def forward(self, inputs):
            for module in self.features:
                inputs = module(inputs)
            return inputs

    agree(VisualBackProp(Slices()))


def test_in_place_relu_at_the_start_of_a_run_changes_the_shortcut_too():
    """As in pre-activation blocks with an in-place ReLU."""

    class PreActivation(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.body = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1))
            self.relu = nn.ReLU()

        def forward(self, inputs):
            features = self.conv(inputs)
            return self.relu(self.body(features) + features).mean((2, 3))

    agree(VisualBackProp(randomised(PreActivation())))


def test_preparation_is_watched_once_and_its_size_always():
    class Preparation(nn.Module):
        shrinks = False

        def forward(self, inputs):
            return inputs[..., 1:] if self.shrinks else (inputs - 0.5) / 0.25

    net = nn.Sequential(Preparation(), chain())
    method = VisualBackProp(net)
    agree(method)
    agree(method)
    Preparation.shrinks = True
    with pytest.raises(UnsupportedNetworkError):
        method.attribute(images())


def test_preparation_in_place_never_changes_the_callers_images():
    class Preparation(nn.Module):
        def forward(self, inputs):
            return inputs.sub_(0.5).div_(0.25)

    method = VisualBackProp(nn.Sequential(Preparation(), chain()))
    inputs = images()
    first = method.attribute(inputs)
    assert torch.equal(method.attribute(inputs), first)
    assert torch.equal(inputs, images())
