"""Compares the formats that export writes by time per image, agreement and size of the files.

    python -m benchmarks.formats --network bisenet_resnet18 --size 512x1024 --cores 1
    python -m benchmarks.formats --workdir runs/fda_mbt

A network given by its name has random weights; a workdir's networks are those of its last evaluate
stage. The formats take turns image by image, so that other work on the machine affects all of
them. A runtime that is not installed is named and left out.
"""

import argparse
import contextlib
import importlib.util
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks import measure

Run = Callable[[np.ndarray], np.ndarray]  # images uint8 [1,H,W,3] -> classes uint8 [1,H,W]


def main() -> None:
    """Measures as the command line says and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", default="bisenet_resnet18", help="a key of models.MODELS")
    parser.add_argument("--workdir", type=pathlib.Path, help="of a trained run, instead")
    parser.add_argument("--size", default="512x1024", help="HEIGHTxWIDTH of the image")
    parser.add_argument("--cores", type=int, default=1, help="that every runtime may use")
    parser.add_argument("--rounds", type=int, default=10, help="timed images of each format")
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    # Before the runtimes are imported, which count the cores once.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    with tempfile.TemporaryDirectory() as folder:
        print(*measured(options, (height, width), pathlib.Path(folder)), sep="\n")


def measured(options: Any, size: tuple[int, int], folder: pathlib.Path) -> Iterator[str]:
    """Yields the lines of the table for the networks that the options name."""
    from rtda_jax import evaluate
    from rtda_jax.deploy import export

    models, protocol = evaluate.folded(_models(options)), evaluate.Protocol()
    formats = [name for name, needs in NEEDS.items() if _installed(*needs)]
    for name in formats:
        _, write = export.FORMATS[name].make(models, size=size, protocol=protocol)
        write(folder)
    segment = export.segmenter(models, size=size, protocol=protocol)
    exported = export.lower(segment, size=size)
    (folder / "model.stablehlo").write_bytes(exported.serialize())
    predict = evaluate.predictor(models, protocol=protocol)
    runs: dict[str, Run] = {"rtda_jax": lambda x: np.asarray(predict(x[0], size=size))[None]}
    left_out = []
    for name, (load, file, *needs) in RUNTIMES.items():
        if _installed(*needs):
            runs[name] = load(folder / file, options.cores)
        else:
            left_out.append(f"{name}: {', '.join(needs)} is not installed")
    pictures = [measure.images(1, size, seed=seed) for seed in range(options.rounds)]
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    equal: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():  # compiles, and warms up
        run(pictures[0])
    for picture in pictures:
        classes = {}
        for name, run in runs.items():
            begin = time.perf_counter()
            classes[name] = run(picture)
            seconds[name].append(time.perf_counter() - begin)
        for name, result in classes.items():
            equal[name].append(float((result == classes["rtda_jax"]).mean()))
    cores = "1 core" if options.cores == 1 else f"{options.cores} cores"
    yield f"{options.workdir or options.network}, {size[0]}x{size[1]}, {cores}\n"
    yield "| format | ms an image (quartiles) | same class, % | MB |"
    yield "| --- | ---: | ---: | ---: |"
    for name in runs:
        low, middle, high = (1000 * quartile for quartile in measure.quartiles(seconds[name]))
        file = RUNTIMES[name][1] if name in RUNTIMES else ""
        size_of = f"{_bytes(folder / file) / 1e6:.1f}" if file else "-"
        share = 100 * np.mean(equal[name])
        yield f"| {name} | {middle:.0f} ({low:.0f}, {high:.0f}) | {share:.4f} | {size_of} |"
    yield from left_out


def _models(options: Any) -> Sequence[Any]:
    """Returns the trained networks of a workdir, or a network of random weights."""
    import jax
    import jax.numpy as jnp

    from rtda_jax.evaluate import Model
    from rtda_jax.models import create_model

    if options.workdir:
        from configs import base
        from rtda_jax.deploy import networks

        config = networks.recorded(options.workdir, defaults=base.unchanged)
        return networks.choose(config, options.workdir).models
    module = create_model(options.network)
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 64, 128, 3)))
    return [Model(module, variables, "imagenet")]


def _stablehlo(path: pathlib.Path, cores: int) -> Run:
    import jax

    network = jax.jit(jax.export.deserialize(bytearray(path.read_bytes())).call)
    return lambda images: np.asarray(network(images))


def _onnxruntime(path: pathlib.Path, cores: int) -> Run:
    import onnx

    from rtda_jax.deploy.onnx import runner

    run = runner(onnx.load(path), threads=cores)
    if run is None:
        raise SystemExit("onnxruntime is not installed")
    return run


def _openvino(path: pathlib.Path, cores: int) -> Run:
    import openvino

    # By default it computes in bfloat16 where the processor can.
    settings = {"INFERENCE_NUM_THREADS": cores, "INFERENCE_PRECISION_HINT": "f32"}
    network = openvino.Core().compile_model(path, "CPU", settings)
    return lambda images: network(images)[0]


def _saved_model(path: pathlib.Path, cores: int) -> Run:
    from rtda_jax.data.geometry import tf

    module = tf.saved_model.load(str(path))
    segment = module.signatures["serving_default"]

    # The function lives as long as its module, which nothing else holds.
    def run(images: np.ndarray, module: Any = module) -> np.ndarray:
        return segment(images=tf.constant(images))["classes"].numpy()

    return run


def _litert(path: pathlib.Path, cores: int) -> Run:
    from rtda_jax.deploy.export import tflite_runner

    return tflite_runner(path.read_bytes(), threads=cores)


# The packages that export needs for a format; and the loader, file and packages of each runtime.
NEEDS = {"onnx": ("onnx",), "saved_model": ("tensorflow",), "tflite": ("tensorflow",)}
RUNTIMES: dict[str, tuple[Any, ...]] = {
    "StableHLO, jax.export": (_stablehlo, "model.stablehlo"),
    "ONNX, onnxruntime": (_onnxruntime, "model.batch1.onnx", "onnx", "onnxruntime"),
    "ONNX, OpenVINO": (_openvino, "model.batch1.onnx", "onnx", "openvino"),
    "SavedModel, TensorFlow": (_saved_model, "saved_model", "tensorflow"),
    "LiteRT, TensorFlow": (_litert, "model.tflite", "tensorflow"),
}


def _installed(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) for package in packages)


def _bytes(path: pathlib.Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
