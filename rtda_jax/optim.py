"""The two optimizers: poly SGD for the segmentation network, poly Adam for the discriminators."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def poly(learning_rate: float, *, steps: int, power: float, every: int = 1) -> optax.Schedule:
    """Poly decay lr * (1 - t/steps)^power, 0 from `steps` on, updated every `every` iterations.

    S0 to S2 update it once an epoch, all others every iteration.
    """

    def schedule(step):
        step = step // every * every
        # Compiled, t/steps may exceed 1 by a rounding at t = steps: a negative base would be nan.
        return learning_rate * jnp.maximum(1.0 - step / steps, 0.0) ** power

    return schedule


def sgd(
    schedule: optax.Schedule, *, momentum: float, weight_decay: float
) -> optax.GradientTransformation:
    """SGD as PyTorch has it: coupled decay before the momentum, the learning rate last."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.sgd(schedule, momentum=momentum)
    )


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
