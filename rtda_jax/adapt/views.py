"""Views: the images that the device makes from a batch of bytes for the networks to read.

A view is an image that goes through the segmentation network: `source`, `target`, and those that
parts of the preparation add. A part is a pure function (batch, key, state) -> new entries of the
batch. Those of `PARTS` run first, in their order, on float32 [B,H,W,3] in [0,255], and then those
of `NORMALISED_PARTS`. The options and the objective decide which of them are needed. To add a view,
add its part to `PARTS` and its name to `VIEWS`; if the teacher labels its pixels, name its term in
`TEACHER_LABELLED_VIEWS`.

These keys of a batch are added on the device; `data.stream.Batch` lists those of the host:

  key                     what it is                          added by            read by
  teacher_label uint8     [B,H,W], 0..K-1                     step.label_target   views, terms, step
  teacher_weight float32  [B,H,W], 0 without a label          step.label_target   views
  teacher_labelled bool   [B,H,W], not in borders or margins  step.label_target   terms, step
  teacher_logits          [B,H,W,K]                           step.label_target   terms
  mixed_image             [B,H,W,3]                           class_mix           step
  mixed_label uint8       [B,H,W], 255 where ignored          class_mix           terms
  mixed_weight float32    [B,H,W]                             class_mix           terms
  strong_image            [B,H,W,3]                           strong_view         step
  strong_affine float32   [B,2,3], from it to the target      strong_view         step, warp
  masked_image            [B,H,W,3]                           masked_view         step
  masked_label, _weight   as teacher_label, teacher_weight    masked_view         terms
  reference_feature       [B,h,w,C], see `adapt/distance.py`  reference_features  terms
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rtda_jax import fda
from rtda_jax.adapt.state import TrainState
from rtda_jax.augment import Batch, colour, geometry, mixing
from rtda_jax.augment.colour import ColourOptions
from rtda_jax.augment.geometry import AffineOptions, MaskOptions
from rtda_jax.augment.mixing import LongTailOptions, MixOptions
from rtda_jax.augment.normalise import AUTO, NORMALISATIONS, normalise
from rtda_jax.errors import one_of, require

# The domain that each view shows: unchanged, changed or mixed. Views go through the network in this
# order, which decides whose statistics come last.
VIEWS = {"source": "source", **dict.fromkeys(("target", "strong", "mixed", "masked"), "target")}

# From the name of a term to its view, whose `<view>_label` and `<view>_weight` come from the
# teacher's labels of the target.
TEACHER_LABELLED_VIEWS = {"mix": "mixed", "masked": "masked"}

# From the batch, a key and the state to the entries of the batch that a part adds or replaces.
Change = Callable[[Batch, jax.Array, TrainState], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class ViewOptions:
    """The fields of a configuration that decide how the device prepares a batch.

    Attributes:
      normalisation: the normalisation of images, a key of
        `rtda_jax.augment.normalise.NORMALISATIONS`, or "auto": that of the ImageNet weights which
        model.pretrained names, and "imagenet" without them.
      fda_beta: beta of the band that the source takes from the target (FDA); None means no FDA.
      fda_other_betas: further bands; each image then draws one of these and fda_beta, so that one
        network learns from all of them.
      fda_window: the window of frequencies, a key of `rtda_jax.fda.WINDOWS`.
      augment: the colours and textures of the source and of the strong view.
      mix: the options of class mixing.
      long_tail: the options of pasting rare classes of other source images before the mixing
        (TUFL).
      affine: the moves of the strong view.
      masked: the hidden blocks of the masked view.
    """

    normalisation: str = AUTO
    fda_beta: float | None = None
    fda_other_betas: tuple[float, ...] = ()
    fda_window: str = "square"
    augment: ColourOptions = dataclasses.field(default_factory=ColourOptions)
    mix: MixOptions = dataclasses.field(default_factory=MixOptions)
    long_tail: LongTailOptions = dataclasses.field(default_factory=LongTailOptions)
    affine: AffineOptions = dataclasses.field(default_factory=AffineOptions)
    masked: MaskOptions = dataclasses.field(default_factory=MaskOptions)

    def __post_init__(self) -> None:
        if self.normalisation != AUTO:
            one_of(self.normalisation, NORMALISATIONS, "normalisation")
        require(
            self.fda_beta is not None or not self.fda_other_betas,
            f"fda_other_betas={self.fda_other_betas} are drawn beside fda_beta, which is None: "
            "set fda_beta to the first of them",
        )


@dataclasses.dataclass(frozen=True)
class PartContext:
    """Everything that the parts close over.

    Attributes:
      options: the options of all parts.
      views: the views that the objective reads.
      names: the names of the K classes.
      size: the sides (H, W) of a crop.
      source_size: the sides of a crop of the source, which may differ.
      seed: the seed of the run.
      reference_features: the function (variables, normalised images) -> [B,h,w,C] of the features
        that feature_distance compares with; None without that term.
      adapts_thresholds: whether consistency terms adapt thresholds, `memory["theta"]` of the state.
      axis_name: the device axis of a mapped step, for parts that need the whole batch.
    """

    options: ViewOptions
    views: frozenset[str]
    names: Sequence[str]
    size: tuple[int, int]
    source_size: tuple[int, int]
    seed: int
    reference_features: Callable[[Any, jax.Array], jax.Array] | None = None
    adapts_thresholds: bool = False
    axis_name: str | None = None

    def check_equal_sizes(self, words: str) -> None:
        """Refuses crops of different sizes where source and target are combined pixel by pixel.

        Raises:
          ConfigError: names the two fields and, with `words`, what needs them to be equal.
        """
        require(
            self.source_size == self.size,
            f"{words} needs crops of one size: benchmark.source_crop is {self.source_size}, "
            f"benchmark.crop {self.size}",
        )


class Part(NamedTuple):
    """One part of a preparation.

    Attributes:
      summary: a few words for the log about what the part does; "" leaves it unmentioned.
      apply: the function (batch, key, state) -> the entries that it adds to the batch or replaces.
    """

    summary: str
    apply: Change


def _images(batch: Batch) -> dict[str, jax.Array]:
    """Returns the images that the network reads; candidates for pasting are not among them."""
    names = [f"{view}_image" for view in VIEWS]
    return {name: batch[name] for name in names if name in batch}


def to_float(context: PartContext) -> Part:
    """Converts bytes to float32."""
    del context

    def change(batch: Batch, key: jax.Array, state: TrainState) -> dict[str, jax.Array]:
        del key, state
        return {image: x.astype(jnp.float32) for image, x in _images(batch).items()}

    return Part("", change)


def recolour_source(context: PartContext) -> Part | None:
    """Changes contrast and saturation of some source images (Nikiforos)."""
    options = context.options.augment
    if not options.colour:
        return None

    def change(batch: Batch, key: jax.Array, state: TrainState) -> dict[str, jax.Array]:
        del state
        image = colour.colour(batch["source_image"], key, batch["source_index"], options=options)
        return {"source_image": image}

    return Part(f"colour(p={options.colour:g})", change)


def stylise(context: PartContext) -> Part | None:
    """Gives each source image the low frequencies of the target image at its position (FDA)."""
    beta, window = context.options.fda_beta, context.options.fda_window
    if beta is None:
        return None
    betas = (beta, *context.options.fda_other_betas)
    context.check_equal_sizes("fda_beta")
    for each in betas:
        require(  # the share of the target refuses invalid betas and windows
            fda.target_share(*context.size, beta=each, window=window).any(),
            f"FDA with beta={each:g} and fda_window={window!r} exchanges no frequency of crops of "
            f"{context.size[0]}x{context.size[1]}: give a larger beta or another window",
        )

    def change(batch: Batch, key: jax.Array, state: TrainState) -> dict[str, jax.Array]:
        del state
        pair = batch["source_image"], batch["target_image"]
        if len(betas) == 1:
            return {"source_image": fda.transfer(*pair, beta=beta, window=window)}
        image = fda.transfer_drawn(*pair, key, batch["source_index"], betas=betas, window=window)
        return {"source_image": image}

    return Part(f"fda(beta={' or '.join(f'{each:g}' for each in betas)})", change)


def class_mix(context: PartContext) -> Part | None:
    """Adds the view `mixed`: classes of the source pasted onto the target (DACS, TUFL).

    `mixed_label` uint8 [B,H,W] is the source's label on pasted pixels and the teacher's elsewhere.
    `mixed_weight` float32 [B,H,W] is 1 on pasted pixels and the teacher's weight elsewhere.
    """
    options = context.options
    pastes = options.long_tail.probability > 0
    if "mixed" not in context.views:
        require(not pastes, "long_tail pastes onto mixed images: give objective.mix a weight")
        return None
    context.check_equal_sizes("objective.mix")
    require(
        options.mix.blur_radius < min(context.size),
        f"mix.boundary_blur={options.mix.boundary_blur:g} reaches {options.mix.blur_radius} pixels "
        f"away, too far for benchmark.crop={context.size}",
    )
    by_threshold = pastes and options.long_tail.choice == "threshold"
    require(
        not by_threshold or context.adapts_thresholds,
        "long_tail.choice='threshold' needs consistency terms with "
        "consistency.threshold='adaptive'",
    )
    cut = mixing.make_cut(
        options.mix, options.long_tail, names=context.names, axis_name=context.axis_name
    )
    recolour = colour.recolour(options.mix.colour, draw=options.augment.draw, seed=context.seed)

    def change(batch: Batch, key: jax.Array, state: TrainState) -> dict[str, jax.Array]:
        mixed = mixing.mix(
            batch,
            key,
            options=options.mix,
            cut=cut,
            recolour=recolour,
            theta=state.memory["theta"] if by_threshold else None,
        )
        return {
            "mixed_image": mixed.image,
            "mixed_label": mixed.label,
            "mixed_weight": mixed.weight,
        }

    tail = f", long tail(p={options.long_tail.probability:g})" if pastes else ""
    return Part(f"class mix({options.mix.colour}){tail}", change)


def texture(context: PartContext) -> Part | None:
    """Changes colours and textures of the source, after classes have been cut from it (TUFL)."""
    options = context.options.augment
    if options.texture == "none":
        return None
    recolour = colour.recolour(options.texture, draw=options.draw, seed=context.seed)

    def change(batch: Batch, key: jax.Array, state: TrainState) -> dict[str, jax.Array]:
        del state
        image = recolour(batch["source_image"], key, batch["source_index"])
        return {"source_image": image}

    return Part(options.texture, change)


def strong_view(context: PartContext) -> Part | None:
    """Adds the view `strong`, the target in other colours, and how `warp` will move it."""
    if "strong" not in context.views:
        return None
    options = context.options.augment
    recolour = colour.recolour(options.strong, draw=options.draw, seed=context.seed)

    def change(batch: Batch, key: jax.Array, state: TrainState) -> dict[str, jax.Array]:
        del state
        paint, move = jax.random.split(key)
        index = batch["target_index"]
        return {
            "strong_image": recolour(batch["target_image"], paint, index),
            "strong_affine": geometry.matrices(move, index, options=context.options.affine),
        }

    return Part(f"strong view({options.strong})", change)


def masked_view(context: PartContext) -> Part | None:
    """Adds the view `masked`: the target in other colours, labelled by the teacher (MIC).

    `hide` later covers blocks of it, which the network has to infer from their surroundings.
    """
    if "masked" not in context.views:
        return None
    options = context.options
    recolour = colour.recolour(options.masked.colour, draw=options.augment.draw, seed=context.seed)

    def change(batch: Batch, key: jax.Array, state: TrainState) -> dict[str, jax.Array]:
        del state
        return {
            "masked_image": recolour(batch["target_image"], key, batch["target_index"]),
            "masked_label": batch["teacher_label"],
            "masked_weight": batch["teacher_weight"],
        }

    blocks = options.masked
    return Part(f"masked view({blocks.colour}, {blocks.ratio:.0%} of {blocks.block} px)", change)


def normalised(context: PartContext) -> Part:
    """Normalises every view for the network."""
    name = context.options.normalisation

    def change(batch: Batch, key: jax.Array, state: TrainState) -> dict[str, jax.Array]:
        del key, state
        return {image: normalise(x, name=name) for image, x in _images(batch).items()}

    return Part("", change)


def warp(context: PartContext) -> Part | None:
    """Moves the normalised strong view, so that pixels from outside get the mean colour."""
    if "strong" not in context.views:
        return None

    def change(batch: Batch, key: jax.Array, state: TrainState) -> dict[str, jax.Array]:
        del key, state
        moved = geometry.warp(batch["strong_image"], batch["strong_affine"])
        return {"strong_image": moved}

    return Part("", change)


def hide(context: PartContext) -> Part | None:
    """Hides blocks of the masked view; after normalisation, so that they get the mean colour."""
    if "masked" not in context.views:
        return None

    def change(batch: Batch, key: jax.Array, state: TrainState) -> dict[str, jax.Array]:
        del state
        image = geometry.hide_blocks(
            batch["masked_image"], key, batch["target_index"], options=context.options.masked
        )
        return {"masked_image": image}

    return Part("", change)


def reference_features(context: PartContext) -> Part | None:
    """Adds `reference_feature`, the features of the frozen pretrained network for the source."""
    features = context.reference_features
    if features is None:
        return None

    def change(batch: Batch, key: jax.Array, state: TrainState) -> dict[str, jax.Array]:
        del key
        return {"reference_feature": features(state.memory["reference"], batch["source_image"])}

    return Part("", change)


PARTS: dict[str, Callable[[PartContext], Part | None]] = {
    "to_float": to_float,
    "recolour_source": recolour_source,
    "stylise": stylise,
    "class_mix": class_mix,
    "texture": texture,
    "strong_view": strong_view,
    "masked_view": masked_view,
}
NORMALISED_PARTS: dict[str, Callable[[PartContext], Part | None]] = {
    "normalised": normalised,
    "warp": warp,
    "hide": hide,
    "reference_features": reference_features,
}


def preparation(context: PartContext) -> list[Part]:
    """Returns the parts that a method needs, in their order.

    Raises:
      ConfigError: the options ask for what the objective does not allow.
    """
    parts = [make(context) for make in (*PARTS.values(), *NORMALISED_PARTS.values())]
    return [part for part in parts if part is not None]


def prepare(
    parts: Sequence[Part], batch: Batch, key: jax.Array, state: TrainState
) -> dict[str, jax.Array]:
    """Returns the batch after all parts, each of which draws from a key of its own.

    The key of a part depends on its position among the active parts. With the same seed, its draws
    therefore change when an earlier part is switched on or off.
    """
    for number, part in enumerate(parts):
        batch = {**batch, **part.apply(batch, jax.random.fold_in(key, number), state)}
    return dict(batch)


def describe(parts: Sequence[Part]) -> str:
    """Describes in a few words what the device does to the images."""
    return ", ".join(part.summary for part in parts if part.summary) or "as they are"
