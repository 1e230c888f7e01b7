"""BiSeNet as Brunstein et al. have it, and the four-scale variant of Bartoletti et al."""

import torch
from torch import nn

from benchmarks.torch_twins.blocks import Block, Trunk, bilinear, named, pooled


class Refine(nn.Module):
    """Channel attention without a convolution in front."""

    def __init__(self, channels):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Refines x [B,C,h,w]."""
        return x * torch.sigmoid(self.bn(self.conv(pooled(x))))


class Fuse(nn.Module):
    """One channel a class, then channel attention with a residual."""

    def __init__(self, cin, k):
        super().__init__()
        self.convblock = Block(cin, k, 3, conv="conv1")
        self.conv1, self.conv2 = nn.Conv2d(k, k, 1), nn.Conv2d(k, k, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Fuses x [B,C,h,w] into [B,K,h,w]."""
        x = self.convblock(x)
        return x + x * torch.sigmoid(self.conv2(torch.relu(self.conv1(pooled(x)))))


class BiSeNet(nn.Module):
    """Classifiers run in front of the resizes, as in ours: the same values for less work."""

    def __init__(self, k, *, depth, stages):
        super().__init__()
        self.stages = stages
        self.saptial_path = named(
            (f"convblock{i}", Block(cin, cout, 3, 2, conv="conv1"))
            for i, (cin, cout) in enumerate(((3, 64), (64, 128), (128, 256)), start=1)
        )
        self.context_path = Trunk(depth)
        widths = [(64 if depth == 18 else 256) * 2 ** (stage - 1) for stage in stages]
        for i, channels in enumerate(widths, start=1):
            self.add_module(f"attention_refinement_module{i}", Refine(channels))
            self.add_module(f"supervision{i}", nn.Conv2d(channels, k, 1))
        self.feature_fusion_module = Fuse(256 + sum(widths), k)
        self.conv = nn.Conv2d(k, k, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits [B,K,H,W] by head of images [B,3,H,W]."""
        height, width = x.shape[2:]
        spatial = self.saptial_path(x)
        maps = self.context_path.features(x)
        refined = {}
        for i, stage in enumerate(self.stages, start=1):
            y = self.get_submodule(f"attention_refinement_module{i}")(maps[stage - 1])
            refined[i] = y * pooled(maps[3]) if stage == 4 else y
        size = tuple(spatial.shape[2:])
        context = [bilinear(y, size) for y in refined.values()]
        fused = self.feature_fusion_module(torch.cat([spatial, *context], 1))
        logits = bilinear(self.conv(fused), (8 * size[0], 8 * size[1]))
        outputs = {"logits": logits[:, :, :height, :width]}
        if self.training:
            for i, stage in enumerate(self.stages, start=1):
                head = self.get_submodule(f"supervision{i}")
                aux = bilinear(bilinear(head(refined[i]), size), (height, width))
                outputs[f"aux{2 ** (stage + 1)}"] = aux
        return outputs
