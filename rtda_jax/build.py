"""From a configuration to functions: networks, optimizers, objective and step of one stage."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rtda_jax import cost, optim, terms
from rtda_jax.data.labels import class_set
from rtda_jax.errors import ConfigError, lookup
from rtda_jax.models import create_discriminator, create_model, trainable
from rtda_jax.normalise import NORMALISATIONS, check_normalisation
from rtda_jax.pretrained import load_pretrained
from rtda_jax.state import TrainState, create_state, output_shapes
from rtda_jax.step import STATISTICS, make_prepare, make_train_step


class Stage(NamedTuple):
    """Everything a training stage closes over."""

    generator: nn.Module
    discriminators: dict[str, nn.Module]
    g_tx: optax.GradientTransformation
    d_tx: optax.GradientTransformation
    g_schedule: optax.Schedule
    d_schedule: optax.Schedule
    objective: dict[str, tuple[terms.Term, float]]
    needs_target: bool


def build(config: Any, *, axis_name: str | None = None) -> Stage:
    """The parts of a training stage.

    Args:
      config: a stage's configuration, see `configs/base.py`.
      axis_name: the device axis when the step will be pmapped.

    Raises:
      ConfigError: naming the field that can not be built.
    """
    try:
        return _build(config, axis_name)
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error)) from error


def _build(config: Any, axis_name: str | None) -> Stage:
    known = terms.generator_terms(pixel_loss=config.pixel_loss, gan_loss=config.adversary.gan_loss)
    objective = terms.select(known, config.objective)
    needs_target = config.fda_beta is not None or any(
        "target" in term.domains for term, _ in objective.values()
    )
    if config.labelled == "target" and needs_target:
        raise ConfigError(
            "labelled='target' trains on the target's own labels: it leaves no domain to adapt to, "
            "so fda_beta must be None and no adversarial term may be active"
        )
    lookup(STATISTICS, config.model.statistics, "model.statistics")
    lookup(NORMALISATIONS, config.normalisation, "normalisation")
    num_classes = len(class_set(config.benchmark.classes))
    dtype = lookup(DTYPES, config.dtype, "dtype")
    generator = create_model(
        config.model.name,
        num_classes=num_classes,
        axis_name=axis_name,
        batch_norm=config.model.batch_norm,
        dtype=dtype,
        **config.model.options.to_dict(),
    )
    outputs = output_shapes(generator, image_shape=(2, *config.benchmark.crop, 3))
    for name, (term, _) in objective.items():
        if term.head not in outputs:
            heads = ", ".join(k for k in outputs if k != "feature")
            raise ConfigError(
                f"term {name} needs the output {term.head!r}; {config.model.name} has: {heads}"
            )
    levels = sorted({term.level for term, _ in objective.values() if term.level})
    discriminators = {
        level: create_discriminator(
            config.adversary.network,
            in_channels=jax.eval_shape(terms.LEVELS[level].view, outputs).shape[-1],
            dtype=dtype,
        )
        for level in levels
    }
    steps = config.optim.schedule_steps or config.steps
    g_schedule = optim.poly(config.optim.g_lr, steps=steps, power=config.optim.power)
    d_schedule = optim.poly(config.optim.d_lr, steps=steps, power=config.optim.power)
    return Stage(
        generator=generator,
        discriminators=discriminators,
        g_tx=optim.only(
            optim.sgd(
                g_schedule, momentum=config.optim.g_momentum, weight_decay=config.optim.g_decay
            ),
            trained=functools.partial(trainable, generator),
        ),
        d_tx=optim.adam(d_schedule, betas=tuple(config.optim.d_betas)),
        g_schedule=g_schedule,
        d_schedule=d_schedule,
        objective=objective,
        needs_target=needs_target,
    )


DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def initial_state(stage: Stage, config: Any) -> TrainState:
    """The stage's state before its first step."""
    return create_state(
        stage.generator,
        stage.discriminators,
        stage.g_tx,
        stage.d_tx,
        seed=config.seed,
        image_shape=(2, *config.benchmark.crop, 3),
    )


def pretrained_state(state: TrainState, config: Any) -> tuple[TrainState, str]:
    """The state with the weights of `config.model.pretrained`, and what was loaded in a sentence.

    Raises:
      ConfigError: a weight that does not fit, by name, or weights of another normalisation.
    """
    path = config.model.pretrained
    try:
        variables, report = load_pretrained(
            path,
            config.model.name,
            {"params": state.g_params, "batch_stats": state.g_stats},
            part=config.model.pretrained_part,
            naming=config.model.pretrained_naming or None,
        )
        check_normalisation(config.normalisation, required=report.normalisation, path=path)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error
    loaded = state.replace(g_params=variables["params"], g_stats=variables["batch_stats"])
    return loaded, str(report)


def train_step(stage: Stage, config: Any, *, axis_name: str | None = None):
    """The stage's step (state, batch) -> (state, logs), not yet compiled."""
    return make_train_step(
        stage.generator,
        stage.discriminators,
        stage.g_tx,
        stage.d_tx,
        objective=stage.objective,
        d_objective={
            level: terms.discriminator_terms(level, gan_loss=config.adversary.gan_loss)
            for level in stage.discriminators
        },
        d_factor=config.adversary.d_factor,
        prepare=make_prepare(normalisation=config.normalisation, fda_beta=config.fda_beta),
        statistics=config.model.statistics,
        axis_name=axis_name,
    )


def describe(stage: Stage, config: Any) -> list[str]:
    """A line for each network: name, parameters, multiply-accumulates for one training crop."""
    size = tuple(config.benchmark.crop)
    classes = len(class_set(config.benchmark.classes))
    costs = [cost.model_cost(config.model.name, num_classes=classes, size=size)]
    costs += [
        cost.discriminator_cost(config.adversary.network, in_channels=classes, size=size)
        for _ in stage.discriminators
    ]
    return [
        f"{c.name}: {c.training_parameters:,} parameters, "
        f"{c.macs / 1e9:.2f} G multiply-accumulates at {size[0]}x{size[1]}"
        for c in costs
    ]
