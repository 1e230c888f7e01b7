"""A pseudo_label stage: finished networks label the target's training images."""

import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rtda_jax.adapt import build, pseudo_labels
from rtda_jax.adapt.state import output_shapes
from rtda_jax.augment.normalise import normalise
from rtda_jax.data import Dataset, eval_stream, load
from rtda_jax.data.labels import class_set
from rtda_jax.data.pseudo import MANIFEST
from rtda_jax.errors import ConfigError
from rtda_jax.evaluate import Model
from rtda_jax.ops.fold import fold
from rtda_jax.run import log
from rtda_jax.run.signals import shutdown_event, watchdog
from rtda_jax.run.workdir import read_json, write_json
from rtda_jax.stages import trained
from rtda_jax.stages.plan import Plan, parse
from rtda_jax.stages.pseudo_files import Rule, generate


def run(plan: Plan, name: str, workdir: pathlib.Path) -> dict[str, Any]:
    """Write the stage's `labels/` and `manifest.json`; what results.json says of them."""
    stage, folder = plan[name], workdir / name
    done = folder / "done.json"
    if done.exists():
        log.say(f"[{name}] finished, skipped")
        return read_json(done)
    pseudo, benchmark = stage.pseudo, stage.benchmark
    log.say(f"[{name}] {' + '.join(stage.models)} label {benchmark[pseudo.split].name}")
    predict = predictor(
        [trained.load(plan, model, workdir) for model in stage.models],
        heads=tuple(pseudo.heads),
        fusion=pseudo.fusion,
    )
    classes = class_set(benchmark.classes)
    dataset = images(stage)

    def predictions(start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        order = range(start, len(dataset))
        size = tuple(benchmark.size)
        for example in eval_stream(dataset, size=size, order=order, threads=stage.threads):
            labels, confidence = predict(example["image"])
            yield np.asarray(labels), np.asarray(confidence)

    begin = time.perf_counter()
    rule = Rule(pseudo.scope, pseudo.cut, pseudo.cap, pseudo.index, len(classes))
    with shutdown_event() as interrupted, watchdog(stage.stall_seconds) as moved:
        made = generate(
            predictions,
            folder,
            keys=dataset.keys,
            rule=rule,
            interrupted=interrupted,
            moved=moved,
        )
    files = made.pop("files")
    by_class = {
        field: None if made[field] is None else dict(zip(classes.names, made[field], strict=True))
        for field in ("thresholds", "pixels")
    }
    record = {
        "models": list(stage.models),
        "rule": {field: pseudo[field] for field in ("fusion", "scope", "cut", "cap", "index")},
        "heads": list(pseudo.heads),
        "split": pseudo.split,
        "data": dataset.name,
        "classes": classes.name,
        "size": list(benchmark.size),
        "images": len(dataset),
        "coverage": made["coverage"],
        **by_class,
    }
    write_json(folder / MANIFEST, {**record, "files": files})
    say(record)
    record |= {"seconds": round(time.perf_counter() - begin, 1)}
    write_json(done, record)
    return record


def check(plan: Plan, name: str) -> None:
    """Refuse, before anything is trained, outputs that a network the stage reads does not have.

    Raises:
      ConfigError: naming the stage and the outputs there are, or target images that are scored.
    """
    stage = plan[name]
    scores = any(other.kind == "evaluate" for other in plan.values())
    if scores and stage.pseudo.split == "target":
        _refuse_scored(name, stage)
    for model in stage.models:
        config = plan[parse(model)[0]]
        generator = build.build(config).generator
        outputs = output_shapes(generator, image_shape=(2, *config.benchmark.crop, 3))
        known = sorted(set(outputs) - {"feature"})
        for head in stage.pseudo.heads:
            if head not in known:
                raise ConfigError(
                    f"stage {name}: pseudo.heads: {model} has no output {head!r}; it has: "
                    + ", ".join(known)
                )


def _refuse_scored(name: str, stage: Any) -> None:
    """Images that scores are measured on, by whatever list or folder they get into the target."""
    scored = load(
        {**stage.benchmark.eval, "use": "unlabelled"},
        data_dir=stage.data_dir,
        classes=stage.benchmark.classes,
    )
    files = [{os.path.realpath(d.where(i)) for i in range(len(d))} for d in (images(stage), scored)]
    if shared := sorted(files[0] & files[1]):
        raise ConfigError(
            f"stage {name}: benchmark.target holds {len(shared)} of the images that scores are "
            f"measured on, {shared[0]} among them; labelling them for training makes the scores "
            "worthless, pseudo.split='eval' does it all the same"
        )


def images(stage: Any) -> Dataset:
    """The images a stage labels; their own labels will not be opened."""
    spec = {**stage.benchmark[stage.pseudo.split], "use": "unlabelled"}
    dataset = load(spec, data_dir=stage.data_dir, classes=stage.benchmark.classes)
    return dataset.unlabelled()


def predictor(
    models: Sequence[Model], *, heads: Sequence[str], fusion: str
) -> Callable[[np.ndarray], tuple[jax.Array, jax.Array]]:
    """A function image uint8 [H,W,3] -> label uint8 [H,W], confidence float32 [H,W].

    Args:
      models: whose softmax maps are fused.
      heads: the outputs of each that are.
      fusion: a key of `pseudo_labels.FUSIONS`.
    """
    folded = [fold(m.module.clone(auxiliary="always"), m.variables) for m in models]
    modules = [module for module, _ in folded]

    def maps(variables: Sequence[Any], image: jax.Array) -> list[jax.Array]:
        found = []
        for model, module, v in zip(models, modules, variables, strict=True):
            pixels = image[None].astype(jnp.float32)
            outputs: Any = module.apply(v, normalise(pixels, name=model.normalisation), train=False)
            found += [jax.nn.softmax(outputs[h][0].astype(jnp.float32), axis=-1) for h in heads]
        return found

    @jax.jit
    def fused(variables: Sequence[Any], image: jax.Array) -> tuple[jax.Array, jax.Array]:
        return pseudo_labels.fuse(jnp.stack(maps(variables, image)), fusion=fusion)

    variables = [v for _, v in folded]
    return lambda image: fused(variables, image)


def say(record: dict[str, Any]) -> None:
    """Coverage and class histogram, and which classes got no pixel at all."""
    total = max(sum(record["pixels"].values()), 1)
    shares = {name: n / total for name, n in record["pixels"].items()}
    log.say(f"  {100 * record['coverage']:.1f}% of the pixels are labelled; of these")
    present = [f"{name} {100 * share:.1f}%" for name, share in shares.items() if share]
    log.say("  " + ", ".join(present))
    absent = [name for name, share in shares.items() if not share]
    if absent:
        log.say(f"  no pixel: {', '.join(absent)}")
