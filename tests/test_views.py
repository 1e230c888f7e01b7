"""What the device makes of a batch: which part follows which, and from which key each draws."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from helpers import SIZE, batch

from rtda_jax import fda
from rtda_jax.adapt import views
from rtda_jax.adapt.state import TrainState
from rtda_jax.adapt.views import PartContext, ViewOptions
from rtda_jax.augment import colour, geometry, mixing
from rtda_jax.augment.colour import ColourOptions
from rtda_jax.augment.geometry import AffineOptions, MaskOptions
from rtda_jax.augment.mixing import LongTailOptions, MixOptions
from rtda_jax.augment.normalise import normalise
from rtda_jax.data.labels import class_set
from rtda_jax.errors import ConfigError

KEY = jax.random.key(5)
EMPTY: list[Any] = [None] * 7
NOTHING = TrainState(*EMPTY)


def part_context(*seen, seed=0, **options):
    """The context of the parts of a method whose objective reads these views."""
    names = class_set("cityscapes19").names
    chosen = ViewOptions(**{"normalisation": "tensorflow", **options})
    return PartContext(
        options=chosen,
        views=frozenset(seen),
        names=names,
        size=SIZE,
        source_size=SIZE,
        seed=seed,
    )


def indexed(step=0):
    """A batch in floats, whose images have the numbers and the teacher's labels of real ones."""
    made = batch(step)
    rng = np.random.default_rng(step)
    return {
        **made,
        "source_image": np.float32(made["source_image"]),
        "target_image": np.float32(made["target_image"]),
        "source_index": np.array([3, 1, 40, 8], np.int32),
        "target_index": np.array([70, 2, 9, 11], np.int32),
        "teacher_label": rng.integers(0, 19, (4, *SIZE)).astype(np.uint8),
        "teacher_weight": np.float32(rng.uniform(0, 1, (4, *SIZE))),
    }


def prepared(chosen, made):
    """The batch after all parts, and the key of each by what the part does."""
    both = {**views.PARTS, **views.NORMALISED_PARTS}
    parts = [name for name, make in both.items() if make(chosen) is not None]
    keys = {name: jax.random.fold_in(KEY, number) for number, name in enumerate(parts)}
    return views.prepare(views.preparation(chosen), made, KEY, NOTHING), keys


def test_each_part_draws_from_a_key_of_its_own():
    def part(name):
        return views.Part("", lambda given, key, state: {**given, name: key})

    made = views.prepare([part(name) for name in "abc"], {}, KEY, None)
    for number, name in enumerate("abc"):
        expected = jax.random.fold_in(KEY, number)
        np.testing.assert_array_equal(
            jax.random.key_data(made[name]), jax.random.key_data(expected)
        )


def test_in_order_the_source_is_recoloured_and_then_stylised():
    augment = ColourOptions(colour=1.0)
    made = indexed()
    got, keys = prepared(part_context(augment=augment, fda_beta=0.2), made)
    index = made["source_index"]
    image = colour.colour(made["source_image"], keys["recolour_source"], index, options=augment)
    image = fda.transfer(image, made["target_image"], beta=0.2)
    expected = normalise(image, name="tensorflow")
    np.testing.assert_allclose(got["source_image"], expected, atol=1e-4)
    np.testing.assert_allclose(
        got["target_image"], normalise(made["target_image"], name="tensorflow"), atol=1e-4
    )


def test_in_order_classes_are_cut_out_before_the_source_gets_its_texture():
    made = indexed()
    chosen = part_context(
        "mixed",
        augment=ColourOptions(texture="tufl_source"),
        mix=MixOptions(colour="none"),
    )
    got, keys = prepared(chosen, made)
    recolour = colour.recolour("tufl_source", draw="image", seed=0)
    textured = recolour(made["source_image"], keys["texture"], made["source_index"])
    np.testing.assert_allclose(
        got["source_image"], normalise(textured, name="tensorflow"), atol=1e-4
    )
    plain = np.asarray(normalise(made["source_image"], name="tensorflow"))
    pasted = np.isclose(got["mixed_image"], plain, atol=1e-5).all(-1)
    assert 0.2 < pasted.mean() < 0.8
    target = np.asarray(normalise(made["target_image"], name="tensorflow"))
    expected = np.where(pasted[..., None], plain, target)
    np.testing.assert_allclose(got["mixed_image"], expected, atol=1e-4)


def test_the_strong_view_is_painted_and_moved_with_two_keys_by_the_numbers_of_the_target():
    made = indexed()
    chosen = part_context("strong", augment=ColourOptions(strong="strong"))
    got, keys = prepared(chosen, made)
    paint, move = jax.random.split(keys["strong_view"])
    index = made["target_index"]
    expected = geometry.matrices(move, index, options=AffineOptions())
    np.testing.assert_allclose(got["strong_affine"], expected, rtol=1e-6)
    image = colour.recolour("strong", draw="image", seed=0)(made["target_image"], paint, index)
    moved = geometry.warp(normalise(image, name="tensorflow"), expected)
    np.testing.assert_allclose(got["strong_image"], moved, atol=1e-4)


def test_the_masked_view_is_recoloured_and_hidden_with_two_keys_by_the_numbers_of_the_target():
    made, masked = indexed(), MaskOptions(block=8, colour="daformer")
    got, keys = prepared(part_context("masked", masked=masked), made)
    index = made["target_index"]
    recolour = colour.recolour("daformer", draw="image", seed=0)
    image = normalise(recolour(made["target_image"], keys["masked_view"], index), name="tensorflow")
    hidden = geometry.hide_blocks(image, keys["hide"], index, options=masked)
    np.testing.assert_allclose(got["masked_image"], hidden, atol=1e-4)
    np.testing.assert_array_equal(got["masked_label"], made["teacher_label"])
    np.testing.assert_array_equal(got["masked_weight"], made["teacher_weight"])


@pytest.mark.parametrize("window", ["square", "rectangle", "corners"])
def test_the_source_is_stylised_in_the_chosen_window(window):
    made = indexed()
    got, _ = prepared(part_context(fda_beta=0.2, fda_window=window), made)
    image = fda.transfer(made["source_image"], made["target_image"], beta=0.2, window=window)
    expected = normalise(image, name="tensorflow")
    np.testing.assert_allclose(got["source_image"], expected, atol=1e-4)


def test_each_image_of_the_source_draws_one_of_the_bands():
    made = {name: np.repeat(x, 16, axis=0) for name, x in indexed().items()}
    made["source_index"] = 7 * np.arange(len(made["source_image"])) + 3
    chosen = part_context(fda_beta=0.02, fda_other_betas=(0.2, 0.4), fda_window="rectangle")
    got, keys = prepared(chosen, made)
    pair = made["source_image"], made["target_image"]
    bands = [
        normalise(fda.transfer(*pair, beta=beta, window="rectangle"), name="tensorflow")
        for beta in (0.02, 0.2, 0.4)
    ]
    drawn = []
    for number, image in enumerate(got["source_image"]):
        apart = [float(np.abs(image - band[number]).max()) for band in bands]
        drawn.append(int(np.argmin(apart)))
        assert sorted(apart)[0] < 1e-4 < 1e-2 < sorted(apart)[1]
    key = keys["stylise"]
    numbers = made["source_index"]
    expected = [int(jax.random.randint(jax.random.fold_in(key, n), (), 0, 3)) for n in numbers]
    assert drawn == expected
    assert set(drawn) == {0, 1, 2}


def test_bands_that_would_change_nothing_are_refused():
    message = "beta=0.01 and fda_window='corners' exchanges no frequency"
    with pytest.raises(ConfigError, match=message):
        prepared(part_context(fda_beta=0.01, fda_window="corners"), batch())
    with pytest.raises(ConfigError, match=r"fda_other_betas=\(0.05,\) are drawn beside fda_beta"):
        ViewOptions(fda_other_betas=(0.05,))
    ViewOptions(fda_beta=0.0, fda_other_betas=(0.05,))  # a band of the mean alone is a band


@pytest.mark.parametrize(("first", "others"), [(0.6, ()), (0.1, (0.2, 0.6)), (0.1, (-0.1, 0.2))])
def test_every_band_is_checked_before_the_first_step(first, others):
    chosen = part_context(fda_beta=first, fda_other_betas=others)
    with pytest.raises(ConfigError, match=r"FDA beta must lie in \[0, 0\.5\], got "):
        views.preparation(chosen)


def test_the_log_names_every_change_of_the_images_in_order():
    chosen = part_context(
        "strong",
        "mixed",
        "masked",
        fda_beta=0.01,
        fda_other_betas=(0.05,),
        augment=ColourOptions(colour=0.25, texture="tufl_source", strong="strong"),
        mix=MixOptions(colour="dacs_released"),
        long_tail=LongTailOptions(probability=0.5),
        masked=MaskOptions(block=16, ratio=0.6),
    )
    assert views.describe(views.preparation(chosen)) == (
        "colour(p=0.25), fda(beta=0.01 or 0.05), class mix(dacs_released), long tail(p=0.5), "
        "tufl_source, strong view(strong), masked view(daformer, 60% of 16 px)"
    )


@pytest.mark.parametrize(("seen", "options"), [((), {"fda_beta": 0.2}), (("mixed",), {})])
def test_where_source_and_target_meet_pixel_by_pixel_their_crops_are_equal(seen, options):
    chosen = dataclasses.replace(part_context(*seen, **options), source_size=(SIZE[0], 2 * SIZE[1]))
    with pytest.raises(ConfigError, match=r"needs crops of one size: benchmark\.source_crop is"):
        views.preparation(chosen)
    views.preparation(dataclasses.replace(part_context("target"), source_size=(96, 96)))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_texture_of_the_run_is_drawn_from_the_seed_of_the_run(seed):
    made = indexed()
    augment = ColourOptions(texture="tufl_source", draw="run")
    got, keys = prepared(part_context(augment=augment, seed=seed), made)
    recolour = colour.recolour("tufl_source", draw="run", seed=seed)
    image = recolour(made["source_image"], keys["texture"], made["source_index"])
    np.testing.assert_allclose(got["source_image"], normalise(image, name="tensorflow"), atol=1e-4)


@pytest.mark.parametrize("draw", ["image", "batch", "run"])
def test_every_view_is_recoloured_as_its_own_options_draw_and_the_seed_say(draw):
    """The four changes of colours differ, so that no part can take that of another."""
    made = indexed()
    chosen = part_context(
        "strong",
        "mixed",
        "masked",
        seed=4,
        augment=ColourOptions(texture="daformer", strong="tufl_strong", draw=draw),
        mix=MixOptions(colour="tufl_source"),
        masked=MaskOptions(block=8, colour="strong"),
    )
    numbers = made["source_index"], made["target_index"]
    parts = {
        name: (getattr(views, name)(chosen), jax.random.key(number))
        for number, name in enumerate(("texture", "class_mix", "strong_view", "masked_view"))
    }
    got = {}
    for part, key in parts.values():
        got |= part.apply(made, key, NOTHING)

    def painted(name, image, key, index):
        return colour.recolour(name, draw=draw, seed=4)(image, key, index)

    def check(view, expected):
        np.testing.assert_allclose(got[f"{view}_image"], expected, atol=1e-3, err_msg=view)

    source, target = made["source_image"], made["target_image"]
    check("source", painted("daformer", source, parts["texture"][1], numbers[0]))
    check("masked", painted("strong", target, parts["masked_view"][1], numbers[1]))
    paint, _ = jax.random.split(parts["strong_view"][1])
    check("strong", painted("tufl_strong", target, paint, numbers[1]))
    cut, paint = jax.random.split(parts["class_mix"][1])
    plain = mixing.half_of_source(
        made, cut, options=MixOptions(), names=chosen.names, axis_name=None
    )
    pasted = np.where(plain.mask[..., None], source, target)
    check("mixed", painted("tufl_source", pasted, paint, numbers[0]))
    weight = np.where(plain.mask, 1, made["teacher_weight"])
    np.testing.assert_allclose(got["mixed_weight"], weight, rtol=1e-6)
    label = np.where(plain.mask, made["source_label"], made["teacher_label"])
    np.testing.assert_array_equal(got["mixed_label"], label)


def test_what_no_option_and_no_term_asks_for_is_not_done():
    parts = views.preparation(part_context())
    assert len(parts) == 2  # bytes become floats, floats are normalised
    assert views.describe(parts) == "as they are"
    made = indexed()
    got, _ = prepared(part_context(), made)
    assert got.keys() == made.keys()


def test_the_defaults_are_those_of_a_plain_source():
    assert ViewOptions() == ViewOptions(
        normalisation="auto",
        fda_beta=None,
        fda_other_betas=(),
        fda_window="square",
        augment=ColourOptions(),
        mix=MixOptions(),
        affine=AffineOptions(),
        masked=MaskOptions(),
    )
    assert {f.name for f in dataclasses.fields(ViewOptions)} >= {"long_tail"}
