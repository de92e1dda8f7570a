"""Small networks of a user's own: each another kind of CNN, with one logit or two scores."""

import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    """Batch norms, a shortcut, ReLUs that are modules; average pooling."""

    def __init__(self, width=8, num_classes=1, bands=3):
        super().__init__()
        self.stem = nn.Conv2d(bands, width, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, 1, 1)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.head = nn.Linear(width, num_classes)

    def forward(self, images):
        maps = self.relu1(self.norm(self.stem(images)))
        maps = self.relu2(self.conv(maps) + maps)
        return self.head(maps.mean((2, 3)))


class Dense(nn.Module):
    """Concatenation, ReLUs as functions, no normalisation."""

    def __init__(self, num_classes=1):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 5, 2, 2)
        self.second = nn.Conv2d(6, 4, 3, 1, 1)
        self.head = nn.Linear(10, num_classes)

    def forward(self, images):
        maps = F.relu(self.first(images))
        maps = torch.cat([maps, F.relu(self.second(maps))], 1)
        return self.head(F.adaptive_max_pool2d(maps, 1).flatten(1))


class Gated(nn.Module):
    """Squeeze and excitation, SiLU."""

    def __init__(self, num_classes=1):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, 4, 1)
        self.gate = nn.Conv2d(8, 8, 1)
        self.head = nn.Conv2d(8, num_classes, 1)

    def forward(self, images):
        maps = F.silu(self.first(images))
        maps = maps * self.gate(maps.mean((2, 3), keepdim=True)).sigmoid()
        return self.head(F.adaptive_avg_pool2d(maps, 1)).flatten(1)


class LayerNormed(nn.Module):
    """Layer norms over channels that come last, GELU, dropout."""

    def __init__(self, num_classes=1, widths=(6, 12)):
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 4, 4)
        self.norm = nn.LayerNorm(widths[0])
        self.wide = nn.Linear(widths[0], widths[1])
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(widths[1], num_classes)

    def forward(self, images):
        maps = self.norm(self.stem(images).permute(0, 2, 3, 1))
        return self.head(self.drop(F.gelu(self.wide(maps)).mean((1, 2))))


class Attention(nn.Module):
    """Attention over all places, which no mask can follow."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, 8)
        self.mix = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 1)

    def forward(self, images):
        places = F.relu(self.stem(images)).flatten(2).transpose(1, 2)
        return self.head(F.relu(places + self.mix(places, places, places)[0]).mean(1))


class Pair(Residual):
    """Returns a tuple, as detectors and networks with auxiliary heads do."""

    def forward(self, images):
        return super().forward(images), images


class Branching(Residual):
    """Goes another way for bright images."""

    def forward(self, images):
        return super().forward(images if images.mean() > 0 else -images)


class FixedSize(nn.Module):
    """A linear layer over all places."""

    def __init__(self, side=96):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 8, 8)
        self.head = nn.Linear(4 * (side // 8) ** 2, 1)

    def forward(self, images):
        return self.head(F.relu(self.first(images)).flatten(1))


def by_path(path="3"):
    """A network whose width stands in the name of a file."""
    return Residual(width=int(path.rsplit("/", 1)[-1]))


def residual(depth=2, pretrained=False, path=None, **arguments):
    """A function that builds a network and could start from weights."""
    assert not pretrained
    assert path is None
    return nn.Sequential(Residual(**arguments), *(nn.Identity() for _ in range(depth)))


def secret(**arguments):
    """Stands for what nobody wants to be run."""
    raise AssertionError("was called")


def number():
    """Returns no network."""
    return 5
