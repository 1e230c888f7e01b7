"""Times the training step or the inference pass of a configuration in one process of rtda_jax."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure, training
from rtda_jax import evaluate
from rtda_jax.adapt import build
from rtda_jax.augment.normalise import normalise
from rtda_jax.models.fold import fold
from rtda_jax.run import parallel


def _about(config: Any) -> dict[str, Any]:
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "precision": config.dtype,
        "form": "XLA",
        "version": f"jax {jax.__version__}",
    }


def _peak() -> dict[str, Any]:
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return {"peak": stats["peak_bytes_in_use"], "peak_of": "device"}
    return {"peak": measure.peak_rss(), "peak_of": "process"}


def _ceiling(config: Any) -> float:
    """Measures the FLOP/s of a large matrix product in the configuration's precision."""
    n = 2048 if jax.devices()[0].platform == "cpu" else 8192
    a = jnp.ones((n, n), build.DTYPES[config.dtype])
    product = jax.jit(lambda a: a @ a)
    return 2 * n**3 / measure.best(lambda: product(a).block_until_ready())


def train(config: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """Times the step of `rtda_jax.train` on one device, from the host's batch to the loss."""
    parts = training.training(config, axis_name=parallel.AXIS)
    one = parallel.mesh(jax.devices()[:1])
    state = parallel.replicate(parts.start(), one)
    run = parallel.pmapped(parts.step, one)
    batch = measure.batch(**spec["batch"])

    def step() -> float:
        nonlocal state
        state, logs = run(state, batch)
        return float(logs["loss"])

    times = measure.timed(step, steps=spec["steps"])
    return _about(config) | times | _peak() | {"ceiling": _ceiling(config)}


def infer(config: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """Times `rtda_jax.evaluate.predictor` on one image of each size, uint8 to uint8."""
    module = training.training(config).generator
    folded = fold(module, training.variables(module, tuple(spec["sizes"][0])))
    model = evaluate.Model(*folded, build.normalisation_of(config))
    predict = evaluate.predictor([model])
    sizes: dict[str, Any] = {}
    for size in map(tuple, spec["sizes"]):
        image = measure.images(1, size, seed=3)[0]
        calls = {"host": lambda size=size, image=image: np.asarray(predict(image, size=size))}
        if spec["parts"]:
            calls |= _parts(model, predict, image)
        rows = {name: measure.timed(call, steps=spec["steps"]) for name, call in calls.items()}
        sizes[f"{size[0]}x{size[1]}"] = {"rows": rows, **_peak()}
    return _about(config) | {"sizes": sizes, "ceiling": _ceiling(config)}


def _parts(model: evaluate.Model, predict: Any, image: np.ndarray) -> dict[str, Any]:
    """Cuts the pass short after the features, the logits and the classes; nothing is copied."""
    pixels = jax.device_put(image)

    def until(name: str) -> Any:
        def outputs(variables: Any, image: jax.Array) -> jax.Array:
            images = normalise(image[None].astype(jnp.float32), name=model.normalisation)
            heads: Any = model.module.apply(variables, images, train=False)
            return heads[name]

        compiled = jax.jit(outputs)
        return lambda: compiled(model.variables, pixels).block_until_ready()

    size = image.shape[:2]
    return {
        "feature": until("feature"),
        "logits": until("logits"),
        "classes": lambda: predict(pixels, size=size).block_until_ready(),
    }


JOBS = {"train": train, "infer": infer}
