"""What is trained, as one tree of arrays; modules and optimizers are closed over."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from rtda_jax.adapt.levels import Level


class TrainState(flax.struct.PyTreeNode):
    """Both networks, their optimizers and the step; `d_*` are dicts by level, maybe empty.

    `teacher` is a second set of the segmentation network's variables, `memory` what a method keeps
    between steps; both are empty where a method has none.
    """

    step: jax.Array
    key: jax.Array
    g_params: Any
    g_stats: Any
    g_opt: Any
    d_params: Any
    d_opt: Any
    teacher: Any = flax.struct.field(default_factory=dict)
    memory: Any = flax.struct.field(default_factory=dict)


def create_state(
    generator: nn.Module,
    discriminators: Mapping[str, nn.Module],
    g_tx: optax.GradientTransformation,
    d_tx: optax.GradientTransformation,
    *,
    levels: Mapping[str, Level],
    seed: int,
    image_shape: tuple[int, int, int, int],
) -> TrainState:
    """A fresh state; the arrays depend on the seed and the modules alone.

    Args:
      generator: the segmentation network.
      discriminators: by level.
      g_tx: its optimizer.
      d_tx: one optimizer for all discriminators.
      levels: where they look, from `levels.levels`.
      seed: of initialisation and of everything random on the device.
      image_shape: [B,H,W,3] of one domain's batch.
    """
    key = jax.random.key(seed)
    g_key, d_key, step_key = jax.random.split(key, 3)
    images = jnp.zeros(image_shape, jnp.float32)
    variables = jax.jit(lambda k: generator.init(k, images, train=True))(g_key)
    outputs = output_shapes(generator, image_shape=image_shape)
    d_params = {}
    for level, module in discriminators.items():
        seen = seen_shape(levels[level], outputs, size=image_shape[1:3])
        level_key = jax.random.fold_in(d_key, levels[level].number)
        d_params[level] = module.init(level_key, jnp.zeros(seen.shape, seen.dtype))["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=step_key,
        g_params=variables["params"],
        g_stats=variables["batch_stats"],
        g_opt=g_tx.init(variables["params"]),
        d_params=d_params,
        d_opt=d_tx.init(d_params),
    )


def output_shapes(
    generator: nn.Module, *, image_shape: tuple[int, int, int, int]
) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a segmentation network's named outputs in training."""
    images = jax.ShapeDtypeStruct(image_shape, jnp.float32)
    outputs, _ = jax.eval_shape(
        lambda x: generator.init_with_output(jax.random.key(0), x, train=True), images
    )
    return outputs


def seen_shape(level: Level, outputs: Mapping, *, size: tuple[int, int]) -> jax.ShapeDtypeStruct:
    """The shape of what a level's discriminator reads."""
    return jax.eval_shape(lambda x: level.view(x, size), outputs[level.head])
