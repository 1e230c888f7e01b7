"""Feature distance: on things in the source, the trunk stays near its ImageNet features.

A frozen copy of the pretrained network, the reference, sees the same source images. The distance
of a cell of the feature map is the L2 norm between the two networks' features. Its mean is over the
cells that one thing class fills to at least `ratio` (DAFormer, Hoyer et al. 2022, eq. 10 to 13).
The reference is part of the train state, so that a resumed run needs no weight file.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rtda_jax.adapt.state import network_shapes, sample_shape
from rtda_jax.errors import ConfigError, require
from rtda_jax.losses import IGNORE, Sum

HEAD = "trunk"  # the output that the term reads

# Names of classes that are things, that is countable objects, in the class sets of this package.
THINGS = {
    *("traffic light", "traffic sign", "sign", "person", "pedestrian", "rider", "bicyclist"),
    *("car", "truck", "bus", "train", "motorcycle", "bicycle", "living things", "vehicles"),
}


@dataclasses.dataclass(frozen=True)
class DistanceOptions:
    """The section `distance` of a configuration.

    Attributes:
      stage: the index of the trunk's feature map that is compared; -1 is the last one.
      ratio: the share of a cell that one class has to fill, in (0, 1].
      classes: the names of the classes that count; empty for those of `THINGS`.
    """

    stage: int = -1
    ratio: float = 0.75
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        valid = 0 < self.ratio <= 1
        require(valid, f"distance.ratio must be a share in (0, 1], got {self.ratio:g}")

    def class_indices(self, names: tuple[str, ...]) -> tuple[int, ...]:
        """Returns the indices of the classes that count.

        Args:
          names: the names of the K classes.

        Raises:
          ConfigError: a name is not among them, or none of them is known as a thing.
        """
        for name in self.classes:
            require(
                name in names,
                f"distance.classes names {name!r}; the classes are {', '.join(names)}",
            )
        chosen = self.classes or [name for name in names if name in THINGS]
        require(
            chosen,
            f"none of the classes {', '.join(names)} is known as a thing: name those that "
            "feature_distance looks at in distance.classes",
        )
        return tuple(names.index(name) for name in chosen)


def trunk_maps(generator: nn.Module, variables: Any, images: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the feature maps of the network's trunk at inference, [B,h,w,C] each.

    Raises:
      ConfigError: the network has no submodule "backbone".
    """
    _, state = generator.apply(
        variables, images, train=False, capture_intermediates=is_trunk, mutable=["intermediates"]
    )
    return maps_of(state)


def is_trunk(module: nn.Module, method: str) -> bool:
    """Returns whether flax should capture what this method of a module returns."""
    return module.name == "backbone" and method == "__call__"


def maps_of(captured: Any) -> tuple[jax.Array, ...]:
    """Returns the trunk's feature maps from what flax captured."""
    if "backbone" not in captured.get("intermediates", {}):
        raise ConfigError("feature_distance needs a network whose trunk is called 'backbone'")
    (maps,) = captured["intermediates"]["backbone"]["__call__"]
    return tuple(maps) if isinstance(maps, (tuple, list)) else (maps,)


def distance(
    features: jax.Array,
    reference: jax.Array,
    labels: jax.Array,
    *,
    classes: tuple[int, ...],
    ratio: float,
) -> Sum:
    """Computes the L2 norms between features, summed over the cells of things.

    Args:
      features: [B,h,w,C], those of the network that trains.
      reference: [B,h,w,C], those of the frozen one.
      labels: uint8 [B,H,W], 255 where ignored.
      classes: the indices of the thing classes.
      ratio: the share of a cell that one of them has to fill.
    """
    size = (features.shape[1], features.shape[2])
    things = cells(labels, size=size, classes=classes, ratio=ratio)
    difference = features.astype(jnp.float32) - reference.astype(jnp.float32)
    squares = (difference**2).sum(axis=-1)
    # At the distance 0, from which a run starts, the gradient of the root is infinite. It is set to
    # 0 there, as in PyTorch.
    apart = squares > 0
    norms = jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1.0)), 0.0)
    return Sum(jnp.where(things, norms, 0.0).sum(), things.sum(dtype=jnp.float32))


def cells(
    labels: jax.Array, *, size: tuple[int, int], classes: tuple[int, ...], ratio: float
) -> jax.Array:
    """Returns the cells that one of the classes fills to at least `ratio`, bool [B,h,w].

    A cell has ceil(H/h) rows and ceil(W/w) columns of pixels. If the size of the map does not
    divide that of the image, the last cells extend beyond it; the pixels outside count as ignored.

    Args:
      labels: uint8 [B,H,W], 255 where ignored.
      size: (h, w) of the feature map.
      classes: the indices of the classes that count.
      ratio: the share of a cell that one class has to fill, in (0, 1].
    """
    height, width = labels.shape[1:]
    rows, columns = -(-height // size[0]), -(-width // size[1])
    padding = ((0, 0), (0, rows * size[0] - height), (0, columns * size[1] - width))
    padded = jnp.pad(labels, padding, constant_values=IGNORE)
    blocks = padded.reshape(len(labels), size[0], rows, size[1], columns)
    shares = [(blocks == number).mean(axis=(2, 4), dtype=jnp.float32) for number in classes]
    return jnp.stack(shares).max(axis=0) >= ratio


def trunk_map(
    generator: nn.Module, index: int, *, size: tuple[int, int]
) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns a function (variables, images [B,H,W,3]) -> [B,h,w,C], a feature map of the trunk.

    Args:
      generator: the segmentation network.
      index: the number of the feature map; negative ones count from the last.
      size: the sides (H, W) of a training crop.

    Raises:
      ConfigError: the trunk has no such map, or the network has no trunk.
    """
    _, variables = network_shapes(generator, size=size)
    images = jax.ShapeDtypeStruct(sample_shape(size), jnp.float32)
    maps = jax.eval_shape(functools.partial(trunk_maps, generator), dict(variables), images)
    require(
        -len(maps) <= index < len(maps),
        f"distance.stage must be one of the trunk's {len(maps)} feature maps, got {index}",
    )
    return lambda variables, images: trunk_maps(generator, variables, images)[index]
