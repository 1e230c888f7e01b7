"""The networks and the adversarial step in PyTorch, for benchmarks and tests.

They are written from the descriptions, with the module names of the public code, so that
`rtda_jax.weights.torch_arrays` gives their weights. Nothing here imports JAX: the memory and the
threads of a PyTorch process are PyTorch's own.
"""

from collections.abc import Callable

from torch import nn

from benchmarks.torch_twins.bisenet import BiSeNet
from benchmarks.torch_twins.bisenet_lite import BiSeNetLite
from benchmarks.torch_twins.bisenet_v1 import BiSeNetV1
from benchmarks.torch_twins.deeplab import DeepLab, DeepLabVGG
from benchmarks.torch_twins.discriminator import Discriminator

NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "bisenet_resnet18": lambda k: BiSeNet(k, depth=18, stages=(3, 4)),
    "bisenet_resnet101": lambda k: BiSeNet(k, depth=101, stages=(3, 4)),
    "bisenet_mpg_resnet18": lambda k: BiSeNet(k, depth=18, stages=(1, 2, 3, 4)),
    "bisenet_mpg_resnet101": lambda k: BiSeNet(k, depth=101, stages=(1, 2, 3, 4)),
    "bisenet_stdc1": lambda k: BiSeNetV1(k, kind="stdc1"),
    "bisenet_stdc2": lambda k: BiSeNetV1(k, kind="stdc2"),
    "bisenet_tufl": lambda k: BiSeNetV1(k, kind="tufl"),
    "bisenet_coincheung": lambda k: BiSeNetV1(k, kind="coincheung"),
    "bisenet_lite0": lambda k: BiSeNetLite(k, variant="lite0"),
    "bisenet_lite1": lambda k: BiSeNetLite(k, variant="lite1"),
    "bisenet_lite2": lambda k: BiSeNetLite(k, variant="lite2"),
    "deeplab_resnet101": lambda k: DeepLab(k, heads=1),
    "deeplab_resnet101_multi": lambda k: DeepLab(k, heads=2),
    "deeplab_vgg16": DeepLabVGG,
}

DISCRIMINATORS: dict[str, Callable[[int], nn.Module]] = {
    "fcd": lambda channels: Discriminator(channels, convolution="full"),
    "fcd_light": lambda channels: Discriminator(channels, convolution="light"),
}
