"""What the model card says about classes and folders of the user's own."""

import pathlib

import pytest
from helpers import config

from rtda_jax.data.labels import define
from rtda_jax.deploy import Networks, publish


def card(source, target, protocol):
    """The card of a network that was trained on these folders."""
    made = config("source_only", "folders")
    made.benchmark.source.images, made.benchmark.target.images = source, target
    chosen = Networks(
        (), ("train",), "evaluate", pathlib.Path("run"), made.lock(), ("bisenet_lite0",)
    )
    score = {"miou": 0.5, "pixel_accuracy": 0.5, "images": 1, "step": 1, "iou": {}}
    record = {
        "score": score | {"protocol": protocol},
        "precision": "float32",
        "rtda_jax": "1",
        "networks": {},
    }
    return publish.model_card(chosen, record, repository=None, licence="")


@pytest.mark.parametrize(
    ("images", "named"),
    [
        ("/data/sets/gta5/images", "gta5/images"),
        ("gta5/images", "gta5/images"),
        ("/data/dashcam/*/frames", "data/dashcam"),
        (str(pathlib.Path.home() / "frames"), "frames"),
    ],
)
def test_folders_are_named_by_their_last_parts(images, named):
    text = card(images, images, {})
    assert f"on labels of `folders` (`{named}`) and images of `folders` (`{named}`)" in text


def test_classes_of_ones_own_are_named_in_the_protocol():
    own = define(["road", "sky"])
    text = card("a/b", "c/d", {"classes": own, "head_classes": "cityscapes19", "mode": "whole"})
    between = '"classes": [\n    "road",\n    "sky"\n  ],\n  "head_classes": "cityscapes19"'
    assert between in text
    assert "ids" not in text
