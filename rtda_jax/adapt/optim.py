"""The two optimizers: poly SGD for the segmentation network, poly Adam for the discriminators."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rtda_jax.errors import lookup


def poly(learning_rate: float, *, steps: int, power: float, every: int = 1) -> optax.Schedule:
    """Poly decay lr * (1 - t/steps)^power, 0 from `steps` on, updated every `every` iterations.

    S0 to S2 update it once an epoch, all others every iteration.
    """

    def schedule(step):
        step = step // every * every
        # Compiled, t/steps may exceed 1 by a rounding at t = steps: a negative base would be nan.
        return learning_rate * jnp.maximum(1.0 - step / steps, 0.0) ** power

    return schedule


def warmed(
    schedule: optax.Schedule, *, learning_rate: float, start: float, steps: int
) -> optax.Schedule:
    """Exponential warm-up start * (lr/start)^(t/steps) until `steps`, then `schedule` from 0 on.

    As S4, STDC-Seg and CoinCheung have it: learning_rate is where the schedule begins.
    """
    if not steps:
        return schedule
    if start <= 0:
        raise ValueError(f"an exponential warm-up must start above 0, got {start:g}")

    def warm(step):
        rising = start * (learning_rate / start) ** (jnp.minimum(step, steps) / steps)
        return jnp.where(step <= steps, rising, schedule(jnp.maximum(step - steps, 0)))

    return warm


DECAYED: dict[str, Callable[[Any], Any] | None] = {
    "all": None,
    "kernels": lambda params: jax.tree_util.tree_map_with_path(  # neither biases nor BatchNorm
        lambda path, _: path[-1].key == "kernel", params
    ),
}


def sgd(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float, decayed: str = "all"
) -> optax.GradientTransformation:
    """SGD as PyTorch has it: coupled decay before the momentum, the learning rate last.

    `decayed` names the parameters that decay, a key of `DECAYED`.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=lookup(DECAYED, decayed, "optim.g_decayed")),
        optax.sgd(schedule, momentum=momentum),
    )


# Which of the groups "trunk" and "heads" learn `factor` times faster.
GROUPS: dict[str, tuple[str, ...]] = {
    "one": (),  # one learning rate: S0, S1, S2
    "heads": ("heads",),  # AdaptSegNet, STDC-Seg, CoinCheung; what S4 says
    "all": ("trunk", "heads"),  # what S4's released code does
}


def grouped(
    transform: optax.GradientTransformation,
    *,
    group_of: Callable[[tuple[str, ...]], str],
    factors: Mapping[str, float],
) -> optax.GradientTransformation:
    """The transform with its steps multiplied by the factor of each parameter's group.

    Args:
      transform: learning rate included, so that the factor is one of the learning rate.
      group_of: a parameter's path -> its group.
      factors: by group; groups that are not named have 1.
    """
    if all(factor == 1 for factor in factors.values()):
        return transform

    def scale(updates: Any, _: Any) -> Any:
        def one(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
            return factors.get(group_of(tuple(p.key for p in path)), 1.0) * update

        return jax.tree_util.tree_map_with_path(one, updates)

    return optax.chain(transform, optax.stateless(scale))


def adam(schedule: optax.Schedule, *, betas: tuple[float, float]) -> optax.GradientTransformation:
    """Adam with the betas every adversarial paper here uses, (.9, .99)."""
    return optax.adam(schedule, b1=betas[0], b2=betas[1])


def only(
    transform: optax.GradientTransformation, *, trained: Callable[[Any], Any]
) -> optax.GradientTransformation:
    """The transform on the parameters where `trained` (a tree of bool like them) is True.

    The others are neither moved nor decayed and cost no memory in the optimizer's state.
    """

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda train: "trained" if train else "kept", trained(params))

    return optax.partition({"trained": transform, "kept": optax.set_to_zero()}, labels)
