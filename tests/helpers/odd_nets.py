"""Small networks whose modules do not simply return what their last operation computes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.nets import with_statistics


class ConvNeXt(nn.Module):
    """Two blocks with channels last inside, a written-out norm and a scale, as in ConvNeXt."""

    class Norm(nn.Module):
        """Layer norm over the channels of ``(N, C, H, W)``."""

        def forward(self, x: Tensor) -> Tensor:
            mean = x.mean(1, keepdim=True)
            spread = (x - mean).pow(2).mean(1, keepdim=True)
            return (x - mean) / torch.sqrt(spread + 1e-6)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dwconv = nn.Conv2d(8, 8, 7, padding=3, groups=8)
            self.norm = nn.LayerNorm(8)
            self.pwconv1 = nn.Linear(8, 16)
            self.act = nn.GELU()
            self.pwconv2 = nn.Linear(16, 8)
            self.drop_path = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
            y = self.pwconv2(self.act(self.pwconv1(y)))
            return x + self.drop_path(0.5 * y.permute(0, 3, 1, 2))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.norm = self.Norm()
        self.blocks = nn.Sequential(self.Block(), self.Block())
        self.head = nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(self.norm(self.stem(images)))
        return self.head(x.mean((2, 3)))


class Gated(nn.Module):
    """A squeeze-excite, a split, a concatenation and activations called as functions, in place."""

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reduce = nn.Conv2d(8, 2, 1)
            self.expand = nn.Conv2d(2, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = F.relu(self.reduce(x.mean((2, 3), keepdim=True)))
            return x * self.expand(y).sigmoid()

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.near = nn.Conv2d(4, 4, 1)
        self.far = nn.Conv2d(4, 4, 5, padding=2)
        self.gate = self.Gate()
        self.conv2 = nn.Conv2d(8, 8, 3, 2, padding=1)
        self.fc = nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        a, b = F.relu_(self.conv1(images)).chunk(2, 1)
        x = self.gate(torch.cat([self.near(a), self.far(b)], 1))
        x = F.relu(self.conv2(x), inplace=True)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Dense(nn.Module):
    """Concatenations whose first reader is a batch norm of more channels, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, 4, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(12, 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv0(images)
        x = torch.cat([x, self.conv1(self.relu(self.norm1(x)))], 1)
        x = torch.cat([x, self.conv2(self.relu(self.norm2(x)))], 1)
        return self.fc(x.mean((2, 3)))


class Odd(nn.Module):
    """Modules that return something else than the result of their last operation."""

    class Auxiliary(nn.Module):
        """Computes more than it returns."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)
            self.extra = nn.Conv2d(4, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            self.extra(y)
            return y

    class Pair(nn.Module):
        """Returns several tensors, with one convolution under two names."""

        def __init__(self) -> None:
            super().__init__()
            self.first = self.second = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.first(x), self.second(x + 1)

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.Identity(), self.relu, nn.Dropout(), self.relu, self.Auxiliary()
        )
        self.empty = nn.Sequential()
        self.pair = self.Pair()
        self.unused = nn.Conv2d(4, 4, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        a, b = self.pair(self.body(images))
        x = self.empty(self.body[:2](images) + a)
        x += self.relu(b)
        return self.fc(x.flatten(2).mean(-1))


ODD_NETS = {"convnext": ConvNeXt, "gated": Gated, "dense": Dense, "odd": Odd}


def odd(name: str) -> nn.Module:
    """One of the networks in eval mode, with the same weights in every call."""
    torch.manual_seed(0)
    return with_statistics(ODD_NETS[name]())
