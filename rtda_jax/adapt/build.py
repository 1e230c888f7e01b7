"""From a configuration to functions: networks, optimizers, objective and step of one stage."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rtda_jax import losses
from rtda_jax.adapt import (
    consistency,
    levels,
    optimizers,
    prepare,
    teacher,
    terms,
    views,
)
from rtda_jax.adapt.state import TrainState, create_state, output_shapes, seen_shape
from rtda_jax.adapt.step import STATISTICS, Remember, make_train_step
from rtda_jax.augment.normalise import NORMALISATIONS, check_normalisation
from rtda_jax.data.labels import class_set
from rtda_jax.errors import ConfigError, lookup
from rtda_jax.models import DISCRIMINATORS, create_discriminator, create_model
from rtda_jax.tools import cost
from rtda_jax.weights import load_pretrained


class Stage(NamedTuple):
    """Everything a training stage closes over."""

    generator: nn.Module
    discriminators: dict[str, nn.Module]
    levels: dict[str, levels.Level]
    g_tx: optax.GradientTransformation
    d_tx: optax.GradientTransformation
    g_schedule: optax.Schedule
    d_schedule: optax.Schedule
    objective: dict[str, tuple[terms.Term, float]]
    needs_target: bool
    prepare: prepare.Part
    follow: teacher.Follow
    remember: Remember | None


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
    places = levels.levels(config.adversary.view)
    loss = losses.LossOptions(**config.loss)
    num_classes = len(class_set(config.benchmark.classes))
    known = terms.generator_terms(
        pixel_loss=losses.pixel_loss(config.pixel_loss, loss, num_classes=num_classes),
        levels={name: level.head for name, level in places.items()},
        gan_loss=config.adversary.gan_loss,
        eta=loss.eta,
        disagreement=functools.partial(
            consistency.focal, form=config.consistency.form, gamma=config.consistency.gamma
        ),
        class_weights=functools.partial(losses.class_weights, loss, num_classes=num_classes),
    )
    objective = terms.select(known, config.objective)
    needs_target = config.fda_beta is not None or terms.views(objective) != {"source"}
    check_combination(config, objective, needs_target=needs_target)
    dtype = lookup(DTYPES, config.dtype, "dtype")
    generator = create_model(
        config.model.name,
        num_classes=num_classes,
        axis_name=axis_name,
        batch_norm=config.model.batch_norm,
        dtype=dtype,
        **config.model.options.to_dict(),
    )
    size = tuple(config.benchmark.crop)
    outputs = output_shapes(generator, image_shape=(2, *size, 3))
    if config.batch_size == 1:
        check_one_image(generator, size=size)
    for name, (term, _) in objective.items():
        if term.head not in outputs:
            heads = ", ".join(k for k in outputs if k != "feature")
            raise ConfigError(
                f"term {name} needs the output {term.head!r}; {config.model.name} has: {heads}"
            )
    discriminators = {
        level: create_discriminator(
            config.adversary.network,
            in_channels=seen_shape(places[level], outputs, size=size).shape[-1],
            dtype=dtype,
            **config.adversary.options.to_dict(),
        )
        for level in sorted({term.level for term, _ in objective.values() if term.level})
    }
    g_schedule, d_schedule = optimizers.schedules(config)
    return Stage(
        generator=generator,
        discriminators=discriminators,
        levels={level: places[level] for level in discriminators},
        g_tx=optimizers.generator(config, generator, g_schedule),
        d_tx=optimizers.discriminators(config, d_schedule),
        g_schedule=g_schedule,
        d_schedule=d_schedule,
        objective=objective,
        needs_target=needs_target,
        prepare=views.preparation(config, generator, objective),
        follow=lookup(FOLLOWS, config.teacher.kind, "teacher.kind")(config),
        remember=views.remember(config, objective, axis_name=axis_name),
    )


BATCH_NORMS = {"batch": "each", "frozen": "joint"}  # and how views go through the network
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

FOLLOWS: dict[str, Callable[[Any], teacher.Follow]] = {
    "none": lambda config: teacher.stay,
    "frozen": lambda config: teacher.stay,
    "ema": lambda config: teacher.average(decay=config.teacher.decay),
}


def check_combination(config: Any, objective: Mapping, *, needs_target: bool) -> None:
    """Refuse with a sentence what can not be combined.

    Raises:
      ConfigError: naming the fields.
    """
    lookup(STATISTICS, config.model.statistics, "model.statistics")
    lookup(NORMALISATIONS, config.normalisation, "normalisation")
    lookup(FOLLOWS, config.teacher.kind, "teacher.kind")
    lookup(DISCRIMINATORS, config.adversary.network, "adversary.network")
    lookup(BATCH_NORMS, config.model.batch_norm, "model.batch_norm")
    if config.labelled == "target" and needs_target:
        raise ConfigError(
            "labelled='target' trains on the target's own labels: it leaves no domain to adapt to, "
            "so fda_beta must be None and no term may look at the target"
        )
    pseudo = sorted(name for name in objective if name.startswith("pseudo"))
    if pseudo and not config.pseudo_labels:
        raise ConfigError(
            f"term {pseudo[0]} needs pseudo_labels, the name of an earlier pseudo_label stage"
        )
    if config.pseudo_labels and not pseudo:
        raise ConfigError(
            f"pseudo_labels={config.pseudo_labels!r} is read by no term: give objective.pseudo "
            "a weight"
        )
    if "mixed" in terms.views(objective) and config.teacher.kind == "none":
        raise ConfigError(
            "mix terms need a teacher to label the target: set teacher.kind to ema or frozen"
        )
    views.check(config, objective)


def check_one_image(generator: nn.Module, *, size: tuple[int, int]) -> None:
    """Raise ValueError where a batch of one image leaves a normalisation without any variance."""

    def train_on(image: jax.Array) -> Any:
        variables = generator.init(jax.random.key(0), image, train=True)
        alone = generator.clone(axis_name=None)
        return alone.apply(variables, image, train=True, mutable=["batch_stats"])

    jax.eval_shape(train_on, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32))


def initial_state(stage: Stage, config: Any) -> TrainState:
    """The stage's state before its first step."""
    state = create_state(
        stage.generator,
        stage.discriminators,
        stage.g_tx,
        stage.d_tx,
        levels=stage.levels,
        seed=config.seed,
        image_shape=(2, *config.benchmark.crop, 3),
    )
    return with_teacher(state.replace(memory=views.memory(config, stage.objective)), config)


def with_teacher(state: TrainState, config: Any) -> TrainState:
    """The state with a teacher that starts as the student, if the configuration has one."""
    if config.teacher.kind == "none":
        return state
    student = {"params": state.g_params, "batch_stats": state.g_stats}
    # A copy: the step gives up the buffers of its state, and each only once.
    return state.replace(teacher=jax.tree.map(jnp.copy, student))


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
        levels=stage.levels,
        d_objective={
            level: terms.discriminator_terms(level, gan_loss=config.adversary.gan_loss)
            for level in stage.discriminators
        },
        d_factor=config.adversary.d_factor,
        prepare=stage.prepare,
        follow=stage.follow,
        remember=stage.remember,
        statistics=config.model.statistics,
        passes=BATCH_NORMS[config.model.batch_norm],
        axis_name=axis_name,
    )


def describe(stage: Stage, config: Any) -> list[str]:
    """A line for each network: name, parameters, multiply-accumulates for one training crop."""
    size = tuple(config.benchmark.crop)
    options, d_options = (x.options.to_dict() for x in (config.model, config.adversary))
    classes = len(class_set(config.benchmark.classes))
    costs = [cost.model_cost(config.model.name, num_classes=classes, size=size, **options)]
    outputs = output_shapes(stage.generator, image_shape=(2, *size, 3))
    for level in stage.discriminators:
        channels = seen_shape(stage.levels[level], outputs, size=size).shape[-1]
        seen = {"in_channels": channels, "size": size, **d_options}
        costs.append(cost.discriminator_cost(config.adversary.network, **seen))
    return [
        f"{c.name}: {c.training_parameters:,} parameters, "
        f"{c.macs / 1e9:.2f} G multiply-accumulates at {size[0]}x{size[1]}"
        for c in costs
    ]
