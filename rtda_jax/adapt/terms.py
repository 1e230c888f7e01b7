"""The named terms of an objective: pure functions that sum a loss over pixels.

A term reads the outputs of the networks for one batch:

    outputs[view][head]            the segmentation network's output for batch[f"{view}_image"]
    outputs["weak"][head]          the target's output, moved to the pixels of the strong view
    outputs["threshold"][head]     the confidence that counts, see `consistency.compare`
    outputs["verdicts"][level]     a discriminator's logits [B,h,w,1] for the target
    outputs["weights"]["classes"]  the weights [K] of distil, see `teacher.distil_weights`

It returns its loss summed over pixels together with their number, or with the sum of their class
weights, so that the step can divide by the count over all devices. A mean of means per device would
be wrong wherever devices ignore different numbers of pixels.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from rtda_jax import losses
from rtda_jax.adapt import adversary, consistency, distance, teacher
from rtda_jax.adapt.adversary import AdversaryOptions
from rtda_jax.adapt.consistency import ConsistencyOptions
from rtda_jax.adapt.distance import DistanceOptions
from rtda_jax.adapt.views import TEACHER_LABELLED_VIEWS, VIEWS
from rtda_jax.augment import Batch
from rtda_jax.errors import ConfigError, lookup, one_of, require
from rtda_jax.losses import LossOptions, Sum
from rtda_jax.run.options import typed

Outputs = Mapping[str, Mapping[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Term:
    """One term and what has to be computed for it.

    Attributes:
      evaluate: the function (outputs, batch) -> sum of the loss and what divides it.
      views: the views that have to go through the segmentation network.
      head: the output that the term reads.
      level: the level of the discriminator that the term needs; None if it needs none.
      needs_teacher: whether the term reads the teacher's predictions for the target.
      needs_pseudo_labels: whether it reads `target_label`, the labels of a pseudo_label stage.
      distils: whether it learns from the teacher's soft labels. Then teacher.inconsistency weighs
        its classes, and a large network, which the teacher follows, does not learn from it.
    """

    evaluate: Callable[[Outputs, Batch], Sum]
    views: frozenset[str]
    head: str
    level: str | None = None
    needs_teacher: bool = False
    needs_pseudo_labels: bool = False
    distils: bool = False


Objective = Mapping[str, tuple[Term, float]]


@dataclasses.dataclass(frozen=True)
class TermContext:
    """Everything that terms close over.

    Attributes:
      pixel_loss: the loss of the labelled domain, (logits, labels) -> Sum.
      class_weights: the function () -> class weights, float32 [K] or None. It is called when the
        step is traced, because a method is built before the labelled set is counted.
      loss: the options of losses; robust_entropy reads eta, and `_count` reduction.
      consistency: the options of consistency; consistency terms read form and gamma.
      adversary: the options of the adversary: the GAN loss and what the discriminators read.
      distance: the options of feature_distance.
      temperature: the temperature of the soft labels that distil terms read.
      names: the names of the K classes.
    """

    pixel_loss: Callable[[jax.Array, jax.Array], Sum]
    class_weights: Callable[[], jax.Array | None] = lambda: None
    loss: LossOptions = dataclasses.field(default_factory=LossOptions)
    consistency: ConsistencyOptions = dataclasses.field(default_factory=ConsistencyOptions)
    adversary: AdversaryOptions = dataclasses.field(default_factory=AdversaryOptions)
    distance: DistanceOptions = dataclasses.field(default_factory=DistanceOptions)
    temperature: float = 1.0
    names: tuple[str, ...] = ()


def _over_all_pixels(loss: jax.Array) -> Sum:
    """Sums a loss over all pixels; ignored pixels are counted too."""
    return Sum(loss.sum(), jnp.float32(loss.size))


def _count(pixels: jax.Array, labels: jax.Array, context: TermContext) -> jax.Array:
    """Returns what divides the sum of a loss that class weights multiply.

    With loss.reduction="weights" the weights divide as well, so that their scale does not matter
    and the term keeps its proportion to seg.

    Args:
      pixels: the number of pixels that the term counts; it divides if there are no class weights
        or reduction is another one.
      labels: [B,H,W], the classes of these pixels; 255 elsewhere.
      context: the class weights and the options of losses.
    """
    weights = context.class_weights()
    if weights is None or context.loss.reduction != "weights":
        return pixels
    return losses.label_weights(labels, weights).sum()


def _supervised(head: str, context: TermContext) -> Term:
    """Returns the supervised loss of the labelled domain."""

    def evaluate(outputs: Outputs, batch: Batch) -> Sum:
        return context.pixel_loss(outputs["source"][head], batch["source_label"])

    return Term(evaluate, frozenset({"source"}), head)


def _pseudo(head: str, context: TermContext) -> Term:
    """Returns the cross-entropy of target images on the labels of a pseudo_label stage."""
    del context

    def evaluate(outputs: Outputs, batch: Batch) -> Sum:
        labels = batch["target_label"]
        loss = losses.cross_entropy(outputs["target"][head], labels)
        return Sum(loss.sum(), losses.valid(labels).sum(dtype=jnp.float32))

    return Term(evaluate, frozenset({"target"}), head, needs_pseudo_labels=True)


def _by_teacher(view: str) -> Callable[[str, TermContext], Term]:
    """Returns the family of terms of a view that is trained on the teacher's labels.

    Its terms are cross-entropies, weighted for each pixel and averaged over all pixels, or over the
    class weights of the labelled ones.
    """

    def family(head: str, context: TermContext) -> Term:
        def evaluate(outputs: Outputs, batch: Batch) -> Sum:
            labels = batch[f"{view}_label"]
            loss = losses.cross_entropy(
                outputs[view][head], labels, class_weights=context.class_weights()
            )
            total, pixels = _over_all_pixels(loss * batch[f"{view}_weight"])
            return Sum(total, _count(pixels, labels, context))

        return Term(evaluate, frozenset({view}), head, needs_teacher=True)

    return family


def _distil(head: str, context: TermContext) -> Term:
    """Returns the disagreement of the target's predictions with the teacher's soft labels.

    Pixels of borders and margins, which have no label, do not count. If classes are weighted, the
    mean over pixels is weighted by the class that the teacher finds most probable.
    """

    def evaluate(outputs: Outputs, batch: Batch) -> Sum:
        loss = teacher.disagreement(
            outputs["target"][head], batch["teacher_logits"], temperature=context.temperature
        )
        labelled = batch["teacher_labelled"]
        if "weights" not in outputs:
            return Sum(jnp.where(labelled, loss, 0.0).sum(), labelled.sum(dtype=jnp.float32))
        by_pixel = jnp.take(outputs["weights"]["classes"], batch["teacher_label"])
        weights = jnp.where(labelled, by_pixel, 0.0)
        return Sum((weights * loss).sum(), weights.sum())

    return Term(evaluate, frozenset({"target"}), head, needs_teacher=True, distils=True)


def _consistency(head: str, context: TermContext) -> Term:
    """Returns the disagreement of both views, averaged over pixels where the weak view is sure.

    Where class weights divide, a pixel has the weight of the weak view's most probable class.
    """

    def evaluate(outputs: Outputs, batch: Batch) -> Sum:
        del batch
        weak, strong = outputs["weak"][head], outputs["strong"][head]
        passing = consistency.sure(weak, outputs["threshold"][head])
        loss = consistency.focal(
            weak,
            strong,
            form=context.consistency.form,
            gamma=context.consistency.gamma,
            class_weights=context.class_weights(),
        )
        _, classes = consistency.predict(weak)
        labels = jnp.where(passing, classes, losses.IGNORE)
        count = _count(passing.sum(dtype=jnp.float32), labels, context)
        return Sum(jnp.where(passing, loss, 0.0).sum(), count)

    return Term(evaluate, frozenset({"target", "strong"}), head)


def _minent(head: str, context: TermContext) -> Term:
    """Returns the entropy of the target's predictions, in [0,1] for each pixel (ADVENT)."""
    del context

    def evaluate(outputs: Outputs, batch: Batch) -> Sum:
        del batch
        return _over_all_pixels(losses.entropy(outputs["target"][head]))

    return Term(evaluate, frozenset({"target"}), head)


def _robust_entropy(head: str, context: TermContext) -> Term:
    """Returns FDA's robust entropy of the target's predictions."""

    def evaluate(outputs: Outputs, batch: Batch) -> Sum:
        del batch
        return _over_all_pixels(
            losses.robust_entropy(outputs["target"][head], eta=context.loss.eta)
        )

    return Term(evaluate, frozenset({"target"}), head)


def _feature_distance(context: TermContext) -> Term:
    """Returns the distance of the source's features from the pretrained network's (DAFormer)."""
    classes = context.distance.class_indices(context.names)

    def evaluate(outputs: Outputs, batch: Batch) -> Sum:
        return distance.distance(
            outputs["source"][distance.HEAD],
            batch["reference_feature"],
            batch["source_label"],
            classes=classes,
            ratio=context.distance.ratio,
        )

    return Term(evaluate, frozenset({"source"}), distance.HEAD)


def _detail(context: TermContext) -> Term:
    """Returns the detail aggregation loss of the labelled domain's boundaries (STDC-Seg)."""
    del context

    def evaluate(outputs: Outputs, batch: Batch) -> Sum:
        return _over_all_pixels(losses.detail(outputs["source"]["detail"], batch["source_label"]))

    return Term(evaluate, frozenset({"source"}), "detail")


def _deceive(level: str, context: TermContext) -> Term:
    """Returns the generator's loss: the discriminator should take the target for the source."""
    gan_loss = adversary.GAN_LOSSES[context.adversary.gan_loss].loss

    def evaluate(outputs: Outputs, batch: Batch) -> Sum:
        del batch
        return _over_all_pixels(gan_loss(outputs["verdicts"][level], domain=adversary.SOURCE))

    # The source is a view of this term too, because the discriminator's own loss reads it.
    return Term(evaluate, frozenset({"source", "target"}), adversary.LEVELS[level].head, level)


# The suffix of a term's name says which head it reads.
HEADS = {"": "logits", **{f"_aux{scale}": f"aux{scale}" for scale in (4, 8, 16, 32)}}

# FDA's code takes the entropy of DeepLab's logits before they are resized.
COARSE = {
    "minent_coarse": functools.partial(_minent, "coarse"),
    "robust_entropy_coarse": functools.partial(_robust_entropy, "coarse"),
}

# One term for each head: `seg`, `seg_aux16`, ...
FAMILIES: dict[str, Callable[[str, TermContext], Term]] = {
    "seg": _supervised,
    "pseudo": _pseudo,
    "consistency": _consistency,
    "minent": _minent,
    "robust_entropy": _robust_entropy,
    "distil": _distil,
    **{name: _by_teacher(view) for name, view in TEACHER_LABELLED_VIEWS.items()},
}

# The terms that read the teacher's predictions, as a phrase for errors: "distil, mix or masked".
TAUGHT = " or ".join(", ".join(("distil", *TEACHER_LABELLED_VIEWS)).rsplit(", ", 1))

# Every term of an objective by the name that a configuration gives it.
TERMS: dict[str, Callable[[TermContext], Term]] = {
    **{
        f"{name}{suffix}": functools.partial(family, head)
        for name, family in FAMILIES.items()
        for suffix, head in HEADS.items()
    },
    **COARSE,
    "detail": _detail,
    **{f"adv_{level}": functools.partial(_deceive, level) for level in adversary.LEVELS},
    "feature_distance": _feature_distance,
}

# The other numbers in a row of the log, by their names or by how these begin.
LOGGED = {
    "step", "skipped", "loss", "grad_norm", "g_lr", "images_per_second", "data_wait",
    "seconds_left", "sure", "theta", "inconsistency", "agreement", "target_entropy",
    "target_average", "target_classes", "teacher_sure", "teacher_classes",
}  # fmt: skip
LOGGED_PREFIXES = ("d_", "pull_", "large_")


def is_logged(name: str) -> bool:
    """Returns whether a number in the log that is no term has this name, or may have it."""
    return name in LOGGED or name.startswith(LOGGED_PREFIXES)


def select(weights: Mapping[str, float], context: TermContext) -> dict[str, tuple[Term, float]]:
    """Returns the active terms with their weights; a term of weight 0 is not traced at all.

    Raises:
      ConfigError: a term or its view is unknown, a term has a name of the log, a weight is
        negative, or no term has a weight.
    """
    objective = {}
    for name, weight in weights.items():
        make = lookup(TERMS, name, "term of the objective")
        weight = typed(weight, float, f"objective.{name}")
        require(weight >= 0, f"objective.{name} must be at least 0, got {weight:g}")
        if weight:
            require(
                not is_logged(name),
                f"term {name}: the log gives this name to another number; rename the term",
            )
            term = make(context)
            for view in term.views:
                one_of(view, VIEWS, f"view of term {name}")
            objective[name] = (term, weight)
    require(objective, "the objective has no term of non-zero weight")
    return objective


def check_outputs(
    name: str,
    objective: Objective,
    outputs: Mapping[str, jax.ShapeDtypeStruct],
    *,
    size: tuple[int, int],
    num_classes: int,
) -> None:
    """Refuses a network that lacks an output which a term reads, or whose logits do not fit.

    Raises:
      ConfigError: names the network, and the term and the outputs there are, or the logits.
    """
    for term_name, (term, _) in objective.items():
        if term.head not in outputs and term.head != distance.HEAD:
            heads = ", ".join(head for head in outputs if head != "feature")
            raise ConfigError(
                f"term {term_name} needs the output {term.head!r}; {name} has: {heads}"
            )
    require(
        "logits" in outputs,
        f"model.name={name!r} has no output 'logits'; it has: {', '.join(outputs)}",
    )
    read = {"logits", *(term.head for term, _ in objective.values())}
    for head in (head for head in HEADS.values() if head in read):
        found, expected = outputs[head], (*outputs[head].shape[:1], *size, num_classes)
        require(
            found.shape == expected and jnp.issubdtype(found.dtype, jnp.floating),
            f"model.name={name!r}: the output {head!r} is {found.dtype} {found.shape}; expected "
            f"floats {expected}, of the crop's size and the benchmark's {num_classes} classes",
        )


def views(objective: Objective) -> frozenset[str]:
    """Returns the views that have to go through the segmentation network."""
    return frozenset().union(*(term.views for term, _ in objective.values()))


def uses_reference(objective: Objective) -> bool:
    """Returns whether feature_distance compares features with those of a reference network."""
    return any(term.head == distance.HEAD for term, _ in objective.values())


def adapts_thresholds(objective: Objective, options: ConsistencyOptions) -> bool:
    """Returns whether consistency terms adapt their thresholds, `memory["theta"]` of the state."""
    return options.adapts and "strong" in views(objective)


def heads(objective: Objective, *, view: str) -> list[str]:
    """Returns the heads that are read by the terms of a view, from the main one down."""
    read = {term.head for term, _ in objective.values() if view in term.views}
    return [head for head in HEADS.values() if head in read]


def formula(objective: Objective) -> str:
    """Returns the objective as one readable line."""
    return " + ".join(f"{weight:g}·{name}" for name, (_, weight) in objective.items())
