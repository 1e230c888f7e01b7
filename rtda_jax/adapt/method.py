"""The method of a train stage: what its step closes over, and how views go through its network."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rtda_jax.adapt import distance, terms, views
from rtda_jax.adapt.adversary import Adversary
from rtda_jax.adapt.consistency import MOST_CLASSES, ConsistencyOptions
from rtda_jax.adapt.distance import DistanceOptions
from rtda_jax.adapt.state import NetworkSpec
from rtda_jax.adapt.teacher import TeacherOptions
from rtda_jax.adapt.terms import Objective, Outputs
from rtda_jax.augment import Batch
from rtda_jax.errors import one_of, require
from rtda_jax.models import MODELS
from rtda_jax.ops.conv import CONVOLUTION
from rtda_jax.weights import imagenet

# A function (variables, images) -> (outputs, updated variables).
Apply = Callable[[Any, jax.Array], tuple[Any, Any]]

# The domains whose views update the running statistics, by `model.statistics`.
UPDATING = {"both": ("source", "target"), "source": ("source",), "target": ("target",)}

INPUTS = ("same", "any")


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The section `model` of a configuration.

    Attributes:
      name: the segmentation network, a key of `rtda_jax.models.MODELS`.
      options: further fields of that network.
      batch_norm: "batch" normalises by the batch, "frozen" by running statistics in training too.
      statistics: the domains whose views update the running statistics, a key of `UPDATING`; the
        papers' code has "both". If the network reads only one view, that view updates them.
      remat: what the backward pass computes again to save memory, a key of `REMATS`.
      pretrained: a weight file (.pth, .ckpt, .bin, .safetensors, .npz), or "imagenet" for weights
        from an installed package or a download; if empty, training starts from scratch.
      pretrained_part: "backbone", or "all" for the whole network.
      pretrained_naming: the naming of the file's tensors; needed only if it is ambiguous.
      pretrained_input: whether weights may come from images of another normalisation, one of
        `INPUTS`. Some released code reads torchvision's ResNets so.
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
    pretrained_input: str = "same"
    pretrained_key: str = ""
    large: str = ""

    def __post_init__(self) -> None:
        one_of(self.name, MODELS, "model.name")
        if self.large:
            one_of(self.large, MODELS, "model.large")
        require(
            not self.large or self.pretrained in ("", imagenet.NAME),
            f"model.pretrained={self.pretrained!r} holds the weights of one network: with "
            "model.large it must be 'imagenet' or empty",
        )
        one_of(self.pretrained_input, INPUTS, "model.pretrained_input")
        one_of(self.batch_norm, PASSES, "model.batch_norm")
        one_of(self.statistics, UPDATING, "model.statistics")
        one_of(self.remat, REMATS, "model.remat")


@dataclasses.dataclass(frozen=True)
class Method:
    """Everything that a training step closes over, built once per stage by `build.build`.

    Attributes:
      generator: the segmentation network.
      adversary: the discriminators, the levels that they judge and the options of their training.
      objective: the active terms with their weights.
      preparation: the parts that make views of a batch, see `views`.
      model: the options of the network; its batch_norm, statistics and remat decide how views go
        through it.
      consistency: the options of consistency terms.
      teacher: the options of the teacher; its variables are `TrainState.teacher`.
      teacher_network: the teacher's network if it comes from an earlier stage; None if it is the
        student's.
      large: the method of a larger network that is trained as well, and that the teacher follows
        instead of the segmentation network; None if there is none.
      distance: the options of feature_distance.
      normalisation: the normalisation of the images that the networks read.
      g_tx, d_tx: the optimizers.
      g_schedule, d_schedule: the learning rates of the optimizers by step.
      num_classes: the number of classes, K.
      size: the sides (H, W) of a training crop.
      seed: the seed of the run.
      needs_target: whether the target's images are read at all.
      accumulate: the number of micro-batches whose gradients add up to that of a batch.
      axis_name: the device axis of a mapped step, None under plain jit.
    """

    generator: nn.Module
    adversary: Adversary
    objective: Objective
    preparation: Sequence[views.Part]
    model: ModelOptions
    consistency: ConsistencyOptions
    teacher: TeacherOptions
    distance: DistanceOptions
    normalisation: str
    g_tx: optax.GradientTransformation
    d_tx: optax.GradientTransformation
    g_schedule: optax.Schedule
    d_schedule: optax.Schedule
    num_classes: int
    size: tuple[int, int]
    seed: int
    needs_target: bool
    accumulate: int = 1
    axis_name: str | None = None
    teacher_network: NetworkSpec | None = None
    large: "Method | None" = None

    def __post_init__(self) -> None:
        adapts = terms.adapts_thresholds(self.objective, self.consistency)
        require(
            self.accumulate == 1 or not adapts,
            "consistency.threshold='adaptive' sorts the predictions of the whole batch: it needs "
            f"optim.accumulate=1, got {self.accumulate}",
        )
        require(
            self.num_classes <= MOST_CLASSES or not adapts,
            f"consistency.threshold='adaptive' serves at most {MOST_CLASSES} classes, "
            f"got {self.num_classes}",
        )
        if self.teaches:
            self.teacher.check_borders(self.size)

    @property
    def consistency_heads(self) -> list[str]:
        """The heads that consistency terms compare, from the main one down."""
        return terms.heads(self.objective, view="strong")

    @property
    def teaches(self) -> bool:
        """Whether a term reads the teacher's predictions for the target."""
        return any(term.needs_teacher for term, _ in self.objective.values())

    @property
    def weighs_classes(self) -> bool:
        """Whether distil terms weigh classes, for which `memory["agreement"]` is measured."""
        return self.teacher.inconsistency > 0 and any(
            term.distils for term, _ in self.objective.values()
        )

    def network(self, weights: str) -> NetworkSpec:
        """Returns the network of "student", "large" or "teacher".

        The teacher is the average of the large network, if there is one, and else of the student.
        """
        if weights == "teacher" and self.teacher_network is not None:
            return self.teacher_network
        if weights != "student" and self.large is not None:
            return self.large.network("student")
        return NetworkSpec(self.generator, self.normalisation, self.size)

    @property
    def uses_reference(self) -> bool:
        """Whether feature_distance compares features with those of a frozen reference network."""
        return terms.uses_reference(self.objective)


def forward(method: Method, params: Any, stats: Any, batch: Batch) -> tuple[Outputs, Any]:
    """Returns the outputs of every view that a term reads, and the new running statistics."""
    needed = {view: heads for view in views.VIEWS if (heads := _heads_needed(method, view))}
    return PASSES[method.model.batch_norm](method, needed, params, stats, batch)


def _all_views_at_once(
    method: Method, needed: Mapping[str, tuple[str, ...]], params: Any, stats: Any, batch: Batch
) -> tuple[Outputs, Any]:
    images = [batch[f"{view}_image"] for view in needed]
    if len({x.shape[1:] for x in images}) > 1:
        return _view_by_view(method, needed, params, stats, batch)
    raw_outputs, updated = _apply(method, params, stats, jnp.concatenate(images))
    heads_of_any_view = sorted(set().union(*needed.values()))
    joint = {head: _read(method, head, raw_outputs, updated) for head in heads_of_any_view}
    ends = list(itertools.accumulate(len(x) for x in images))
    outputs = {
        view: {head: joint[head][end - len(x) : end] for head in heads}
        for (view, heads), x, end in zip(needed.items(), images, ends, strict=True)
    }
    return outputs, stats


def _view_by_view(
    method: Method, needed: Mapping[str, tuple[str, ...]], params: Any, stats: Any, batch: Batch
) -> tuple[Outputs, Any]:
    updating = UPDATING[method.model.statistics]
    outputs = {}
    for view, heads in needed.items():
        raw_outputs, updated = _apply(method, params, stats, batch[f"{view}_image"])
        outputs[view] = {head: _read(method, head, raw_outputs, updated) for head in heads}
        # A network that sees one view only, such as source_only, takes the statistics of that view.
        if len(needed) == 1 or views.VIEWS[view] in updating:
            stats = updated["batch_stats"]
    return outputs, stats


# How views go through the network: separately, or all views of one size in one pass if the output
# for an image does not depend on the rest of its batch.
PASSES = {"batch": _view_by_view, "frozen": _all_views_at_once}


# What the backward pass of a view computes again instead of keeping it from the forward pass:
# functions from one `Apply` to another. XLA's compiler for CPUs computes again so early that it
# saves no memory, see docs/scale.md.
REMATS: dict[str, Callable[[Apply], Apply]] = {
    "none": lambda apply: apply,
    # All but the outputs of convolutions: normalisations, rectifiers, resizes; little work.
    "norms": functools.partial(
        jax.checkpoint, policy=jax.checkpoint_policies.save_only_these_names(CONVOLUTION)
    ),
    # The whole forward pass, so that the memory holds one view at a time.
    "views": jax.checkpoint,
}


def _apply(method: Method, params: Any, stats: Any, images: jax.Array) -> tuple[Any, Any]:
    options: dict[str, Any] = {"train": True, "mutable": ["batch_stats"]}
    if method.uses_reference:
        options["mutable"] = ["batch_stats", "intermediates"]
        options["capture_intermediates"] = distance.is_trunk
    network = functools.partial(method.generator.apply, **options)
    return REMATS[method.model.remat](network)({"params": params, "batch_stats": stats}, images)


def _read(method: Method, head: str, outputs: Any, captured: Any) -> jax.Array:
    if head == distance.HEAD:
        return distance.maps_of(captured)[method.distance.stage]
    return outputs[head]


def _heads_needed(method: Method, view: str) -> tuple[str, ...]:
    """Returns the heads of a view that are read, in alphabetical order; XLA drops the others."""
    heads = {term.head for term, _ in method.objective.values() if view in term.views}
    if heads and views.VIEWS[view] == "target":
        heads.add("logits")  # for `step.target_statistics`
    return tuple(sorted(heads))
