"""BiSeNet on EfficientNet-Lite, with the names of our own modules."""

import torch
from torch import nn
from torch.nn import functional

from benchmarks.torch_twins.blocks import Block, bilinear, named, pooled

# Kernel size, stride and expansion of the seven stages; blocks and features of each variant.
STAGES = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))
VARIANTS = {
    "lite0": ((1, 2, 2, 3, 3, 4, 1), (16, 24, 40, 80, 112, 192, 320)),
    "lite1": ((1, 3, 3, 4, 4, 5, 1), (16, 24, 40, 80, 112, 192, 320)),
    "lite2": ((1, 3, 3, 4, 4, 5, 1), (16, 24, 48, 88, 120, 208, 352)),
}


class Unit(nn.Module):
    """Convolution with TensorFlow's SAME padding, its normalisation and, unless linear, ReLU6."""

    def __init__(self, cin, cout, size=1, stride=1, *, groups=1, linear=False):
        super().__init__()
        # At stride 1 the padding is symmetric; at stride 2 it depends on the image.
        padding = size // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(cin, cout, size, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(cout, eps=1e-3, momentum=0.01)
        self.size, self.stride, self.linear = size, stride, linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps x [B,C,H,W]."""
        if self.stride > 1:
            sides = []
            for n in (x.shape[3], x.shape[2]):
                total = max((-(-n // self.stride) - 1) * self.stride + self.size - n, 0)
                sides += [total // 2, total - total // 2]
            x = functional.pad(x, sides)
        x = self.bn(self.conv(x))
        return x if self.linear else functional.relu6(x, inplace=True)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection, with a residual where shapes allow it."""

    def __init__(self, cin, cout, size, stride, expansion):
        super().__init__()
        wide = expansion * cin
        if expansion > 1:
            self.expand = Unit(cin, wide)
        self.depthwise = Unit(wide, wide, size, stride, groups=wide)
        self.project = Unit(wide, cout, linear=True)
        self.residual = stride == 1 and cin == cout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps x [B,C,H,W]."""
        y = x
        for unit in self.children():
            y = unit(y)
        return x + y if self.residual else y


class Trunk(nn.Module):
    """EfficientNet-Lite without its classifier; the maps at 1/8, 1/16, 1/32."""

    def __init__(self, blocks, features):
        super().__init__()
        layers: list[nn.Module] = [Unit(3, 32, 3, 2)]
        self.ends, cin = [], 32
        for (size, stride, expansion), count, cout in zip(STAGES, blocks, features, strict=True):
            for i in range(count):
                layers.append(InvertedResidual(cin, cout, size, stride if i == 0 else 1, expansion))
                cin = cout
            self.ends.append(len(layers) - 1)
        names = ["stem", *(f"block{i}" for i in range(len(layers) - 1))]
        for name, layer in zip(names, layers, strict=True):
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Maps x [B,3,H,W] to three maps."""
        maps = []
        for i, layer in enumerate(self.children()):
            x = layer(x)
            maps += [x] if i in self.ends else []
        return maps[2], maps[4], maps[6]


class Refine(nn.Module):
    """A 3x3 block and channel attention."""

    def __init__(self, cin):
        super().__init__()
        self.convblock = Block(cin, 128, 3)
        self.attention_conv = nn.Conv2d(128, 128, 1, bias=False)
        self.attention_bn = nn.BatchNorm2d(128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps x [B,C,h,w] to [B,128,h,w]."""
        x = self.convblock(x)
        return x * torch.sigmoid(self.attention_bn(self.attention_conv(pooled(x))))


class Context(nn.Module):
    """Top-down path over the trunk's maps; the context at 1/8 and 1/16."""

    def __init__(self, at16, at32):
        super().__init__()
        self.arm16, self.arm32 = Refine(at16), Refine(at32)
        self.conv_avg = Block(at32, 128, 1)
        self.conv_head16, self.conv_head32 = Block(128, 128, 3), Block(128, 128, 3)

    def forward(self, at8, at16, at32) -> tuple[torch.Tensor, torch.Tensor]:
        """Fuses the maps [B,C,h,w]; at8 gives its size only."""
        y = self.arm32(at32) + self.conv_avg(pooled(at32))
        y16 = self.conv_head32(functional.interpolate(y, at16.shape[2:], mode="nearest"))
        y = self.arm16(at16) + y16
        return self.conv_head16(functional.interpolate(y, at8.shape[2:], mode="nearest")), y16


class Fuse(nn.Module):
    """A 1x1 block and channel attention with a residual."""

    def __init__(self, cin, width):
        super().__init__()
        self.convblock = Block(cin, width, 1)
        self.conv1 = nn.Conv2d(width, width // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(width // 4, width, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Fuses x [B,C,h,w] into [B,width,h,w]."""
        x = self.convblock(x)
        return x + x * torch.sigmoid(self.conv2(torch.relu(self.conv1(pooled(x)))))


def head(cin: int, width: int, k: int) -> nn.Sequential:
    """Makes a 3x3 block and a classifier."""
    return named([("convblock", Block(cin, width, 3)), ("classifier", nn.Conv2d(width, k, 1))])


class BiSeNetLite(nn.Module):
    """The network on a trunk (a key of VARIANTS)."""

    def __init__(self, k, *, variant, width=128):
        super().__init__()
        blocks, features = VARIANTS[variant]
        self.backbone = Trunk(blocks, features)
        self.context = Context(features[4], features[6])
        self.ffm = Fuse(features[2] + 128, width)
        self.head = head(width, width, k)
        self.aux16, self.aux32 = head(128, 64, k), head(128, 64, k)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits [B,K,H,W] by head of images [B,3,H,W], and the fused "feature"."""
        height, width = x.shape[2:]
        at8, at16, at32 = self.backbone(x)
        context8, context16 = self.context(at8, at16, at32)
        feature = self.ffm(torch.cat([at8, context8], 1))
        maps = {"logits": (self.head, feature, 8)}
        if self.training:
            maps["aux16"], maps["aux32"] = (self.aux16, context8, 8), (self.aux32, context16, 16)
        outputs = {"feature": feature}
        for name, (module, y, factor) in maps.items():
            logits = bilinear(module(y), (factor * y.shape[2], factor * y.shape[3]))
            outputs[name] = logits[:, :, :height, :width]
        return outputs
