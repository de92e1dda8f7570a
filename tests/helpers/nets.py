"""Small networks of several architectures whose batch norms are no identity."""

import torch
from torch import Tensor, nn

from vbp_lightning.models import RoadNetwork


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    """Draws random weights, biases and running statistics of a network; returns it in eval mode."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor, low: float, high: float) -> None:
        tensor.data = low + (high - low) * torch.rand(tensor.shape, generator=generator)

    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            if module.track_running_stats:
                draw(module.running_mean, -0.3, 0.3)
                draw(module.running_var, 0.5, 2.0)
            if module.affine:
                draw(module.weight, 0.5, 1.5)
                draw(module.bias, -0.1, 0.4)
        elif isinstance(module, nn.Conv2d):
            bound = 1 / (module.weight[0].numel() ** 0.5)
            draw(module.weight, -bound, 1.5 * bound)
            if module.bias is not None:
                draw(module.bias, -0.1, 0.2)
    return net.eval()


def with_statistics(net: nn.Module) -> nn.Module:
    """Draws running statistics and biases of all batch norms; returns the network in eval mode.

    Unlike :func:`randomised`, it does not change the weights of convolutions, and it draws from the
    global generator.
    """
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.bias, std=0.3)
    return net.eval()


class AlexNet(nn.Module):
    """Features, adaptive pooling and a classifier with dropout, as in AlexNet and VGG."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(8, 12, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(12, 16, 3, padding=1, groups=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((2, 2))
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(64, 20), nn.ReLU(inplace=True), nn.Linear(20, 2)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))


def vgg() -> nn.Sequential:
    """Three stages of convolutions with batch norm, nested as in VGG."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (8, 8, 0, 12, 12, 0, 16, 16, 16, 0):
        if width:
            block = [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            layers += block
            channels = width
        else:
            layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(
        nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1)
    )


class Block(nn.Module):
    """A basic residual block with one ReLU module used twice and an in-place addition."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = None
        if stride > 1 or channels != out:
            conv = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out))

    def forward(self, features: Tensor) -> Tensor:
        identity = features if self.downsample is None else self.downsample(features)
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(features)))))
        out += identity
        return self.relu(out)


class ResNet(nn.Module):
    """A residual network of four basic blocks with a stem."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(Block(8, 8, 1), Block(8, 8, 1))
        self.layer2 = nn.Sequential(Block(8, 16, 2), Block(16, 16, 1))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(16, 2)

    def forward(self, images: Tensor) -> Tensor:
        out = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        out = self.avgpool(self.layer2(self.layer1(out)))
        return self.fc(torch.flatten(out, 1))


class Dense(nn.Module):
    """A dense block of three layers, a transition and the norm behind it, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(6 + 4 * index),
                nn.ReLU(inplace=True),
                nn.Conv2d(6 + 4 * index, 4, 3, padding=1, bias=False),
            )
            for index in range(3)
        )
        self.pool = nn.AvgPool2d(2)
        self.norm = nn.BatchNorm2d(18)
        self.relu = nn.ReLU(inplace=True)
        self.classifier = nn.Linear(18, 2)

    def forward(self, images: Tensor) -> Tensor:
        features = [self.stem(images)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        out = self.relu(self.norm(self.pool(torch.cat(features, 1))))
        return self.classifier(out.mean((2, 3)))


def images(samples=2, channels=3, size=32):
    """``(samples, channels, size, size)`` in [0, 1), the same in every call."""
    shape = (samples, channels, size, size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def road(architecture="strided", head="hidden"):
    """A road network for images of three bands in [0, 255]."""
    torch.manual_seed(0)
    return randomised(RoadNetwork(architecture, head, [110.0, 115.0, 105.0], [45.0, 42.0, 40.0]))


def _seeded(make):
    torch.manual_seed(0)
    return randomised(make())


NETS = {
    "strided": road,
    "maxpool": lambda: road("maxpool"),
    "strided, gap": lambda: road("strided", "gap"),
    "alexnet": lambda: _seeded(AlexNet),
    "vgg": lambda: _seeded(vgg),
    "resnet": lambda: _seeded(ResNet),
    "densenet": lambda: _seeded(Dense),
}
"""Functions that make the networks, for images of three bands."""
