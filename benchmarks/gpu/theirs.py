"""Runs and times the PyTorch twins on the accelerator."""

import functools
import os
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import measure
from benchmarks.gpu.plan import MAIN, Sizes, sizes_of
from benchmarks.gpu.record import Record
from benchmarks.torch_twins.step import FORMS, Twin
from rtda_jax.tools import environment

CUDA = torch.cuda.is_available()


def wait() -> None:
    """Waits for the device."""
    if CUDA:
        torch.cuda.synchronize()


def prepare() -> None:
    """Sets the usual options for speed, and static shapes for torch.compile."""
    torch.set_num_threads(environment.cores())
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(0)
    if hasattr(torch._dynamo.config, "automatic_dynamic_shapes"):
        torch._dynamo.config.automatic_dynamic_shapes = False


def about() -> dict[str, Any]:
    """Returns versions and device."""
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if CUDA else "cpu",
        "cudnn": torch.backends.cudnn.version() if CUDA else None,
    }


def twin_of(recipe: dict[str, Any], form: str) -> Twin:
    """Makes a twin; DeepLab's normalisations keep their affine parameters, as ours does."""
    if FORMS[form].compiled:
        torch._dynamo.reset()
    twin = Twin(recipe, device="cuda" if CUDA else "cpu", form=form)
    if recipe["model"].startswith("deeplab"):
        for module in twin.g.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.requires_grad_(False)
    return twin


def train(spec: dict[str, Any], sizes: Sizes, *, method: str) -> dict[str, Any]:
    """Times a training step with its batch on the device."""
    recipe = spec["recipes"][method]
    twin = twin_of(recipe, sizes.train_form)
    count = sizes.batch_deeplab if recipe["model"].startswith("deeplab") else sizes.batch
    host = measure.batch(count, sizes.crop, num_classes=19, target=method != "source_only")
    batch = {name: torch.as_tensor(array, device=twin.device) for name, array in host.items()}
    losses = []

    def step() -> None:
        losses.append(sum(twin.step(batch).values()))
        wait()

    begin = time.perf_counter()
    step()
    first = time.perf_counter() - begin
    step()
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    times = measure.timed(step, steps=sizes.steps)
    return {
        "form": sizes.train_form,
        "seconds": times["seconds"],
        "first": first,
        "peak": torch.cuda.max_memory_allocated() if CUDA else None,
        "losses": [losses[0], losses[-1]],
        "batch": count,
    }


def infer(spec: dict[str, Any], sizes: Sizes, *, form: str) -> dict[str, Any]:
    """Times the segmentation of one image, uint8 to uint8, on the device and from the host."""
    twin = twin_of(spec["recipes"]["source_only"], form)
    image = measure.images(1, sizes.infer, seed=3)[0]
    pixels = torch.as_tensor(image, device=twin.device)

    def once() -> None:
        twin.classes(pixels)
        wait()

    begin = time.perf_counter()
    once()
    first = time.perf_counter() - begin
    once()
    device = measure.timed(once, steps=sizes.passes)
    host = measure.timed(lambda: twin.classes(image).cpu().numpy(), steps=sizes.passes)
    return {"seconds": device["seconds"], "host_seconds": host["seconds"], "first": first}


def ceiling(sizes: Sizes) -> dict[str, Any]:
    """Measures the rate of a large bf16 matrix product on random data."""
    n = sizes.matmul
    a, b = (torch.randn(n, n, device="cuda" if CUDA else "cpu").bfloat16() for _ in range(2))

    def products() -> None:
        for _ in range(10):
            torch.mm(a, b)
        wait()

    return {"side": n, "bfloat16": 10 * 2 * n**3 / measure.best(products, repeats=2)}


def methods(spec: dict[str, Any]) -> list[str]:
    """Returns the methods whose step is timed, the most important first."""
    known = list(spec["train_methods"])
    return known if spec["model"] == MAIN else known[:1]


def run(spec: dict[str, Any], record: Record) -> None:
    """Times the twin of one network."""
    sizes = sizes_of(spec)
    prepare()
    record.run("about", about)
    for method in methods(spec):
        record.run(f"train {method}", functools.partial(train, spec, sizes, method=method))
    for form in sizes.infer_forms:
        record.run(f"infer {form}", functools.partial(infer, spec, sizes, form=form))
    record.run("ceiling", lambda: ceiling(sizes))


def compile_all(spec: dict[str, Any], record: Record) -> None:
    """Fills torch.compile's caches; the machine is shared meanwhile, so nothing else is timed."""
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")
    sizes = sizes_of(spec)._replace(steps=1, passes=1)
    prepare()
    torch.backends.cudnn.benchmark = False
    record.run("about", about)

    def first(measure: Callable[..., dict[str, Any]], **options: str) -> dict[str, Any]:
        return {"first": measure(spec, sizes, **options)["first"]}

    record.run("train fda", functools.partial(first, train, method=methods(spec)[0]))
    for form in sizes.infer_forms:
        record.run(f"infer {form}", functools.partial(first, infer, form=form))
