"""The classic attributions, compared with autograd, explicit backward passes and naive loops."""

import captum.attr
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from tests.helpers.nets import NETS, AlexNet, randomised, road
from vbp_lightning.attribution import (
    Cam,
    DeconvNet,
    GradCam,
    GuidedBackprop,
    GuidedGradCam,
    IntegratedGradients,
    Lrp,
    Occlusion,
    Saliency,
    SmoothGrad,
    UnsupportedNetworkError,
    VisualBackProp,
    class_scores,
)
from vbp_lightning.attribution.gradients import layer_named

METHODS = [
    lambda model: VisualBackProp(model, "bilinear", weighting="gradient"),
    Lrp,
    Saliency,
    GuidedBackprop,
    DeconvNet,
    lambda model: IntegratedGradients(model, steps=6),
    lambda model: SmoothGrad(model, samples=4),
    GradCam,
    GuidedGradCam,
    lambda model: Occlusion(model, window=40, stride=32),
]
NAMES = [
    "visual_backprop",
    "lrp",
    "saliency",
    "guided_backprop",
    "deconvnet",
    "integrated_gradients",
    "smoothgrad",
    "grad_cam",
    "guided_grad_cam",
    "occlusion",
]


def images(count=3, size=96, scale=255.0):
    return scale * torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
@pytest.mark.parametrize("net", NETS)
def test_every_method_on_every_net(net, method):
    model = NETS[
        net
    ]().double()  # in float32, rounding could change the sign at a ReLU or move a maximum
    size = 72 if net == "alexnet" else 48
    inputs = images(3, size).double()
    made = method(model)
    maps = made.attribute(inputs, 1)
    assert maps.shape == (3, 1, size, size)
    assert torch.isfinite(maps).all()
    # Each sample is independent of the rest of the batch and may have its own class.
    scale = maps.abs().max().clamp(min=1e-12)
    for sample in range(3):
        alone = method(model).attribute(inputs[sample : sample + 1], 1)
        assert (alone - maps[sample : sample + 1]).abs().max() <= 1e-9 * scale
    mixed = made.attribute(inputs, torch.tensor([1, 0, 1]))
    other = made.attribute(inputs, 0)
    expected = torch.stack([maps[0], other[1], maps[2]])
    assert (mixed - expected).abs().max() <= 1e-9 * torch.max(scale, other.abs().max())


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_the_state_of_the_model_is_restored(method):
    model = road()
    model.train()
    model.block1[1].eval()
    model.prob.weight.requires_grad_(False)
    weight = model.block0[0].weight
    weight.grad = torch.ones_like(weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    inputs = images(2)
    kept = inputs.clone()
    method(model).attribute(inputs)
    assert torch.equal(inputs, kept)
    assert not inputs.requires_grad
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
        assert not module._backward_pre_hooks
    assert all(m.inplace for m in model.modules() if isinstance(m, nn.ReLU))


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_a_model_may_standardise_in_place(method):
    class InPlace(nn.Module):
        def forward(self, x):
            return x.sub_(100).div_(50)

    torch.manual_seed(0)
    rest = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    inputs = images(2, 12)
    kept = inputs.clone()
    made = method(nn.Sequential(InPlace(), *rest)).attribute(inputs, 1)
    assert torch.equal(inputs, kept)
    alone = method(nn.Sequential(*rest))
    if not hasattr(alone, "baseline") and not hasattr(alone, "noise"):  # these depend on raw values
        scale = made.abs().amax() / alone.attribute((inputs - 100) / 50, 1).abs().amax()
        torch.testing.assert_close(made, scale * alone.attribute((inputs - 100) / 50, 1))


def with_activation(act):
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(4, 1)

        def forward(self, x):
            return self.head(act(self.conv(x)).mean(dim=(2, 3)))

    return Small().double()


@pytest.mark.parametrize("method", [GuidedBackprop, DeconvNet, GuidedGradCam])
def test_relus_called_as_functions_are_followed_and_networks_without_any_are_refused(method):
    inputs = images(1, 16).double()
    expected = method(with_activation(nn.ReLU())).attribute(inputs, 1)
    made = method(with_activation(torch.relu)).attribute(inputs, 1)
    torch.testing.assert_close(made, expected)
    with pytest.raises(UnsupportedNetworkError, match="it has no ReLU"):
        method(with_activation(nn.SiLU())).attribute(inputs, 1)


@pytest.mark.parametrize(
    ("method", "reference"),
    [
        (Saliency, captum.attr.Saliency),
        (GuidedBackprop, captum.attr.GuidedBackprop),
        (DeconvNet, captum.attr.Deconvolution),
    ],
)
@pytest.mark.parametrize("net", ["strided", "maxpool", "alexnet", "resnet", "densenet"])
@pytest.mark.filterwarnings("ignore")
def test_gradients_are_those_of_captum(net, method, reference):
    model = NETS[net]().double()
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    inputs = images(2, 72).double()
    target = 1 if net in ("alexnet", "resnet", "densenet") else None
    options = {"abs": False} if method is Saliency else {}
    expected = reference(model).attribute(inputs.clone().requires_grad_(), target or 0, **options)
    made = method(model, "signed").attribute(inputs, 1)
    torch.testing.assert_close(made, expected.detach().sum(1, keepdim=True))


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_inside_inference_mode(method):
    model = road()
    expected = method(model).attribute(images(1, 48), 1)
    with torch.inference_mode():
        made = method(model).attribute(images(1, 48), 1)
    torch.testing.assert_close(made, expected)


# Scores


def test_scores_of_one_logit_and_of_several():
    logit = torch.tensor([[2.0], [-3.0]])
    assert class_scores(logit).tolist() == [2, -3]
    assert class_scores(logit, 1).tolist() == [2, -3]
    assert class_scores(logit, 0).tolist() == [-2, 3]
    assert class_scores(logit[:, 0], torch.tensor([0, 1])).tolist() == [-2, -3]
    several = torch.tensor([[1.0, 5.0, 2.0], [7.0, 0.0, 1.0]])
    assert class_scores(several).tolist() == [5, 7]
    assert class_scores(several, 2).tolist() == [2, 1]
    assert class_scores(several, torch.tensor([0, 1])).tolist() == [1, 0]
    for target in (3, -1, torch.tensor([0, 3])):
        with pytest.raises(ValueError, match="the network knows classes 0 to 2"):
            class_scores(several, target)


# Explicit backward passes


def chain(rule):
    """The gradient of a small chain at its pixels, with a given backward rule of the ReLUs."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(5, 4, 3, stride=2),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(4 * 9, 3),
    ).double()
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    first = model[0](x)
    second = model[2](first.clamp(min=0))
    gradient = model[5].weight[1].view(4, 3, 3).expand(2, 4, 3, 3)
    gradient = rule(gradient, second)
    gradient = nn.functional.conv_transpose2d(gradient, model[2].weight, stride=2, output_padding=1)
    gradient = rule(gradient, first)
    return model, x, nn.functional.conv_transpose2d(gradient, model[0].weight, padding=1).detach()


RULES = {
    Saliency: lambda arriving, value: arriving * (value > 0),
    GuidedBackprop: lambda arriving, value: arriving.clamp(min=0) * (value > 0),
    DeconvNet: lambda arriving, value: arriving.clamp(min=0),
}


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("form", ["absolute", "signed"])
def test_backward_passes_computed_explicitly(method, form):
    model, x, gradient = chain(RULES[method])
    expected = gradient.abs().amax(1, True) if form == "absolute" else gradient.sum(1, True)
    assert torch.allclose(method(model, form=form).attribute(x, 1), expected, atol=1e-12)


def test_a_unit_of_a_middle_layer():
    model, x, _ = chain(RULES[GuidedBackprop])
    made = GuidedBackprop(model, "signed", layer="2", unit=(3, 1, 2)).attribute(x)
    first = model[0](x)
    gradient = torch.zeros(2, 4, 3, 3, dtype=torch.float64)
    gradient[:, 3, 1, 2] = 1
    gradient = nn.functional.conv_transpose2d(gradient, model[2].weight, stride=2, output_padding=1)
    gradient = RULES[GuidedBackprop](gradient, first)
    expected = nn.functional.conv_transpose2d(gradient, model[0].weight, padding=1).sum(1, True)
    assert torch.allclose(made, expected, atol=1e-12)
    for method in (Saliency, DeconvNet):
        assert method(model, "signed", "2", (3, 1, 2)).attribute(x).any()
    for unit in ((4, 0, 0), (0, 0, 0, 0), (0, 3)):
        with pytest.raises(ValueError, match=r"^unit is \[.*\]; the layer gives \(4, 3, 3\)$"):
            GuidedBackprop(model, layer="2", unit=unit).attribute(x)
    with pytest.raises(ValueError, match="layer is 'none'; the network has 0, 1, 2"):
        GuidedBackprop(model, layer="none")


def test_layers_of_a_wrapped_network_are_found_with_and_without_its_prefix():
    wrapped = nn.ModuleDict({"network": road(), "metric": nn.Identity()})
    for name in ("block2", "network.block2"):
        assert layer_named(wrapped, name) == "network.block2"
    assert layer_named(wrapped, "metric") == "metric"
    for missing in ("block9", "", "network."):
        with pytest.raises(
            ValueError, match=r"the network has normalize, block0, block0\.0, "
        ) as e:
            layer_named(wrapped, missing)
        assert "network." not in str(e.value).partition("the network has")[2]


@pytest.mark.parametrize("each", [False, True], ids=["one target", "a target each"])
@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_progress_counts_every_sample_once(method, each):
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    made = method(nn.Sequential(*layers))
    if hasattr(made, "chunk"):
        made.chunk = 2
    done = []
    target = torch.tensor([0, 1, 1]) if each else 1
    made.attribute(images(3, 12), target, progress=done.append)
    assert sum(done) == 3
    assert len(done) >= 2


def test_integrated_gradients_add_up_to_the_difference():
    model = road().double()
    x = images(2, 40).double()
    maps = IntegratedGradients(model, steps=200).attribute(x, 1)
    flat = x.mean(dim=(2, 3), keepdim=True).expand_as(x)
    difference = (model(x) - model(flat))[:, 0]
    assert torch.allclose(maps.sum(dim=(1, 2, 3)), difference, rtol=0.02, atol=0.02)


def gradient_at(model, x, target):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(model(x)[:, target].sum(), x)[0]


@pytest.mark.parametrize("target", [0, 1, 2])
def test_integrated_gradients_by_a_loop(target):
    model, x, _ = chain(RULES[Saliency])
    flat = x.mean(dim=(2, 3), keepdim=True)
    points, weights = np.polynomial.legendre.leggauss(7)
    expected = sum(
        weight / 2 * gradient_at(model, flat + (point + 1) / 2 * (x - flat), target)
        for point, weight in zip(points, weights, strict=True)
    )
    made = IntegratedGradients(model, steps=7).attribute(x, target)
    assert torch.allclose(made, ((x - flat) * expected).sum(1, True), atol=1e-10)


@pytest.mark.parametrize("target", [0, 1, 2])
def test_smoothgrad_by_a_loop(target):
    model, x, _ = chain(RULES[Saliency])
    for image in x.split(1):
        seen = []
        hook = model.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        made = SmoothGrad(model, samples=50, noise=0.2, seed=7).attribute(image, target)
        hook.remove()
        copies = torch.cat(seen).detach()
        assert len(copies) == 50
        spread = 0.2 * float(image.max() - image.min())
        assert float((copies - image).mean()) == pytest.approx(0, abs=0.05 * spread)
        assert float((copies - image).std()) == pytest.approx(spread, rel=0.05)
        mean = sum(gradient_at(model, copy[None], target) for copy in copies) / 50
        assert torch.allclose(made, mean.abs().amax(1, True), atol=1e-10)


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_no_target_is_the_highest_score_of_the_image_itself(method):
    torch.manual_seed(2)
    layers = (nn.Conv2d(2, 6, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten())
    model = nn.Sequential(*layers, nn.Linear(24, 5)).double()
    x = 3 * torch.randn(4, 2, 9, 9, dtype=torch.float64)
    top = model(x).argmax(dim=1)
    assert len(set(top.tolist())) > 1
    assert torch.allclose(method(model).attribute(x), method(model).attribute(x, top))


def test_grad_cam_by_hand():
    model = road("maxpool").double()
    x = images(2).double()
    parts = list(model)
    maps = nn.Sequential(*parts[:7])(x).detach().requires_grad_()
    score = nn.Sequential(*parts[7:])(maps).sum()
    (gradient,) = torch.autograd.grad(score, maps)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    small = (weights * maps).sum(1, True).clamp(min=0).detach()
    expected = nn.functional.interpolate(small, size=(96, 96), mode="bilinear")
    last = [name for name, _ in model.named_children()][6]
    assert torch.allclose(GradCam(model, last).attribute(x), expected, atol=1e-10)


def test_the_last_map_is_the_one_before_the_pooling():
    for architecture, name in (("strided", "block3"), ("maxpool", "pool3")):
        model, x = road(architecture), images(1)
        assert torch.equal(GradCam(model).attribute(x), GradCam(model, name).attribute(x))


def test_a_layer_that_does_not_run_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.ReLU(), nn.Flatten())
    model[0].unused = nn.ReLU()
    with pytest.raises(ValueError, match="it does not run"):
        GradCam(model, "0.unused").attribute(images(1, 16), 1)
    dropped, convolved = (GradCam(model, layer).attribute(images(1, 16), 1) for layer in "10")
    assert torch.equal(dropped, convolved)


def test_guided_grad_cam_is_the_product():
    model, x = road(), images(2)
    cam = GradCam(model).attribute(x, 0)
    guided = GuidedBackprop(model).gradient(x, 0)
    expected = (guided * cam).abs().amax(1, True)
    assert torch.allclose(GuidedGradCam(model).attribute(x, 0), expected, atol=1e-7)


def test_cam_averages_to_the_score():
    model = road("maxpool", "gap").double()
    x = images(2).double()
    small_side = 12
    maps = Cam(model).attribute(x)
    assert maps.shape == (2, 1, 96, 96)
    features = nn.Sequential(*list(model)[:8])(x)
    weights = model.prob.weight
    small = torch.einsum("nchw,kc->nkhw", features, weights)
    assert torch.allclose(small.mean(dim=(2, 3)) + model.prob.bias, model(x))
    assert small.shape[2] == small_side
    expected = nn.functional.interpolate(small, size=(96, 96), mode="bilinear")
    assert torch.allclose(maps, expected.detach(), atol=1e-10)
    assert torch.allclose(Cam(model).attribute(x, 0), -expected.detach(), atol=1e-10)


@pytest.mark.parametrize("model", [road(), randomised(AlexNet())], ids=["hidden", "alexnet"])
def test_cam_is_refused_for_other_heads(model):
    with pytest.raises(UnsupportedNetworkError, match=r"model\.head=gap"):
        Cam(model).attribute(images(1))


@pytest.mark.parametrize("fill", ["mean", "blur", 7.0])
@pytest.mark.parametrize("output", ["drop", "probability", "probability_drop"])
def test_occlusion_against_a_naive_loop(fill, output):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 9 * 10, 3))
    model = model.double()
    x = torch.randn(2, 2, 11, 12, dtype=torch.float64)
    made = Occlusion(model, window=4, stride=3, fill=fill, output=output, chunk=5)
    maps = made.attribute(x, torch.tensor([2, 0]))
    for sample, target in ((0, 2), (1, 0)):
        total, count = torch.zeros(11, 12), torch.zeros(11, 12)
        image = x[sample].numpy()
        cover = torch.from_numpy(
            {
                "mean": np.broadcast_to(image.mean((1, 2), keepdims=True), image.shape),
                "blur": gaussian_filter(image, 1, mode="mirror", truncate=3, axes=(1, 2)),
                7.0: np.full_like(image, 7),
            }[fill].copy()
        )
        for top in (0, 3, 6, 7):
            for left in (0, 3, 6, 8):
                covered = x[sample].clone()
                for i in range(4):
                    for j in range(4):
                        covered[:, top + i, left + j] = cover[:, top + i, left + j]
                scores = model(covered[None])[0].detach()
                value = model(x[sample : sample + 1])[0, target].detach() - scores[target]
                if output == "probability":
                    value = scores.softmax(0)[target]
                elif output == "probability_drop":
                    before = model(x[sample : sample + 1])[0].softmax(0)[target].detach()
                    value = before - scores.softmax(0)[target]
                total[top : top + 4, left : left + 4] += value
                count[top : top + 4, left : left + 4] += 1
        assert torch.allclose(maps[sample, 0].float(), total / count, atol=1e-6)


def test_smoothgrad_is_a_mean_of_saliencies():
    model, x = road(), images(1)
    quiet = SmoothGrad(model, samples=3, noise=0.0).attribute(x)
    assert torch.allclose(quiet, Saliency(model).attribute(x), rtol=1e-3, atol=1e-6)
    one = SmoothGrad(model, samples=8, seed=1).attribute(x)
    assert torch.equal(one, SmoothGrad(model, samples=8, seed=1).attribute(x))
    assert not torch.equal(one, SmoothGrad(model, samples=8, seed=2).attribute(x))


def test_no_image_gives_no_map():
    assert Saliency(road()).attribute(images(0)).shape == (0, 1, 96, 96)
    with pytest.raises(ValueError, match="floating point"):
        Saliency(road()).attribute(images(1).byte())
