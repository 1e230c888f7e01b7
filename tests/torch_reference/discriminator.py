from torch import nn
from torch.nn import functional

from torch_reference.blocks import bilinear


class Discriminator(nn.Module):
    """kind: full, light_s0 (conv1_1, conv1_2, ..., biases) or light_s2 (depthwise1, ..., none)."""

    def __init__(self, cin, kind, upsampled=False):
        super().__init__()
        self.layers, self.upsampled = [], upsampled
        for i, cout in enumerate((64, 128, 256, 512, 1), start=1):
            stem = "classifier" if i == 5 else f"conv{i}"
            if kind == "full":
                names = (stem,)
                self.add_module(stem, nn.Conv2d(cin, cout, 4, 2, 1))
            else:
                tag, bias = ("c" if i == 5 else str(i)), kind == "light_s0"
                names = (
                    (f"{stem}_1", f"{stem}_2") if bias else (f"depthwise{tag}", f"pointwise{tag}")
                )
                depthwise = nn.Conv2d(cin, cin, 4, 2, 1, groups=cin, bias=bias)
                self.add_module(names[0], depthwise)
                self.add_module(names[1], nn.Conv2d(cin, cout, 1, bias=bias))
            self.layers.append(names)
            cin = cout

    def forward(self, x):
        for i, names in enumerate(self.layers):
            for name in names:
                x = self.get_submodule(name)(x)
            x = functional.leaky_relu(x, 0.2) if i < 4 else x
        return bilinear(x, (32 * x.shape[2], 32 * x.shape[3]), False) if self.upsampled else x
