"""From a configuration to the views of a batch: what the device makes of the images it is given."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax

from rtda_jax import fda
from rtda_jax.adapt import consistency, prepare, terms
from rtda_jax.adapt.step import Remember
from rtda_jax.adapt.thresholds import Thresholds
from rtda_jax.augment import colour, geometry, mixing
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


def check(config: Any, objective: Objective) -> None:
    """Refuse with a sentence what the views can not be made of.

    Raises:
      ConfigError: naming the fields.
      ValueError: an unknown name, a number outside its range.
    """
    thresholds = lookup(THRESHOLDS, config.consistency.threshold, "consistency.threshold")(config)
    lookup(consistency.FORMS, config.consistency.form, "consistency.form")
    _colour(config), mixing.MixOptions(**config.mix), mixing.LongTailOptions(**config.long_tail)
    geometry.AffineOptions(**config.affine)
    if not 0 < config.consistency.initial < 1:
        raise ConfigError(
            "consistency.initial must be a probability within (0, 1), "
            f"got {config.consistency.initial:g}"
        )
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


def pastes(config: Any) -> bool:
    """Whether rare classes are pasted, so that the stream must offer candidates."""
    return config.long_tail.probability > 0


def preparation(config: Any, generator: nn.Module, objective: Objective) -> prepare.Part:
    """The parts that turn a batch of bytes into what the network reads, in their order."""
    seen = terms.views(objective)
    parts: list[prepare.Part] = [prepare.as_floats]
    colours = _colour(config)
    if colours.colour:
        parts.append(prepare.colour(colours))
    if config.fda_beta is not None:
        parts.append(prepare.stylise(beta=config.fda_beta, window=config.fda_window))
    recolour = functools.partial(colour.recolour, draw=colours.draw, seed=config.seed)
    if "mixed" in seen:
        mix = mixing.MixOptions(**config.mix)
        parts.append(
            prepare.class_mix(
                functools.partial(_logits, generator),
                cut=mixing.make_cut(
                    mix,
                    mixing.LongTailOptions(**config.long_tail),
                    names=class_set(config.benchmark.classes).names,
                ),
                normalisation=config.normalisation,
                options=mix,
                recolour=recolour(mix.colour),
            )
        )
    if colours.texture != "none":
        parts.append(prepare.texture(recolour(colours.texture)))
    if "strong" in seen:
        moves = geometry.AffineOptions(**config.affine)
        parts.append(prepare.strong_view(recolour(colours.strong), moves))
    parts.append(prepare.normalised(normalisation=config.normalisation))
    if "strong" in seen:
        parts.append(prepare.move_strong)
    return prepare.in_order(parts)


def _colour(config: Any) -> colour.ColourOptions:
    fields = (field.name for field in dataclasses.fields(colour.ColourOptions))
    return colour.ColourOptions(**{name: config.augment[name] for name in fields})


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
