"""A statistics stage: measures the batch statistics of a network on the target (AdaBN).

Li et al. (2016) replace the running mean and variance of every batch normalisation by those of the
target. As in PyTorch's `update_bn`, they are the averages of the statistics of N batches that pass
through the network in training mode, each with weight 1/N.
"""

import dataclasses
import pathlib
import shutil
import time
from collections.abc import Iterable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rtda_jax.adapt.state import check_one_image
from rtda_jax.augment.normalise import normalise
from rtda_jax.data.batches import target_set
from rtda_jax.data.dataset import fingerprint
from rtda_jax.data.stream import eval_stream
from rtda_jax.errors import require
from rtda_jax.evaluate import Model
from rtda_jax.run import checkpoint, log, parallel
from rtda_jax.run.binding import bind_data
from rtda_jax.run.log import Progress
from rtda_jax.run.options import Fields, only, read
from rtda_jax.run.signals import compiling_first, watchdog
from rtda_jax.run.workdir import read_json, write_json
from rtda_jax.stages.plan import Plan, Stage, load_network, network_of


@dataclasses.dataclass(frozen=True)
class StatisticsOptions:
    """The section `statistics` of a configuration.

    Attributes:
      batches: how many target batches are averaged; 0 means one epoch.
    """

    batches: int = 0

    def __post_init__(self) -> None:
        require(self.batches >= 0, f"statistics.batches must be at least 0, got {self.batches}")


def check(plan: Plan, stage: Stage) -> None:
    """Refuses more than one network, one without statistics, and batches that cannot be measured.

    Raises:
      ConfigError: names the field or the network.
    """
    number = len(stage.models)
    require(number == 1, f"kind 'statistics' reads one model, got {number}")
    read(StatisticsOptions, stage.config.statistics, "statistics")
    (reference,) = stage.models
    network = network_of(plan, reference)
    require(
        network.shapes()["batch_stats"],
        f"kind 'statistics' needs a network with batch normalisation; {reference} has none",
    )
    size = tuple(stage.config.benchmark.size)
    network.check_size(size, field="benchmark.size")
    if stage.config.batch_size == 1:
        module: nn.Module = network.module.clone(batch_norm="last", axis_name=None)
        check_one_image(module, size=size)


def reads(stage: Stage) -> tuple[str, ...]:
    """Returns the set of images whose statistics are measured."""
    del stage
    return ("target",)


def bound(fields: Fields) -> Fields:
    """Returns the fields of a stage that decide its statistics."""
    names = ("kind", "models", "statistics", "seed", "batch_size")
    return only(
        fields,
        (*names, "benchmark.classes", "benchmark.size", "benchmark.resize", "benchmark.target"),
    )


def run(plan: Plan, name: str, workdir: pathlib.Path) -> dict[str, Any]:
    """Stores the network with the target's statistics and returns the record of the stage.

    It needs at most one forward pass over the target, so a stage that was killed starts again.
    """
    stage, folder = plan[name], workdir / name
    config = stage.config
    done = folder / "done.json"
    if done.exists() and not checkpoint.is_damaged(folder / "checkpoints"):
        log.say(f"[{name}] finished, skipped")
        return read_json(done)
    bind_data(folder, {"target": fingerprint(target_set(config))})
    (reference,) = stage.models
    log.say(f"[{name}] batch statistics of {reference} from {config.benchmark.target.name}")
    model = load_network(plan, reference, workdir)
    begin = time.perf_counter()
    process, processes = parallel.process()
    count, batches = target_batches(config, process=process, processes=processes)
    progress = Progress("  batches", len(range(process, count, processes)), unit="batches")
    with watchdog(config.stall_seconds) as heartbeat:

        def watched() -> Iterator[np.ndarray]:
            for batch in batches:
                yield batch
                heartbeat()
                progress.add(1)

        stats = measure(model, watched())
    progress.end()
    if parallel.is_main():
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # a killed run left them
    parallel.barrier(f"checkpoints of {name}")
    with checkpoint.manager(folder / "checkpoints", keep=config.checkpoint_keep) as checkpoints:
        state = {"g_params": model.variables["params"], "g_stats": stats}
        state = parallel.replicate(state, parallel.mesh())
        checkpoint.save(checkpoints, state, step=config.steps)
    record = {
        "models": list(stage.models),
        "batches": count,
        "batch_size": config.batch_size,
        "seconds": round(time.perf_counter() - begin, 1),
    }
    write_json(done, record)
    return record


def measure(model: Model, batches: Iterable[np.ndarray]) -> Any:
    """Returns the running statistics of a network on batches of images uint8 [B,H,W,3].

    Of several processes each brings batches of its own, and all return the average over all.
    """
    module: nn.Module = model.module.clone(batch_norm="last", axis_name=None)

    @jax.jit
    def average(params: Any, mean: Any, images: jax.Array, number: jax.Array) -> Any:
        pixels = normalise(images, name=model.normalisation)
        _, updated = module.apply(
            {"params": params, "batch_stats": mean}, pixels, train=True, mutable=["batch_stats"]
        )
        return jax.tree.map(lambda m, x: m + (x - m) / number, mean, updated["batch_stats"])

    measured = compiling_first(average, what="the statistics")
    mean, number = jax.tree.map(jnp.zeros_like, model.variables["batch_stats"]), 0
    for number, images in enumerate(batches, start=1):
        mean = measured(model.variables["params"], mean, images, jnp.float32(number))
    return parallel.mean_of_processes(mean, weight=number)


def target_batches(
    config: ConfigDict, *, process: int = 0, processes: int = 1
) -> tuple[int, Iterator[np.ndarray]]:
    """Returns the number of batches, and batches of whole target images in a seeded order.

    Of several processes each gets every n-th batch, and all get the number of all batches.
    """
    benchmark = config.benchmark
    dataset = target_set(config)
    size = config.batch_size
    count = config.statistics.batches or max(len(dataset) // size, 1)
    random = np.random.default_rng(config.seed)
    epochs = -(-count * size // len(dataset))
    order = np.concatenate([random.permutation(len(dataset)) for _ in range(epochs)])
    batches = order[: count * size].reshape(count, size)[process::processes]
    stream = eval_stream(
        dataset.unlabelled(),
        size=tuple(benchmark.size),
        resize=benchmark.resize,
        order=batches.ravel().tolist(),
        threads=config.threads,
    )
    return count, (np.stack([next(stream)["image"] for _ in range(size)]) for _ in batches)
