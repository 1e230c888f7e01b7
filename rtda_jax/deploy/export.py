"""Exports a trained network as files that run without this package: pixels in, classes out."""

import dataclasses
import hashlib
import json
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rtda_jax import evaluate
from rtda_jax.augment.normalise import NORMALISATIONS
from rtda_jax.data.labels import class_set
from rtda_jax.data.lazy_tf import tensorflow
from rtda_jax.deploy import networks
from rtda_jax.errors import ConfigError, lookup
from rtda_jax.run import log
from rtda_jax.run.workdir import read_json, write_json
from rtda_jax.tools import environment
from rtda_jax.weights import export_pretrained

PLATFORMS = ("cpu", "cuda")

Segment = jax.stages.Wrapped  # what jax.jit returns


def run(
    chosen: networks.Networks, *, out: pathlib.Path, also: Sequence[str] = ()
) -> dict[str, Any]:
    """Writes model.stablehlo, its description model.json, and each network as .safetensors.

    Args:
      chosen: what networks.choose returned.
      out: folder, created where it does not exist.
      also: keys of FORMATS, each written as OUT/KEY.

    Returns:
      The content of model.json.

    Raises:
      ConfigError: an unknown format, or a network that cannot be exported.
    """
    writers = {name: lookup(FORMATS, name, "format") for name in also}
    config = chosen.config
    size = (config.benchmark.eval_size[0], config.benchmark.eval_size[1])
    log.say(f"{chosen.stage}: {' + '.join(chosen.names)} of {chosen.workdir}, {size[0]}x{size[1]}")
    if config.eval.mode != "whole":
        log.say(f"  evaluated in mode {config.eval.mode!r}, exported to read images whole")
    segment = segmenter(chosen.models, size=size)
    exported = lower(segment, size=size)
    program = bytes(exported.serialize())
    out.mkdir(parents=True, exist_ok=True)
    weights = {}
    for name, model in zip(chosen.names, chosen.models, strict=True):
        path = out / f"{name.replace(':', '-')}.safetensors"
        export_pretrained(
            model.variables, config.model.name, path, normalisation=config.normalisation
        )
        weights[name] = {"file": path.name, "sha256": _sha256(path.read_bytes())}
    partial = out / "model.stablehlo.partial"
    partial.write_bytes(program)
    partial.replace(out / "model.stablehlo")
    for name, write in writers.items():
        write(segment, out / name, size=size)
    about = {
        "file": "model.stablehlo",
        "sha256": _sha256(program),
        "format": "StableHLO, read by jax.export.deserialize",
        "also": list(also),
        "jax": jax.__version__,
        "calling_convention": exported.calling_convention_version,
        "platforms": list(exported.platforms),
        **_interface(chosen, size),
        "run": _run(chosen),
        "weights": weights,
    }
    write_json(out / "model.json", about)
    log.say(f"  {len(program) / 1e6:.1f} MB for {' and '.join(PLATFORMS)} in {out}")
    return json.loads(json.dumps(about))


def segmenter(models: Sequence[evaluate.Model], *, size: tuple[int, int]) -> Segment:
    """Returns evaluation's function of an image as a jitted function of a batch.

    It maps uint8 [b,H,W,3] RGB to class numbers uint8 [b,H,W]. Normalisation, networks (several
    are fused by their mean softmax), upsampling, argmax and the weights are inside.
    """
    # From the host, so that a file made of it records no devices.
    models = [model._replace(variables=jax.device_get(model.variables)) for model in models]
    predict = evaluate.predictor(models)
    return jax.jit(jax.vmap(lambda image: predict(image, size=size)))


def lower(segment: Segment, *, size: tuple[int, int]) -> jax.export.Exported:
    """Lowers the function for any b and for each of PLATFORMS, none of which need be present.

    Raises:
      ConfigError: an operation of the network has no stable form.
    """
    (batch,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8)
    try:
        return jax.export.export(segment, platforms=PLATFORMS)(images)
    except ValueError as error:
        raise ConfigError(f"the network cannot be exported: {error}") from error


def write_saved_model(segment: Segment, path: pathlib.Path, *, size: tuple[int, int]) -> None:
    """Writes the function as a TensorFlow SavedModel in a folder, which it replaces.

    The signature serving_default maps `images` uint8 [b,H,W,3] to `classes` uint8 [b,H,W], any b.
    """
    tf = tensorflow()
    from jax.experimental import jax2tf

    converted = jax2tf.convert(
        segment,
        polymorphic_shapes=["(b, _, _, _)"],
        native_serialization_platforms=PLATFORMS,
        with_gradient=False,
    )
    module = tf.Module()
    images = tf.TensorSpec([None, *size, 3], tf.uint8, name="images")
    module.segment = tf.function(
        lambda images: {"classes": converted(images)}, autograph=False, input_signature=[images]
    )
    partial = path.with_name(path.name + ".partial")
    for old in (partial, path):
        if old.exists():
            shutil.rmtree(old)
    signatures = {"serving_default": module.segment.get_concrete_function()}
    tf.saved_model.save(module, str(partial), signatures=signatures)
    partial.replace(path)


# Beside model.stablehlo, which is always written.
FORMATS = {"saved_model": write_saved_model}


def _interface(chosen: networks.Networks, size: tuple[int, int]) -> dict[str, Any]:
    """Describes what the exported function reads and returns."""
    classes = class_set(chosen.config.benchmark.classes)
    normalisation = chosen.config.normalisation
    return {
        "size": list(size),
        "input": {"shape": ["b", *size, 3], "dtype": "uint8", "channels": "RGB"},
        "output": {"shape": ["b", *size], "dtype": "uint8", "means": "position in classes"},
        "resize": "bilinear with antialiasing, to size",
        "classes": list(classes.names),
        "colours": [list(colour) for colour in classes.colours],
        "normalisation": {
            "name": normalisation,
            **dataclasses.asdict(NORMALISATIONS[normalisation]),
            "where": "inside the file",
        },
        "fusion": "mean softmax" if len(chosen.models) > 1 else None,
    }


def _run(chosen: networks.Networks) -> dict[str, Any]:
    """Describes the run that trained the networks."""
    path = chosen.workdir / "results.json"
    results = read_json(path) if path.exists() else {}
    return {
        "workdir": chosen.workdir.resolve().name,
        "stage": chosen.stage,
        "models": list(chosen.names),
        "network": chosen.config.model.name,
        "steps": chosen.config.steps,
        "seed": chosen.config.seed,
        "benchmark": chosen.config.benchmark.name,
        "miou": results.get("stages", {}).get(chosen.stage, {}).get("miou"),
        "config_sha256": _sha256((chosen.workdir / "config.json").read_bytes()),
        "trained_at_commit": results.get("commit"),
        "exported_at_commit": environment.commit(),
    }


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
