"""One stage's loop: batches in, steps, logs, checkpoints; it can be killed and goes on."""

import collections
import contextlib
import functools
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from rtda_jax import build, checkpoint, class_weights, health, parallel, records, views
from rtda_jax.clock import Clock
from rtda_jax.data import Candidates, DataError, load, load_pseudo, train_stream
from rtda_jax.errors import ConfigError, Interrupted, NotFiniteError
from rtda_jax.interrupt import watch
from rtda_jax.loggers import Loggers
from rtda_jax.state import TrainState

# Steps the host may run ahead of the device: enough to hide its work, few enough to bound memory.
AHEAD = 4

Batches = Callable[[int], Iterator[dict[str, np.ndarray]]]
Start = Callable[[TrainState], tuple[TrainState, str]]


def train(
    config: Any,
    workdir: str | pathlib.Path,
    *,
    batches: Batches | None = None,
    start_from: Start | None = None,
    pseudo: pathlib.Path | None = None,
) -> TrainState:
    """Train one stage to its last step, from wherever its workdir stands.

    Args:
      config: a stage's configuration, see `configs/base.py`.
      workdir: the stage's folder; gets `metrics.jsonl` and `checkpoints/`.
      batches: start step -> iterator of batches; default the benchmark's paired stream.
      start_from: fresh state -> the state before the first step, and a sentence about it; default
        `model.pretrained` or from scratch.
      pseudo: folder of labels for the target's images, see `data.load_pseudo`.

    Returns:
      The final state.

    Raises:
      ConfigError, DataError: the configuration or the data can not be used.
      NotFiniteError: a loss or gradient is not finite; no checkpoint is written after it.
      Interrupted: SIGTERM or SIGINT; the state is saved.
    """
    workdir = pathlib.Path(workdir)
    mesh = parallel.mesh()
    try:
        parallel.check_batch(config.batch_size, mesh.size)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    workdir.mkdir(parents=True, exist_ok=True)
    config = class_weights.settled(config, workdir)
    stage = build.build(config, axis_name=parallel.AXIS)
    batches = batches or paired_batches(
        config,
        needs_target=stage.needs_target,
        pseudo=pseudo,
        counts=class_weights.counted(config, workdir) if views.pastes(config) else None,
    )
    run = parallel.pmapped(build.train_step(stage, config, axis_name=parallel.AXIS), mesh)
    objective = list(stage.objective)
    log = workdir / records.FILE

    with (
        contextlib.ExitStack() as kept,
        watch() as interrupted,
        checkpoint.manager(workdir / "checkpoints", keep=config.checkpoint_keep) as held,
    ):
        start = held.latest_step() or 0
        if start:
            fresh = jax.eval_shape(lambda: build.initial_state(stage, config))
            state = checkpoint.restore(held, checkpoint.abstract(fresh, parallel.everywhere(mesh)))
            records.say(f"  continues after step {start}")
        else:
            state = build.initial_state(stage, config)
            if start_from is None and config.model.pretrained:
                start_from = functools.partial(build.pretrained_state, config=config)
            if start_from is not None:
                state, report = start_from(state)
                records.say(f"  {report}")
            state = parallel.replicate(build.with_teacher(state, config), mesh)
        records.truncate(log, after=start)
        loggers = kept.enter_context(Loggers(config.loggers, workdir))
        pending: collections.deque = collections.deque()
        alarm = health.Alarm()
        clock = Clock(
            step=start,
            steps=config.steps,
            images_per_step=config.batch_size * (2 if stage.needs_target else 1),
        )
        stream = batches(start) if start < config.steps else iter(())
        for step in range(start + 1, config.steps + 1):
            with clock.waiting():
                batch = next(stream)
            state, logs = run(state, batch)
            pending.append((step, logs))
            if len(pending) > AHEAD:
                jax.block_until_ready(pending[-AHEAD][1])
            if step == start + 1:
                jax.block_until_ready(logs)
                records.say(f"  first step after {records.duration(clock.elapsed())} (compilation)")
                clock.restart(step)
            last = step == config.steps
            saves = last or step % config.checkpoint_every_steps == 0 or interrupted.is_set()
            if saves or step % config.log_every_steps == 0:
                values = _means(pending)
                record = {"step": step, **values, "g_lr": float(stage.g_schedule(step - 1))}
                if stage.discriminators:
                    record["d_lr"] = float(stage.d_schedule(step - 1))
                record |= clock.lap(step)
                records.append(log, record)
                loggers.write(record)
                records.say("  " + records.line(record, steps=config.steps, objective=objective))
                for warning in alarm(record):
                    records.say(f"  warning: {warning}")
                pending.clear()
            if saves:
                checkpoint.save(held, state, step=step)
            if interrupted.is_set() and not last:
                held.wait_until_finished()
                raise Interrupted(f"stopped after step {step}; the same command continues there")
        return state


def paired_batches(
    config: Any,
    *,
    needs_target: bool,
    pseudo: pathlib.Path | None = None,
    counts: np.ndarray | None = None,
) -> Batches:
    """The benchmark's stream; the target's labels are opened only with labelled="target".

    counts: pixels of each class in each labelled image, to draw candidates of long-tail pasting by.
    """
    benchmark = config.benchmark
    labelled = {"source": benchmark.source, "target": benchmark.target_labelled}
    if config.labelled not in labelled:
        raise ConfigError(f"labelled must be source or target, got {config.labelled!r}")
    spec = labelled[config.labelled]
    if not spec:
        raise DataError(f"benchmark {benchmark.name} has no labelled target images to train on")
    source = load(spec, data_dir=config.data_dir, classes=benchmark.classes)
    target = (
        load(benchmark.target, data_dir=config.data_dir, classes=benchmark.classes)
        if needs_target
        else None
    )
    labels = load_pseudo(pseudo, target=target) if pseudo and target else None
    candidates = None
    if counts is not None:
        candidates = Candidates(
            counts,
            slots=config.long_tail.slots,
            probability=config.long_tail.probability,
            classes=tuple(config.long_tail.classes),
            min_pixels=config.long_tail.min_pixels,
        )

    def batches(start: int) -> Iterator[dict[str, np.ndarray]]:
        return train_stream(
            source,
            target,
            pseudo=labels,
            seed=config.seed,
            start_step=start,
            batch_size=config.batch_size,
            size=tuple(benchmark.size),
            crop=tuple(benchmark.crop),
            flip=config.augment.flip,
            scale=tuple(config.augment.scale),
            candidates=candidates,
            target_moves=config.augment.target_moves,
            threads=config.threads,
        )

    return batches


def _means(pending: collections.deque) -> dict[str, float]:
    """Means over the pending steps, after checking each: the first bad step is named."""
    fetched = jax.device_get([logs for _, logs in pending])
    for (step, _), logs in zip(pending, fetched, strict=True):
        bad = [name for name, value in logs.items() if not math.isfinite(value)]
        if bad:
            raise NotFiniteError(
                f"step {step}: {', '.join(bad)} not finite; no checkpoint was written after it"
            )
    return {name: float(np.mean([logs[name] for logs in fetched])) for name in fetched[0]}
