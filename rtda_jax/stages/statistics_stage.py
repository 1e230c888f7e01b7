"""A statistics stage: a network's batch statistics, measured anew on the target (AdaBN).

Li et al. 2016 replace the running mean and variance of every batch normalisation by the target's.
As PyTorch's `update_bn` does, they are the averages of the statistics of N batches that pass
through the network in training mode, each with weight 1/N.
"""

import pathlib
import shutil
import time
from collections.abc import Iterable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rtda_jax.augment.normalise import normalise
from rtda_jax.data import eval_stream, load
from rtda_jax.errors import ConfigError
from rtda_jax.evaluate import Model
from rtda_jax.run import checkpoint, log
from rtda_jax.run.log import Progress
from rtda_jax.run.signals import watchdog
from rtda_jax.run.workdir import read_json, write_json
from rtda_jax.stages import trained
from rtda_jax.stages.plan import Plan


def run(plan: Plan, name: str, workdir: pathlib.Path) -> dict[str, Any]:
    """Store the network with the target's statistics; what results.json says of it.

    It takes a forward pass over the target at most, so a killed stage begins anew.
    """
    stage, folder = plan[name], workdir / name
    done = folder / "done.json"
    if done.exists() and not checkpoint.is_damaged(folder / "checkpoints"):
        log.say(f"[{name}] finished, skipped")
        return read_json(done)
    (reference,) = stage.models
    log.say(f"[{name}] batch statistics of {reference} from {stage.benchmark.target.name}")
    model = trained.load(plan, reference, workdir)
    begin = time.perf_counter()
    count, batches = target_batches(stage)
    progress = Progress("  batches", count, unit="batches")
    with watchdog(stage.stall_seconds) as moved:

        def watched() -> Iterator[np.ndarray]:
            for batch in batches:
                yield batch
                moved()
                progress.add(1)

        stats = measure(model, watched())
    progress.end()
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # of a run that was killed here
    with checkpoint.manager(folder / "checkpoints", keep=stage.checkpoint_keep) as held:
        state = {"g_params": model.variables["params"], "g_stats": stats}
        checkpoint.save(held, state, step=stage.steps)
    record = {
        "models": list(stage.models),
        "batches": count,
        "batch_size": stage.batch_size,
        "seconds": round(time.perf_counter() - begin, 1),
    }
    write_json(done, record)
    return record


def measure(model: Model, batches: Iterable[np.ndarray]) -> Any:
    """The tree of running statistics that batches of images uint8 [B,H,W,3] give a network.

    Raises:
      ConfigError: the network has no batch normalisation.
    """
    if not jax.tree.leaves(model.variables.get("batch_stats", {})):
        raise ConfigError("kind 'statistics' needs a network with batch normalisation")
    module: nn.Module = model.module.clone(batch_norm="last", axis_name=None)

    @jax.jit
    def average(params: Any, mean: Any, images: jax.Array, number: jax.Array) -> Any:
        pixels = normalise(images.astype(jnp.float32), name=model.normalisation)
        _, updated = module.apply(
            {"params": params, "batch_stats": mean}, pixels, train=True, mutable=["batch_stats"]
        )
        return jax.tree.map(lambda m, x: m + (x - m) / number, mean, updated["batch_stats"])

    mean = jax.tree.map(jnp.zeros_like, model.variables["batch_stats"])
    for number, images in enumerate(batches, start=1):
        mean = average(model.variables["params"], mean, images, jnp.float32(number))
    return mean


def target_batches(stage: Any) -> tuple[int, Iterator[np.ndarray]]:
    """How many batches there are, and whole target images in an order that the seed decides."""
    benchmark = stage.benchmark
    dataset = load(benchmark.target, data_dir=stage.data_dir, classes=benchmark.classes)
    size = stage.batch_size
    count = stage.statistics.batches or max(len(dataset) // size, 1)
    random = np.random.default_rng(stage.seed)
    epochs = -(-count * size // len(dataset))
    order = np.concatenate([random.permutation(len(dataset)) for _ in range(epochs)])
    stream = eval_stream(
        dataset.unlabelled(),
        size=tuple(benchmark.size),
        order=order[: count * size].tolist(),
        threads=stage.threads,
    )
    return count, (np.stack([next(stream)["image"] for _ in range(size)]) for _ in range(count))
