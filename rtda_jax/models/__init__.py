"""Segmentation networks and discriminators, made by name."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from rtda_jax.models.bisenet import BiSeNet
from rtda_jax.models.bisenet_v1 import BiSeNetV1
from rtda_jax.models.deeplab import DeepLab, DeepLabVGG
from rtda_jax.models.discriminator import Discriminator

MPG = (4, 8, 16, 32)

MODELS: dict[str, Callable[..., nn.Module]] = {
    "bisenet_resnet18": functools.partial(BiSeNet, backbone="resnet18"),
    "bisenet_resnet101": functools.partial(BiSeNet, backbone="resnet101"),
    "bisenet_mpg_resnet18": functools.partial(BiSeNet, backbone="resnet18", scales=MPG),
    "bisenet_mpg_resnet101": functools.partial(BiSeNet, backbone="resnet101", scales=MPG),
    "bisenet_stdc1": functools.partial(BiSeNetV1, backbone="stdc1"),
    "bisenet_stdc2": functools.partial(BiSeNetV1, backbone="stdc2"),
    "bisenet_tufl": functools.partial(BiSeNetV1, activation="leaky_relu"),
    "bisenet_coincheung": functools.partial(
        BiSeNetV1, attention="conv_norm", head_bias=True, align="half_pixel"
    ),
    "deeplab_resnet101": functools.partial(DeepLab, heads="single"),
    "deeplab_resnet101_multi": functools.partial(DeepLab, heads="multi"),
    "deeplab_vgg16": DeepLabVGG,
}

DISCRIMINATORS: dict[str, Callable[..., nn.Module]] = {
    "fcd": functools.partial(Discriminator, convolution="full"),
    "fcd_light": functools.partial(Discriminator, convolution="light"),
}


def create_model(name: str, num_classes: int = 19, **options: Any) -> nn.Module:
    """Segmentation network of that name (a key of MODELS).

    `model.apply(variables, images[B,H,W,3], train=False)` returns a dict: float32 "logits"
    [B,H,W,K] at the input's resolution, "feature" in front of the classifier, and with train=True
    (and mutable=["batch_stats"]) the auxiliary logits "aux16", "aux32", ... also [B,H,W,K].
    options: axis_name, batch_norm ("batch", "frozen", "last"), auxiliary ("always": the auxiliary
    logits with train=False too), dtype, and those of the network's class.
    Raises ValueError for an unknown name.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}; known: {', '.join(MODELS)}")
    return MODELS[name](num_classes=num_classes, **options)


def create_discriminator(name: str, in_channels: int = 19, **options: Any) -> nn.Module:
    """Discriminator of that name (a key of DISCRIMINATORS), [B,H,W,in_channels] -> logits.

    options: use_bias, output_stride (32, or 1 for logits at the input's resolution), dtype.
    Raises ValueError for an unknown name.
    """
    if name not in DISCRIMINATORS:
        raise ValueError(f"unknown discriminator {name!r}; known: {', '.join(DISCRIMINATORS)}")
    return DISCRIMINATORS[name](in_channels=in_channels, **options)


def trainable(model: nn.Module, params: Any) -> Any:
    """Tree of bool like params: False where the original never trains the parameter.

    That is the affine part of DeepLab's normalisations, and the two branches of the classifier
    which aspp="first_two" leaves out; every other network trains all of its parameters.
    """
    if not isinstance(model, DeepLab | DeepLabVGG):
        return jax.tree.map(lambda _: True, params)

    def trains(path: tuple[Any, ...], _: jax.Array) -> bool:
        return model.trains(jax.tree_util.keystr(path, simple=True, separator="."))

    return jax.tree_util.tree_map_with_path(trains, params)


def group_of(path: tuple[str, ...]) -> str:
    """The parameter group, "trunk" or "heads", of a parameter's path in any of the networks.

    Heads are the classifiers and BiSeNet's feature fusion, what the originals train ten times
    faster: the layers that start from random weights.
    """
    return "heads" if path[0] in _HEADS or path[0].startswith("aux") else "trunk"


_HEADS = ("ffm", "head", "classifier", "detail")
