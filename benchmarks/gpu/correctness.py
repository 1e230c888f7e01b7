"""Compares the accelerator's numbers with those of the CPU backend of the same process."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import training
from benchmarks.gpu import ours
from benchmarks.gpu.plan import MAIN, Program, Sizes, sizes_of
from benchmarks.gpu.record import Record
from rtda_jax import fda
from rtda_jax.ops.conv import conv2d


class Shape(NamedTuple):
    """A convolution: input [B,H,W,C], kernel [kh,kw,C/groups,O], and how it moves."""

    x: tuple[int, int, int, int]
    kernel: tuple[int, int, int, int]
    options: dict[str, Any]


# One of each form that rtda_jax.ops.conv chooses on a CPU; elsewhere all are XLA's own.
SHAPES = {
    "plain 3x3": Shape((2, 32, 64, 64), (3, 3, 64, 64), {"padding": 1}),
    "stem 7x7 stride 2": Shape((2, 64, 128, 3), (7, 7, 3, 64), {"stride": 2, "padding": 3}),
    "strided 3x3": Shape((2, 32, 64, 32), (3, 3, 32, 64), {"stride": 2, "padding": 1}),
    "whole strides 4x4": Shape((2, 64, 128, 19), (4, 4, 19, 64), {"stride": 2, "padding": 1}),
    "pointwise": Shape((2, 16, 32, 128), (1, 1, 128, 64), {}),
    "strided pointwise": Shape((2, 16, 32, 64), (1, 1, 64, 128), {"stride": 2}),
    "depthwise": Shape((2, 32, 64, 19), (4, 4, 1, 19), {"stride": 2, "padding": 1, "groups": 19}),
    "narrow output": Shape((2, 16, 32, 512), (3, 3, 512, 19), {"padding": 6, "dilation": 6}),
    "overhang": Shape((2, 2, 3, 64), (4, 4, 64, 32), {"stride": 2, "padding": 1}),
    "dilated": Shape((2, 17, 33, 64), (3, 3, 64, 64), {"padding": 4, "dilation": 4}),
}
# Relative error that each precision of the accelerator may have against float32 on the CPU.
CONV_BOUNDS = {"highest": 1e-4, "default": 5e-3, "bfloat16": 2e-2}
STEP_BOUNDS = {"highest": 2e-2, "default": 0.15, "bfloat16": 5e-2}
# The first step of untrained networks in bfloat16 does not judge a kernel, because any rounding
# turns the signs of normalised pooled values. It is reported, and only its losses are bounded.
UNBOUNDED = {"bfloat16": ("generator", "grad_norm")}
FDA_BOUND = 0.05  # grey levels of 255


def apart(value: Any, reference: Any) -> float:
    """Returns the norm of the difference over the norm of the reference."""
    value, reference = (np.asarray(v, np.float64) for v in (value, reference))
    return float(np.linalg.norm(value - reference)) / max(float(np.linalg.norm(reference)), 1e-30)


def verdict(errors: dict[str, float], bound: float) -> dict[str, Any]:
    """Returns the errors, and whether all of them are numbers below the bound."""
    return {**errors, "bound": bound, "ok": all(e <= bound for e in errors.values())}


def on(device: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Runs a jitted function on one device and returns host arrays."""
    placed = jax.device_put(arguments, device)
    return jax.device_get(jax.jit(function)(*placed))


def convolutions(precision: str) -> dict[str, Any]:
    """Compares outputs and both gradients of every form, in one program."""
    rng = np.random.default_rng(0)
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    tensors = {}
    for name, shape in SHAPES.items():
        x, kernel = (rng.standard_normal(s, np.float32) for s in (shape.x, shape.kernel))
        out = jax.eval_shape(lambda x, k, o=shape.options: conv2d(x, k, **o), x, kernel)
        tensors[name] = (x, kernel, rng.standard_normal(out.shape, np.float32))

    def all_of(tensors: Any, *, dtype: Any) -> Any:
        results = {}
        for name, (x, kernel, dy) in tensors.items():
            conv = functools.partial(conv2d, **SHAPES[name].options)
            y, pull = jax.vjp(conv, x.astype(dtype), kernel.astype(dtype))
            dx, dk = pull(dy.astype(y.dtype))
            results[name] = {"y": y, "dx": dx, "dk": dk}
        return jax.tree.map(lambda v: v.astype(jnp.float32), results)

    plain = functools.partial(all_of, dtype=jnp.float32)
    expected = on(jax.devices("cpu")[0], plain, tensors)
    with jax.default_matmul_precision("highest" if precision == "highest" else "default"):
        values = on(jax.devices()[0], functools.partial(all_of, dtype=dtype), tensors)
    errors = {
        f"{name} {part}": apart(values[name][part], expected[name][part])
        for name in SHAPES
        for part in ("y", "dx", "dk")
    }
    return verdict(errors, CONV_BOUNDS[precision])


def fourier(sizes: Sizes) -> dict[str, Any]:
    """Compares FDA with NumPy in float64: the largest differences in grey levels."""
    rng = np.random.default_rng(0)
    errors = {}
    for height, width in (sizes.check_crop, (97, 131)):
        source, target = (
            rng.integers(0, 256, (1, height, width, 3)).astype(np.float32) for _ in range(2)
        )
        for beta in (0.01, 0.05):
            function = functools.partial(fda.transfer, beta=beta)
            expected = in_numpy(source, target, beta=beta)
            for device in (jax.devices()[0], jax.devices("cpu")[0]):
                value = on(device, function, source, target)
                key = f"{height}x{width} beta={beta} {device.platform}"
                errors[key] = float(np.abs(value - expected).max())
    return verdict(errors, FDA_BOUND)


def in_numpy(source: np.ndarray, target: np.ndarray, *, beta: float) -> np.ndarray:
    """Transfers the square window of FDA on whole spectra in float64."""
    source, target = (np.fft.fft2(v.astype(np.float64), axes=(1, 2)) for v in (source, target))
    amplitude, phase = np.abs(source), np.angle(source)
    height, width = source.shape[1:3]
    b = int(min(height, width) * beta)
    rows, columns = np.r_[-b : b + 1][:, None], np.r_[-b : b + 1][None, :]
    amplitude[:, rows, columns] = np.abs(target)[:, rows, columns]
    return np.fft.ifft2(amplitude * np.exp(1j * phase), axes=(1, 2)).real


def one_step(sizes: Sizes, *, dtype: str) -> tuple[Any, Any, Any]:
    """Returns the main network's step at a small size, a start and a batch, all on the host."""
    small = sizes._replace(crop=sizes.check_crop, batch=sizes.check_batch)
    config = ours.config_of(Program("train", MAIN, "fda", dtype), small)
    parts = training.training(config)
    start = training.filled(parts.state)
    return parts.step, start, ours.batch_of(config, needs_target=parts.needs_target)


def reference(sizes: Sizes) -> dict[str, Any]:
    """Computes how parameters, statistics and logs move, in float32 on the CPU."""
    step, start, batch = one_step(sizes, dtype="float32")
    after, logs = on(jax.devices("cpu")[0], step, start, batch)
    return moved(start, after, logs)


def moved(start: Any, after: Any, logs: Any) -> dict[str, Any]:
    """Returns how far one step went, as flat arrays."""

    def flat(tree: Any) -> np.ndarray:
        return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])

    return {
        "generator": flat(after.g_params) - flat(start.g_params),
        "statistics": flat(after.g_stats) - flat(start.g_stats),
        "logs": {name: float(value) for name, value in logs.items()},
    }


def step(sizes: Sizes, expected: dict[str, Any], *, precision: str) -> dict[str, Any]:
    """Compares one training step on the accelerator with the CPU's."""
    dtype = "bfloat16" if precision == "bfloat16" else "float32"
    function, start, batch = one_step(sizes, dtype=dtype)
    with jax.default_matmul_precision("highest" if precision == "highest" else "default"):
        after, logs = on(jax.devices()[0], function, start, batch)
    result = moved(start, after, logs)
    errors = {name: apart(result[name], expected[name]) for name in ("generator", "statistics")}
    # Only the losses: the accuracies of an untrained discriminator count signs of zeros.
    for name in ("seg", "seg_aux16", "seg_aux32", "adv_output", "d_loss", "grad_norm"):
        errors[name] = apart(result["logs"][name], expected["logs"][name])
    free = {name: errors.pop(name) for name in UNBOUNDED.get(precision, ())}
    return {**verdict(errors, STEP_BOUNDS[precision]), "unbounded": free}


def run(spec: dict[str, Any], record: Record) -> None:
    """Compares convolutions, FDA and whole steps."""
    sizes = sizes_of(spec)
    record.run("about", ours.about)
    for precision in CONV_BOUNDS:
        record.run(f"convolutions {precision}", functools.partial(convolutions, precision))
    record.run("fda", lambda: fourier(sizes))
    kept: dict[str, Any] = {}

    def on_the_cpu() -> dict[str, Any]:
        kept.update(reference(sizes))
        return {"logs": kept["logs"]}

    record.run("step on the CPU", on_the_cpu)
    for precision in STEP_BOUNDS:
        record.run(f"step {precision}", functools.partial(step, sizes, kept, precision=precision))
