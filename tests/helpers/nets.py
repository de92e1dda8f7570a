"""Small networks of several shapes, with weights and statistics that are not those of a start."""

import torch
from torch import Tensor, nn


def seasoned(net: nn.Module, seed: int = 0) -> nn.Module:
    """Random running statistics and biases, so that no batch norm is the identity; eval mode."""
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


class AlexNet(nn.Module):
    """Features, adaptive pooling and a classifier with dropout, as AlexNet and VGG have them."""

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
    """Basic block with one ReLU module used twice and an addition in place."""

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


def images(samples=2, channels=3, size=32):
    """``(samples, channels, size, size)`` in [0, 1), the same at every call."""
    shape = (samples, channels, size, size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))
