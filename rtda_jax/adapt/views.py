"""From a configuration to the views of a batch: what the device makes of the images it is given."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rtda_jax import fda
from rtda_jax.adapt import consistency, prepare, terms
from rtda_jax.adapt.step import Remember
from rtda_jax.adapt.thresholds import Thresholds
from rtda_jax.augment import classes, colour, cuts, geometry
from rtda_jax.augment.texture import TEXTURES
from rtda_jax.data.labels import class_set
from rtda_jax.errors import ConfigError, lookup

Objective = Mapping[str, tuple[terms.Term, float]]


def _fixed(config: Any) -> None:
    del config


def _adaptive(config: Any) -> Thresholds:
    return Thresholds(
        initial=config.consistency.initial,
        alpha=config.consistency.alpha,
        beta=config.consistency.beta,
        d=config.consistency.d,
        decay=config.consistency.decay,
    )


THRESHOLDS: dict[str, Callable[[Any], Thresholds | None]] = {"fixed": _fixed, "adaptive": _adaptive}

DRAWS = ("image", "run")
CHOICES = ("uniform", "threshold")


def check(config: Any, objective: Objective) -> None:
    """Refuse with a sentence what the views can not be made of.

    Raises:
      ConfigError: naming the fields.
      ValueError: an unknown name, a number outside its range.
    """
    thresholds = lookup(THRESHOLDS, config.consistency.threshold, "consistency.threshold")(config)
    lookup(consistency.FORMS, config.consistency.form, "consistency.form")
    for name, value, known in (
        ("augment.draw", config.augment.draw, DRAWS),
        ("long_tail.choice", config.long_tail.choice, CHOICES),
    ):
        if value not in known:
            raise ConfigError(f"unknown {name} {value!r}; known: {', '.join(known)}")
    for name, share in (
        ("consistency.initial", config.consistency.initial),
        ("mix.threshold", config.mix.threshold),
    ):
        if not 0 < share < 1:
            raise ConfigError(f"{name} must be a probability within (0, 1), got {share:g}")
    if min(config.mix.boundary, config.mix.boundary_blur) < 0:
        raise ConfigError("mix.boundary and mix.boundary_blur must be 0 or more")
    if config.mix.boundary_blur and not config.mix.boundary:
        raise ConfigError("mix.boundary_blur blurs the pixels near the seam: it needs mix.boundary")
    if config.fda_beta is not None:
        fda.share(*config.benchmark.crop, beta=config.fda_beta, window=config.fda_window)
    seen = terms.views(objective)
    if pastes(config) and "mixed" not in seen:
        raise ConfigError("long_tail pastes onto mixed images: give objective.mix a weight")
    by_threshold = pastes(config) and config.long_tail.choice == "threshold"
    if by_threshold and (thresholds is None or "strong" not in seen):
        raise ConfigError(
            "long_tail.choice='threshold' needs consistency terms with "
            "consistency.threshold='adaptive'"
        )
    least, most = config.long_tail.count
    if not 1 <= least <= most <= config.long_tail.slots:
        raise ConfigError(
            f"long_tail.count {(least, most)} must be a range within 1..{config.long_tail.slots}, "
            "the long_tail.slots"
        )


def pastes(config: Any) -> bool:
    """Whether rare classes are pasted, so that the stream must offer candidates."""
    return config.long_tail.probability > 0


def preparation(config: Any, generator: nn.Module, objective: Objective) -> prepare.Part:
    """The parts that turn a batch of bytes into what the network reads, in their order."""
    seen = terms.views(objective)
    parts: list[prepare.Part] = [prepare.as_floats]
    if config.augment.colour:
        changed = colour.make_augment(
            probability=config.augment.colour,
            contrast_range=tuple(config.augment.contrast),
            saturation_range=tuple(config.augment.saturation),
        )
        parts.append(prepare.colour(changed))
    if config.fda_beta is not None:
        parts.append(prepare.stylise(beta=config.fda_beta, window=config.fda_window))
    if "mixed" in seen:
        parts.append(
            prepare.class_mix(
                functools.partial(_logits, generator),
                cut=_cut(config),
                normalisation=config.normalisation,
                threshold=config.mix.threshold,
                recolour=recolour(config, config.mix.colour, "mix.colour"),
                boundary=config.mix.boundary,
                boundary_blur=config.mix.boundary_blur,
            )
        )
    if config.augment.texture != "none":
        parts.append(prepare.texture(recolour(config, config.augment.texture, "augment.texture")))
    if "strong" in seen:
        ranges = geometry.Ranges(
            rotation=config.affine.rotation,
            shear=config.affine.shear,
            scale=tuple(config.affine.scale),
            mirror=config.affine.mirror,
        )
        painted = recolour(config, config.augment.strong, "augment.strong")
        parts.append(prepare.strong_view(painted, ranges))
    parts.append(prepare.normalised(normalisation=config.normalisation))
    if "strong" in seen:
        parts.append(prepare.move_strong)
    return prepare.in_order(parts)


def recolour(config: Any, name: str, field: str) -> prepare.Recolour:
    """The colours of that name; with augment.draw "run" noise and blur are those of the whole run.

    Both depend on the seed and the name alone, so that a resumed run has the same.
    """
    chosen = lookup(colour.RECOLOURS, name, field)
    if config.augment.draw == "run" and name in TEXTURES:
        key = jax.random.fold_in(jax.random.key(config.seed), list(TEXTURES).index(name))
        return functools.partial(chosen, once=key)
    return chosen


def _cut(config: Any) -> cuts.Cut:
    names = class_set(config.benchmark.classes).names

    def table(name: str) -> jax.Array:
        return jnp.asarray(classes.table(name, names=names))

    return cuts.make_cut(
        num_classes=len(names),
        ignore=config.mix.ignore,
        related=None if config.mix.related == "none" else table(config.mix.related),
        pasted=tuple(config.long_tail.count) if pastes(config) else None,
        pasted_related=table(config.long_tail.related),
        choice=config.long_tail.choice,
    )


def _logits(generator: nn.Module, variables: Any, images: jax.Array) -> jax.Array:
    outputs: Any = generator.apply(variables, images, train=False)
    return outputs["logits"]


def heads(objective: Objective) -> list[str]:
    """The outputs that consistency terms read, from the main one down."""
    wanted = {term.head for term, _ in objective.values() if "strong" in term.views}
    return [head for head in terms.HEADS.values() if head in wanted]


def remember(config: Any, objective: Objective, *, axis_name: str | None) -> Remember | None:
    """What the step does between the forward pass and the terms; None without a strong view."""
    if not heads(objective):
        return None
    return consistency.make_remember(
        heads(objective),
        thresholds=THRESHOLDS[config.consistency.threshold](config),
        fixed=config.consistency.initial,
        temperature=config.consistency.temperature,
        axis_name=axis_name,
    )


def memory(config: Any, objective: Objective) -> dict[str, jax.Array]:
    """What the method keeps between steps, before the first one."""
    thresholds = THRESHOLDS[config.consistency.threshold](config)
    if thresholds is None or not heads(objective):
        return {}
    return {"theta": thresholds.start(len(class_set(config.benchmark.classes)))}


def describe(config: Any, objective: Objective) -> str:
    """What is done to the images on the device, in a few words."""
    done = []
    if config.augment.colour:
        done.append(f"colour(p={config.augment.colour:g})")
    if config.fda_beta is not None:
        done.append(f"fda(beta={config.fda_beta:g})")
    if config.augment.texture != "none":
        done.append(config.augment.texture)
    if heads(objective):
        done.append(f"strong view({config.augment.strong})")
    if "mixed" in terms.views(objective):
        done.append(f"class mix({config.mix.colour})")
    if pastes(config):
        done.append(f"long tail(p={config.long_tail.probability:g})")
    if config.teacher.kind != "none":
        done.append(f"teacher({config.teacher.kind})")
    return ", ".join(done) or "as they are"
