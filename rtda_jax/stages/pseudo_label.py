"""A pseudo_label stage: finished networks label the training images of the target."""

import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rtda_jax.adapt import pseudo_labels
from rtda_jax.adapt.options import read
from rtda_jax.adapt.pseudo_labels import PseudoLabelOptions
from rtda_jax.adapt.state import output_shapes
from rtda_jax.augment.normalise import normalise
from rtda_jax.data import Dataset, eval_stream, load
from rtda_jax.data.labels import class_set
from rtda_jax.data.pseudo import MANIFEST
from rtda_jax.errors import ConfigError, one_of
from rtda_jax.evaluate import Model
from rtda_jax.ops.fold import fold
from rtda_jax.run import log
from rtda_jax.run.signals import compiling_first, shutdown_event, watchdog
from rtda_jax.run.workdir import read_json, write_json
from rtda_jax.stages import networks
from rtda_jax.stages.plan import Plan, Stage, parse
from rtda_jax.stages.pseudo_files import generate


def check(plan: Plan, stage: Stage) -> None:
    """Refuses, before anything is trained, a rule or outputs that the stage cannot work with.

    Raises:
      ConfigError: names the field, the outputs there are, or target images that are scored.
    """
    config = stage.config
    options = read(PseudoLabelOptions, config.pseudo, "pseudo")
    options.check_votes(len(stage.models))
    images = _spec(config.benchmark.target)
    if options.split == "target" and any(images[1:]) and images == _spec(config.benchmark.eval):
        raise ConfigError(
            "benchmark.target holds the images that scores are measured on; labelling them for "
            "training makes the scores worthless, pseudo.split='eval' does it all the same"
        )
    for reference in stage.models:
        method = plan[parse(reference)[0]].method
        assert method is not None
        outputs = output_shapes(method.generator, image_shape=(2, *method.size, 3))
        heads = sorted(set(outputs) - {"feature"})
        for head in options.heads:
            one_of(head, heads, f"output of {reference} in pseudo.heads:")


def _spec(spec: Any) -> tuple:
    return tuple(spec.get(field, "") for field in ("name", "split", "images", "list"))


def run(plan: Plan, name: str, workdir: pathlib.Path) -> dict[str, Any]:
    """Writes the stage's `labels/` and `manifest.json` and returns the record of the stage."""
    stage, folder = plan[name], workdir / name
    config, benchmark = stage.config, stage.config.benchmark
    done = folder / "done.json"
    if done.exists():
        log.say(f"[{name}] finished, skipped")
        return read_json(done)
    options = read(PseudoLabelOptions, config.pseudo, "pseudo")
    log.say(f"[{name}] {' + '.join(stage.models)} label {benchmark[options.split].name}")
    predict = predictor(
        [networks.load(plan, reference, workdir) for reference in stage.models],
        heads=options.heads,
        fusion=options.fusion,
    )
    classes = class_set(benchmark.classes)
    dataset = images(config)

    def predictions(start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = range(start, len(dataset))
        size = tuple(benchmark.size)
        for example in eval_stream(dataset, size=size, order=order, threads=config.threads):
            labels, confidence = predict(example["image"])
            yield np.asarray(labels), np.asarray(confidence)

    begin = time.perf_counter()
    with shutdown_event() as interrupted, watchdog(config.stall_seconds) as heartbeat:
        sentence = f"stopped in stage {name}; the same command continues there"
        predict = compiling_first(predict, stop=interrupted, sentence=sentence)
        generated = generate(
            predictions,
            folder,
            keys=dataset.keys,
            options=options,
            num_classes=len(classes),
            interrupted=interrupted,
            heartbeat=heartbeat,
        )
    files = generated.pop("files")
    pixels = dict(zip(classes.names, generated["pixels"], strict=True))
    thresholds = generated["thresholds"]
    if thresholds is not None:
        thresholds = dict(zip(classes.names, thresholds, strict=True))
    rule = {field: config.pseudo[field] for field in ("fusion", "scope", "cut", "cap", "index")}
    record = {
        "models": list(stage.models),
        "rule": rule,
        "heads": list(options.heads),
        "split": options.split,
        "data": dataset.name,
        "classes": classes.name,
        "size": list(benchmark.size),
        "images": len(dataset),
        "coverage": generated["coverage"],
        "thresholds": thresholds,
        "pixels": pixels,
    }
    write_json(folder / MANIFEST, {**record, "files": files})
    say(record)
    record |= {"seconds": round(time.perf_counter() - begin, 1)}
    write_json(done, record)
    return record


def check_scored(plan: Plan) -> None:
    """Refuses to label target images that an evaluate stage of the plan measures scores on.

    Raises:
      ConfigError: names the stage and one of the images.
    """
    if not any(stage.kind == "evaluate" for stage in plan.values()):
        return
    for stage in plan.values():
        if stage.kind == "pseudo_label" and stage.config.pseudo.split == "target":
            _refuse_scored(stage.name, stage.config)


def _refuse_scored(name: str, config: Any) -> None:
    """Refuses images that are scored, by whatever list or folder they get into the target."""
    scored = load(
        {**config.benchmark.eval, "use": "unlabelled"},
        data_dir=config.data_dir,
        classes=config.benchmark.classes,
    )
    if shared := sorted(_files(images(config)) & _files(scored)):
        raise ConfigError(
            f"stage {name}: benchmark.target holds {len(shared)} of the images that scores are "
            f"measured on, {shared[0]} among them; labelling them for training makes the scores "
            "worthless, pseudo.split='eval' does it all the same"
        )


def _files(dataset: Dataset) -> set[str]:
    return {os.path.realpath(dataset.where(i)) for i in range(len(dataset))}


def images(config: Any) -> Dataset:
    """Returns the images that a stage labels; their own labels are never opened."""
    spec = {**config.benchmark[config.pseudo.split], "use": "unlabelled"}
    dataset = load(spec, data_dir=config.data_dir, classes=config.benchmark.classes)
    return dataset.unlabelled()


def predictor(
    models: Sequence[Model], *, heads: Sequence[str], fusion: str
) -> Callable[[np.ndarray], tuple[jax.Array, jax.Array]]:
    """Returns a function from an image uint8 [H,W,3] to uint8 [H,W] labels and float32 confidence.

    Args:
      models: the networks whose softmax maps are fused.
      heads: the outputs of each network.
      fusion: a key of `pseudo_labels.FUSIONS`.
    """
    folded = [fold(m.module.clone(auxiliary="always"), m.variables) for m in models]
    modules = [module for module, _ in folded]

    def maps(variables: Sequence[Any], image: jax.Array) -> list[jax.Array]:
        softmax = []
        for model, module, v in zip(models, modules, variables, strict=True):
            pixels = image[None].astype(jnp.float32)
            outputs: Any = module.apply(v, normalise(pixels, name=model.normalisation), train=False)
            softmax += [jax.nn.softmax(outputs[h][0].astype(jnp.float32), axis=-1) for h in heads]
        return softmax

    @jax.jit
    def fused(variables: Sequence[Any], image: jax.Array) -> tuple[jax.Array, jax.Array]:
        return pseudo_labels.fuse(jnp.stack(maps(variables, image)), fusion=fusion)

    variables = [v for _, v in folded]
    return lambda image: fused(variables, image)


def say(record: dict[str, Any]) -> None:
    """Prints the coverage, the share of each class, and the classes without any pixel."""
    total = max(sum(record["pixels"].values()), 1)
    shares = {name: n / total for name, n in record["pixels"].items()}
    log.say(f"  {100 * record['coverage']:.1f}% of the pixels are labelled; of these")
    present = [f"{name} {100 * share:.1f}%" for name, share in shares.items() if share]
    log.say("  " + ", ".join(present))
    absent = [name for name, share in shares.items() if not share]
    if absent:
        log.say(f"  no pixel: {', '.join(absent)}")
