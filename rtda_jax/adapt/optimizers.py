"""From a configuration to the two optimizers and their learning rates."""

import functools
from typing import Any

import flax.linen as nn
import optax

from rtda_jax.adapt import optim
from rtda_jax.errors import ConfigError, lookup
from rtda_jax.models import group_of, trainable


def generator(
    config: Any, module: nn.Module, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Of the segmentation network: SGD on the parameters it trains, heads maybe faster."""
    optimum = config.optim
    sgd = optim.sgd(
        schedule,
        momentum=optimum.g_momentum,
        weight_decay=optimum.g_decay,
        decayed=optimum.g_decayed,
    )
    groups = lookup(optim.GROUPS, optimum.g_groups, "optim.g_groups")
    return optim.only(
        optim.grouped(sgd, group_of=group_of, factors=dict.fromkeys(groups, optimum.g_factor)),
        trained=functools.partial(trainable, module),
    )


def discriminators(config: Any, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Of all discriminators: Adam."""
    return optim.adam(schedule, betas=tuple(config.optim.d_betas))


def schedules(config: Any) -> tuple[optax.Schedule, optax.Schedule]:
    """The learning rates of the segmentation network and of the discriminators, by step."""
    optimum = config.optim
    end, warm = optimum.schedule_steps or config.steps, optimum.warmup_steps
    if not 0 <= warm < end:
        raise ConfigError(
            f"optim.warmup_steps must lie in 0..{end - 1}, got {warm}: poly ends there"
        )
    poly = functools.partial(optim.poly, power=optimum.power, every=optimum.schedule_every_steps)
    warmed = optim.warmed(
        poly(optimum.g_lr, steps=end - warm),
        learning_rate=optimum.g_lr,
        start=optimum.warmup_start,
        steps=warm,
    )
    return warmed, poly(optimum.d_lr, steps=end)
