import torch
from torch import nn

from torch_reference.blocks import Block, Trunk, bilinear, named, pooled


class ContextTrunk(Trunk):
    """Registers the whole classifier once more under `features`, as the lineage does."""

    def __init__(self, depth):
        super().__init__(depth)
        self.features = nn.Module()
        for name in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"):
            self.features.add_module(name, self.get_submodule(name))
        self.features.fc = nn.Linear({18: 512, 101: 2048}[depth], 1000)


class Refine(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(c, c, 1), nn.BatchNorm2d(c)

    def forward(self, x):
        return x * torch.sigmoid(self.bn(self.conv(pooled(x))))


class Fuse(nn.Module):
    def __init__(self, cin, k):
        super().__init__()
        self.convblock = Block(cin, k, 3, conv="conv1")
        self.conv1, self.conv2 = nn.Conv2d(k, k, 1), nn.Conv2d(k, k, 1)

    def forward(self, x):
        x = self.convblock(x)
        return x + x * torch.sigmoid(self.conv2(torch.relu(self.conv1(pooled(x)))))


class BiSeNet(nn.Module):
    """S0 with stages (3, 4) of the trunk, S2 with (1, 2, 3, 4)."""

    def __init__(self, k, depth, stages):
        super().__init__()
        self.stages = stages
        self.saptial_path = named(
            (f"convblock{i}", Block(cin, cout, 3, 2, conv="conv1"))
            for i, (cin, cout) in enumerate(((3, 64), (64, 128), (128, 256)), start=1)
        )
        self.context_path = ContextTrunk(depth)
        widths = [(64 if depth == 18 else 256) * 2 ** (s - 1) for s in stages]
        for i, c in enumerate(widths, start=1):
            self.add_module(f"attention_refinement_module{i}", Refine(c))
            self.add_module(f"supervision{i}", nn.Conv2d(c, k, 1))
        self.feature_fusion_module = Fuse(256 + sum(widths), k)
        self.conv = nn.Conv2d(k, k, 1)

    def forward(self, x):
        size = x.shape[2:]
        spatial = self.saptial_path(x)
        maps = self.context_path(x)
        tail, context = pooled(maps[-1]), []
        for i, stage in enumerate(self.stages, start=1):
            y = self.get_submodule(f"attention_refinement_module{i}")(maps[stage - 1])
            y = y * tail if stage == 4 else y
            context.append(bilinear(y, spatial.shape[2:], False))
        fused = self.feature_fusion_module(torch.cat([spatial, *context], 1))
        large = bilinear(fused, (8 * fused.shape[2], 8 * fused.shape[3]), False)
        outputs = {"logits": self.conv(large)[:, :, : size[0], : size[1]], "feature": fused}
        if self.training:
            for i, stage in enumerate(self.stages, start=1):
                aux = self.get_submodule(f"supervision{i}")(context[i - 1])
                outputs[f"aux{2 ** (stage + 1)}"] = bilinear(aux, size, False)
        return outputs
