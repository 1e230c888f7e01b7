"""The published networks, as PyTorch states them, where they differ from the benchmark's twins.

The originals resize before they classify, have weights that nothing uses, and heads that the
benchmark leaves out. Each also returns "feature", what it has in front of its classifier.
"""

import torch
from torch import nn

from benchmarks import torch_twins
from benchmarks.torch_twins.bisenet_v1 import Head
from benchmarks.torch_twins.blocks import Block, bilinear, pooled
from benchmarks.torch_twins.deeplab import Dilated


def observed(module, forward, x):
    """What forward(x) returns, and what the module returned within it."""
    seen = []
    with module.register_forward_hook(lambda _module, _inputs, output: seen.append(output)):
        outputs = forward(x)
    return outputs, seen[0]


class BiSeNet(torch_twins.BiSeNet):
    """Registers its whole ImageNet classifier once more, under `features`."""

    def __init__(self, k, *, depth, stages):
        super().__init__(k, depth=depth, stages=stages)
        trunk = self.context_path
        trunk.features = nn.Module()
        for name in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"):
            trunk.features.add_module(name, trunk.get_submodule(name))
        trunk.features.fc = nn.Linear({18: 512, 101: 2048}[depth], 1000)

    def forward(self, x):
        size = x.shape[2:]
        spatial = self.saptial_path(x)
        maps = self.context_path(x)
        tail, context = pooled(maps[-1]), []
        for i, stage in enumerate(self.stages, start=1):
            y = self.get_submodule(f"attention_refinement_module{i}")(maps[stage - 1])
            y = y * tail if stage == 4 else y
            context.append(bilinear(y, spatial.shape[2:]))
        fused = self.feature_fusion_module(torch.cat([spatial, *context], 1))
        large = bilinear(fused, (8 * fused.shape[2], 8 * fused.shape[3]))
        outputs = {"logits": self.conv(large)[:, :, : size[0], : size[1]], "feature": fused}
        if self.training:
            for i, stage in enumerate(self.stages, start=1):
                aux = self.get_submodule(f"supervision{i}")(context[i - 1])
                outputs[f"aux{2 ** (stage + 1)}"] = bilinear(aux, size)
        return outputs


class BiSeNetV1(torch_twins.BiSeNetV1):
    """With STDC also the trunk's ImageNet classifier and the boundary heads, of which we have one.

    detail returns the boundary logits of that one in training.
    """

    def __init__(self, k, *, kind, detail=False):
        super().__init__(k, kind=kind)
        self.detail = detail
        if self.stdc:
            trunk = self.cp.backbone
            trunk.conv_last, trunk.linear = Block(1024, 1024, 1), nn.Linear(1024, 1000, bias=False)
            for stride, channels in ((2, 32), (4, 64), (8, 256), (16, 512)):
                self.add_module(f"conv_out_sp{stride}", Head(channels, 64, 1, False, 0.0))

    def forward(self, x):
        logits = super().forward
        (outputs, context), feature = observed(self.ffm, lambda x: observed(self.cp, logits, x), x)
        if self.training and self.detail:
            outputs["detail"] = self._resize(self.conv_out_sp8(context[0]), 8, x.shape[2:])
        return {**outputs, "feature": feature}


class DeepLab(torch_twins.DeepLab):
    def forward(self, x):
        outputs, feature = observed(self.layer4, super().forward, x)
        return {**outputs, "feature": feature}


class DeepLabVGG(torch_twins.DeepLabVGG):
    def forward(self, x):
        outputs, feature = observed(self.features, super().forward, x)
        return {**outputs, "feature": feature}


def first_two(deeplab):
    """Makes every classifier of a DeepLab the sum of its first two branches."""
    for module in deeplab.modules():
        if isinstance(module, Dilated):
            module.register_forward_hook(
                lambda module, x, _sum: module.conv2d_list[0](*x) + module.conv2d_list[1](*x)
            )
    return deeplab


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
