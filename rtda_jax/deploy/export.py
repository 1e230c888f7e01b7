"""Exports a trained network as files that run without this package: pixels in, classes out."""

import dataclasses
import pathlib
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rtda_jax import evaluate
from rtda_jax.augment.normalise import NORMALISATIONS
from rtda_jax.data.labels import class_set
from rtda_jax.deploy import Networks, publish
from rtda_jax.errors import ConfigError, lookup
from rtda_jax.evaluate import Protocol
from rtda_jax.ops.activations import argmax
from rtda_jax.ops.resize import upsample
from rtda_jax.run import files, log
from rtda_jax.run.options import read
from rtda_jax.run.workdir import claimed, read_json, read_results, write_json
from rtda_jax.tools import environment
from rtda_jax.weights import export_pretrained

PLATFORMS = ("cpu", "cuda")
LARGEST_DIFFERENCE = 1e-4  # the share of pixels whose class may differ in another format
RECORD = "model.json"

Segment = jax.stages.Wrapped  # the result of jax.jit
Size = tuple[int, int]
Product = tuple[dict[str, Any], Callable[[pathlib.Path], None]]  # what Format.make returns


def run(chosen: Networks, *, out: pathlib.Path, also: Sequence[str] = ()) -> dict[str, Any]:
    """Writes model.stablehlo, its description model.json, and each network as .safetensors.

    The further formats come after them: if one is refused, all others are written and stay.

    Args:
      chosen: the result of networks.choose.
      out: the folder; created if it does not exist.
      also: keys of FORMATS.

    Returns:
      The content of model.json.

    Raises:
      ConfigError: a format is unknown or refused, a network cannot be exported, or the folder has
        files of these names that no earlier export wrote.
    """
    formats = {name: lookup(FORMATS, name, "format") for name in also}
    for form in formats.values():
        form.check()
    config = chosen.config
    protocol = read(Protocol, config.eval, "eval")
    size = (config.benchmark.eval_size[0], config.benchmark.eval_size[1])
    log.say(f"{chosen.stage}: {' + '.join(chosen.names)} of {chosen.workdir}, {size[0]}x{size[1]}")
    if protocol.mode != "whole":
        log.say(f"  evaluated in mode {protocol.mode!r}, exported to read images whole")
    results = [
        "model.stablehlo",
        *chosen.files.values(),
        *(f for form in formats.values() for f in form.files),
    ]
    with claimed(out, record=RECORD, results=results) as begin:
        models = evaluate.folded(chosen.models)
        exported = lower(segmenter(models, size=size, protocol=protocol), size=size)
        program = bytes(exported.serialize())
        of_run = _run(chosen)
        listed = begin()
        files.write_bytes(out / "model.stablehlo", program)
        for name, model, network in zip(chosen.names, chosen.models, chosen.networks, strict=True):
            path = out / chosen.files[name]
            export_pretrained(model.variables, network, path, normalisation=model.normalisation)
        description = {
            "file": "model.stablehlo",
            "sha256": files.sha256(out / "model.stablehlo"),
            "format": "StableHLO, read by jax.export.deserialize",
            "also": [],
            "jax": jax.__version__,
            "calling_convention": exported.calling_convention_version,
            "platforms": list(exported.platforms),
            **_interface(chosen, size, protocol),
            "run": of_run,
            "weights": {
                name: {"file": file, "sha256": files.sha256(out / file)}
                for name, file in chosen.files.items()
            },
        }
        refused = []
        write_json(out / RECORD, {**description, "results": listed})
        for name, form in formats.items():
            try:
                entry, write = form.make(models, size=size, protocol=protocol)
            except ConfigError as error:
                old = [file for file in form.files if (out / file).exists()]
                stale = f"; {', '.join(old)} there is of an earlier export" if old else ""
                refused.append(f"{error}\n{out} holds the export without --also={name}{stale}")
            else:
                write(out)
                description["also"].append(name)
                description[name] = {"files": form.files, **entry}
        there = [name for name in listed if name == RECORD or (out / name).exists()]
        write_json(out / RECORD, {**description, "results": there})
    log.say(f"  {len(program) / 1e6:.1f} MB for {' and '.join(PLATFORMS)} in {out}")
    if refused:
        raise ConfigError("\n".join(refused))
    return read_json(out / RECORD)


def segmenter(models: Sequence[evaluate.Model], *, size: Size, protocol: Protocol) -> Segment:
    """Returns the segmentation of an evaluation as a jitted function of a batch.

    It maps uint8 [b,H,W,3] RGB to class numbers uint8 [b,H,W]. It contains normalisation, networks
    and their fusion, upsampling, argmax and the weights. It is faster with folded networks.

    Args:
      models: one network, or several to fuse.
      size: (H, W).
      protocol: `output`, `fusion` and `align` are read; images are read whole in any mode.
    """
    # Variables from the host, so that a file that is made from them records no devices.
    variables = [jax.device_get(model.variables) for model in models]

    @jax.jit
    def segment(images: jax.Array) -> jax.Array:
        score = evaluate.class_scores(models, variables, images, protocol=protocol)
        if score.shape[1:3] != size:
            score = upsample(score, size=size, align=protocol.align)
        return argmax(score)

    return segment


def lower(segment: Segment, *, size: tuple[int, int]) -> jax.export.Exported:
    """Lowers the function for any b and for each of PLATFORMS, whether or not it is present.

    Raises:
      ConfigError: an operation of the network has no stable form.
    """
    (batch,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8)
    try:
        return jax.export.export(segment, platforms=PLATFORMS)(images)
    except ValueError as error:
        raise ConfigError(f"the network cannot be exported: {error}") from error


def make_saved_model(
    models: Sequence[evaluate.Model], *, size: Size, protocol: Protocol
) -> Product:
    """Makes a TensorFlow SavedModel, whose signature maps `images` to `classes`, any b."""
    from rtda_jax.data.geometry import tf

    segment = segmenter(models, size=size, protocol=protocol)
    function = _tensorflow_function(segment, batch=None, size=size)
    signatures = {"serving_default": function.get_concrete_function()}

    def write(out: pathlib.Path) -> None:
        with files.replacing(out / "saved_model") as partial:
            # If the function were an attribute of the module, the weights would be written twice.
            tf.saved_model.save(tf.Module(), str(partial), signatures=signatures)

    return {}, write


def make_tflite(models: Sequence[evaluate.Model], *, size: Size, protocol: Protocol) -> Product:
    """Makes a LiteRT (TensorFlow Lite) model of one image and compares it with the function."""
    from rtda_jax.data.geometry import tf

    segment = segmenter(_in_float32(models), size=size, protocol=protocol)
    module = tf.Module()
    # LiteRT supports convolutions only in their plain form, that of platforms other than the CPU.
    function = _tensorflow_function(segment, batch=1, size=size, platforms=("cuda",))
    concrete = function.get_concrete_function()
    model = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module).convert()
    batches = [_pictures(1, size, seed) for seed in range(3)]
    agreement = _check("LiteRT", tflite_runner(model), segment, batches)
    return {"agreement": agreement}, _writer({"model.tflite": model})


def tflite_runner(
    model: bytes, *, threads: int | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a LiteRT model as a function of an image, uint8 [1,H,W,3], in TensorFlow's runtime.

    Args:
      model: the content of the file.
      threads: the number of threads; None leaves it to the runtime.
    """
    from rtda_jax.data.geometry import tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this interpreter moves to the package ai_edge_litert
        interpreter = tf.lite.Interpreter(model_content=model, num_threads=threads)
    interpreter.allocate_tensors()
    (source,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(images: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(answer["index"])

    return run


def _onnx() -> types.ModuleType:
    """Returns the module that converts to ONNX; a ConfigError says what to install for it."""
    try:
        from rtda_jax.deploy import onnx
    except ImportError:
        raise ConfigError("ONNX needs two packages: pip install 'rtda_jax[onnx]'") from None
    return onnx


def make_onnx(models: Sequence[evaluate.Model], *, size: Size, protocol: Protocol) -> Product:
    """Makes ONNX models of any number of images and of one, and compares them in onnxruntime."""
    onnx = _onnx()
    segment = segmenter(_in_float32(models), size=size, protocol=protocol)
    (batch,) = jax.export.symbolic_shape("b")
    agreements, contents = [], {}
    for file, count in {"model.onnx": batch, "model.batch1.onnx": 1}.items():
        model = onnx.convert(segment, jax.ShapeDtypeStruct((count, *size, 3), jnp.uint8))
        run = onnx.runner(model)
        if run is None:
            log.say(f"  {file} is not checked: onnxruntime is not installed")
        else:
            batches = [_pictures(n, size, seed=n) for n in ((1, 2) if count is batch else (1,))]
            agreements.append(_check(file, run, segment, batches))
        contents[file] = model.SerializeToString()
    entry = {"opset": onnx.OPSET, "agreement": min(agreements, default=None)}
    return entry, _writer(contents)


def _writer(contents: Mapping[str, bytes]) -> Callable[[pathlib.Path], None]:
    """Returns a function that writes files, by their names, into a folder."""

    def write(out: pathlib.Path) -> None:
        for name, content in contents.items():
            files.write_bytes(out / name, content)

    return write


class Format(NamedTuple):
    """A further format.

    Attributes:
      make: converts networks and checks the result; returns its entry in model.json, and a function
        that writes it into a folder.
      files: the names of its files; a name with a slash at the end is a folder.
      check: raises ConfigError if a package is missing, before anything is written.
    """

    make: Callable[..., Product]
    files: tuple[str, ...]
    check: Callable[[], object] = lambda: None


# Formats besides model.stablehlo, which is always written.
FORMATS = {
    "onnx": Format(make_onnx, ("model.onnx", "model.batch1.onnx"), check=_onnx),
    "saved_model": Format(make_saved_model, ("saved_model/",)),
    "tflite": Format(make_tflite, ("model.tflite",)),
}


def _tensorflow_function(
    segment: Segment, *, batch: int | None, size: Size, platforms: Sequence[str] = PLATFORMS
) -> Any:
    """Returns the function as a tf.function from `images` to {"classes"}."""
    from jax.experimental import jax2tf

    from rtda_jax.data.geometry import tf

    converted = jax2tf.convert(
        segment,
        polymorphic_shapes=["(b, _, _, _)"] if batch is None else None,
        native_serialization_platforms=platforms,
        with_gradient=False,
    )
    images = tf.TensorSpec([batch, *size, 3], tf.uint8, name="images")
    return tf.function(
        lambda images: {"classes": converted(images)}, autograph=False, input_signature=[images]
    )


def _in_float32(models: Sequence[evaluate.Model]) -> list[evaluate.Model]:
    """Returns networks that compute in float32, which, unlike bfloat16, every runtime supports."""
    return [
        model._replace(module=model.module.clone(dtype=jnp.float32))
        if getattr(model.module, "dtype", jnp.float32) != jnp.float32
        else model
        for model in models
    ]


def _pictures(count: int, size: Size, seed: int) -> np.ndarray:
    """Returns blocks of random colours, uint8 [count,H,W,3]."""
    rows, columns = (-(-side // 8) for side in size)
    blocks = np.random.default_rng(seed).integers(0, 256, (count, rows, columns, 3), np.uint8)
    return blocks.repeat(8, 1).repeat(8, 2)[:, : size[0], : size[1]]


def _check(
    name: str,
    run: Callable[[np.ndarray], np.ndarray],
    segment: Segment,
    batches: Sequence[np.ndarray],
) -> float:
    """Returns the share of pixels with the same class; raises ConfigError if too many differ."""
    equal = [run(images) == np.asarray(segment(images)) for images in batches]
    share = float(np.mean([part.mean() for part in equal]))
    log.say(f"  {name}: {100 * share:.3f}% of the pixels have the same class")
    if share < 1 - LARGEST_DIFFERENCE:
        raise ConfigError(
            f"{name} puts {100 * (1 - share):.3f}% of the pixels in another class than the network "
            f"does, above {100 * LARGEST_DIFFERENCE}%: it is not written"
        )
    return share


def _interface(chosen: Networks, size: Size, protocol: Protocol) -> dict[str, Any]:
    """Describes the input and output of the exported function."""
    classes = class_set(chosen.config.benchmark.classes)
    normalisation = chosen.models[0].normalisation
    return {
        "size": list(size),
        "input": {"shape": ["b", *size, 3], "dtype": "uint8", "channels": "RGB"},
        "output": {"shape": ["b", *size], "dtype": "uint8", "means": "position in classes"},
        "resize": f"{chosen.config.benchmark.resize} with antialiasing, to size",
        "classes": list(classes.names),
        "colours": [list(colour) for colour in classes.colours],
        "normalisation": {
            "name": normalisation,
            **dataclasses.asdict(NORMALISATIONS[normalisation]),
            "where": "inside the file",
        },
        "fusion": f"mean {protocol.fusion}" if len(chosen.models) > 1 else None,
    }


def _run(chosen: Networks) -> dict[str, Any]:
    """Describes the run that trained the networks."""
    score = publish.score(chosen) or {}
    return {
        "workdir": chosen.workdir.resolve().name,
        "stage": chosen.stage,
        "models": list(chosen.names),
        "network": " + ".join(dict.fromkeys(chosen.networks)),
        "steps": chosen.config.steps,
        "seed": chosen.config.seed,
        "benchmark": chosen.config.benchmark.name,
        "miou": score.get("miou"),
        "protocol": score.get("protocol"),  # of that score; the export may have another
        "config_sha256": files.sha256(chosen.workdir / "config.json"),
        "trained_at_commit": read_results(chosen.workdir).get("commit"),
        "exported_at_commit": environment.commit(),
    }
