"""What the PyTorch networks share: blocks and ResNet trunks with torchvision's names."""

from collections import OrderedDict
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn import functional


def rectify(x: torch.Tensor, slope: float) -> torch.Tensor:
    """Rectifies in place; its input is always the output of a normalisation or convolution."""
    return functional.leaky_relu_(x, slope) if slope else functional.relu_(x)


def bilinear(x: torch.Tensor, size: tuple[int, int], *, corners: bool = False) -> torch.Tensor:
    """Resizes x [B,C,h,w] to size (H, W)."""
    return functional.interpolate(x, size, mode="bilinear", align_corners=corners)


def pooled(x: torch.Tensor) -> torch.Tensor:
    """Averages over the image, [B,C,H,W] -> [B,C,1,1]."""
    return x.mean((2, 3), keepdim=True)


def named(pairs: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Makes a Sequential with names."""
    return nn.Sequential(OrderedDict(pairs))


class Block(nn.Module):
    """Bias-free convolution, normalisation, (leaky) ReLU; the convolution's name is given."""

    def __init__(self, cin, cout, size, stride=1, *, conv="conv", slope=0.0):
        super().__init__()
        self.name, self.slope = conv, slope
        self.add_module(conv, nn.Conv2d(cin, cout, size, stride, size // 2, bias=False))
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps x [B,C,H,W]."""
        return rectify(self.bn(self.get_submodule(self.name)(x)), self.slope)


class Residual(nn.Module):
    """Basic block, or bottleneck with the stride on the 3x3 (torchvision) or first 1x1 (Caffe)."""

    def __init__(self, cin, width, *, bottleneck, stride, dilation, caffe, slope, flat_names):
        super().__init__()
        sizes = (1, 3, 1) if bottleneck else (3, 3)
        widths = (width, width, 4 * width) if bottleneck else (width, width)
        strided = 1 if bottleneck and not caffe else 0
        channels = cin
        for i, (size, cout) in enumerate(zip(sizes, widths, strict=True)):
            spread = dilation if size == 3 else 1
            step, padding = (stride if i == strided else 1), spread * (size // 2)
            conv = nn.Conv2d(channels, cout, size, step, padding, spread, bias=False)
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(cout))
            channels = cout
        self.count, self.slope = len(sizes), slope
        self.shortcut: tuple[str, ...] = ()
        if stride != 1 or cin != channels:
            conv, bn = nn.Conv2d(cin, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            self.shortcut = ("downsample_conv", "downsample_bn") if flat_names else ("downsample",)
            parts = (conv, bn) if flat_names else (nn.Sequential(conv, bn),)
            for name, part in zip(self.shortcut, parts, strict=True):
                self.add_module(name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps x [B,C,H,W]."""
        y = x
        for i in range(1, self.count + 1):
            y = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(y))
            y = rectify(y, self.slope) if i < self.count else y
        for name in self.shortcut:
            x = self.get_submodule(name)(x)
        return functional.relu_(x + y)


class Trunk(nn.Module):
    """ResNet-18 or -101; returns the outputs of layer1 to layer4."""

    def __init__(
        self,
        depth,
        *,
        strides=(1, 2, 2, 2),
        dilations=(1, 1, 1, 1),
        caffe=False,
        slope=0.0,
        flat_names=False,
    ):
        super().__init__()
        counts, expansion = {18: ((2, 2, 2, 2), 1), 101: ((3, 4, 23, 3), 4)}[depth]
        self.slope = slope
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=caffe)
        cin = 64
        for stage, count in enumerate(counts):
            width, blocks = 64 * 2**stage, []
            for i in range(count):
                block = Residual(
                    cin,
                    width,
                    bottleneck=expansion == 4,
                    stride=strides[stage] if i == 0 else 1,
                    dilation=dilations[stage],
                    caffe=caffe,
                    slope=slope,
                    flat_names=flat_names,
                )
                blocks.append(block)
                cin = expansion * width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Returns the four maps of images [B,3,H,W]."""
        x = self.pool(rectify(self.bn1(self.conv1(x)), self.slope))
        maps = []
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            maps.append(x)
        return maps
