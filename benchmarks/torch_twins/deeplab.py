"""DeepLabV2 on ResNet-101 and VGG-16 as AdaptSegNet has them."""

import torch
from torch import nn

from benchmarks.torch_twins.blocks import Trunk, bilinear


class Dilated(nn.Module):
    """The sum of four dilated classifiers."""

    def __init__(self, cin, k):
        super().__init__()
        self.conv2d_list = nn.ModuleList(
            nn.Conv2d(cin, k, 3, padding=d, dilation=d) for d in (6, 12, 18, 24)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classifies x [B,C,h,w]."""
        return sum(conv(x) for conv in self.conv2d_list)


class DeepLab(Trunk):
    """One head on layer4, or two, the main one (layer6) on layer4 and layer5 on layer3."""

    def __init__(self, k, *, heads):
        super().__init__(101, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), caffe=True)
        self.heads = heads
        self.layer5 = Dilated(1024 if heads == 2 else 2048, k)
        if heads == 2:
            self.layer6 = Dilated(2048, k)

    # The authors' network is its trunk: a submodule would change the names of the weights.
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:  # type: ignore[override]
        """Returns logits [B,K,H,W] by head of images [B,3,H,W]."""
        size = tuple(x.shape[2:])
        layer3, layer4 = super().forward(x)[2:]
        main = self.layer6 if self.heads == 2 else self.layer5
        outputs = {"logits": bilinear(main(layer4), size, corners=True)}
        if self.training and self.heads == 2:
            outputs["aux16"] = bilinear(self.layer5(layer3), size, corners=True)
        return outputs


class DeepLabVGG(nn.Module):
    """VGG-16 with dilations, and one head."""

    def __init__(self, k):
        super().__init__()
        layers: list[nn.Module] = []
        cin = 3
        stages = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
        for stage, (width, count) in enumerate(stages, start=1):
            d = 2 if stage == 5 else 1
            for _ in range(count):
                layers += [nn.Conv2d(cin, width, 3, padding=d, dilation=d), nn.ReLU(inplace=True)]
                cin = width
            layers += [nn.MaxPool2d(2, 2)] if stage <= 3 else []
        for cin in (512, 1024):
            layers += [nn.Conv2d(cin, 1024, 3, padding=4, dilation=4), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.classifier = Dilated(1024, k)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns logits [B,K,H,W] of images [B,3,H,W]."""
        logits = self.classifier(self.features(x))
        return {"logits": bilinear(logits, tuple(x.shape[2:]), corners=True)}
