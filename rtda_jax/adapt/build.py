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
from rtda_jax.adapt import adversary, distance, optim, terms, views
from rtda_jax.adapt.adversary import Adversary, AdversaryOptions
from rtda_jax.adapt.consistency import ConsistencyOptions, initial_thresholds
from rtda_jax.adapt.distance import DistanceOptions
from rtda_jax.adapt.method import PASSES, REMATS, UPDATING_VIEWS, Method
from rtda_jax.adapt.optim import OptimOptions
from rtda_jax.adapt.options import read
from rtda_jax.adapt.state import (
    TrainState,
    check_one_image,
    create_state,
    output_shapes,
    sample_shape,
)
from rtda_jax.adapt.teacher import TeacherOptions, with_teacher
from rtda_jax.adapt.terms import TermContext
from rtda_jax.adapt.views import PartContext, ViewOptions
from rtda_jax.augment.normalise import AUTO, check_normalisation
from rtda_jax.data.labels import class_set
from rtda_jax.errors import lookup, one_of, require
from rtda_jax.losses import LossOptions
from rtda_jax.models import DISCRIMINATORS, MODELS, create_discriminator, create_model
from rtda_jax.weights import imagenet
from rtda_jax.weights.load import load_pretrained

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
LABELLED_DOMAINS = ("source", "target")


@dataclasses.dataclass(frozen=True)
class StageOptions:
    """The fields at the top of a configuration.

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
        lookup(DTYPES, self.dtype, "dtype")
        one_of(self.labelled, LABELLED_DOMAINS, "labelled")
        lookup(losses.PIXEL_LOSSES, self.pixel_loss, "pixel_loss")


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The section `model` of a configuration.

    Attributes:
      name: the segmentation network, a key of `rtda_jax.models.MODELS`.
      options: further fields of that network.
      batch_norm: "batch" normalises by the batch, "frozen" by running statistics in training too.
      statistics: the views that update the running statistics, a key of `UPDATING_VIEWS`; the
        papers' code has "both". If the network reads only one view, that view updates them.
      remat: what the backward pass computes again to save memory, a key of `REMATS`.
      pretrained: a weight file (.pth, .ckpt, .bin, .safetensors, .npz), or "imagenet" for weights
        from an installed package or a download; if empty, training starts from scratch.
      pretrained_part: "backbone", or "all" for the whole network.
      pretrained_naming: the naming of the file's tensors; needed only if it is ambiguous.
      pretrained_key: the part of a file that holds several networks, such as "ema_model".
      large: a larger network, a key of `MODELS`, that is trained on the same batches and terms
        except distil; the teacher of both networks is its average. If empty, there is none.
    """

    name: str = "bisenet_resnet18"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    batch_norm: str = "batch"
    statistics: str = "target"
    remat: str = "none"
    pretrained: str = ""
    pretrained_part: str = "backbone"
    pretrained_naming: str = ""
    pretrained_key: str = ""
    large: str = ""

    def __post_init__(self) -> None:
        lookup(MODELS, self.name, "model.name")
        if self.large:
            lookup(MODELS, self.large, "model.large")
        require(
            not self.large or self.pretrained in ("", imagenet.NAME),
            f"model.pretrained={self.pretrained!r} holds the weights of one network: with "
            "model.large it must be 'imagenet' or empty",
        )
        lookup(PASSES, self.batch_norm, "model.batch_norm")
        lookup(UPDATING_VIEWS, self.statistics, "model.statistics")
        lookup(REMATS, self.remat, "model.remat")


def build(config: ConfigDict, *, axis_name: str | None = None) -> Method:
    """Returns the method of a train stage.

    Args:
      config: the stage's configuration, see `configs/base.py`.
      axis_name: the device axis, if the step will be mapped over devices.

    Raises:
      ConfigError: names the field that cannot be built.
    """
    stage = read(StageOptions, config, "")
    model = read(ModelOptions, config.model, "model")
    consistency = read(ConsistencyOptions, config.consistency, "consistency")
    adversary_options = read(AdversaryOptions, config.adversary, "adversary")
    lookup(DISCRIMINATORS, adversary_options.network, "adversary.network")
    teacher = read(TeacherOptions, config.teacher, "teacher")
    distance_options = read(DistanceOptions, config.distance, "distance")
    view_options = dataclasses.replace(
        read(ViewOptions, config, ""), normalisation=normalisation_of(config)
    )
    optimizers = read(OptimOptions, config.optim, "optim")
    classes = class_set(config.benchmark.classes)
    size = tuple(config.benchmark.crop)
    objective = make_objective(config)
    views_read = terms.views(objective)
    needs_target = config.fda_beta is not None or views_read != {"source"}
    check_combination(stage, model, objective, teacher=teacher, needs_target=needs_target)

    generator = _generator(config, axis_name)
    outputs = output_shapes(generator, image_shape=sample_shape(size))
    terms.check_heads(model.name, objective, outputs)
    reference_features = None
    if terms.uses_reference(objective):
        reference_features = distance.trunk_map(generator, distance_options.stage, size=size)
    if stage.batch_size <= optimizers.accumulate:
        check_one_image(generator, size=size)

    levels_by_name = adversary.levels(adversary_options.view)
    level_names = {term.level for term, _ in objective.values() if term.level is not None}
    levels = {name: levels_by_name[name] for name in sorted(level_names)}
    discriminators = {
        name: create_discriminator(
            adversary_options.network,
            in_channels=level.shape(outputs, size=size).shape[-1],
            dtype=DTYPES[stage.dtype],
            **adversary_options.options,
        )
        for name, level in levels.items()
    }
    g_schedule, d_schedule = optim.schedules(optimizers, steps=stage.steps)
    return Method(
        generator=generator,
        adversary=Adversary(discriminators, levels, adversary_options),
        objective=objective,
        preparation=views.preparation(
            PartContext(
                options=view_options,
                views=views_read,
                names=classes.names,
                size=size,
                source_size=tuple(config.benchmark.source_crop),
                seed=stage.seed,
                reference_features=reference_features,
                adapts_thresholds=terms.adapts_thresholds(objective, consistency),
                axis_name=axis_name,
            )
        ),
        consistency=consistency,
        teacher=teacher,
        distance=distance_options,
        normalisation=view_options.normalisation,
        statistics=model.statistics,
        batch_norm=model.batch_norm,
        remat=model.remat,
        g_tx=optim.generator_optimizer(optimizers, generator, g_schedule),
        d_tx=optim.discriminator_optimizer(optimizers, d_schedule),
        g_schedule=g_schedule,
        d_schedule=d_schedule,
        num_classes=len(classes),
        size=size,
        seed=stage.seed,
        needs_target=needs_target,
        accumulate=optimizers.accumulate,
        axis_name=axis_name,
        large=build(large_config(config), axis_name=axis_name) if model.large else None,
    )


def _generator(config: ConfigDict, axis_name: str | None) -> nn.Module:
    model = read(ModelOptions, config.model, "model")
    return create_model(
        model.name,
        num_classes=len(class_set(config.benchmark.classes)),
        axis_name=axis_name,
        batch_norm=model.batch_norm,
        dtype=DTYPES[config.dtype],
        **model.options,
    )


def large_config(config: ConfigDict) -> ConfigDict:
    """Returns the configuration of the network that model.large names, as if it were the only one.

    It learns from all terms but distil, except on heads that it does not have.
    """
    large = config.copy_and_resolve_references()
    with large.unlocked():
        large.model.update({"name": config.model.large, "large": "", "options": ConfigDict()})
        if large.model.pretrained == imagenet.NAME:
            large.normalisation = AUTO
        size = tuple(config.benchmark.crop)
        heads = {*output_shapes(_generator(large, None), image_shape=sample_shape(size))}
        large.objective = ConfigDict(
            {
                name: weight
                for name, (term, weight) in make_objective(config).items()
                if not terms.distils((name,)) and term.head in heads | {distance.HEAD}
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
    loss = read(LossOptions, config.loss, "loss")
    names = class_set(config.benchmark.classes).names
    num_classes = len(names)
    return terms.select(
        config.objective,
        TermContext(
            pixel_loss=losses.pixel_loss(config.pixel_loss, loss, num_classes=num_classes),
            class_weights=functools.partial(losses.class_weights, loss, num_classes=num_classes),
            loss=loss,
            consistency=read(ConsistencyOptions, config.consistency, "consistency"),
            adversary=read(AdversaryOptions, config.adversary, "adversary"),
            distance=read(DistanceOptions, config.distance, "distance"),
            temperature=read(TeacherOptions, config.teacher, "teacher").temperature,
            names=names,
        ),
    )


def check_combination(
    stage: StageOptions,
    model: ModelOptions,
    objective: terms.Objective,
    *,
    teacher: TeacherOptions,
    needs_target: bool,
) -> None:
    """Refuses options that cannot be combined.

    Raises:
      ConfigError: names the fields.
    """
    require(
        stage.labelled != "target" or not needs_target,
        "labelled='target' trains on the target's own labels: it leaves no domain to adapt to, "
        "so fda_beta must be None and no term may look at the target",
    )
    pseudo = sorted(name for name in objective if name.startswith("pseudo"))
    require(
        not pseudo or bool(stage.pseudo_labels),
        f"term {' and '.join(pseudo)} needs pseudo_labels, an earlier pseudo_label stage",
    )
    require(
        bool(pseudo) or not stage.pseudo_labels,
        f"pseudo_labels={stage.pseudo_labels!r} is read by no term: give objective.pseudo a weight",
    )
    names = [name for name, (term, _) in objective.items() if term.needs_teacher]
    require(
        not names or teacher.kind != "none",
        f"{' and '.join(names)} terms need a teacher to label the target: set teacher.kind to "
        "ema or frozen",
    )
    require(
        "feature_distance" not in objective or bool(model.pretrained),
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
        teacher.kind == "ema" and bool(names),
        "model.large is trained to be a teacher: set teacher.kind to ema, and give "
        "objective.distil, mix or masked a weight",
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
        image_shape=sample_shape(method.size),
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
    check_normalisation(
        normalisation_of(config), required=report.normalisation, path=str(report.path)
    )
    loaded = state.replace(g_params=variables["params"], g_stats=variables["batch_stats"])
    sentence = str(report)
    if model.large:
        large, large_report = pretrained_state(loaded.large, large_config(config))
        loaded, sentence = loaded.with_large(large), f"{sentence}; {large_report}"
    # A state has a reference from the start where feature_distance needs one (`initial_state`).
    return with_reference(loaded) if "reference" in state.memory else loaded, sentence
