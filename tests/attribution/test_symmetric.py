"""The symmetric variant of VisualBackProp, compared with its definition."""

import pytest
import torch
from torch import nn

from tests.helpers.nets import randomised
from vbp_lightning.attribution import SymmetricVisualBackProp, VisualBackProp


def small_net():
    torch.manual_seed(0)
    return randomised(
        nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.ReLU(),
            nn.Conv2d(4, 5, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(5, 6, 3, 2, 1), nn.ReLU(),
            nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 1),
        )
    )  # fmt: skip


def images(height=24, width=24):
    return torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_a_rotated_image_gets_the_rotated_mask():
    method = SymmetricVisualBackProp(small_net(), skip=1)
    mask = method.attribute(images())
    for rotation in (1, 2, 3):
        rotated = method.attribute(torch.rot90(images(), rotation, (2, 3)))
        expected = torch.rot90(mask, rotation, (2, 3))
        torch.testing.assert_close(rotated, expected, atol=1e-5, rtol=1e-4)


def test_a_single_rotation_step_by_step():
    """The product of the two masks by their definition: bilinear, without the first map."""
    net = small_net()
    mask = SymmetricVisualBackProp(net, "bilinear", skip=1, rotations=1).attribute(images(), 1)
    second = net[:4](images())
    third = net[4:6](second).detach().requires_grad_()
    middle = second.detach().requires_grad_()
    scores = net[4:](middle).sum() + net[6:](third).sum()
    grads = torch.autograd.grad(scores, [middle, third])
    averages = []
    for features, gradient in zip((middle, third), grads, strict=True):
        chosen = gradient.sum((2, 3)) > 0
        of_class = torch.zeros(3, 1, *features.shape[2:])
        for sample in range(3):
            for channel in range(features.shape[1]):
                if chosen[sample, channel]:
                    of_class[sample, 0] += features[sample, channel].detach()
        averages.append((features.detach().mean(1, keepdim=True), of_class))

    def doubled(values):
        """Twice as many pixels: the values at even positions, their means between them."""
        for axis in (2, 3):
            after = torch.cat([values, values.narrow(axis, values.shape[axis] - 1, 1)], axis)
            after = after.narrow(axis, 1, values.shape[axis])
            stacked = torch.stack([values, (values + after) / 2], axis + 1)
            values = stacked.flatten(axis, axis + 1)
        return values

    product = torch.ones(3, 1, 24, 24)
    for factor in (0, 1):
        product *= doubled(doubled(averages[1][factor]) * averages[0][factor])
    low, high = product.amin((2, 3), keepdim=True), product.amax((2, 3), keepdim=True)
    torch.testing.assert_close(mask, (product - low) / (high - low), atol=1e-5, rtol=1e-4)


def test_two_equal_factors_give_a_square():
    """If every channel raises the score, both masks are equal and their product is a square."""
    net = small_net()
    net[-1].weight.data.abs_()
    net[4].weight.data.abs_()
    mask = SymmetricVisualBackProp(net, skip=1, rotations=1).attribute(images(), 1)
    plain = VisualBackProp(net, "deconv_normalized", skip=1).attribute(images(), normalize=False)
    square = plain**2
    low, high = square.amin((2, 3), keepdim=True), square.amax((2, 3), keepdim=True)
    torch.testing.assert_close(mask, (square - low) / (high - low), atol=1e-5, rtol=1e-4)


def test_samples_are_independent_and_the_state_of_the_network_is_restored():
    net = small_net().train()
    method = SymmetricVisualBackProp(net, skip=1, chunk=2)
    masks = method.attribute(images(), torch.tensor([1, 0, 1]))
    torch.testing.assert_close(method.attribute(images()[1:2], 0), masks[1:2])
    assert masks.min() == 0
    assert masks.max() == 1
    assert net.training
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())


def test_images_that_are_not_square_are_rotated_by_180_degrees():
    method = SymmetricVisualBackProp(small_net(), skip=1)
    mask = method.attribute(images(24, 16))
    assert mask.shape == (3, 1, 24, 16)
    rotated = method.attribute(images(24, 16).flip(2, 3))
    torch.testing.assert_close(rotated, mask.flip(2, 3), atol=1e-5, rtol=1e-4)


def test_invalid_settings_are_refused():
    with pytest.raises(ValueError, match=r"must be 1 or 2 or 4 or 8$"):
        SymmetricVisualBackProp(small_net(), rotations=3)
    with pytest.raises(ValueError, match="floating point"):
        SymmetricVisualBackProp(small_net()).attribute(images()[0])
    with pytest.raises(ValueError, match="3 feature maps"):
        SymmetricVisualBackProp(small_net(), skip=3).attribute(images())
