"""Trains the PyTorch twin of a configuration on our batches, and scores it as ours is scored.

    python benchmarks/parity.py --config configs/fda.py:synth_to_camvid --data_dir DIR

The result is to be compared with that of `main.py` with the same flags: both train on the same
images in the same order, by the same recipe and from the same initial weights, or with
--weights=torch from PyTorch's own. PyTorch's running statistics are those of both domains, as ours
are with --config.model.statistics=both.
"""

import pathlib
import sys
import tempfile
import time

import numpy as np
from absl import app, flags
from ml_collections import config_flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

_CONFIG = config_flags.DEFINE_config_file("config", "configs/fda.py", lock_config=True)
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Where data sets lie; default the cache.")
_WEIGHTS = flags.DEFINE_enum("weights", "ours", ("ours", "torch"), "Whose initial weights.")


def main(argv: list[str]) -> None:
    """Trains the first train stage's twin to its end and prints its scores."""
    del argv
    import torch
    from torch.nn import functional

    from benchmarks.recipe import no_training_twin, recipe
    from benchmarks.torch_twins.step import Twin
    from benchmarks.torch_twins.weights import start_as_ours
    from rtda_jax import evaluate, metrics
    from rtda_jax.adapt import build
    from rtda_jax.data import batches, load
    from rtda_jax.data.labels import class_set
    from rtda_jax.data.stream import eval_stream
    from rtda_jax.stages import KINDS
    from rtda_jax.stages.plan import make_plan

    config = _CONFIG.value
    config.data_dir = _DATA_DIR.value or config.data_dir
    stage, method = next(
        (planned.config, planned.method)
        for planned in make_plan(config, KINDS).values()
        if planned.method
    )
    if reason := no_training_twin(stage):
        raise SystemExit(reason)
    torch.manual_seed(stage.seed)
    twin = Twin(recipe(stage), device="cpu", form="channels_last")
    if _WEIGHTS.value == "ours":
        start_as_ours(twin, build.initial_state(method), stage.model.name)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="rtda_jax_parity") as folder:
        needs_target = method.needs_target
        paired = batches.paired_batches(
            stage, needs_target=needs_target, folder=pathlib.Path(folder)
        )
        for step, batch in zip(range(1, stage.steps + 1), paired(0), strict=False):
            losses = twin.step({name: np.array(array) for name, array in batch.items()})
            if step % stage.log_every_steps == 0 or step == stage.steps:
                terms = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
                print(f"step {step}/{stage.steps}  {terms}  {time.perf_counter() - begin:.0f} s")

    head, wanted = class_set(stage.benchmark.classes), class_set(stage.benchmark.eval_classes)
    dataset = load(stage.benchmark.eval, data_dir=stage.data_dir, classes=head.name)
    total = np.zeros((len(head), len(head)), np.int64)
    for example in eval_stream(
        dataset, size=tuple(stage.benchmark.eval_size), resize=stage.benchmark.resize
    ):
        logits = twin.logits(np.array(example["image"]))
        logits = functional.interpolate(logits, example["label"].shape, mode="bilinear")
        classes = logits.argmax(1)[0].numpy()
        total += np.asarray(metrics.confusion_matrix(example["label"], classes, len(head)))
    record = evaluate.report(total, names=wanted.names, rows=head.rows(wanted))
    print(evaluate.table({"PyTorch": record}))


if __name__ == "__main__":
    app.run(main)
