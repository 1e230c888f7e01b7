"""One stage's loop: batches in, steps, logs, checkpoints; it can be killed and goes on."""

import contextlib
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from rtda_jax.adapt import build, class_weights
from rtda_jax.adapt.state import TrainState
from rtda_jax.data.batches import Batches, named, paired
from rtda_jax.errors import ConfigError, Interrupted, lookup
from rtda_jax.run import checkpoint, health, log, parallel
from rtda_jax.run.log import Clock
from rtda_jax.run.loggers import Loggers
from rtda_jax.run.signals import shutdown_event, watchdog

# Steps the host may run ahead of the device: enough to hide its work, few enough to bound memory.
AHEAD = 4

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
      NotFiniteError: a loss or gradient is not finite and `on_not_finite` is "stop"; no checkpoint
        is written after it.
      CheckpointError: a checkpoint can not be written, or none of them is healthy.
      Interrupted: SIGTERM or SIGINT; the state is saved.
    """
    workdir = pathlib.Path(workdir)
    mesh = parallel.mesh()
    try:
        policy = lookup(health.POLICIES, config.on_not_finite, "on_not_finite")
        parallel.check_batch(config.batch_size, mesh.size)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    workdir.mkdir(parents=True, exist_ok=True)
    config = class_weights.settled(config, workdir)
    stage = build.build(config, axis_name=parallel.AXIS)
    names = health.example_numbers if batches else functools.partial(named, config)
    batches = batches or paired(
        config, needs_target=stage.needs_target, folder=workdir, pseudo=pseudo
    )
    step_fn = policy(build.train_step(stage, config, axis_name=parallel.AXIS))
    run = parallel.compiled(step_fn, mesh)
    objective = list(stage.objective)
    metrics_file, leftovers_file = workdir / log.METRICS_FILE, workdir / log.LEFTOVERS_FILE

    with (
        contextlib.ExitStack() as kept,
        shutdown_event() as interrupted,
        watchdog(config.stall_seconds) as heartbeat,
        checkpoint.manager(workdir / "checkpoints", keep=config.checkpoint_keep) as held,
    ):
        start = 0
        if held.latest_step():
            fresh = jax.eval_shape(lambda: build.initial_state(stage, config))
            wanted = checkpoint.abstract(fresh, parallel.replicated(mesh))
            start, state = checkpoint.resume(held, wanted)
            log.say(f"  continues after step {start}")
        else:
            state = build.initial_state(stage, config)
            if start_from is None and config.model.pretrained:
                start_from = functools.partial(build.pretrained_state, config=config)
            if start_from is not None:
                state, report = start_from(state)
                log.say(f"  {report}")
            state = parallel.replicate(build.with_teacher(state, config), mesh)
        writes = parallel.is_main()
        if writes:
            log.truncate(metrics_file, after=start)
        loggers = kept.enter_context(Loggers(config.loggers if writes else (), workdir))
        pending = health.PendingSteps(names, log.read_leftovers(leftovers_file, step=start))
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
            pending.add(step, logs, batch, ahead=AHEAD)
            heartbeat()
            if step == start + 1:
                jax.block_until_ready(logs)
                log.say(f"  first step after {log.duration(clock.elapsed())} (compilation)")
                clock.restart(step)
            last, logs_now = step == config.steps, step % config.log_every_steps == 0
            stops = parallel.any_process(interrupted.is_set(), now=logs_now)
            due = last or step % config.checkpoint_every_steps == 0
            if due or logs_now:
                record = {
                    "step": step,
                    **pending.means(),
                    "g_lr": float(stage.g_schedule(step - 1)),
                }
                if stage.discriminators:
                    record["d_lr"] = float(stage.d_schedule(step - 1))
                record |= clock.lap(step)
                if writes:
                    log.append(metrics_file, record)
                loggers.write(record)
                log.say("  " + log.line(record, steps=config.steps, objective=objective))
                for warning in alarm(record):
                    log.say(f"  warning: {warning}")
            if due or stops:
                left = pending.leftovers()
                log.save_leftovers(leftovers_file, left, step=step, steps=held.all_steps())
                checkpoint.save(held, state, step=step)
            if stops:
                checkpoint.finish(held)
                raise Interrupted(f"stopped after step {step}; the same command continues there")
        return state
