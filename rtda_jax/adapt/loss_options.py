"""From a configuration to what a labelled pixel costs."""

from collections.abc import Callable
from typing import Any

from rtda_jax.adapt import pixel_losses
from rtda_jax.data.labels import class_set
from rtda_jax.errors import ConfigError, lookup


def options(config: Any) -> pixel_losses.Options:
    """The fields of `config.loss` that decide what a labelled pixel costs."""
    weighting = lookup(WEIGHTINGS, config.loss.weighting, "loss.weighting")
    if config.loss.weights and config.loss.weighting != "given":
        raise ConfigError("loss.weights is read by loss.weighting='given' only")
    return pixel_losses.Options(
        class_weights=weighting(config),
        reduction=config.loss.reduction,
        gamma=config.loss.gamma,
        ohem_probability=config.loss.ohem_probability,
        ohem_rule=config.loss.ohem_rule,
    )


def _given(config: Any) -> tuple[float, ...]:
    classes = class_set(config.benchmark.classes)
    if len(config.loss.weights) != len(classes):
        raise ConfigError(
            f"loss.weights has {len(config.loss.weights)} numbers, {classes.name} has "
            f"{len(classes)} classes"
        )
    return tuple(config.loss.weights)


def _enet(config: Any) -> str:
    if config.loss.enet_c <= 1:
        raise ConfigError(f"loss.enet_c must be above 1, got {config.loss.enet_c:g}")
    return "enet"


WEIGHTINGS: dict[str, Callable[[Any], tuple[float, ...] | str | None]] = {
    "none": lambda config: None,
    "given": _given,
    "enet": _enet,
}
