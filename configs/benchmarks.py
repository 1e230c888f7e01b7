"""Source -> target pairs: which data, which classes, at which sizes.

A spec names a data set, a split and whether its labels are read (see rtda_jax.data.load).
"""

from ml_collections import ConfigDict


def _spec(name: str, split: str, use: str = "labelled") -> dict:
    return {"name": name, "split": split, "use": use}


_STREETS = {
    "classes": "cityscapes19",  # what the head predicts
    "eval_classes": "cityscapes19",  # what is reported: these rows of the head's
    "source": _spec("streets", "game_train"),
    "source_eval": _spec("streets", "game_val"),
    "target": _spec("streets", "camera_train", "unlabelled"),  # adaptation sees its images only
    "target_labelled": _spec("streets", "camera_train"),  # the oracle's training set
    "eval": _spec("streets", "camera_val"),
    "size": (96, 192),  # (H, W) images are resized to before the crop, and for evaluation
    "crop": (96, 192),
    "steps": 800,
    "batch_size": 4,
    "g_lr": 0.025,
}

_SYNTH = {
    "source": _spec("synth", "train"),
    "source_eval": _spec("synth", "val"),
    "steps": 800,
    "batch_size": 4,
    "g_lr": 0.025,
}

_FOLDER = {
    "name": "folders",
    "images": "",
    "labels": "",
    "labelling": "cityscapes_ids",
    "image_suffix": "",
    "label_suffix": "",
    "use": "labelled",
}

BENCHMARKS = {
    "streets": _STREETS,
    "synth_to_camvid": {
        **_SYNTH,
        "classes": "camvid11",
        "eval_classes": "camvid11",
        "target": _spec("camvid11", "train", "unlabelled"),
        "target_labelled": _spec("camvid11", "train"),
        "eval": _spec("camvid11", "val"),
        "size": (128, 160),
        "crop": (128, 160),
    },
    "synth_to_idd": {
        **_SYNTH,
        "classes": "iddlite7",
        "eval_classes": "iddlite7",
        "target": _spec("idd_lite", "train", "unlabelled"),
        "target_labelled": _spec("idd_lite", "train"),
        "eval": _spec("idd_lite", "val"),
        "size": (128, 192),
        "crop": (128, 192),
    },
    "folders": {
        "classes": "cityscapes19",
        "eval_classes": "cityscapes19",
        "source": _FOLDER,
        "source_eval": _FOLDER,
        "target": {**_FOLDER, "use": "unlabelled"},
        "target_labelled": _FOLDER,
        "eval": _FOLDER,
        "size": (256, 512),
        "crop": (256, 512),
        "steps": 20000,
        "batch_size": 4,
        "g_lr": 0.01,
    },
}


def get(name: str) -> ConfigDict:
    """The benchmark of that name; ValueError lists the known ones."""
    if name not in BENCHMARKS:
        raise ValueError(f"unknown benchmark {name!r}; known: {', '.join(sorted(BENCHMARKS))}")
    return ConfigDict({"name": name, **BENCHMARKS[name]})
