"""BiSeNet V1 on ResNet-18 (CoinCheung, TUFL) and on the STDC trunks (Nikiforos et al.)."""

import torch
from torch import nn
from torch.nn import functional

from benchmarks.torch_twins.blocks import Block, Trunk, bilinear, named, pooled


class Cat(nn.Module):
    """Four convolutions in a chain, their outputs concatenated."""

    def __init__(self, cin, n, stride):
        super().__init__()
        self.conv_list, self.stride = nn.ModuleList(), stride
        for i, width in enumerate((n // 2, n // 4, n // 8, n // 8)):
            self.conv_list.append(Block(cin, width, 1 if i == 0 else 3))
            cin = width
        if stride == 2:
            depthwise = nn.Conv2d(n // 2, n // 2, 3, 2, 1, groups=n // 2, bias=False)
            self.avd_layer = nn.Sequential(depthwise, nn.BatchNorm2d(n // 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps x [B,C,H,W] to [B,n,h,w]."""
        x = self.conv_list[0](x)
        pieces = [x]
        if self.stride == 2:
            pieces = [functional.avg_pool2d(x, 3, 2, 1)]
            x = self.avd_layer(x)
        for conv in self.conv_list[1:]:
            x = conv(x)
            pieces.append(x)
        return torch.cat(pieces, 1)


class STDCNet(nn.Module):
    """The trunk; the maps at 1/8, 1/16, 1/32."""

    def __init__(self, counts):
        super().__init__()
        layers: list[nn.Module] = [Block(3, 32, 3, 2), Block(32, 64, 3, 2)]
        self.ends, cin = [], 64
        for n, count in zip((256, 512, 1024), counts, strict=True):
            for i in range(count):
                layers.append(Cat(cin, n, 2 if i == 0 else 1))
                cin = n
            self.ends.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Maps x [B,3,H,W] to three maps."""
        maps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            maps += [x] if i in self.ends else []
        return maps


class Refine(nn.Module):
    """A 3x3 block and channel attention."""

    def __init__(self, cin, slope):
        super().__init__()
        self.conv = Block(cin, 128, 3, slope=slope)
        self.conv_atten, self.bn_atten = nn.Conv2d(128, 128, 1, bias=False), nn.BatchNorm2d(128)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps x [B,C,h,w] to [B,128,h,w]."""
        x = self.conv(x)
        return x * torch.sigmoid(self.bn_atten(self.conv_atten(pooled(x))))


class Context(nn.Module):
    """Top-down path over the trunk's maps."""

    def __init__(self, trunk, widths, slope):
        super().__init__()
        self.name = "resnet" if isinstance(trunk, Trunk) else "backbone"
        self.add_module(self.name, trunk)
        self.maps = trunk.features if isinstance(trunk, Trunk) else trunk.forward
        self.arm16, self.arm32 = Refine(widths[0], slope), Refine(widths[1], slope)
        self.conv_head32 = Block(128, 128, 3, slope=slope)
        self.conv_head16 = Block(128, 128, 3, slope=slope)
        self.conv_avg = Block(widths[1], 128, 1, slope=slope)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the trunk's 1/8 map, and the context at 1/8 and 1/16."""
        at8, at16, at32 = self.maps(x)[-3:]
        y = self.arm32(at32) + self.conv_avg(pooled(at32))
        y16 = self.conv_head32(functional.interpolate(y, at16.shape[2:], mode="nearest"))
        y = self.arm16(at16) + y16
        y8 = self.conv_head16(functional.interpolate(y, at8.shape[2:], mode="nearest"))
        return at8, y8, y16


class Fuse(nn.Module):
    """A 1x1 block and channel attention with a residual."""

    def __init__(self, cin, attention, slope):
        super().__init__()
        self.convblk, self.attention = Block(cin, 256, 1, slope=slope), attention
        if attention == "squeeze":
            self.conv1 = nn.Conv2d(256, 64, 1, bias=False)
            self.conv2 = nn.Conv2d(64, 256, 1, bias=False)
        else:
            self.conv, self.bn = nn.Conv2d(256, 256, 1, bias=False), nn.BatchNorm2d(256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Fuses x [B,C,h,w] into [B,256,h,w]."""
        x = self.convblk(x)
        a = pooled(x)
        if self.attention == "squeeze":
            a = self.conv2(torch.relu(self.conv1(a)))
        else:
            a = self.bn(self.conv(a))
        return x + x * torch.sigmoid(a)


class Head(nn.Module):
    """A 3x3 block and a classifier."""

    def __init__(self, cin, width, k, bias, slope):
        super().__init__()
        self.conv = Block(cin, width, 3, slope=slope)
        self.conv_out = nn.Conv2d(width, k, 1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classifies x [B,C,h,w]."""
        return self.conv_out(self.conv(x))


class BiSeNetV1(nn.Module):
    """kind: stdc1, stdc2, tufl (leaky, plain normalisation) or coincheung."""

    def __init__(self, k, *, kind):
        super().__init__()
        slope, bias = (0.01 if kind == "tufl" else 0.0), kind == "coincheung"
        self.kind, self.stdc = kind, kind.startswith("stdc")
        if self.stdc:
            trunk: nn.Module = STDCNet({"stdc1": (2, 2, 2), "stdc2": (4, 5, 3)}[kind])
        else:
            trunk = Trunk(18, slope=slope, flat_names=kind == "tufl")
            sizes = (3, 64, 7, 2), (64, 64, 3, 2), (64, 64, 3, 2), (64, 128, 1, 1)
            names = ("conv1", "conv2", "conv3", "conv_out")
            blocks = (Block(*shape, slope=slope) for shape in sizes)
            self.sp = named(zip(names, blocks, strict=True))
        self.cp = Context(trunk, (512, 1024) if self.stdc else (256, 512), slope)
        attention = "conv_norm" if kind == "coincheung" else "squeeze"
        self.ffm = Fuse(384 if self.stdc else 256, attention, slope)
        self.conv_out = Head(256, 256, k, bias, slope)
        self.conv_out16 = Head(128, 64, k, bias, slope)
        self.conv_out32 = Head(128, 64, k, bias, slope)

    def _resize(self, x, factor, size):
        if self.kind != "coincheung":
            return bilinear(x, size, corners=True)
        x = bilinear(x, (factor * x.shape[2], factor * x.shape[3]))
        return x[:, :, : size[0], : size[1]]

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits [B,K,H,W] by head of images [B,3,H,W]."""
        size = tuple(x.shape[2:])
        at8, y8, y16 = self.cp(x)
        fused = self.ffm(torch.cat([at8 if self.stdc else self.sp(x), y8], 1))
        outputs = {"logits": self._resize(self.conv_out(fused), 8, size)}
        if self.training:
            outputs["aux16"] = self._resize(self.conv_out16(y8), 8, size)
            outputs["aux32"] = self._resize(self.conv_out32(y16), 16, size)
        return outputs
