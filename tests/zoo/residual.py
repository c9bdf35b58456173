"""Residual networks in plain torch: with batch norm, with squeeze and excitation, and without normalisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["norm_free", "resnet18", "resnet50", "se_resnet"]


# --- residual networks (He et al. 2016; squeeze and excitation: Hu et al. 2018) ---------------------------------------


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction),
            nn.ReLU(inplace=True),
            nn.Linear(channels // reduction, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        gate = x.mean(dim=(2, 3)).view(b, c)
        return x * self.fc(gate).view(b, c, 1, 1).expand_as(x)


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1, se: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.se = SqueezeExcitation(channels) if se else None
        self.downsample = shortcut(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.se is not None:
            out = self.se(out)
        out += self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1, se: bool = False) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.se = SqueezeExcitation(out_channels) if se else nn.Identity()
        self.downsample = shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.se(self.bn3(self.conv3(out)))
        return self.relu(out + self.downsample(x))


class ResNet(nn.Module):
    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, ...],
        num_classes: int = 1000,
        width: int = 64,
        stem: str = "imagenet",
        se: bool = False,
    ) -> None:
        super().__init__()
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
            self.pool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        else:
            self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
            self.pool = nn.Identity()
        self.bn1 = nn.BatchNorm2d(width)
        channels = width
        stages = []
        for i, depth in enumerate(depths):
            blocks = []
            for j in range(depth):
                blocks.append(block(channels, width * 2**i, stride=2 if i > 0 and j == 0 else 1, se=se))
                channels = width * 2**i * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layers = nn.ModuleList(stages)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        for layer in self.layers:
            x = layer(x)
        x = torch.flatten(self.avgpool(x), 1)
        return self.fc(x)


def resnet18(num_classes: int = 1000, width: int = 64, stem: str = "imagenet") -> nn.Module:
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, width, stem)


def resnet50(num_classes: int = 1000, width: int = 64, stem: str = "imagenet") -> nn.Module:
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes, width, stem)


def se_resnet(num_classes: int = 1000, width: int = 64, stem: str = "cifar") -> nn.Module:
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, width, stem, se=True)


# --- residual networks without normalisation (Brock et al. 2021) -----------------------------------------------------


class ScaledConv2d(nn.Conv2d):
    """A convolution whose weight is standardised over its fan-in, with a learnable gain for each output channel."""

    def __init__(self, *args: int, **kwargs: int) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))
        self.eps = 1e-4

    def standardized_weight(self) -> Tensor:
        mean = torch.mean(self.weight, dim=[1, 2, 3], keepdim=True)
        var = torch.var(self.weight, dim=[1, 2, 3], keepdim=True, unbiased=False)
        fan_in = self.weight[0].numel()
        scale = torch.rsqrt(torch.clamp(var * fan_in, min=self.eps))
        return (self.weight - mean) * scale * self.gain

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.standardized_weight(), self.bias, self.stride, self.padding, self.dilation, self.groups)


class FreeBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, stride: int, beta: float) -> None:
        super().__init__()
        self.beta = beta
        self.alpha = 0.2
        self.conv1 = ScaledConv2d(in_channels, channels // 2, 1)
        self.conv2 = ScaledConv2d(channels // 2, channels // 2, 3, stride=stride, padding=1, groups=2)
        self.conv3 = ScaledConv2d(channels // 2, channels, 1)
        self.skip_gain = nn.Parameter(torch.zeros(1))
        self.shortcut = None
        if stride > 1 or in_channels != channels:
            self.shortcut = nn.Sequential(nn.AvgPool2d(stride, stride), ScaledConv2d(in_channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        out = F.gelu(x) * 1.7015 / self.beta  # the gain of a GELU (Brock et al. 2021, appendix)
        skip = x if self.shortcut is None else self.shortcut(out)
        out = F.gelu(self.conv1(out)) * 1.7015
        out = F.gelu(self.conv2(out)) * 1.7015
        return skip + self.conv3(out) * self.skip_gain * self.alpha


class NormFree(nn.Module):
    def __init__(self, num_classes: int, width: int, depths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = ScaledConv2d(3, width, 3, padding=1)
        blocks = []
        channels, variance = width, 1.0
        for i, depth in enumerate(depths):
            for j in range(depth):
                blocks.append(FreeBlock(channels, width * 2**i, 2 if i and not j else 1, variance**0.5))
                channels = width * 2**i
                variance = 1.0 if j == 0 else variance + 0.04
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        return self.head(torch.mean(F.gelu(x), dim=[2, 3]))


def norm_free(num_classes: int = 1000, width: int = 64, depths: tuple[int, ...] = (1, 2, 2)) -> nn.Module:
    return NormFree(num_classes, width, depths)
