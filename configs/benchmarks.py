"""Source -> target pairs: which data, which classes, at which sizes.

A spec names a data set, a split and whether its labels are read; every field it may have stands in
rtda_jax/data/spec.py. All benchmarks have the same fields:

  classes          what the head predicts (a key of rtda_jax.data.labels.CLASS_SETS)
  eval_classes     what is reported: these rows of the head's
  source           labelled training set
  source_eval      a label-bearing split of the source that is not trained on; None: there is none
  target           training images; their labels are never opened
  target_labelled  the same images with labels, for the oracle only; None: there are no labels
  eval             labelled target split that scores are measured on
  size             (H, W) images are resized to before the crop
  crop             (H, W) of a training batch
  eval_size        (H, W) images are resized to for evaluation; labels keep their own size
"""

from ml_collections import ConfigDict

# What can be changed of any data set that lies in files, for instance
# --config.benchmark.source.store=shards --config.benchmark.source.quarantine=gta5.txt
_FILES = {
    "list": "",  # file of the examples to use
    "list_sha256": "",  # that it must have
    "count": -1,  # examples there must be; 0: any number, -1: as the data set is known
    "quarantine": "",  # file of examples to leave out, written by --job=check_data
    "store": "files",  # or "shards": decoded and resized once, to `size`
    "store_dir": "",  # where shards go; empty: data_dir
    "format": "png",  # of images in shards: png, webp (both lossless) or jpeg
}


def _spec(name: str, split: str, use: str = "labelled") -> dict:
    return {"name": name, "split": split, "use": use, **({} if name == "streets" else _FILES)}


def _target(name: str, train: str, evaluate: str) -> dict:
    """A target whose training split has labels, which only the oracle reads."""
    return {
        "target": _spec(name, train, "unlabelled"),
        "target_labelled": _spec(name, train),
        "eval": _spec(name, evaluate),
    }


def _classes(head: str, evaluate: str | None = None) -> dict:
    return {"classes": head, "eval_classes": evaluate or head}


def _sizes(size: tuple[int, int], crop: tuple[int, int] | None = None) -> dict:
    return {"size": size, "crop": crop or size, "eval_size": size}


_SMALL = {"steps": 800, "batch_size": 4, "g_lr": 0.025}  # minutes on two CPU cores
_FULL = {"steps": 40000, "batch_size": 4, "g_lr": 0.01}  # hours on a GPU

_SYNTH = {"source": _spec("synth", "train"), "source_eval": _spec("synth", "val")}
_CITYSCAPES = _target("cityscapes", "train", "val")

_FOLDER = {
    **_FILES,
    "name": "folders",
    "images": "",
    "labels": "",
    "labelling": "",
    "image_suffix": "",
    "label_suffix": "",
    "use": "labelled",
}


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
    # Your own images: set benchmark.{source,target,eval}.{images,labels}; see the README.
    "folders": {
        **_classes("cityscapes19"),
        "source": _FOLDER,
        "source_eval": None,
        "target": {**_FOLDER, "use": "unlabelled"},
        "target_labelled": _FOLDER,
        "eval": _FOLDER,
        **_sizes((256, 512)),
        **_FULL,
    },
}

# Pairs that train from scratch in minutes.
SMALL = tuple(name for name, fields in BENCHMARKS.items() if fields["g_lr"] == _SMALL["g_lr"])


def get(name: str) -> ConfigDict:
    """The benchmark of that name, with its `name`; ValueError lists the known ones."""
    if name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {name!r}; known: {', '.join(sorted(BENCHMARKS))}")
    # ConfigDict turns one dict in two places into one ConfigDict: an override would reach both.
    fields = {k: dict(v) if isinstance(v, dict) else v for k, v in BENCHMARKS[name].items()}
    benchmark = ConfigDict({"name": name, **fields})
    for role in ("source", "target", "target_labelled"):
        if benchmark[role] is not None and "store" in benchmark[role]:
            # Shards are stored at the benchmark's size, whoever changes it later.
            benchmark[role].size = benchmark.get_oneway_ref("size")
    return benchmark
