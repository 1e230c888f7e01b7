"""Validation without target labels, beside an evaluation: the same pass, plus held-out source."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from rtda_jax import evaluate
from rtda_jax.data import eval_stream, load
from rtda_jax.data.labels import class_set
from rtda_jax.errors import ConfigError
from rtda_jax.run import parallel
from rtda_jax.run.log import Progress
from rtda_jax.stages import validators


class Observer:
    """Adds up the statistics of every softmax it is called with."""

    def __init__(self) -> None:
        self.total: validators.Statistics | None = None

    def __call__(self, probabilities: jax.Array) -> None:
        """Take one image's softmax [..., K]."""
        one = validators.statistics(probabilities)
        self.total = one if self.total is None else validators.add(self.total, one)

    def gather(self) -> None:
        """Add up what all processes were called with."""
        self.total = parallel.sum_floats(self.total)


def check(names: Sequence[str]) -> None:
    """ConfigError for a validator that is not known."""
    known = [validators.SOURCE, *validators.VALIDATORS]
    for name in names:
        if name not in known:
            raise ConfigError(f"eval.validators: unknown {name!r}; known: {', '.join(known)}")


def observer(names: Sequence[str]) -> Observer | None:
    """What an evaluation must be watched by for these validators; None if by nothing."""
    return Observer() if any(name in validators.VALIDATORS for name in names) else None


def report(
    config: Any,
    models: Sequence[evaluate.Model],
    seen: Observer | None,
    *,
    moved: Callable[[], object] = lambda: None,
) -> dict[str, float | int | None]:
    """The scores `config.eval.validators` names, by name; no label of the target is read.

    `source_miou` is over the reported classes of the first `eval.validator_images` images of the
    benchmark's source_eval, and null where the benchmark has none. `moved` is called after each
    image.
    """
    scores: dict[str, float | int | None] = {}
    for name in config.eval.validators:
        if name == validators.SOURCE:
            scores |= _source(config, models, moved)
        elif seen is not None and seen.total is not None:
            scores[name] = validators.VALIDATORS[name](seen.total)
    return scores


def _source(
    config: Any, models: Sequence[evaluate.Model], moved: Callable[[], object]
) -> dict[str, float | int | None]:
    benchmark = config.benchmark
    if not benchmark.source_eval:
        return {validators.SOURCE: None}
    head, wanted = class_set(benchmark.classes), class_set(benchmark.eval_classes)
    dataset = load(benchmark.source_eval, data_dir=config.data_dir, classes=head.name)
    count = min(config.eval.validator_images or len(dataset), len(dataset))
    examples = itertools.islice(eval_stream(dataset, size=tuple(benchmark.eval_size)), count)
    progress = Progress("  source validation", count)

    def watch(*_: object) -> None:
        moved()
        progress.add(1)

    confusion = evaluate.evaluate(
        models,
        examples,
        num_classes=len(head),
        mode=config.eval.mode,
        window=tuple(config.eval.window),
        stride=tuple(config.eval.stride),
        align=config.eval.align,
        watch=watch,
    )
    progress.end()
    found = evaluate.report(confusion, names=wanted.names, rows=head.rows(wanted))
    return {validators.SOURCE: found["miou"], "source_images": count}
