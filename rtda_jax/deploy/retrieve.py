"""Cross-domain retrieval (thukral): the nearest images of the other domain by their features."""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from rtda_jax.data import Dataset, load
from rtda_jax.data.labels import ClassSet, class_set
from rtda_jax.data.stream import eval_stream
from rtda_jax.deploy import Networks
from rtda_jax.errors import ConfigError
from rtda_jax.evaluate import Model, folded, outputs_of
from rtda_jax.run import log
from rtda_jax.run.log import Progress
from rtda_jax.run.workdir import claimed, write_json
from rtda_jax.tools import drawing

NEIGHBOURS = 5
IMAGES = 500  # images of a domain at most, evenly spaced
QUERIES, WIDTH, BAR = 6, 240, 10  # rows of a sheet, pixels of an image and of its bar
RECORD = "retrieve.json"


class Side(NamedTuple):
    """The images of one domain, "source" or "target", with the features of the networks.

    Attributes:
      name: the name of the domain.
      data: the name of the data set.
      features: run -> float32 [N,D], rows of length 1.
      histograms: float64 [N,K], each class's share of the valid label pixels, NaN if there are
        none; None without labels.
      small: the images, uint8 [h,WIDTH,3], for display.
      keys: the keys of the images in the data set.
    """

    name: str
    data: str
    features: dict[str, np.ndarray]
    histograms: np.ndarray | None
    small: list[np.ndarray]
    keys: list[str]


def run(runs: Mapping[str, Networks], *, out: pathlib.Path) -> dict[str, Any]:
    """Retrieves with the features of one run, or of several on the same images.

    Writes OUT/retrieve.json and, for every run, OUT/RUN_source_to_target.png and the sheet of the
    opposite direction: some queries with their nearest images, the cosines and, for labelled
    images, bars of their classes.

    Args:
      runs: name ("before", "after") -> networks; the last one's configuration names the data.
      out: the folder; created if it does not exist.

    Raises:
      ConfigError: the runs read images of different sizes, or the folder has files of these names
        that no earlier retrieval wrote.
      DataError: the data cannot be read.
    """
    config = list(runs.values())[-1].config
    sizes = {name: tuple(r.config.benchmark.eval_size) for name, r in runs.items()}
    if len(set(sizes.values())) > 1:
        raise ConfigError(f"the runs read images of different sizes: {sizes}")
    directions = ("source_to_target", "target_to_source")
    sheets = [f"{name}_{direction}.png" for name in runs for direction in directions]
    with claimed(out, record=RECORD, results=sheets) as begin:
        classes = class_set(config.benchmark.classes)
        describers = {name: describer(chosen.models) for name, chosen in runs.items()}
        sides = [
            gather(
                dataset,
                describers,
                name=name,
                size=tuple(config.benchmark.eval_size),
                resize=config.benchmark.resize,
            )
            for name, dataset in _domains(config)
        ]
        record: dict[str, Any] = {
            "data": {side.name: side.data for side in sides},
            "images": {side.name: len(side.small) for side in sides},
            "labelled": all(side.histograms is not None for side in sides),
            "neighbours": min(NEIGHBOURS, *(len(side.small) for side in sides)),
            "runs": {},
        }
        listed = begin()
        for name, chosen in runs.items():
            numbers: dict[str, Any] = {
                "workdir": str(chosen.workdir),
                "stage": chosen.stage,
                "models": list(chosen.names),
            }
            for query, gallery in (sides, sides[::-1]):
                direction = f"{query.name}_to_{gallery.name}"
                nearest = neighbours(
                    query.features[name], gallery.features[name], count=record["neighbours"]
                )
                numbers[direction] = {
                    "agreement": agreement(query.histograms, gallery.histograms, nearest),
                    "mixing": mixing(
                        query.features[name], gallery.features[name], count=record["neighbours"]
                    ),
                }
                similarity = query.features[name] @ gallery.features[name].T
                sheet = _sheet(query, gallery, nearest, similarity, classes=classes)
                drawing.save(sheet, out / f"{name}_{direction}.png")
            record["runs"][name] = numbers
        write_json(out / RECORD, {**record, "results": listed})
    for line in _table(record):
        log.say(line)
    log.say(f"{out}")
    return {**record, "results": listed}


def _domains(config: ConfigDict) -> Iterator[tuple[str, Dataset]]:
    benchmark = config.benchmark
    unnamed = "images" in benchmark.eval and not benchmark.eval.images
    specs = {
        "source": benchmark.source_eval or benchmark.source,
        "target": benchmark.target if unnamed else benchmark.eval,
    }
    for name, spec in specs.items():
        yield name, load(spec, data_dir=config.data_dir, classes=benchmark.classes)


def describer(models: Sequence[Model]) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that describes an image uint8 [h,w,3] by a vector float32 [D] of length 1.

    The "feature" of each network is averaged over the image and scaled to length 1. The dot product
    of two descriptions is therefore the cosine of the features, averaged over the networks. Batch
    normalisations are folded into the convolutions.
    """
    models = folded(models)

    @jax.jit
    def describe(variables: Sequence[Any], image: jax.Array) -> jax.Array:
        parts = []
        for outputs in outputs_of(models, variables, image[None]):
            mean = outputs["feature"].astype(jnp.float32).mean((0, 1, 2))
            parts.append(mean / jnp.maximum(jnp.linalg.norm(mean), 1e-12))
        return jnp.concatenate(parts) / len(models) ** 0.5

    variables = [model.variables for model in models]
    return lambda image: np.asarray(describe(variables, image))


def gather(
    dataset: Dataset,
    describers: Mapping[str, Callable[[np.ndarray], np.ndarray]],
    *,
    name: str,
    size: tuple[int, int],
    resize: str,
) -> Side:
    """Describes at most IMAGES evenly spaced images of a domain with the features of every run."""
    every = -(-len(dataset) // IMAGES)
    features: dict[str, list[np.ndarray]] = {run: [] for run in describers}
    histograms, small, keys = [], [], []
    progress = Progress(f"  {name}", -(-len(dataset) // every))
    for example in eval_stream(dataset, size=size, resize=resize, process_count=every):
        for run, describe in describers.items():
            features[run].append(describe(example["image"]))
        height = round(WIDTH * size[0] / size[1])
        small.append(np.asarray(Image.fromarray(example["image"]).resize((WIDTH, height))))
        keys.append(example["key"])
        if "label" in example:
            histograms.append(histogram(example["label"], classes=len(dataset.classes)))
        progress.add(1)
    progress.end()
    return Side(
        name,
        dataset.name,
        {run: np.stack(rows) for run, rows in features.items()},
        np.stack(histograms) if histograms else None,
        small,
        keys,
    )


def histogram(label: np.ndarray, *, classes: int) -> np.ndarray:
    """Returns each class's share of the valid pixels of a label [H,W], float64 [K]."""
    counts = np.bincount(label[label < classes].ravel(), minlength=classes)
    return counts / counts.sum() if counts.any() else np.full(classes, np.nan)


def neighbours(query: np.ndarray, gallery: np.ndarray, *, count: int) -> np.ndarray:
    """Returns the nearest rows of gallery [M,D] for each row of query [N,D], sorted, [N,count]."""
    return np.argsort(-(query @ gallery.T), axis=1, kind="stable")[:, :count]


def agreement(
    query: np.ndarray | None, gallery: np.ndarray | None, nearest: np.ndarray
) -> dict[str, float] | None:
    """Measures how similar the classes of queries and neighbours are; None without labels.

    The measure is the intersection of class histograms, sum_k min(q_k, g_k), from 0 to 1. "first"
    is that of the nearest neighbour, "all" the mean over all neighbours, "chance" that of a random
    image (the mean over all pairs) and "best" that of the most similar image.
    """
    if query is None or gallery is None:
        return None
    alike = np.minimum(query[:, None], gallery[None]).sum(-1)
    valid = ~np.isnan(alike).all(1)
    chosen = np.take_along_axis(alike, nearest, axis=1)
    return {
        "first": float(np.nanmean(chosen[:, 0])),
        "all": float(np.nanmean(chosen)),
        "chance": float(np.nanmean(alike)),
        "best": float(np.nanmax(alike[valid], axis=1).mean()),
    }


def mixing(query: np.ndarray, gallery: np.ndarray, *, count: int) -> dict[str, float]:
    """Returns the share of the other domain among a query's nearest images of both domains.

    "chance" is the share if the features did not depend on the domain. A query is not its own
    neighbour.
    """
    similarity = query @ np.concatenate([gallery, query]).T
    np.fill_diagonal(similarity[:, len(gallery) :], -np.inf)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    others = len(gallery) + len(query) - 1
    return {
        "other_domain": float((nearest < len(gallery)).mean()),
        "chance": len(gallery) / others,
    }


def _sheet(
    query: Side, gallery: Side, nearest: np.ndarray, similarity: np.ndarray, *, classes: ClassSet
) -> Image.Image:
    """Draws some queries [N] with their nearest images [N,count] and similarities to all [N,M]."""
    colours = np.asarray(classes.colours, np.uint8)
    shown = np.linspace(0, len(query.small) - 1, min(QUERIES, len(query.small))).astype(int)
    rows, captions = [], []
    for i in shown:
        images = [(query, i), *((gallery, j) for j in nearest[i])]
        rows.append([with_bar(side, k, colours) for side, k in images])
        near = [f"{similarity[i, j]:.3f}  {gallery.keys[j]}" for j in nearest[i]]
        captions.append([query.keys[i], *near])
    ranks = [f"{gallery.name} {k + 1}: cosine, name" for k in range(nearest.shape[1])]
    labelled = query.histograms is not None or gallery.histograms is not None
    return drawing.grid(
        rows,
        titles=[f"{query.name}, the query", *ranks],
        names=classes.names if labelled else (),
        colours=colours,
        width=WIDTH,
        captions=captions,
    )


def with_bar(side: Side, index: int, colours: np.ndarray) -> np.ndarray:
    """Returns an image above a bar with the shares of its classes, grey if it has no label."""
    shares = None if side.histograms is None else side.histograms[index]
    bar = np.full((WIDTH, 3), 128, np.uint8)
    if shares is not None and not np.isnan(shares).any():
        ends = np.rint(WIDTH * np.cumsum(shares)).astype(int)
        bar = colours[np.searchsorted(ends, np.arange(WIDTH), side="right").clip(max=len(ends) - 1)]
    return np.concatenate([side.small[index], np.broadcast_to(bar, (BAR, WIDTH, 3))])


def _table(record: dict[str, Any]) -> Iterator[str]:
    # Without labels there is no agreement; of one neighbour, the first is the mean.
    titles = {"first": "first", "all": f"mean of {record['neighbours']}"}
    titles |= {"chance": "chance", "best": "best"}
    shown = [k for k in titles if record["labelled"] and (k != "all" or record["neighbours"] > 1)]
    heads = "".join(f"  {titles[k]:>6}" for k in shown)
    yield f"{'%':<26}{heads}   other domain (chance)"
    for name, numbers in record["runs"].items():
        for direction in ("source_to_target", "target_to_source"):
            alike, mixed = numbers[direction]["agreement"], numbers[direction]["mixing"]
            values = "".join(f"  {100 * alike[k]:>{max(6, len(titles[k]))}.1f}" for k in shown)
            share = f"{100 * mixed['other_domain']:.1f} ({100 * mixed['chance']:.1f})"
            alone = mixed["chance"] == 1  # a single query: all other images are the other domain's
            yield f"{name + ' ' + direction:<26}{values}   {'n/a' if alone else share}"
    if not record["labelled"]:
        yield "a domain has no labels, so the agreement of classes cannot be measured"
