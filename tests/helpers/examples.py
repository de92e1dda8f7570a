"""Five networks for images in [0, 1], and such images."""

import torch

from tests.helpers.nets import AlexNet, ResNet, randomised, vgg
from vbp_lightning.models.networks import RoadNetwork

NETS = {
    "strided": lambda: randomised(road("strided")),
    "maxpool": lambda: randomised(road("maxpool")),
    "alexnet": lambda: randomised(AlexNet()),
    "vgg": lambda: randomised(vgg()),
    "resnet": lambda: randomised(ResNet()),
}


def road(architecture, head="hidden"):
    """An untrained road network for images in [0, 1]."""
    torch.manual_seed(0)
    return RoadNetwork(architecture, head, [0.5] * 3, [0.25] * 3)


def images(count=2, size=96, seed=3):
    """``(count, 3, size, size)`` in [0, 1), the same for each seed."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
