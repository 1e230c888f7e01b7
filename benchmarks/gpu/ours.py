"""Compiles our programs ahead of time, runs and times them on the accelerator."""

import concurrent.futures
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import measure, training
from benchmarks.gpu.plan import Program, Sizes, programs, sizes_of, taught_programs
from benchmarks.gpu.record import Record
from rtda_jax import evaluate
from rtda_jax.adapt import build
from rtda_jax.tools import cost, environment


def about() -> dict[str, Any]:
    """Returns versions, device and commit."""
    return {**environment.describe(), "commit": environment.commit(), "jax": jax.__version__}


def peak() -> int | None:
    """Returns the device's largest memory in use so far, in bytes, where it says so."""
    stats = jax.devices()[0].memory_stats()
    return (stats or {}).get("peak_bytes_in_use")


def config_of(program: Program, sizes: Sizes) -> Any:
    """Returns the configuration of a program; inference has that of source-only training."""
    batch_size = sizes.batch_deeplab if program.model.startswith("deeplab") else sizes.batch
    taught = program in taught_programs(sizes)
    return training.configuration(
        program.method or "source_only",
        model=program.model,
        dtype=program.dtype,
        crop=sizes.crop,
        batch_size=sizes.batch_teacher if taught else batch_size,
    )


def batch_of(config: Any, *, needs_target: bool) -> dict[str, np.ndarray]:
    """Makes a synthetic batch of a configuration's sizes, on the host."""
    crop = tuple(config.benchmark.crop)
    return measure.batch(config.batch_size, crop, num_classes=19, target=needs_target)


def compiled(parts: training.Training, batch: Any) -> tuple[jax.stages.Compiled, dict[str, float]]:
    """Compiles the step for one device; also the seconds of tracing and of the compiler."""
    state = parts.state
    begin = time.perf_counter()
    lowered = jax.jit(parts.step, donate_argnums=0).lower(state, batch)
    traced = time.perf_counter()
    program = lowered.compile()
    seconds = {"trace": traced - begin, "compile": time.perf_counter() - traced}
    return program, seconds


def flops(config: Any, parts: training.Training) -> float | None:
    """Counts the FLOPs of one step: twice the multiply-accumulates of all convolutions.

    Auxiliary heads, resizes, normalisations and the Fourier transform are not counted. Returns None
    for a step with a teacher, whose passes are not counted.
    """
    if config.teacher.kind != "none":
        return None
    crop, name = tuple(config.benchmark.crop), config.model.name
    network, discriminator = cost.model_cost(name, num_classes=19, size=crop).macs, 0
    if parts.adversary:
        discriminator = cost.discriminator_cost(parts.adversary, in_channels=19, size=crop).macs
    domains = 2 if parts.adversary else 1
    return 2.0 * training.step_macs(
        network, discriminator, domains=domains, batch_size=config.batch_size
    )


def xla_flops(program: jax.stages.Compiled) -> float | None:
    """Returns the FLOPs by XLA's own count, which leaves out what it hands to libraries."""
    analysis = program.cost_analysis()
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    return float(analysis["flops"]) if analysis and "flops" in analysis else None


def memory_of(program: jax.stages.Compiled) -> int | None:
    """Returns the bytes that a program needs: arguments, new outputs, temporaries."""
    m = program.memory_analysis()
    if m is None:
        return None
    fields = (m.argument_size_in_bytes, m.output_size_in_bytes, m.temp_size_in_bytes)
    return int(sum(fields) - m.alias_size_in_bytes)


def queued(call: Callable[[], Any], *, count: int) -> float:
    """Measures the mean seconds of a call when the host waits for the last one only."""
    jax.block_until_ready(call())
    begin = time.perf_counter()
    for _ in range(count):
        value = call()
    jax.block_until_ready(value)
    return (time.perf_counter() - begin) / count


def train(program: Program, sizes: Sizes) -> dict[str, Any]:
    """Times a training step, its batch on the device."""
    config = config_of(program, sizes)
    parts = training.training(config)
    batch = jax.device_put(batch_of(config, needs_target=parts.needs_target))
    run, seconds = compiled(parts, batch)
    start = training.filled(parts.state)
    state = jax.device_put(start)
    losses = []

    def step() -> Any:
        nonlocal state
        state, logs = run(state, batch)
        return jax.block_until_ready(logs)

    times = measure.timed(lambda: losses.append(float(step()["loss"])), steps=sizes.steps)
    memory = peak()

    def hurried() -> Any:
        nonlocal state
        state, logs = run(state, batch)
        return logs

    rate = queued(hurried, count=sizes.steps)
    return {
        "seconds": times["seconds"],
        "queued": rate,
        "first": times["first"],
        **seconds,
        "flops": flops(config, parts),
        "xla_flops": xla_flops(run),
        "peak": memory,
        "program_memory": memory_of(run),
        "losses": [losses[0], losses[-1]],
        "batch": config.batch_size,
    }


def infer(program: Program, sizes: Sizes) -> dict[str, Any]:
    """Times `evaluate.predictor` on one image, uint8 to uint8, on the device and from the host."""
    config = config_of(program, sizes)
    module = training.training(config).generator
    weights = training.variables(module, sizes.infer)
    predict = evaluate.predictor([evaluate.Model(module, weights, build.normalisation_of(config))])
    image = measure.images(1, sizes.infer, seed=3)[0]
    pixels = jax.device_put(image)
    begin = time.perf_counter()
    predict(pixels, size=sizes.infer).block_until_ready()
    first = time.perf_counter() - begin
    device = measure.timed(
        lambda: predict(pixels, size=sizes.infer).block_until_ready(), steps=sizes.passes
    )
    host = measure.timed(lambda: np.asarray(predict(image, size=sizes.infer)), steps=sizes.passes)
    macs = cost.model_cost(program.model, num_classes=19, size=sizes.infer).macs
    return {
        "seconds": device["seconds"],
        "host_seconds": host["seconds"],
        "queued": queued(lambda: predict(pixels, size=sizes.infer), count=sizes.passes),
        "first": first,
        "flops": 2.0 * macs,
        "peak": peak(),
    }


def ceiling(sizes: Sizes) -> dict[str, Any]:
    """Measures a large matrix product and a copy, whose rates are the ceilings of the device."""
    n = sizes.matmul
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((n, n), np.float32) for _ in range(2))
    rates: dict[str, Any] = {"side": n}
    for name in ("bfloat16", "float32"):
        x, y = (jax.device_put(v).astype(name) for v in (a, b))
        product = jax.jit(lambda x, y: x @ y)
        rates[name] = 2 * n**3 / queued(functools.partial(product, x, y), count=10)
    copy = jax.jit(lambda x: x + 1)
    x = jnp.zeros((4 * n, n), jnp.float32)
    rates["bytes_per_second"] = 2 * x.nbytes / queued(lambda: copy(x), count=10)
    return rates


JOBS = {"train": train, "infer": infer}


def run(spec: dict[str, Any], record: Record) -> None:
    """Times every program of one network."""
    sizes = sizes_of(spec)
    record.run("about", about)
    for program in programs(spec["model"], sizes):
        record.run(program.name, functools.partial(JOBS[program.job], program, sizes))
    record.run("ceiling", lambda: ceiling(sizes))


def run_taught(spec: dict[str, Any], record: Record) -> None:
    """Times the steps that learn from a teacher."""
    sizes = sizes_of(spec)
    record.run("about", about)
    for program in taught_programs(sizes):
        record.run(program.name, functools.partial(train, program, sizes))


def compile_all(spec: dict[str, Any], record: Record) -> None:
    """Compiles every program of every network at once, which fills the compilation cache."""
    sizes = sizes_of(spec)
    record.run("about", about)
    wanted = [p for m in spec["models"] for p in programs(m, sizes)]
    # The main programs of each network first: the pool takes them in order.
    wanted.sort(key=lambda p: [q.name for q in programs(p.model, sizes)].index(p.name))
    wanted += taught_programs(sizes)

    def build(program: Program) -> dict[str, Any]:
        config = config_of(program, sizes)
        if program.job == "infer":
            small = sizes._replace(passes=1)
            return {"first": infer(program, small)["first"]}
        parts = training.training(config)
        batch = batch_of(config, needs_target=parts.needs_target)
        return compiled(parts, batch)[1]

    with concurrent.futures.ThreadPoolExecutor(spec["threads"]) as pool:
        jobs = [
            pool.submit(record.run, f"{p.model} {p.name}", functools.partial(build, p))
            for p in wanted
        ]
        concurrent.futures.wait(jobs)
