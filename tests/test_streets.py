"""The built-in benchmark: deterministic, labelled by the Cityscapes table, and two-domained."""

from functools import cache

import numpy as np
import pytest

from rtda_jax.data.streets import DOMAINS, render
from rtda_jax.data.streets.canvas import Canvas, View
from rtda_jax.data.streets.domain import Dice
from rtda_jax.data.streets.traffic import car

CLASSES = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "light": 19,
    "sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26,
    "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
VOID = {0, 1, 4}
COUNT = 120


@cache
def _sample(domain: str) -> tuple[np.ndarray, np.ndarray]:
    scenes = [render(domain, index) for index in range(COUNT)]
    return np.stack([image for image, _ in scenes]), np.stack([label for _, label in scenes])


@cache
def _pixels(domain: str) -> np.ndarray:
    """Label pixels per image, [COUNT, 256]."""
    return np.stack([np.bincount(label.ravel(), minlength=256) for label in _sample(domain)[1]])


@pytest.mark.parametrize("domain", sorted(DOMAINS))
def test_scene_depends_on_its_arguments_alone(domain):
    image, label = render(domain, 5, seed=3)
    render(domain, 6, seed=3)
    render("game", 0, height=33, width=70)
    again_image, again_label = render(domain, 5, seed=3)
    np.testing.assert_array_equal(image, again_image)
    np.testing.assert_array_equal(label, again_label)


@pytest.mark.parametrize("other", [("game", 1, 0), ("game", 0, 1), ("camera", 0, 0)])
def test_domain_index_and_seed_each_change_the_scene(other):
    image, label = render("game", 0, seed=0)
    domain, index, seed = other
    other_image, other_label = render(domain, index, seed=seed)
    assert (image != other_image).any(-1).mean() > 0.2
    assert (label != other_label).mean() > 0.05


@pytest.mark.parametrize("domain", sorted(DOMAINS))
@pytest.mark.parametrize("size", [(96, 192), (64, 128), (33, 71), (97, 100), (128, 40), (8, 8)])
def test_shapes_dtypes_and_ids(domain, size):
    image, label = render(domain, 2, height=size[0], width=size[1])
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    assert label.shape == size and label.dtype == np.uint8
    assert image.flags.c_contiguous and label.flags.c_contiguous
    assert set(np.unique(label)) <= set(CLASSES.values()) | VOID


def test_resolution_samples_the_same_scene():
    small = render("game", 4, height=48, width=96)[1]
    large = render("game", 4, height=144, width=288)[1]
    assert (small == large[1::3, 1::3]).mean() > 0.93


@pytest.mark.parametrize("domain", sorted(DOMAINS))
def test_every_class_occurs_and_no_other_id(domain):
    pixels = _pixels(domain)
    assert set(np.flatnonzero(pixels.sum(0))) <= set(CLASSES.values()) | VOID
    share = {name: (pixels[:, label] >= 10).mean() for name, label in CLASSES.items()}
    assert min(share.values()) >= 0.04, share


@pytest.mark.parametrize("domain", sorted(DOMAINS))
def test_classes_have_a_long_tail(domain):
    total = _pixels(domain).sum(0)
    share = {name: total[label] / total.sum() for name, label in CLASSES.items()}
    assert set(sorted(share, key=share.get)[-2:]) == {"road", "building"}
    stuff = min(share[name] for name in ("road", "building", "sky", "vegetation"))
    rare = max(share[name] for name in ("light", "rider", "motorcycle", "bicycle", "fence"))
    assert stuff > 0.04
    assert rare < stuff / 5
    assert sum(total[label] for label in VOID) / total.sum() < 0.1


@pytest.mark.parametrize("domain", sorted(DOMAINS))
def test_layout_is_a_street(domain):
    _, labels = _sample(domain)
    assert (labels[:, 60:84, 80:112] == CLASSES["road"]).mean() > 0.6
    assert (labels[:, 60:] == CLASSES["sky"]).mean() < 0.001
    assert (labels[:, :38] == CLASSES["road"]).mean() < 0.01


def test_nearer_cars_are_larger():
    def extent(z: float) -> tuple[int, float]:
        view = View(200, 400, 300.0, 200.0, 90.0, 1.5, 0.0)
        light = dict.fromkeys(("front", "left", "right", "ground", "sky"), 1.0)
        canvas = Canvas(view, DOMAINS["game"], light)
        canvas.material("sky", (0, 0, 0), face="sky")
        car(canvas, Dice(np.random.default_rng(0)), -3.0, z, "away")
        assert np.isclose(canvas.depth[canvas.ids > 0].min(), z)
        return int((canvas.ids > 0).sum()), float(np.flatnonzero((canvas.ids > 0).any(1))[-1])

    near_area, near_foot = extent(8.0)
    far_area, far_foot = extent(16.0)
    assert 3 < near_area / far_area < 6
    np.testing.assert_allclose(near_foot, 90 + 300 * 1.5 / 8, atol=1.5)
    np.testing.assert_allclose(far_foot, 90 + 300 * 1.5 / 16, atol=1.5)


def test_domains_differ_in_colour_texture_and_content():
    game, _ = _sample("game")
    camera, _ = _sample("camera")
    assert game.mean() > 1.15 * camera.mean()
    warmth = [(images[..., 0].astype(int) - images[..., 2]).mean() for images in (game, camera)]
    assert warmth[1] - warmth[0] > 10
    assert game.std((1, 2, 3)).mean() > 1.2 * camera.std((1, 2, 3)).mean()

    def grain(images: np.ndarray) -> float:
        """The median step between neighbouring road pixels, where the game is flat."""
        road = images[:, 70:84, 86:106].astype(int)
        return float(np.median(np.abs(np.diff(road.sum(-1), axis=2))))

    assert grain(camera) > 1.5 * grain(game)

    def saturation(images: np.ndarray) -> float:
        return float((images.max(-1).astype(int) - images.min(-1)).mean())

    assert saturation(game) > 1.2 * saturation(camera)
    share = {d: _pixels(d).sum(0) / _pixels(d).sum() for d in DOMAINS}
    assert share["camera"][CLASSES["car"]] > 1.3 * share["game"][CLASSES["car"]]
    assert share["camera"][CLASSES["sky"]] < 0.8 * share["game"][CLASSES["sky"]]


def test_shared_classes_keep_their_hue():
    """Adaptation must be possible: leaves stay the greenest thing in both domains."""
    for domain in DOMAINS:
        images, labels = _sample(domain)
        green = 2.0 * images[..., 1] - images[..., 0] - images[..., 2]
        mean = {name: green[labels == label].mean() for name, label in CLASSES.items()}
        assert {"vegetation", "terrain"} == set(sorted(mean, key=mean.get)[-2:]), (domain, mean)


@pytest.mark.parametrize(
    ("domain", "index", "colour", "label_sum", "image_sum"),
    [
        ("game", 0, (116.741, 122.324, 130.479), 165.119, 1448.455),
        ("game", 7, (123.734, 132.231, 145.536), 136.641, 1572.337),
        ("camera", 0, (87.214, 93.095, 86.646), 141.123, 1047.341),
        ("camera", 7, (98.285, 96.917, 75.668), 172.588, 1062.475),
    ],
)
def test_scenes_are_the_published_ones(domain, index, colour, label_sum, image_sum):
    """Weighted sums of image and label; a change here changes every benchmark number."""
    image, label = render(domain, index, seed=0)
    weight = (np.arange(96) % 7 + 1)[:, None] * (np.arange(192) % 5 + 1)[None, :]
    np.testing.assert_allclose(image.mean((0, 1)), colour, rtol=1e-3)
    np.testing.assert_allclose((label * weight).mean(), label_sum, rtol=1e-3)
    np.testing.assert_allclose((image.mean(-1) * weight).mean(), image_sum, rtol=1e-3)


def test_unknown_arguments_fail_by_name():
    with pytest.raises(ValueError, match=r"unknown streets domain 'film'.*camera.*game"):
        render("film", 0)
    with pytest.raises(ValueError, match="index -1"):
        render("game", -1)
    with pytest.raises(ValueError, match="seed -2"):
        render("game", 0, seed=-2)
    with pytest.raises(ValueError, match="4 x 192"):
        render("game", 0, height=4)
