"""The resumable loop of one train stage: batches, steps, logs and checkpoints."""

import dataclasses
import functools
import pathlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from rtda_jax.adapt import build
from rtda_jax.adapt.method import Method
from rtda_jax.adapt.state import TrainState
from rtda_jax.adapt.step import Logs, make_train_step
from rtda_jax.adapt.teacher import with_teacher
from rtda_jax.data.batches import (
    Batches,
    checked,
    example_names,
    paired_batches,
    with_enet_weights,
)
from rtda_jax.data.stream import Batch
from rtda_jax.errors import DataError, Interrupted, one_of, require
from rtda_jax.run import binding, checkpoint, health, log, parallel
from rtda_jax.run.loggers import Loggers
from rtda_jax.run.loggers import check as check_loggers
from rtda_jax.run.options import Fields, among, flat, plain, read
from rtda_jax.run.signals import compiling, compiling_first, shutdown_event, watchdog
from rtda_jax.run.workdir import read_json, write_json

# How many steps the host may run ahead of the device: enough to hide the host's work, few enough
# to bound memory.
AHEAD = 4
CONTINUES = "the same command continues there"

# Fields that a train stage does not read, besides binding.FREE. The numbers of a benchmark are only
# defaults.
UNREAD = (
    "eval",
    "pseudo",
    "statistics",
    "benchmark.eval",
    "benchmark.eval_classes",
    "benchmark.eval_size",
    "benchmark.source_eval",
    "benchmark.steps",
    "benchmark.batch_size",
    "benchmark.g_lr",
)

# A function from a state to the same state with other weights, and a sentence about them.
Initialiser = Callable[[TrainState], tuple[TrainState, str]]


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """The fields of a configuration that decide how a run is monitored and saved.

    Attributes:
      log_every_steps: the steps between two rows of metrics.jsonl, which hold means over them.
      loggers: the loggers beside metrics.jsonl, such as "tensorboard".
      checkpoint_every_steps: the steps between two checkpoints; a fortieth of a long benchmark.
      checkpoint_keep: how many of the newest checkpoints are kept; 2 or more, in case one is
        damaged.
      on_not_finite: what to do after a nonfinite loss or gradient: "stop", or "skip" the update.
      stall_seconds: the seconds without progress after which the process prints its stacks and
        ends with exit code 6; 0 means never.
    """

    log_every_steps: int = 20
    loggers: tuple[str, ...] = ()
    checkpoint_every_steps: int = 100
    checkpoint_keep: int = 2
    on_not_finite: str = "stop"
    stall_seconds: float = 1800.0

    def __post_init__(self) -> None:
        for name, least in (
            ("log_every_steps", 1),
            ("checkpoint_every_steps", 1),
            ("checkpoint_keep", 2),
            ("stall_seconds", 0),
        ):
            value = getattr(self, name)
            require(value >= least, f"{name} must be at least {least}, got {value:g}")
        one_of(self.on_not_finite, health.POLICIES, "on_not_finite")
        check_loggers(self.loggers)


def bound(fields: Fields) -> Fields:
    """Returns the fields of a stage that decide what it trains."""
    labelled = () if fields.get("labelled") == "target" else ("benchmark.target_labelled",)
    unread = (*binding.FREE, *UNREAD, *labelled)
    return {k: v for k, v in fields.items() if not among(k, unread)}


def with_class_weights(method: Method, config: ConfigDict, folder: pathlib.Path) -> Method:
    """Returns the method with counted class weights, if its loss is weighted as in ENet.

    The class weights of a method that was just built raise an error, because nothing is counted
    before the data is there.
    """
    if config.loss.weighting != "enet":
        return method
    counted = with_enet_weights(config, folder)
    return build.with_objective(method, counted)


def train(
    config: ConfigDict,
    workdir: str | pathlib.Path,
    *,
    method: Method | None = None,
    batches: Batches | None = None,
    start_from: Initialiser | None = None,
    taught_by: Initialiser | None = None,
    pseudo_folder: pathlib.Path | None = None,
) -> TrainState:
    """Trains one stage to its last step, continuing from its newest checkpoint if there is one.

    Args:
      config: the stage's configuration, see `configs/base.py`.
      workdir: the stage's folder; gets `metrics.jsonl` and `checkpoints/`.
      method: the result of `build.build` for the configuration; by default it is built here.
      batches: the function start step -> iterator of batches, of which each process gets its
        share, see `data.stream.Batch`; by default the benchmark's paired stream.
      start_from: the initialiser of a fresh state's weights; by default it reads
        `model.pretrained`, if that is set.
      taught_by: the initialiser of a teacher that is another network.
      pseudo_folder: the folder of labels for the target's images, see `data.load_pseudo`.

    Returns:
      The final state.

    Raises:
      ConfigError: the configuration cannot be used, or the folder began with another one.
      DataError: the data cannot be used, the first of `batches` is not as the configuration says,
        or they end before the last step.
      NotFiniteError: a loss or gradient is nonfinite and `on_not_finite` is "stop"; no checkpoint
        is written after it.
      CheckpointError: a checkpoint cannot be written, or none of them is healthy.
      Interrupted: SIGTERM or SIGINT arrived; the state is saved.
    """
    workdir = pathlib.Path(workdir)
    options = read(LoopOptions, config, "")
    mesh = parallel.mesh()
    parallel.check_batch(config.batch_size, mesh.size, accumulate=config.optim.accumulate)
    for field, given in (
        ("init", start_from),
        ("taught_by", taught_by),
        ("pseudo_labels", pseudo_folder or batches),
    ):
        require(
            not config[field] or given is not None,
            f"{field}={config[field]!r} names a stage, which only an experiment has",
        )
    workdir.mkdir(parents=True, exist_ok=True)
    _bind(workdir, config)
    if method is None:
        method = build.build(config, axis_name=parallel.AXIS)
    method = with_class_weights(method, config, workdir)
    names = health.example_numbers if batches else functools.partial(example_names, config)
    if batches:
        batches = checked(batches, config, needs_target=method.needs_target)
    else:
        batches = paired_batches(
            config, needs_target=method.needs_target, folder=workdir, pseudo_folder=pseudo_folder
        )
    guard = health.POLICIES[options.on_not_finite]
    compiled_step = parallel.compile_step(guard(make_train_step(method)), mesh)
    initialisers = [start_from] if start_from else []
    # `init` replaces the pretrained weights; only the reference network of feature_distance still
    # comes from them.
    if config.model.pretrained and (not initialisers or method.uses_reference):
        initialisers.insert(0, functools.partial(build.pretrained_state, config=config))

    with (
        shutdown_event() as interrupted,
        watchdog(options.stall_seconds) as heartbeat,
        checkpoint.manager(workdir / "checkpoints", keep=options.checkpoint_keep) as checkpoints,
    ):
        start_step, state = _begin(
            method, mesh, checkpoints, initialisers, taught_by, stop=interrupted
        )
        journal = Journal(workdir, config, options, method, names=names, start_step=start_step)
        with journal:
            sentence = f"stopped before step {start_step + 1} was finished; {CONTINUES}"
            compiled_step = compiling_first(
                compiled_step, what="the training step", stop=interrupted, sentence=sentence
            )
            stream = batches(start_step) if start_step < config.steps else iter(())
            for step in range(start_step + 1, config.steps + 1):
                batch = journal.wait_for(stream)
                state, logs = compiled_step(state, batch)
                journal.add(step, logs, batch)
                heartbeat()
                log_due = step % options.log_every_steps == 0
                stop = parallel.any_process(interrupted.is_set(), now=log_due)
                last = step == config.steps
                save_due = last or step % options.checkpoint_every_steps == 0
                if log_due or save_due:
                    journal.write_row(step)
                if save_due or stop:
                    # Save the leftovers first: from a checkpoint without them, a resumed run would
                    # write a different row.
                    journal.save_leftovers(step, checkpoints)
                    checkpoint.save(checkpoints, state, step=step)
                if stop:
                    checkpoint.finish(checkpoints)
                    raise Interrupted(f"stopped after step {step}; {CONTINUES}")
    return state


def _bind(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Binds a folder to its configuration, unless an experiment has done so.

    Raises:
      ConfigError: the folder began with another configuration; only `steps` may grow.
    """
    if (workdir / binding.RECORD).exists():
        return
    path = workdir / "config.json"
    stage = {k: v for k, v in plain(config).items() if k not in ("stages", "stage")}
    fields = binding.comparable(bound(flat(stage)))
    if binding.begun(workdir) and path.exists():
        for field, then in read_json(path).items():
            now = fields.get(field)
            require(
                then == now or field == binding.CODE or (field == "steps" and then < now),
                f"{workdir} began with {field}={then!r}, and now it is {now!r}: choose another "
                "folder, or give the configuration it began with",
            )
    if parallel.is_main():
        write_json(path, fields)


def _begin(
    method: Method,
    mesh: jax.sharding.Mesh,
    checkpoints: Any,
    initialisers: Sequence[Initialiser],
    taught_by: Initialiser | None,
    *,
    stop: threading.Event,
) -> tuple[int, TrainState]:
    """Returns the number of finished steps and the state after them, on all devices."""
    if checkpoints.latest_step():
        shapes = jax.eval_shape(lambda: build.initial_state(method))
        abstract = checkpoint.abstract(shapes, parallel.replicated(mesh))
        done, state = checkpoint.resume(checkpoints, abstract)
        log.say(f"  continues after step {done}")
        return done, state
    state = compiling(
        functools.partial(build.initial_state, method),
        what="the initial weights",
        stop=stop,
        sentence=f"stopped before the first step; {CONTINUES}",
    )
    for initialise in initialisers:
        state, sentence = initialise(state)
        log.say(f"  {sentence}")
    # The teacher is copied again, because the initialisers changed the student.
    state = with_teacher(state, method.teacher, network=method.teacher_network)
    if taught_by is not None:
        state, sentence = taught_by(state)
        log.say(f"  {sentence}")
    return 0, parallel.replicate(state, mesh)


class Journal:
    """Writes what a stage measures: rows of metrics, a line for people, and warnings.

    Args:
      workdir: the stage's folder.
      config: the stage's configuration.
      options: the options of the loop: how often rows are written, and which other loggers get
        them.
      method: the method, whose objective and learning rates are written.
      names: the function (domain, positions in its set) -> names of examples.
      start_step: the step that training continues after, 0 for a fresh stage.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        config: ConfigDict,
        options: LoopOptions,
        method: Method,
        *,
        names: health.ExampleNames,
        start_step: int,
    ) -> None:
        self._method, self._start_step, self._steps = method, start_step, config.steps
        self._metrics_file = workdir / log.METRICS_FILE
        self._leftovers_file = workdir / health.LEFTOVERS_FILE
        if parallel.is_main():
            log.truncate(self._metrics_file, after=start_step)
        leftovers = health.read_leftovers(self._leftovers_file, step=start_step)
        self._pending = health.PendingSteps(names, leftovers)
        self._alarm = health.Alarm()
        self._loggers = Loggers(options.loggers if parallel.is_main() else (), workdir)
        domains = 2 if method.needs_target else 1
        self._clock = log.Clock(
            step=start_step, steps=config.steps, images_per_step=config.batch_size * domains
        )

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._loggers.close()

    def wait_for(self, stream: Iterator[Batch]) -> Batch:
        """Returns the next batch and measures how long the loop waited for it.

        Raises:
          DataError: there is none.
        """
        with self._clock.waiting():
            batch = next(stream, None)
        if batch is None:
            raise DataError(f"the batches end before the last of {self._steps} steps")
        return batch

    def add(self, step: int, logs: Logs, batch: Batch) -> None:
        """Adds the logs of one step, which may not have arrived from the device yet."""
        self._pending.add(step, logs, batch, ahead=AHEAD)
        if step == self._start_step + 1:
            jax.block_until_ready(logs)
            waited = log.duration(self._clock.elapsed())
            log.say(f"  first step after {waited} (compilation, or its cache)")
            self._clock.restart(step)

    def write_row(self, step: int) -> None:
        """Writes the means since the last row and warns if training seems to collapse."""
        metrics = {"step": step, **self._pending.means()}
        metrics["g_lr"] = float(self._method.g_schedule(step - 1))
        if self._method.adversary.networks:
            metrics["d_lr"] = float(self._method.d_schedule(step - 1))
        metrics |= self._clock.lap(step)
        if parallel.is_main():
            log.append(self._metrics_file, metrics)
        self._loggers.write(metrics)
        objective = list(self._method.objective)
        log.say("  " + log.line(metrics, steps=self._steps, objective=objective))
        for warning in self._alarm(metrics):
            log.say(f"  warning: {warning}")

    def save_leftovers(self, step: int, checkpoints: Any) -> None:
        """Saves the metrics since the last row, so that a resumed run writes the same row."""
        leftovers = self._pending.leftovers()
        health.save_leftovers(
            self._leftovers_file, leftovers, step=step, steps=checkpoints.all_steps()
        )
