"""From a configuration to a method: networks, objective, views and optimizers of one stage."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rtda_jax import losses
from rtda_jax.adapt import distance, optim, terms, views
from rtda_jax.adapt.adversary import LEVELS, Adversary, AdversaryOptions
from rtda_jax.adapt.consistency import ConsistencyOptions, initial_thresholds
from rtda_jax.adapt.distance import DistanceOptions
from rtda_jax.adapt.method import Method, ModelOptions
from rtda_jax.adapt.optim import OptimOptions
from rtda_jax.adapt.state import (
    TrainState,
    check_one_image,
    create_state,
    output_shapes,
)
from rtda_jax.adapt.teacher import TeacherOptions, with_teacher
from rtda_jax.adapt.terms import TermContext
from rtda_jax.adapt.views import PartContext, ViewOptions
from rtda_jax.augment.normalise import AUTO, check_normalisation
from rtda_jax.data.labels import class_set
from rtda_jax.errors import ConfigError, one_of, require
from rtda_jax.losses import LossOptions
from rtda_jax.models import DISCRIMINATORS, create_discriminator, create_model
from rtda_jax.run.options import read
from rtda_jax.weights import imagenet
from rtda_jax.weights.load import load_pretrained

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
LABELLED_DOMAINS = ("source", "target")


@dataclasses.dataclass(frozen=True)
class StageOptions:
    """The fields of a configuration that decide what a stage trains, and from what it begins.

    Attributes:
      seed: the seed of initialisation, data order and everything else random.
      steps: the training iterations of each train stage; a benchmark sets it.
      batch_size: the images per domain over all devices; a benchmark sets it.
      dtype: the type of the computation, a key of `DTYPES`; parameters are always float32.
      labelled: the domain whose labels supervise; "target" is the oracle.
      pixel_loss: the loss of seg terms, a key of `rtda_jax.losses.PIXEL_LOSSES`.
      init: the earlier stage whose networks this one starts from; if empty, they are new.
      taught_by: the network of an earlier stage that is the frozen teacher, as "STAGE" or
        "STAGE:teacher"; if empty, the stage has a teacher of its own.
      pseudo_labels: the earlier pseudo_label stage whose labels pseudo terms read.
    """

    seed: int = 0
    steps: int = 1
    batch_size: int = 1
    dtype: str = "float32"
    labelled: str = "source"
    pixel_loss: str = "cross_entropy"
    init: str = ""
    taught_by: str = ""
    pseudo_labels: str = ""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            value = getattr(self, name)
            require(value >= 1, f"{name} must be at least 1, got {value}")
        require(0 <= self.seed < 2**32, f"seed must lie in [0, 2^32), got {self.seed}")
        one_of(self.dtype, DTYPES, "dtype")
        one_of(self.labelled, LABELLED_DOMAINS, "labelled")
        one_of(self.pixel_loss, losses.PIXEL_LOSSES, "pixel_loss")


@dataclasses.dataclass(frozen=True)
class Sections:
    """The sections of a configuration that a method is built from, each the options of a module."""

    model: ModelOptions
    optim: OptimOptions
    loss: LossOptions
    adversary: AdversaryOptions
    consistency: ConsistencyOptions
    teacher: TeacherOptions
    distance: DistanceOptions


def build(config: ConfigDict, *, axis_name: str | None = None) -> Method:
    """Returns the method of a train stage.

    Args:
      config: the stage's configuration, see `configs/base.py`.
      axis_name: the device axis, if the step will be mapped over devices.

    Raises:
      ConfigError: names the field that cannot be built.
    """
    stage, sections = read(StageOptions, config, ""), read(Sections, config, "")
    size = tuple(config.benchmark.crop)
    objective = make_objective(config)
    domains = {views.VIEWS[view] for view in terms.views(objective)}
    needs_target = config.fda_beta is not None or "target" in domains
    check_combination(stage, sections, objective, needs_target=needs_target)

    generator = _generator(config, axis_name)
    outputs = output_shapes(generator, size=size)
    num_classes = len(class_set(config.benchmark.classes))
    name = sections.model.name
    terms.check_outputs(name, objective, outputs, size=size, num_classes=num_classes)
    if stage.batch_size <= sections.optim.accumulate:
        check_one_image(generator, size=size)

    g_schedule, d_schedule = optim.schedules(sections.optim, steps=stage.steps)
    return Method(
        generator=generator,
        adversary=_adversary(config, sections.adversary, objective, outputs),
        objective=objective,
        preparation=_preparation(config, sections, objective, generator, axis_name),
        model=sections.model,
        consistency=sections.consistency,
        teacher=sections.teacher,
        distance=sections.distance,
        normalisation=normalisation_of(config),
        g_tx=optim.generator_optimizer(sections.optim, generator, g_schedule),
        d_tx=optim.discriminator_optimizer(sections.optim, d_schedule),
        g_schedule=g_schedule,
        d_schedule=d_schedule,
        num_classes=num_classes,
        size=size,
        seed=stage.seed,
        needs_target=needs_target,
        accumulate=sections.optim.accumulate,
        axis_name=axis_name,
        large=build(large_config(config), axis_name=axis_name) if sections.model.large else None,
    )


def _generator(config: ConfigDict, axis_name: str | None) -> nn.Module:
    model = read(ModelOptions, config.model, "model")
    _check_options(model.options, {"batch_norm": "model.batch_norm", "dtype": "dtype"}, "model")
    return create_model(
        model.name,
        num_classes=len(class_set(config.benchmark.classes)),
        axis_name=axis_name,
        batch_norm=model.batch_norm,
        dtype=DTYPES[config.dtype],
        **model.options,
    )


def _adversary(
    config: ConfigDict,
    options: AdversaryOptions,
    objective: terms.Objective,
    outputs: Mapping[str, jax.ShapeDtypeStruct],
) -> Adversary:
    """Returns a discriminator for every level that a term of the objective needs."""
    one_of(options.network, DISCRIMINATORS, "adversary.network")
    _check_options(options.options, {"dtype": "dtype"}, "adversary")
    levels = sorted({term.level for term, _ in objective.values() if term.level is not None})
    networks = {
        level: create_discriminator(
            options.network,
            in_channels=outputs[LEVELS[level].head].shape[-1],
            dtype=DTYPES[config.dtype],
            **options.options,
        )
        for level in levels
    }
    adversary = Adversary(networks, options)
    adversary.check(outputs, size=tuple(config.benchmark.crop))
    return adversary


def _check_options(options: Mapping[str, Any], fields: Mapping[str, str], section: str) -> None:
    """Refuses options of a network that have a field of their own, or follow from the data."""
    derived = dict.fromkeys(("num_classes", "in_channels", "axis_name"), "the data and the devices")
    taken = {**derived, **fields}
    for name in sorted(options.keys() & taken.keys()):
        raise ConfigError(f"{section}.options.{name} is set by {taken[name]}")


def _preparation(
    config: ConfigDict,
    sections: Sections,
    objective: terms.Objective,
    generator: nn.Module,
    axis_name: str | None,
) -> list[views.Part]:
    """Returns the parts that make the views which the objective reads."""
    size = tuple(config.benchmark.crop)
    reference_features = None
    if terms.uses_reference(objective):
        reference_features = distance.trunk_map(generator, sections.distance.stage, size=size)
    options = read(ViewOptions, config, "")
    return views.preparation(
        PartContext(
            options=dataclasses.replace(options, normalisation=normalisation_of(config)),
            views=terms.views(objective),
            names=class_set(config.benchmark.classes).names,
            size=size,
            source_size=tuple(config.benchmark.source_crop),
            seed=config.seed,
            reference_features=reference_features,
            adapts_thresholds=terms.adapts_thresholds(objective, sections.consistency),
            axis_name=axis_name,
        )
    )


def large_config(config: ConfigDict) -> ConfigDict:
    """Returns the configuration of the network that model.large names, as if it were the only one.

    It learns from all terms but those that distil, except on heads that it does not have.
    """
    large = config.copy_and_resolve_references()
    with large.unlocked():
        large.model.update({"name": config.model.large, "large": ""})
        large.model.options = ConfigDict()  # `update` would keep those of the small network
        if large.model.pretrained == imagenet.NAME:
            large.normalisation = AUTO
        heads = {*output_shapes(_generator(large, None), size=tuple(config.benchmark.crop))}
        large.objective = ConfigDict(
            {
                name: weight
                for name, (term, weight) in make_objective(config).items()
                if not term.distils and term.head in heads | {distance.HEAD}
            }
        )
    return large


def normalisation_of(config: ConfigDict) -> str:
    """Returns the normalisation of a train stage's images, a key of `NORMALISATIONS`.

    "auto" means that of the ImageNet weights which model.pretrained names, otherwise "imagenet".
    """
    if config.normalisation != AUTO:
        return config.normalisation
    model = read(ModelOptions, config.model, "model")
    return imagenet.normalisation(model.name) if model.pretrained == imagenet.NAME else "imagenet"


def with_objective(method: Method, config: ConfigDict) -> Method:
    """Returns the method with the objective of a configuration, and so its large network."""
    large = method.large and with_objective(method.large, large_config(config))
    return dataclasses.replace(method, objective=make_objective(config), large=large)


def make_objective(config: ConfigDict) -> dict[str, tuple[terms.Term, float]]:
    """Returns the active terms of a train stage's configuration, with their weights.

    Raises:
      ConfigError: names the field that is invalid for a term.
    """
    sections = read(Sections, config, "")
    names = class_set(config.benchmark.classes).names
    loss, num_classes = sections.loss, len(names)
    return terms.select(
        config.objective,
        TermContext(
            pixel_loss=losses.pixel_loss(config.pixel_loss, loss, num_classes=num_classes),
            class_weights=functools.partial(losses.class_weights, loss, num_classes=num_classes),
            loss=loss,
            consistency=sections.consistency,
            adversary=sections.adversary,
            distance=sections.distance,
            temperature=sections.teacher.temperature,
            names=names,
        ),
    )


def check_combination(
    stage: StageOptions, sections: Sections, objective: terms.Objective, *, needs_target: bool
) -> None:
    """Refuses options that cannot be combined.

    Raises:
      ConfigError: names the fields.
    """
    model, teacher = sections.model, sections.teacher
    require(
        stage.labelled != "target" or not needs_target,
        "labelled='target' trains on the target's own labels: it leaves no domain to adapt to, "
        "so fda_beta must be None and no term may look at the target",
    )
    pseudo = sorted(name for name, (term, _) in objective.items() if term.needs_pseudo_labels)
    require(
        not pseudo or stage.pseudo_labels,
        f"term {' and '.join(pseudo)} needs pseudo_labels, an earlier pseudo_label stage",
    )
    require(
        pseudo or not stage.pseudo_labels,
        f"pseudo_labels={stage.pseudo_labels!r} is read by no term: give objective.pseudo a "
        "weight; a term of your own that reads them has needs_pseudo_labels=True",
    )
    names = [name for name, (term, _) in objective.items() if term.needs_teacher]
    require(
        not names or teacher.kind != "none",
        f"{' and '.join(names)} terms need a teacher to label the target: set teacher.kind to "
        "ema or frozen",
    )
    frozen = model.batch_norm == "frozen" and not stage.taught_by
    require(
        not names or not frozen or teacher.statistics == "running",
        "model.batch_norm='frozen' normalises by running statistics in the teacher too: set "
        "teacher.statistics to 'running' and teacher.average to 'all'",
    )
    require(
        "feature_distance" not in objective or model.pretrained,
        "feature_distance compares features with those of a pretrained trunk: set "
        "model.pretrained, for example to 'imagenet'",
    )
    if not model.large:
        return
    judged = sorted(name for name, (term, _) in objective.items() if term.level is not None)
    require(
        not judged,
        f"{' and '.join(judged)}: discriminators judge one network; leave model.large empty",
    )
    require(
        teacher.kind == "ema" and names,
        "model.large is trained to be a teacher: set teacher.kind to ema, and give "
        f"objective.{terms.TAUGHT} a weight",
    )
    require(
        not stage.init,
        f"init={stage.init!r} gives weights to one network; with model.large, both begin from "
        "model.pretrained or from new weights",
    )


def initial_state(method: Method) -> TrainState:
    """Returns the method's state before its first step."""
    memory = {}
    if terms.adapts_thresholds(method.objective, method.consistency):
        theta = initial_thresholds(method.consistency, num_classes=method.num_classes)
        memory["theta"] = theta
    if method.weighs_classes:
        memory["agreement"] = jnp.zeros((2, method.num_classes), jnp.float32)
    state = create_state(
        method.generator,
        method.adversary,
        method.g_tx,
        method.d_tx,
        seed=method.seed,
        size=method.size,
        memory=memory,
    )
    if method.large is not None:
        state = state.with_large(initial_state(method.large))
    # The teacher is here for its shapes, which restoring a checkpoint needs. Training copies it
    # again once the student has its initial weights.
    state = with_teacher(state, method.teacher, network=method.teacher_network)
    return with_reference(state) if method.uses_reference else state


def with_reference(state: TrainState) -> TrainState:
    """Returns the state with a copy of its current segmentation network as the reference."""
    reference = jax.tree.map(jnp.copy, state.network)
    return state.replace(memory={**state.memory, "reference": reference})


def pretrained_state(state: TrainState, config: ConfigDict) -> tuple[TrainState, str]:
    """Returns the state with the weights of `model.pretrained`, and a sentence about them.

    Raises:
      ConfigError: a weight does not fit, by name, or the weights need another normalisation.
    """
    model = read(ModelOptions, config.model, "model")
    variables, report = load_pretrained(
        model.pretrained,
        model.name,
        state.network,
        part=model.pretrained_part,
        naming=model.pretrained_naming or None,
        key=model.pretrained_key,
    )
    sentence, configured = str(report), normalisation_of(config)
    if model.pretrained_input == "same":
        check_normalisation(configured, required=report.normalisation, path=str(report.path))
    elif report.normalisation not in (None, configured):
        sentence += f"; its images are normalised by {configured} from here on"
    loaded = state.replace(g_params=variables["params"], g_stats=variables["batch_stats"])
    if model.large:
        large, large_report = pretrained_state(loaded.large, large_config(config))
        loaded, sentence = loaded.with_large(large), f"{sentence}; {large_report}"
    # A state has a reference from the start where feature_distance needs one (`initial_state`).
    return with_reference(loaded) if "reference" in state.memory else loaded, sentence
