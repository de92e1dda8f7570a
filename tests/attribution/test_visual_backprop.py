"""Properties of VisualBackProp that hold for every network."""

import copy

import pytest
import torch
from torch import nn

from tests.helpers.nets import NETS, ResNet, randomised, road
from vbp_lightning.attribution import (
    UPSAMPLINGS,
    SymmetricVisualBackProp,
    UnsupportedNetworkError,
    VisualBackProp,
)
from vbp_lightning.errors import UserError


@pytest.fixture(params=NETS, scope="module")
def net(request):
    """A network that no test changes, so that it is exported once."""
    return NETS[request.param]()


@pytest.fixture(scope="module")
def double(net):
    return copy.deepcopy(net).double()


@pytest.fixture
def own(net):
    """A network of the test."""
    return copy.deepcopy(net)


def tiles(samples, seed=1):
    return 255 * torch.rand(samples, 3, 96, 96, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_mask_covers_the_input_and_fills_the_range(net, upsampling):
    mask = VisualBackProp(net, upsampling).attribute(tiles(2))
    assert mask.shape == (2, 1, 96, 96)
    assert mask.dtype is torch.float32
    assert not mask.requires_grad
    assert torch.equal(mask.amin((1, 2, 3)), torch.zeros(2))
    assert torch.equal(mask.amax((1, 2, 3)), torch.ones(2))


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_fused_and_plain_pass_agree_with_float64(net, double, upsampling):
    method = VisualBackProp(net, upsampling)
    output, mask = method.attribute_with_logits(tiles(3))
    plain = VisualBackProp(net, upsampling, fuse=False).attribute(tiles(3))
    exact = VisualBackProp(double, upsampling, fuse=False).attribute(tiles(3).double())
    assert exact.dtype is torch.float64
    torch.testing.assert_close(mask.double(), exact, rtol=0, atol=1e-5)
    torch.testing.assert_close(plain.double(), exact, rtol=0, atol=1e-5)
    assert float((mask - exact).abs().mean()) < 1e-5
    with torch.no_grad():
        torch.testing.assert_close(output, net(tiles(3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", ["strided", "maxpool"])
def test_batch_of_64_is_64_batches_of_one(architecture):
    method = VisualBackProp(road(architecture))
    batch = tiles(64)
    each = torch.cat([method.attribute(tile[None]) for tile in batch])
    torch.testing.assert_close(method.attribute(batch), each, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_raw_masks_of_a_batch_are_those_of_its_samples(net, upsampling):
    method = VisualBackProp(net, upsampling)
    batch = tiles(5)
    each = torch.cat([method.attribute(tile[None], normalize=False) for tile in batch])
    whole = method.attribute(batch, normalize=False)
    torch.testing.assert_close(whole, each, rtol=1e-4, atol=1e-5 * float(each.max()))


def test_samples_of_very_different_brightness_are_independent(net):
    method = VisualBackProp(net)
    alone = method.attribute(tiles(1))
    batch = torch.cat([tiles(1), 1e6 * tiles(1, seed=2), torch.zeros(1, 3, 96, 96)])
    torch.testing.assert_close(method.attribute(batch)[:1], alone, rtol=1e-5, atol=1e-5)


def test_training_mode_gives_the_mask_of_eval_mode(own):
    expected = VisualBackProp(own).attribute(tiles(2))
    own.train()
    assert torch.equal(VisualBackProp(own).attribute(tiles(2)), expected)


def state_of(net):
    return (
        [module.training for module in net.modules()],
        [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in net.modules()
        ],
        ["forward" in module.__dict__ for module in net.modules()],
        [parameter.requires_grad for parameter in net.parameters()],
        (
            len(nn.modules.module._global_forward_hooks),
            len(nn.modules.module._global_forward_pre_hooks),
        ),
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("fuse", [True, False])
def test_the_state_of_the_network_is_restored(own, fuse):
    own.train()
    list(own.children())[1].eval()
    next(own.parameters()).requires_grad_(False)
    last = list(own.parameters())[-1]
    last.grad = torch.ones_like(last)
    before, weights = state_of(own), copy.deepcopy(own.state_dict())
    random = torch.get_rng_state()
    inputs = tiles(2).requires_grad_()
    values = inputs.detach().clone()
    VisualBackProp(own, fuse=fuse).attribute(inputs)
    assert state_of(own) == before
    assert torch.equal(inputs, values)
    assert inputs.grad is None
    assert torch.equal(last.grad, torch.ones_like(last))
    assert torch.equal(torch.get_rng_state(), random)
    after = own.state_dict()
    assert all(torch.equal(weights[name], after[name]) for name in weights)


@pytest.mark.parametrize("fuse", [True, False])
def test_the_state_is_restored_after_an_exception(own, fuse):
    own.train()
    broken = [module for module in own.modules() if isinstance(module, nn.Linear)][-1]
    broken.weight = nn.Parameter(torch.zeros(1, 999))
    before, random = state_of(own), torch.get_rng_state()
    with pytest.raises(RuntimeError, match="shapes"):
        VisualBackProp(own, fuse=fuse).attribute(tiles(2))
    assert state_of(own) == before
    assert torch.equal(torch.get_rng_state(), random)
    own.eval()
    with pytest.raises(RuntimeError, match="shapes"):
        VisualBackProp(own, fuse=fuse).attribute(tiles(2))


def test_random_numbers_drawn_by_the_model_leave_the_random_state():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())

        def forward(self, images):
            features = self.features(images)
            return features.mean((2, 3)) + torch.rand(1)

    net = Noisy()
    random = torch.get_rng_state()
    VisualBackProp(net).attribute(tiles(1))
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_randomised_head_leaves_the_mask_bit_identical(own, upsampling):
    method = VisualBackProp(own, upsampling)
    output, expected = method.attribute_with_logits(tiles(2))
    for module in own.modules():
        if isinstance(module, nn.Linear | nn.BatchNorm1d):
            nn.init.normal_(module.weight)
    changed, mask = method.attribute_with_logits(tiles(2))
    assert not torch.equal(changed, output)
    assert torch.equal(mask, expected)
    assert torch.equal(method.attribute(tiles(2), target=1), expected)


def test_constant_maps_give_zeros(own):
    for parameter in own.parameters():
        nn.init.zeros_(parameter)
    for name in UPSAMPLINGS:
        mask = VisualBackProp(own, name).attribute(tiles(2))
        assert torch.equal(mask, torch.zeros(2, 1, 96, 96))


def test_flat_positive_mask_gives_zeros():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    nn.init.zeros_(net[0].weight)
    nn.init.ones_(net[0].bias)
    method = VisualBackProp(net)
    assert torch.equal(method.attribute(tiles(1), normalize=False), torch.ones(1, 1, 96, 96))
    assert method.attribute(tiles(1)).count_nonzero() == 0


@pytest.mark.parametrize("inplace", [True, False])
def test_in_place_relu_makes_no_difference(inplace):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
    ).eval()
    expected = VisualBackProp(net, fuse=False).attribute(tiles(2))
    for module in net:
        if isinstance(module, nn.ReLU):
            module.inplace = inplace
    torch.testing.assert_close(VisualBackProp(net).attribute(tiles(2)), expected)
    torch.testing.assert_close(VisualBackProp(net, fuse=False).attribute(tiles(2)), expected)


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_chain_holds_the_intermediate_masks(net, upsampling):
    method = VisualBackProp(net, upsampling)
    for normalize in (True, False):
        chain = method.chain(tiles(2), normalize=normalize)
        assert torch.equal(chain.mask, method.attribute(tiles(2), normalize=normalize))
    assert len(chain.names) == len(chain.maps) == len(chain.masks) == len(set(chain.names))
    torch.testing.assert_close(chain.masks[-1], chain.maps[-1])
    for mask, average in zip(chain.masks, chain.maps, strict=True):
        assert mask.shape == average.shape
        assert (mask[average == 0] == 0).all()


def test_chain_names_the_relus():
    assert VisualBackProp(road("maxpool")).chain(tiles(1)).names == (
        "block0.2",
        "block1.2",
        "block2.2",
        "block3.2",
    )
    names = VisualBackProp(randomised(ResNet())).chain(tiles(1)).names
    assert names[:3] == ("relu", "layer1.0.relu", "layer1.0.relu (2)")
    assert len(names) == 9


def test_averaged_maps_are_relu_outputs_before_the_pooling():
    net = road("maxpool").double()
    chain = VisualBackProp(net).chain(tiles(2).double())
    assert [each.shape[-1] for each in chain.maps] == [96, 96, 48, 24]
    with torch.no_grad():
        features = net.normalize(tiles(2).double())
        for index, average in enumerate(chain.maps):
            features = net.get_submodule(f"block{index}")(features)
            torch.testing.assert_close(average, features.mean(1, keepdim=True))
            features = net.get_submodule(f"pool{index}")(features) if index else features


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_accumulates_in_float32(dtype):
    net = road("strided")
    mask = VisualBackProp(net.to(dtype)).attribute((tiles(2) / 255).to(dtype))
    exact = VisualBackProp(net.double(), fuse=False).attribute((tiles(2) / 255).to(dtype).double())
    assert mask.dtype is torch.float32
    torch.testing.assert_close(mask.double(), exact, rtol=0, atol=0.05)


def test_autocast_does_not_change_the_type_of_the_backward_pass_of_the_mask(net):
    maps = VisualBackProp(net).chain(tiles(2), normalize=False)
    with torch.autocast("cpu", torch.bfloat16):
        chain = VisualBackProp(net).chain(tiles(2), normalize=False)
    assert {each.dtype for each in (*chain.maps, *chain.masks, chain.mask)} == {torch.float32}
    # Only the forward pass runs in the lower precision.
    torch.testing.assert_close(chain.maps[0], maps.maps[0], rtol=0.1, atol=0.1)
    product = chain.maps[-2] * (chain.masks[-2] > 0)
    assert (chain.masks[-2][product == 0] == 0).all()


def deep(depth, factor):
    """A network whose layers each multiply their input by a factor."""
    net = nn.Sequential()
    for _ in range(depth):
        net += nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.ReLU())
    for module in net:
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, factor)
    return net.eval()


@pytest.mark.parametrize("factor", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_deep_masks_stay_in_the_range_of_the_type(factor, dtype):
    """The mask of 20 layers is a power of the image, up to 1e±210."""
    image = torch.linspace(0.5, 1, 64, dtype=dtype).view(1, 1, 8, 8)
    mask = VisualBackProp(deep(20, factor).to(dtype)).attribute(image)
    expected = image.double() ** 20
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    torch.testing.assert_close(mask.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-6, 1e3])
def test_fifty_layers_of_large_or_small_activations(scale, dtype):
    """The mask is the 50th power of the image, 1e±300 and more; that of the variant the 96th."""
    image = torch.linspace(0.75, 1, 16).view(1, 1, 4, 4).to(dtype)
    net = deep(50, 1.0).to(dtype)
    mask = VisualBackProp(net).attribute(scale * image)

    def power(exponent):
        values = (scale * image).double()
        values = (values / values.max()) ** exponent
        return (values - values.min()) / (values.max() - values.min())

    torch.testing.assert_close(mask.double(), power(50), rtol=0, atol=1e-4)
    net.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten())
    variant = SymmetricVisualBackProp(net, rotations=1).attribute(scale * image, 1)
    torch.testing.assert_close(variant.double(), power(96), rtol=0, atol=1e-4)


def test_sums_of_masks_of_very_different_exponents_are_aligned():
    """Paths of 1 and of 41 activations of 1e-6 or 1e6: only one of them counts."""

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.long = deep(40, 1.0)

        def forward(self, images):
            first = torch.relu(images)
            return torch.cat([first, self.long(first) * 1.0], 1).mean((2, 3))

    image = torch.linspace(0.75, 1, 16, dtype=torch.float32).view(1, 1, 4, 4)
    for scale, power in ((1e-6, 1), (1e6, 41)):
        mask = VisualBackProp(Branches()).attribute(scale * image)
        expected = image.double() ** power
        expected = (expected - expected.min()) / (expected.max() - expected.min())
        torch.testing.assert_close(mask.double(), expected, rtol=1e-3, atol=1e-5)


def test_raw_mask_has_its_true_scale():
    image = torch.full((1, 1, 4, 4), 2.0)
    raw = VisualBackProp(deep(5, 2.0)).attribute(image, normalize=False)
    # Maps 4, 8, 16, 32, 64.
    torch.testing.assert_close(raw, torch.full((1, 1, 4, 4), float(4 * 8 * 16 * 32 * 64)))


def test_a_model_that_changes_its_input_in_place_changes_a_copy():
    class Standardised(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 4, 3), nn.ReLU()

        def forward(self, images):
            return self.relu(self.conv(images.sub_(100).div_(50))).mean((2, 3))

    net = Standardised()
    inputs = tiles(2)
    mask = VisualBackProp(net).attribute(inputs)
    assert torch.equal(inputs, tiles(2))
    expected = VisualBackProp(nn.Sequential(net.conv, net.relu)).attribute((tiles(2) - 100) / 50)
    torch.testing.assert_close(mask, expected)


def test_inference_mode_and_an_empty_batch():
    net = road("strided")
    with torch.inference_mode():
        mask = VisualBackProp(net).attribute(tiles(2))
    assert torch.equal(mask, VisualBackProp(net).attribute(tiles(2)))
    assert VisualBackProp(net, fuse=False).attribute(tiles(0)).shape == (0, 1, 96, 96)
    assert VisualBackProp(net).attribute(tiles(0)).shape == (0, 1, 96, 96)


@pytest.mark.parametrize("size", [(96, 160), (97, 101), (40, 31)])
def test_any_size(size):
    for name in UPSAMPLINGS:
        net = road("maxpool")
        image = 255 * torch.rand(1, 3, *size)
        mask = VisualBackProp(net, name).attribute(image)
        assert mask.shape == (1, 1, *size)
        plain = VisualBackProp(net, name, fuse=False).attribute(image)
        torch.testing.assert_close(mask, plain, rtol=0, atol=1e-5)


def test_inputs_that_are_not_a_batch_of_images_are_refused():
    method = VisualBackProp(road("strided"))
    with pytest.raises(ValueError, match=r"\(3, 96, 96\)"):
        method.attribute(tiles(1)[0])
    with pytest.raises(ValueError, match="uint8"):
        method.attribute(tiles(1).to(torch.uint8))
    with pytest.raises(ValueError, match="'cubic'; choose one of deconv"):
        VisualBackProp(method.model, "cubic")
    assert issubclass(UnsupportedNetworkError, UserError)


# Weighting by the gradient, and maps left out


def small_net():
    torch.manual_seed(4)
    layers = [nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(inplace=True)]
    layers += [nn.Conv2d(5, 6, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
    layers += [nn.Flatten(), nn.Linear(6 * 16, 3)]
    return nn.Sequential(*layers).double()


def back(mask, stride):
    ones = torch.ones(1, 1, 3, 3, dtype=mask.dtype)
    return nn.functional.conv_transpose2d(mask, ones, None, stride, 1, stride - 1)


@pytest.mark.parametrize("target", [0, 1, 2, None])
def test_weighting_by_the_gradient_step_by_step(target):
    net = small_net()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    first = net[0](x).clamp(min=0)
    second = net[2](first).clamp(min=0)
    scores = net[5](second.flatten(1))
    score = scores.amax(1) if target is None else scores[:, target]
    gradients = torch.autograd.grad(score.sum(), [first, second])
    low, high = (
        (each * gradient).clamp(min=0).mean(1, keepdim=True).detach()
        for each, gradient in zip([first, second], gradients, strict=True)
    )
    method = VisualBackProp(net, "deconv", weighting="gradient")
    made = method.attribute(x, target, normalize=False)
    torch.testing.assert_close(made, back(low * back(high, 2), 1), rtol=1e-9, atol=0)
    chain = method.chain(x, normalize=False, target=target)
    torch.testing.assert_close(chain.maps, (low, high), rtol=1e-9, atol=0)
    skipped = VisualBackProp(net, "deconv", weighting="gradient", skip=1)
    made = skipped.attribute(x, target, normalize=False)
    torch.testing.assert_close(made, back(back(high, 2), 1), rtol=1e-9, atol=0)


def test_only_the_gradient_weighting_depends_on_the_class(net):
    x = tiles(2)
    paper = VisualBackProp(net)
    assert torch.equal(paper.attribute(x, 0), paper.attribute(x, 1))
    weighted = VisualBackProp(net, "bilinear", weighting="gradient")
    assert not torch.equal(weighted.attribute(x, 0), weighted.attribute(x, 1))


@pytest.mark.parametrize("weighting", ["mean", "gradient"])
def test_without_the_first_map(net, weighting):
    x = tiles(2)
    whole = VisualBackProp(net, weighting=weighting, fuse=False).chain(x, target=1)
    method = VisualBackProp(net, weighting=weighting, skip=1, fuse=False)
    rest = method.chain(x, target=1)
    assert rest.names == whole.names[1:]
    assert rest.mask.shape == whole.mask.shape
    torch.testing.assert_close(rest.maps, whole.maps[1:])
    torch.testing.assert_close(rest.masks, whole.masks[1:])
    torch.testing.assert_close(method.attribute(x, 1), rest.mask)


def test_chunks_change_nothing(net):
    done = []
    whole = VisualBackProp(net).attribute(tiles(3), progress=done.append)
    parts = VisualBackProp(net, chunk=2).attribute(tiles(3), progress=done.append)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    assert done == [3, 2, 1]


def test_invalid_weightings_and_skips_are_refused():
    net = small_net()
    with pytest.raises(ValueError, match=r"^weighting=max: must be mean or gradient or channels$"):
        VisualBackProp(net, weighting="max")
    with pytest.raises(ValueError, match=r"^skip=-1: must be at least 0$"):
        VisualBackProp(net, skip=-1)
    with pytest.raises(ValueError, match="skip is 2; the network has 2 feature maps"):
        VisualBackProp(net.float(), skip=2).attribute(torch.rand(1, 3, 8, 8))


class Small(nn.Module):
    def __init__(self, act):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.act = act

    def forward(self, x):
        return self.act(self.relu(self.conv(x))).mean(dim=(2, 3))


def test_a_map_may_be_changed_in_place_after_its_relu():
    changing = VisualBackProp(Small(lambda y: y.add_(1)), weighting="gradient")
    leaving = VisualBackProp(Small(lambda y: y + 1), weighting="gradient")
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(changing.attribute(x, 1), leaving.attribute(x, 1))


def test_maps_without_a_gradient_are_refused():
    net = Small(torch.detach)
    with pytest.raises(UnsupportedNetworkError, match="the explained score does not depend on it"):
        VisualBackProp(net, weighting="gradient").attribute(torch.rand(1, 3, 8, 8), 1)
    assert not net.relu._forward_hooks
    assert all(parameter.requires_grad for parameter in net.parameters())
