"""Segmentation networks and discriminators by name.

A new network is a subclass of `layers.Network` in a file of its own and an entry of MODELS.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from rtda_jax.errors import ConfigError, lookup
from rtda_jax.models.bisenet import BiSeNet
from rtda_jax.models.bisenet_v1 import BiSeNetLite, BiSeNetV1
from rtda_jax.models.deeplab import DeepLab, DeepLabVGG
from rtda_jax.models.discriminator import Discriminator
from rtda_jax.models.layers import Network

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
    "bisenet_lite0": functools.partial(BiSeNetLite, backbone="efficientnet_lite0"),
    "bisenet_lite1": functools.partial(BiSeNetLite, backbone="efficientnet_lite1"),
    "bisenet_lite2": functools.partial(BiSeNetLite, backbone="efficientnet_lite2"),
    "deeplab_resnet101": functools.partial(DeepLab, heads="single"),
    "deeplab_resnet101_multi": functools.partial(DeepLab, heads="multi"),
    "deeplab_vgg16": DeepLabVGG,
}

DISCRIMINATORS: dict[str, Callable[..., nn.Module]] = {
    "fcd": functools.partial(Discriminator, convolution="full"),
    "fcd_light": functools.partial(Discriminator, convolution="light"),
}


def create_model(name: str, num_classes: int = 19, **options: Any) -> nn.Module:
    """Returns the segmentation network with a name (a key of MODELS).

    `model.apply(variables, images[B,H,W,3], train=False)` returns a dict: float32 "logits"
    [B,H,W,K] at the input's resolution, "feature" in front of the classifier, and with train=True
    (and mutable=["batch_stats"]) the auxiliary logits "aux16", "aux32", ... also [B,H,W,K]. For
    training, call `model.init` with train=True too, which makes the weights of these heads.

    Args:
      name: of the network.
      num_classes: K.
      options: axis_name, batch_norm ("batch", "frozen", "last"), auxiliary ("always" computes the
        auxiliary logits with train=False too), dtype, and those of the network's class.

    Raises:
      ConfigError: the name or an option is unknown.
    """
    network = lookup(MODELS, name, "model")
    return _create(network, f"model.options of {name}", num_classes=num_classes, **options)


def create_discriminator(name: str, in_channels: int = 19, **options: Any) -> nn.Module:
    """Returns the discriminator with a name (a key of DISCRIMINATORS), [B,H,W,C] -> logits.

    Args:
      name: of the discriminator.
      in_channels: C.
      options: use_bias, output_stride (32, or 1 for logits at the input's resolution), dtype.

    Raises:
      ConfigError: the name or an option is unknown.
    """
    network = lookup(DISCRIMINATORS, name, "discriminator")
    return _create(network, f"adversary.options of {name}", in_channels=in_channels, **options)


def _create(network: Callable[..., nn.Module], what: str, /, **arguments: Any) -> nn.Module:
    """Returns the network with these arguments; an unknown one is named as an option of `what`."""
    try:
        inspect.signature(network).bind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{what}: {error}") from None
    return network(**arguments)


def trainable(model: nn.Module, params: Any) -> Any:
    """Returns which parameters are trained, as a tree of bool with the structure of params.

    DeepLab freezes the affine parameters of its normalisations, and the branches of the classifier
    that aspp="first_two" leaves out; every other network trains all of its parameters.
    """

    def trains(path: tuple[Any, ...], _: jax.Array) -> bool:
        return not isinstance(model, Network) or model.trains(tuple(key.key for key in path))

    return jax.tree_util.tree_map_with_path(trains, params)


def group_of(model: nn.Module, path: tuple[str, ...]) -> str:
    """Returns the group, "trunk" or "heads", of the parameter of a network at a path."""
    return model.group(path) if isinstance(model, Network) else "trunk"
