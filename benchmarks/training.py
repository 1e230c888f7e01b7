"""Builds our training steps for all benchmarks."""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rtda_jax.adapt import build
from rtda_jax.adapt.state import NetworkSpec
from rtda_jax.adapt.step import make_train_step

AUXILIARY = ("seg_aux16", "seg_aux32")  # terms that DeepLab with a single head lacks


@dataclasses.dataclass(frozen=True)
class Training:
    """A training step, and what it trains.

    Attributes:
      step: (state, batch) -> (state, logs), not yet compiled.
      start: makes the state of step 0.
      generator: the segmentation network.
      adversary: name of the discriminator's network, or None.
      needs_target: whether a batch has images of the target.
    """

    step: Callable[[Any, Any], tuple[Any, Any]]
    start: Callable[[], Any]
    generator: nn.Module
    adversary: str | None
    needs_target: bool

    @functools.cached_property
    def state(self) -> Any:
        """Returns the shapes of its state; nothing is computed."""
        return jax.eval_shape(self.start)


def training(
    config: Any, *, axis_name: str | None = None, teacher: NetworkSpec | None = None
) -> Training:
    """Builds the step of a train stage; nothing is computed.

    Args:
      config: the stage's configuration.
      axis_name: the device axis, if the step will be mapped over devices.
      teacher: the network of another stage that teaches (`taught_by`).
    """
    method = build.build(config, axis_name=axis_name)
    method = dataclasses.replace(method, teacher_network=teacher)
    return Training(
        step=make_train_step(method),
        start=functools.partial(build.initial_state, method),
        generator=method.generator,
        adversary=config.adversary.network if method.adversary.networks else None,
        needs_target=method.needs_target,
    )


def step_macs(network: int, discriminator: int, *, domains: int, batch_size: int) -> int:
    """Counts the multiply-accumulates of a step from those of its networks for one image.

    A forward pass counts once, and so do the gradients of inputs and of weights. The discriminator
    has three passes for each domain, and one more for the generator's gradient.
    """
    return batch_size * (3 * domains * network + 7 * discriminator)


def configuration(
    method: str, *, model: str, dtype: str, crop: tuple[int, int], batch_size: int
) -> Any:
    """Returns a configuration of configs/ with another network, precision and sizes.

    Args:
      method: CONFIG[:ARGUMENTS] of configs/, such as "mic:distance=0".
      model: the network's name.
      dtype: the precision of the networks.
      crop: (h, w) of every image.
      batch_size: the images of each domain.
    """
    name, _, arguments = method.partition(":")
    chosen = ",".join(part for part in ("folders", arguments) if part)
    config = importlib.import_module(f"configs.{name}").get_config(chosen)
    config.model.name, config.dtype, config.batch_size = model, dtype, batch_size
    config.benchmark.size = config.benchmark.crop = config.benchmark.eval_size = crop
    if model.startswith("deeplab"):
        config.objective.update(dict.fromkeys(AUXILIARY, 0.0))
    return config


def filled(shapes: Any) -> Any:
    """Returns a state of these shapes with random weights made on the host.

    Kernels are normal with He's variance, scales and variances 1, all else 0; a device spends no
    time on initialisers and every device starts from the same bits.
    """
    rng = np.random.default_rng(0)

    def fill(path: Any, leaf: Any) -> Any:
        names = [getattr(part, "key", getattr(part, "name", "")) for part in path]
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(0)
        if names[0] in ("g_params", "d_params", "params") and len(leaf.shape) == 4:
            spread = (2 / np.prod(leaf.shape[:3])) ** 0.5
            return (spread * rng.standard_normal(leaf.shape, np.float32)).astype(leaf.dtype)
        ones = names[0] in ("g_params", "g_stats", "params", "batch_stats")
        return np.full(leaf.shape, float(ones and names[-1] in ("scale", "var")), leaf.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def variables(module: nn.Module, size: tuple[int, int]) -> Any:
    """Returns random variables of a segmentation network for inference, see `filled`."""
    image = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    return filled(jax.eval_shape(lambda x: module.init(jax.random.key(0), x), image))
