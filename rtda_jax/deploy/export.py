"""A trained network as one file that needs only JAX: pixels in, classes out."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rtda_jax import checkpoint, environment, evaluate, records
from rtda_jax.data.labels import class_set
from rtda_jax.deploy import networks
from rtda_jax.errors import ConfigError
from rtda_jax.normalise import NORMALISATIONS
from rtda_jax.pretrained import export_pretrained

PLATFORMS = ("cpu", "cuda")


def lower(models: Sequence[evaluate.Model], *, size: tuple[int, int]) -> jax.export.Exported:
    """The function uint8 [b,H,W,3] RGB -> class uint8 [b,H,W] of evaluation, for any b.

    Normalisation, networks (several fuse by their mean softmax), upsampling, argmax and the
    weights are inside; it runs on each of PLATFORMS, none of which need be present.

    Raises:
      ConfigError: an operation of the network has no stable form.
    """
    # On the host, so that the file records no devices.
    models = [model._replace(variables=jax.device_get(model.variables)) for model in models]
    predict = evaluate.predictor(models, mode="whole")
    segment = jax.jit(jax.vmap(lambda image: predict(image, size=size)))
    (batch,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *size, 3), jnp.uint8)
    try:
        return jax.export.export(segment, platforms=PLATFORMS)(images)
    except ValueError as error:
        raise ConfigError(f"the network can not be exported: {error}") from error


def run(
    config: ConfigDict, workdir: pathlib.Path, *, stage: str | None, out: pathlib.Path
) -> dict[str, Any]:
    """Write model.stablehlo, what it is as model.json, and each network as a .safetensors file.

    Args:
      config, workdir, stage: see networks.choose.
      out: folder, made if need be.

    Returns:
      What model.json says.

    Raises:
      ConfigError: an untrained stage, or a network that can not be exported.
    """
    chosen = networks.choose(config, workdir, stage=stage)
    config = chosen.config
    size = (config.benchmark.eval_size[0], config.benchmark.eval_size[1])
    records.say(f"{chosen.stage}: {' + '.join(chosen.names)} of {workdir}, {size[0]}x{size[1]}")
    if config.eval.mode != "whole":
        records.say(f"  evaluated in mode {config.eval.mode!r}, exported to read images whole")
    exported = lower(chosen.models, size=size)
    program = bytes(exported.serialize())
    out.mkdir(parents=True, exist_ok=True)
    weights = {}
    for name, model in zip(chosen.names, chosen.models, strict=True):
        path = out / f"{name}.safetensors"
        export_pretrained(
            model.variables, config.model.name, path, normalisation=config.normalisation
        )
        weights[name] = {"file": path.name, "sha256": _sha256(path.read_bytes())}
    partial = out / "model.stablehlo.partial"
    partial.write_bytes(program)
    partial.replace(out / "model.stablehlo")
    classes = class_set(config.benchmark.classes)
    about = {
        "file": "model.stablehlo",
        "sha256": _sha256(program),
        "format": "StableHLO, read by jax.export.deserialize",
        "jax": jax.__version__,
        "calling_convention": exported.calling_convention_version,
        "platforms": list(exported.platforms),
        "size": list(size),
        "input": {"shape": ["b", *size, 3], "dtype": "uint8", "channels": "RGB"},
        "output": {"shape": ["b", *size], "dtype": "uint8", "means": "position in classes"},
        "resize": "bilinear with antialiasing, to size",
        "classes": list(classes.names),
        "colours": [list(colour) for colour in classes.colours],
        "normalisation": {
            "name": config.normalisation,
            **dataclasses.asdict(NORMALISATIONS[config.normalisation]),
            "where": "inside the file",
        },
        "fusion": "mean softmax" if len(chosen.models) > 1 else None,
        "run": _run(chosen),
        "weights": weights,
    }
    checkpoint.write_json(out / "model.json", about)
    records.say(f"  {len(program) / 1e6:.1f} MB for {' and '.join(PLATFORMS)} in {out}")
    return json.loads(json.dumps(about))


def _run(chosen: networks.Networks) -> dict[str, Any]:
    path = chosen.workdir / "results.json"
    results = json.loads(path.read_text()) if path.exists() else {}
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
