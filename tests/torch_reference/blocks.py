from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Convolution, normalisation, activation under the given attribute names."""

    def __init__(self, cin, cout, k, s=1, *, conv="conv", slope=0.0):
        super().__init__()
        self.names, self.slope = (conv, "bn"), slope
        self.add_module(conv, nn.Conv2d(cin, cout, k, s, k // 2, bias=False))
        self.add_module("bn", nn.BatchNorm2d(cout))

    def forward(self, x):
        for name in self.names:
            x = self.get_submodule(name)(x)
        return functional.leaky_relu(x, self.slope)


def pooled(x):
    return x.mean((2, 3), keepdim=True)


class Residual(nn.Module):
    """widths (w, w) with 3x3, 3x3, or (w, w, 4w) with 1x1, 3x3, 1x1."""

    def __init__(self, cin, w, *, bottleneck, stride, dilation, caffe, slope, flat_names):
        super().__init__()
        sizes = (1, 3, 1) if bottleneck else (3, 3)
        widths = (w, w, 4 * w) if bottleneck else (w, w)
        strided = (0 if caffe else 1) if bottleneck else 0
        c = cin
        for i, (k, width) in enumerate(zip(sizes, widths, strict=True)):
            d = dilation if k == 3 else 1
            conv = nn.Conv2d(
                c, width, k, stride if i == strided else 1, d * (k // 2), d, bias=False
            )
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(width))
            c = width
        self.count, self.slope, self.short = len(sizes), slope, None
        if stride != 1 or cin != c:
            conv, bn = nn.Conv2d(cin, c, 1, stride, bias=False), nn.BatchNorm2d(c)
            if flat_names:
                self.downsample_conv, self.downsample_bn = conv, bn
                self.short = ("downsample_conv", "downsample_bn")
            else:
                self.downsample = nn.Sequential(conv, bn)
                self.short = ("downsample",)

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(y))
            if i < self.count:
                y = functional.leaky_relu(y, self.slope)
        for name in self.short or ():
            x = self.get_submodule(name)(x)
        return functional.relu(x + y)


class Trunk(nn.Module):
    """ResNet-18 or -101 with torchvision's names."""

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
        counts, bottleneck = {18: ((2, 2, 2, 2), False), 101: ((3, 4, 23, 3), True)}[depth]
        self.slope = slope
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=caffe)
        c = 64
        for stage, count in enumerate(counts):
            w = 64 * 2**stage
            blocks = []
            for i in range(count):
                blocks.append(
                    Residual(
                        c,
                        w,
                        bottleneck=bottleneck,
                        stride=strides[stage] if i == 0 else 1,
                        dilation=dilations[stage],
                        caffe=caffe,
                        slope=slope,
                        flat_names=flat_names,
                    )
                )
                c = 4 * w if bottleneck else w
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))

    def forward(self, x):
        x = self.pool(functional.leaky_relu(self.bn1(self.conv1(x)), self.slope))
        maps = []
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            maps.append(x)
        return maps


def bilinear(x, size, corners):
    return functional.interpolate(x, size, mode="bilinear", align_corners=corners)


@torch.no_grad()
def randomise(module, images, seed, *, kinks=True):
    """Random weights, and running statistics near those of the images, then disturbed.

    kinks False keeps what goes into every ReLU of a trunk away from zero, channel by channel on
    either side: a gradient is then a smooth function of rounding, and can be compared closely.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(like, low, high):
        return low + (high - low) * torch.rand(like.shape, generator=generator)

    momenta = {}
    for name, child in module.named_modules():
        if isinstance(child, nn.Conv2d):
            bound = (3 * 2 / child.weight[0].numel()) ** 0.5
            child.weight.copy_(uniform(child.weight, -bound, bound))
            if child.bias is not None:
                child.bias.copy_(uniform(child.bias, -0.3, 0.3))
            if not kinks and child.bias is not None and name.startswith("features."):
                child.weight *= 0.1
                side = torch.sign(uniform(child.bias, -1, 1))
                child.bias.copy_(side * uniform(child.bias, 1.8, 2.5))
        if isinstance(child, nn.BatchNorm2d):
            last = "layer" in name and name.endswith(("bn2", "bn3", "downsample.1", "ample_bn"))
            if kinks:
                child.weight.copy_(uniform(child.weight, 0.5, 1.5) * (0.3 if last else 1.0))
                child.bias.copy_(uniform(child.bias, -0.5, 0.5))
            elif last:
                child.weight.copy_(uniform(child.weight, 0.05, 0.1))
                child.bias.copy_(uniform(child.bias, 0.5, 1.0))
            else:
                side = torch.sign(uniform(child.bias, -1, 1))
                child.weight.copy_(uniform(child.weight, 0.2, 0.4))
                child.bias.copy_(side * uniform(child.bias, 1.8, 2.5))
            momenta[name], child.momentum = child.momentum, 1.0
    module.train()
    module(images)
    for name, child in module.named_modules():
        if isinstance(child, nn.BatchNorm2d):
            child.momentum = momenta[name]
            child.running_mean += uniform(child.running_mean, -0.1, 0.1)
            child.running_var *= uniform(child.running_var, 0.7, 1.4)


def named(pairs):
    return nn.Sequential(OrderedDict(pairs))
