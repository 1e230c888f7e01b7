"""Benchmarks: source -> target pairs, with their data sets, classes and sizes.

A specification names a data set, a split and whether its labels are read. Its fields, their
defaults and the data sets are in rtda_jax/data/spec.py. All benchmarks have the same fields:

  classes          the classes that the head predicts, a key of rtda_jax.data.labels.CLASS_SETS
  eval_classes     the classes that are reported
  source           the labelled training set
  source_eval      a labelled split of the source that is not trained on; None if there is none
  target           the training images of the target, whose labels are never opened
  target_labelled  the same images with labels, for the oracle only; None if there are no labels
  eval             the labelled split of the target that scores are measured on
  size             (H, W) that images are resized to before the crop
  crop             (H, W) of a training batch
  resize           how images are resized, "bilinear" or "bicubic"; labels go to the nearest pixel
  source_size, source_crop, source_resize    the same for the source in training; they follow the
                   three fields above until they are set
  eval_size        (H, W) that images are resized to for evaluation; labels keep their own size
  steps, batch_size, g_lr    training steps, images of each domain per step, generator's rate

For "folders", crop and eval_size follow size, and eval_classes follows classes, until they are set.
The command line lets its size follow the images, see `follow_images`.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from rtda_jax.data import spec
from rtda_jax.errors import ConfigError, lookup, require
from rtda_jax.run.binding import begun
from rtda_jax.run.options import typed
from rtda_jax.run.workdir import read_json


def _spec(name: str, split: str = "", use: str = "labelled") -> dict:
    """Returns a data set with all of its fields, so that the command line can change each of them.

    An example is --config.benchmark.source.quarantine=gta5.txt. `get` adds `size` and `resize`,
    which shards need, to the roles that may be stored as shards.
    """
    defaults = {k: v for k, v in spec.FIELDS[name].items() if k not in ("size", "resize")}
    return {**defaults, "name": name, "use": use, **({"split": split} if split else {})}


def _target(name: str, train: str, evaluate: str) -> dict:
    """Returns the roles of a target whose training split has labels, for the oracle only."""
    return {
        "target": _spec(name, train, "unlabelled"),
        "target_labelled": _spec(name, train),
        "eval": _spec(name, evaluate),
    }


def _classes(head: str, evaluate: str | None = None) -> dict:
    return {"classes": head, "eval_classes": evaluate or head}


def _sizes(size: tuple[int, int], crop: tuple[int, int] | None = None) -> dict:
    return {"size": size, "crop": crop or size, "resize": "bilinear", "eval_size": size}


_SMALL = {"steps": 800, "batch_size": 4, "g_lr": 0.025}  # minutes on two CPU cores
_FULL = {"steps": 40000, "batch_size": 4, "g_lr": 0.01}  # hours on a GPU
_OWN = {**_FULL, "steps": 10000}  # for a first result on one's own data

# Frames that the user renders, with Cityscapes label ids; rtda_jax/data/layouts.py says where.
_SYNTH = {"source": _spec("synth", "train"), "source_eval": _spec("synth", "val")}
_CITYSCAPES = _target("cityscapes", "train", "val")


def _crosscity(city: str) -> dict:
    return {
        **_classes("crosscity13"),
        "source": _spec("cityscapes", "train"),
        "source_eval": _spec("cityscapes", "val"),
        "target": _spec("crosscity", f"{city}_train", "unlabelled"),
        "target_labelled": None,
        "eval": _spec("crosscity", f"{city}_test"),
        **_sizes((512, 1024)),
        **_FULL,
    }


BENCHMARKS = {
    "streets": {
        **_classes("cityscapes19"),
        "source": _spec("streets", "game_train"),
        "source_eval": _spec("streets", "game_val"),
        **_target("streets", "camera_train", "camera_val"),
        **_sizes((96, 192), crop=(64, 128)),
        **{**_SMALL, "steps": 400},
    },
    "synth_to_camvid": {
        **_classes("camvid11"),
        **_SYNTH,
        **_target("camvid11", "train", "val"),
        **_sizes((128, 160)),
        **_SMALL,
    },
    "synth_to_idd": {
        **_classes("iddlite7"),
        **_SYNTH,
        **_target("idd_lite", "train", "val"),
        **_sizes((128, 192)),
        **_SMALL,
    },
    "gta5_to_cityscapes": {
        **_classes("cityscapes19"),
        "source": _spec("gta5", "all"),
        "source_eval": None,
        **_CITYSCAPES,
        **_sizes((512, 1024)),
        **_FULL,
    },
    # SYNTHIA labels 16 of the 19 classes; papers report these, and 13 without wall, fence, pole.
    "synthia_to_cityscapes": {
        **_classes("synthia16"),
        "source": _spec("synthia", "all"),
        "source_eval": None,
        **_CITYSCAPES,
        **_sizes((512, 1024)),
        **_FULL,
    },
    "synthia_to_cityscapes_13": {
        **_classes("synthia16", "synthia13"),
        "source": _spec("synthia", "all"),
        "source_eval": None,
        **_CITYSCAPES,
        **_sizes((512, 1024)),
        **_FULL,
    },
    "cityscapes_to_crosscity:rio": _crosscity("rio"),
    "cityscapes_to_crosscity:rome": _crosscity("rome"),
    "cityscapes_to_crosscity:taipei": _crosscity("taipei"),
    "cityscapes_to_crosscity:tokyo": _crosscity("tokyo"),
    "synthia_to_camvid": {
        **_classes("thukral9"),
        "source": _spec("synthia", "all"),
        "source_eval": None,
        **_target("camvid32", "train", "val"),
        **_sizes((360, 480)),
        **_FULL,
    },
    "gta5_to_idd": {
        **_classes("iddlite7"),
        "source": _spec("gta5", "all"),
        "source_eval": None,
        **_target("idd_lite", "train", "val"),
        **_sizes((224, 320)),
        **_FULL,
    },
    # Your own images: set benchmark.{source,target,eval}.{images,labels}; see docs/own_data.md.
    "folders": {
        **_classes("cityscapes19"),
        "source": _spec("folders"),
        "source_eval": None,
        "target": _spec("folders", use="unlabelled"),
        "target_labelled": _spec("folders"),
        "eval": _spec("folders"),
        **_sizes((256, 512)),
        **_OWN,
    },
}

# The fields that are the specification of a data set, or None.
ROLES = ("source", "source_eval", "target", "target_labelled", "eval")

DEFAULT = "streets"  # built in; needs no download

# Pairs that train from scratch in minutes.
SMALL = tuple(name for name, fields in BENCHMARKS.items() if fields["steps"] <= _SMALL["steps"])


def get(name: str) -> ConfigDict:
    """Returns a benchmark, with its name as one more field.

    Raises:
      ConfigError: the name is unknown.
    """
    declared = lookup(BENCHMARKS, name, "benchmark")
    # Without a copy, a dict that occurs twice would become one ConfigDict, and an override would
    # change both places.
    fields = {k: dict(v) if isinstance(v, dict) else v for k, v in declared.items()}
    benchmark = ConfigDict({"name": name, **fields})
    # References instead of copies: these fields follow a later change by a config or a flag.
    if name == "folders":  # images of any size and shape, and classes of any names
        benchmark.crop = benchmark.get_oneway_ref("size")
        benchmark.eval_size = benchmark.get_oneway_ref("size")
        benchmark.eval_classes = benchmark.get_oneway_ref("classes")
    for name in ("size", "crop", "resize"):
        benchmark[f"source_{name}"] = benchmark.get_oneway_ref(name)
    for role, prefix in (("source", "source_"), ("target", ""), ("target_labelled", "")):
        if benchmark[role] is not None and "store" in benchmark[role]:
            for name in ("size", "resize"):  # of shards
                benchmark[role][name] = benchmark.get_oneway_ref(f"{prefix}{name}")
    return benchmark


def check(benchmark: ConfigDict) -> None:
    """Raises ConfigError for a field that a benchmark lacks, or an invalid one of its data sets."""
    lacking = sorted(set(get(DEFAULT)) - set(benchmark))
    require(not lacking, f"the benchmark {benchmark.get('name')!r} lacks {', '.join(lacking)}")
    for role in ROLES:
        if benchmark[role] is not None:
            try:
                spec.checked(benchmark[role].to_dict())
            except ConfigError as error:
                raise ConfigError(f"benchmark.{role}: {error}") from None


def windows(crop: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Returns the windows of sliding evaluation and their strides, for a network of this crop."""
    return {"window": tuple(crop), "stride": tuple((5 * side + 5) // 6 for side in crop)}


def _recorded_size(workdir: pathlib.Path) -> tuple[int, int] | None:
    """Returns the size of the run that has begun in a workdir; None without one on "folders"."""
    for folder in (workdir, workdir / "seed0"):
        if (folder / "config.json").exists() and any(map(begun, folder.glob("*/"))):
            recorded = read_json(folder / "config.json").get("benchmark")
            if isinstance(recorded, dict) and recorded.get("name") == "folders":
                return typed(tuple(recorded.get("size", ())), tuple[int, int], "benchmark.size")
    return None


def follow_images(
    config: ConfigDict, *, overrides: Mapping[str, Any], workdir: pathlib.Path
) -> list[str]:
    """Gives images of one's own a size with their proportions, where the user has set no size.

    The size is that of the run in the workdir. Before there is one, it has the proportions of the
    target's images, or else of the source's, and the pixels of the default size or fewer.

    Args:
      config: on the benchmark "folders"; its sizes are changed.
      overrides: the fields that flags have set.
      workdir: the folder of the run, or of several seeds.

    Returns:
      A sentence for the user, if the size follows the images.

    Raises:
      DataError: there are no images.
    """
    from rtda_jax.data import load, pictures, sampling  # imports TensorFlow

    benchmark, default = config.benchmark, BENCHMARKS["folders"]["size"]
    fixed = {f"benchmark.{name}" for name in ("size", "crop", "source_size", "source_crop")}
    if overrides.keys() & fixed or benchmark.size != default:
        return []
    lines = []
    if (recorded := _recorded_size(workdir)) is not None:
        benchmark.size = recorded
    else:
        specs = [benchmark[role].to_dict() for role in ("target", "source")]
        spec = next((spec for spec in specs if spec.get("images")), None)
        if spec is None:
            return []
        spec |= {"use": "unlabelled", "store": "files"}
        images = load(spec, data_dir=config.data_dir, classes=benchmark.classes)
        shapes = sampling.shapes(images).most_common(1)
        if not shapes:
            return []
        (height, width), _ = shapes[0]
        pixels = min(height * width, default[0] * default[1])
        rows, columns = benchmark.size = pictures.fitting((height, width), pixels=pixels)
        lines = [
            f"images of {width}x{height} are read as {columns}x{rows}; another size is set by "
            "--config.benchmark.size=HEIGHT,WIDTH"
        ]
    for name, value in windows(benchmark.crop).items():
        if f"eval.{name}" not in overrides:
            config.eval[name] = value
    return lines
