"""The fully convolutional discriminators, full and light (Brunstein et al.)."""

import torch
from torch import nn
from torch.nn import functional


class Discriminator(nn.Module):
    """Five 4x4 convolutions of stride 2; "light" makes each depthwise then pointwise."""

    def __init__(self, cin, *, convolution):
        super().__init__()
        self.layers: list[tuple[str, ...]] = []
        for i, cout in enumerate((64, 128, 256, 512, 1), start=1):
            name = "classifier" if i == 5 else f"conv{i}"
            parts = {
                "full": {name: nn.Conv2d(cin, cout, 4, 2, 1)},
                "light": {
                    f"{name}_depthwise": nn.Conv2d(cin, cin, 4, 2, 1, groups=cin),
                    f"{name}_pointwise": nn.Conv2d(cin, cout, 1),
                },
            }[convolution]
            for part, module in parts.items():
                self.add_module(part, module)
            self.layers.append(tuple(parts))
            cin = cout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [B,1,h,w] of maps [B,C,H,W]."""
        for i, names in enumerate(self.layers):
            for name in names:
                x = self.get_submodule(name)(x)
            x = functional.leaky_relu_(x, 0.2) if i < 4 else x
        return x
