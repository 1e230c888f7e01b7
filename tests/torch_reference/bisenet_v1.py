import torch
from torch import nn
from torch.nn import functional

from torch_reference.blocks import Block, Trunk, bilinear, named, pooled


class Cat(nn.Module):
    def __init__(self, cin, n, stride):
        super().__init__()
        widths = (n // 2, n // 4, n // 8, n // 8)
        self.conv_list = nn.ModuleList()
        for i, w in enumerate(widths):
            self.conv_list.append(Block(cin, w, 1 if i == 0 else 3))
            cin = w
        self.stride = stride
        if stride == 2:
            half = n // 2
            depthwise = nn.Conv2d(half, half, 3, 2, 1, groups=half, bias=False)
            self.avd_layer = nn.Sequential(depthwise, nn.BatchNorm2d(half))

    def forward(self, x):
        first = self.conv_list[0](x)
        x, pieces = first, [first]
        if self.stride == 2:
            x, pieces = self.avd_layer(first), [functional.avg_pool2d(first, 3, 2, 1)]
        for conv in self.conv_list[1:]:
            x = conv(x)
            pieces.append(x)
        return torch.cat(pieces, 1)


class STDCNet(nn.Module):
    def __init__(self, counts):
        super().__init__()
        layers, self.ends, cin = [Block(3, 32, 3, 2), Block(32, 64, 3, 2)], [], 64
        for n, count in zip((256, 512, 1024), counts, strict=True):
            for i in range(count):
                layers.append(Cat(cin, n, 2 if i == 0 else 1))
                cin = n
            self.ends.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)
        self.conv_last, self.linear = Block(1024, 1024, 1), nn.Linear(1024, 1000, bias=False)

    def forward(self, x):
        maps = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            maps += [x] if i in self.ends else []
        return maps


class Refine(nn.Module):
    def __init__(self, cin, slope):
        super().__init__()
        self.conv = Block(cin, 128, 3, slope=slope)
        self.conv_atten, self.bn_atten = nn.Conv2d(128, 128, 1, bias=False), nn.BatchNorm2d(128)

    def forward(self, x):
        x = self.conv(x)
        return x * torch.sigmoid(self.bn_atten(self.conv_atten(pooled(x))))


class Context(nn.Module):
    def __init__(self, trunk_name, trunk, widths, slope):
        super().__init__()
        self.trunk_name = trunk_name
        self.add_module(trunk_name, trunk)
        self.arm16, self.arm32 = Refine(widths[0], slope), Refine(widths[1], slope)
        self.conv_head32 = Block(128, 128, 3, slope=slope)
        self.conv_head16 = Block(128, 128, 3, slope=slope)
        self.conv_avg = Block(widths[1], 128, 1, slope=slope)

    def forward(self, x):
        at8, at16, at32 = self.get_submodule(self.trunk_name)(x)[-3:]
        y = self.arm32(at32) + self.conv_avg(pooled(at32))
        y16 = self.conv_head32(functional.interpolate(y, at16.shape[2:], mode="nearest"))
        y = self.arm16(at16) + y16
        y8 = self.conv_head16(functional.interpolate(y, at8.shape[2:], mode="nearest"))
        return at8, y8, y16


class Fuse(nn.Module):
    def __init__(self, cin, attention, slope):
        super().__init__()
        self.convblk = Block(cin, 256, 1, slope=slope)
        self.attention = attention
        if attention == "squeeze":
            self.conv1 = nn.Conv2d(256, 64, 1, bias=False)
            self.conv2 = nn.Conv2d(64, 256, 1, bias=False)
        else:
            self.conv, self.bn = nn.Conv2d(256, 256, 1, bias=False), nn.BatchNorm2d(256)

    def forward(self, x):
        x = self.convblk(x)
        a = pooled(x)
        if self.attention == "squeeze":
            a = self.conv2(torch.relu(self.conv1(a)))
        else:
            a = self.bn(self.conv(a))
        return x + x * torch.sigmoid(a)


class Head(nn.Module):
    def __init__(self, cin, width, k, bias, slope):
        super().__init__()
        self.conv = Block(cin, width, 3, slope=slope)
        self.conv_out = nn.Conv2d(width, k, 1, bias=bias)

    def forward(self, x):
        return self.conv_out(self.conv(x))


class BiSeNetV1(nn.Module):
    """kind: stdc1, stdc2, tufl (leaky, plain BN) or coincheung."""

    def __init__(self, k, kind, detail=False):
        super().__init__()
        slope, bias = (0.01 if kind == "tufl" else 0.0), kind == "coincheung"
        self.kind, self.detail = kind, detail
        if kind.startswith("stdc"):
            trunk = STDCNet({"stdc1": (2, 2, 2), "stdc2": (4, 5, 3)}[kind])
            self.cp = Context("backbone", trunk, (512, 1024), slope)
        else:
            trunk = Trunk(18, slope=slope, flat_names=kind == "tufl")
            self.cp = Context("resnet", trunk, (256, 512), slope)
            self.sp = named(
                (
                    ("conv1", Block(3, 64, 7, 2, slope=slope)),
                    ("conv2", Block(64, 64, 3, 2, slope=slope)),
                    ("conv3", Block(64, 64, 3, 2, slope=slope)),
                    ("conv_out", Block(64, 128, 1, slope=slope)),
                )
            )
        attention = "conv_norm" if kind == "coincheung" else "squeeze"
        self.ffm = Fuse(384 if kind.startswith("stdc") else 256, attention, slope)
        self.conv_out = Head(256, 256, k, bias, slope)
        self.conv_out16 = Head(128, 64, k, bias, slope)
        self.conv_out32 = Head(128, 64, k, bias, slope)
        if kind.startswith("stdc"):
            for stride, c in ((2, 32), (4, 64), (8, 256), (16, 512)):
                self.add_module(f"conv_out_sp{stride}", Head(c, 64, 1, bias, slope))

    def resize(self, x, factor, size):
        if self.kind != "coincheung":
            return bilinear(x, size, True)
        x = bilinear(x, (factor * x.shape[2], factor * x.shape[3]), False)
        return x[:, :, : size[0], : size[1]]

    def forward(self, x):
        size = x.shape[2:]
        at8, y8, y16 = self.cp(x)
        detail = at8 if self.kind.startswith("stdc") else self.sp(x)
        fused = self.ffm(torch.cat([detail, y8], 1))
        outputs = {"logits": self.resize(self.conv_out(fused), 8, size), "feature": fused}
        if self.training:
            outputs["aux16"] = self.resize(self.conv_out16(y8), 8, size)
            outputs["aux32"] = self.resize(self.conv_out32(y16), 16, size)
            if self.detail:
                outputs["detail"] = self.resize(self.conv_out_sp8(at8), 8, size)
        return outputs
