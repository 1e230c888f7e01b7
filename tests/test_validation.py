import math

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import config, folder_fields, softmax, write_folders
from test_evaluate import images, models, probabilities

from rtda_jax import evaluate, experiment
from rtda_jax.augment.normalise import NORMALISATIONS, normalise
from rtda_jax.data.labels import class_set
from rtda_jax.errors import ConfigError, DataError
from rtda_jax.evaluate import Protocol
from rtda_jax.stages import KINDS, validation
from rtda_jax.stages.plan import make_plan


def random_softmax(seed, *shape):
    return softmax(3 * np.random.default_rng(seed).normal(size=shape))


@pytest.fixture(scope="module")
def streamed():
    """Three images of different sizes, image by image, and all their pixels as one matrix."""
    batches = [random_softmax(i, 4 + i, 7, 5) for i in range(3)]
    total = validation.statistics(jnp.float32(batches[0]))
    for one in batches[1:]:
        total = validation.add(total, validation.statistics(jnp.float32(one)))
    return total, np.concatenate([one.reshape(-1, 5) for one in batches])


def test_entropy_and_information_maximisation(streamed):
    total, p = streamed
    mean = p.mean(0)
    conditional = np.mean([-sum(v * math.log(v) for v in row) for row in p])
    marginal = -sum(v * math.log(v) for v in mean)
    assert total.pixels == len(p) == (4 + 5 + 6) * 7
    assert validation.entropy(total) == pytest.approx(conditional, rel=1e-5)
    assert validation.information_maximisation(total) == pytest.approx(
        marginal - conditional, rel=1e-4
    )


def test_nuclear_norm_is_the_one_of_the_whole_matrix(streamed):
    total, p = streamed
    expected = np.linalg.norm(p, "nuc") / math.sqrt(p.size)
    assert validation.nuclear_norm(total) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("p", "entropy", "information", "nuclear"),
    [
        (np.full((6, 3), 1 / 3), math.log(3), 0.0, 1 / 3),  # sure of nothing
        (np.eye(3)[[0] * 6], 0.0, 0.0, math.sqrt(1 / 3)),  # one class for everything
        (np.eye(3)[[0, 1, 2] * 2], 0.0, math.log(3), 1.0),  # sure and balanced
    ],
)
def test_the_corners(p, entropy, information, nuclear):
    s = validation.statistics(jnp.float32(p))
    assert validation.entropy(s) == pytest.approx(entropy, abs=1e-6)
    assert validation.information_maximisation(s) == pytest.approx(information, abs=1e-6)
    assert validation.nuclear_norm(s) == pytest.approx(nuclear, abs=1e-6)


@pytest.mark.parametrize("mode", ["whole", "slide"])
@pytest.mark.parametrize("count", [1, 2])
def test_evaluation_shows_its_softmax_and_decides_as_without(mode, count):
    fused, data = models(count), images(2, (6, 9))
    protocol = Protocol(mode=mode, window=(6, 6), stride=(4, 3))
    given = {"num_classes": 4, "protocol": protocol}
    seen = []
    observed = evaluate.evaluate(
        fused, data, on_softmax=lambda p: seen.append(np.asarray(p)), **given
    )
    np.testing.assert_array_equal(observed, evaluate.evaluate(fused, data, **given))
    for example, p in zip(data, seen, strict=True):
        expected = np.mean([probabilities(model, example["image"]) for model in fused], 0)
        np.testing.assert_allclose(p[0], expected, rtol=2e-5, atol=1e-6)


def test_predictions_that_are_not_finite_are_a_sentence():
    made = config("source_only")
    made.eval.validators = ("nuclear_norm",)
    observer = validation.make_observer(made.eval.validators)
    observer(jnp.full((1, 2, 3, 4), jnp.nan))
    with pytest.raises(DataError, match="not finite"):
        validation.report(made, [], observer, protocol=Protocol())


def test_unknown_validators_are_refused_before_training():
    made = config("source_only")
    made.eval.validators = ("entropy", "oracle")
    with pytest.raises(ConfigError, match=r"'oracle'; known: entropy, information"):
        make_plan(made.lock(), KINDS)


def test_an_evaluate_stage_writes_the_validators_it_is_asked_for(tmp_path):
    write_folders(tmp_path / "data", count=3)
    made = config("source_only", "folders", steps=1, eval__pictures=1)
    made.update_from_flattened_dict(folder_fields(tmp_path / "data"))
    made.benchmark.source_eval = dict(made.benchmark.source)
    made.eval.validator_images = 2
    found = experiment.run(made.lock(), tmp_path / "run")["stages"]["evaluate"]["validators"]
    assert list(found) == [
        "source_miou",
        "source_images",
        "entropy",
        "information_maximisation",
        "nuclear_norm",
        "masked_agreement",
    ]
    assert found["source_images"] == 2
    assert 0 < found["masked_agreement"] <= 1
    assert 0 <= found["source_miou"] <= 1
    assert 0 < found["entropy"] < math.log(19)
    with made.unlocked():
        made.eval.validators = ()
    assert validation.make_observer(made.eval.validators) is None
    assert validation.report(made, [], None, protocol=Protocol()) == {}
    made.eval.validators = ("source_miou",)
    made.benchmark.source_eval = None
    assert validation.report(made, [], None, protocol=Protocol()) == {"source_miou": None}


def chosen_examples(dataset, size, resize, order, threads):
    return [{**dataset[i], "index": i} for i in order]


@pytest.mark.parametrize("count", [1, 2])
def test_masked_agreement_is_the_iou_of_predictions_with_and_without_masks(count, monkeypatch):
    networks, data = models(count), images(3, (12, 20))
    made = config("source_only", "folders")
    made.benchmark.classes = "camvid11"
    made.eval.validators, made.eval.validator_images = ("masked_agreement",), 2
    monkeypatch.setattr(validation, "load", lambda *_, **__: data)
    monkeypatch.setattr(validation, "eval_stream", chosen_examples)
    scores = validation.report(made, networks, None, protocol=Protocol())

    def classes(image):
        return np.mean([probabilities(model, image) for model in networks], 0).argmax(-1)

    confusion, changed = np.zeros((11, 11)), 0
    for index, example in enumerate(data[:2]):
        # RGB, the mean of ImageNet; a quarter of 12 rows is the side of a block.
        hidden = validation.hide(example["image"], index=index, colour=np.array([124, 116, 104]))
        blocks = (hidden != example["image"]).any(-1).reshape(4, 3, -1)
        assert 0 < blocks.mean() < 1
        changed += blocks.sum()
        np.add.at(confusion, (classes(example["image"]), classes(hidden)), 1)
    both = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    assert changed > 0
    assert scores["masked_agreement"] == pytest.approx(
        (confusion.diagonal() / np.maximum(both, 1))[both > 0].mean()
    )


def test_masks_hide_half_of_an_image_in_blocks_of_a_quarter_and_depend_on_its_number():
    image = np.full((40, 60, 3), 200, np.uint8)
    masks = [
        (validation.hide(image, index=i, colour=np.zeros(3, np.uint8)) == 0).all(-1)
        for i in range(50)
    ]
    for mask in masks:
        blocks = mask.reshape(4, 10, 6, 10).swapaxes(1, 2).reshape(4, 6, -1)
        assert (blocks.all(-1) == blocks.any(-1)).all()
    assert abs(np.mean(masks) - 0.5) < 0.06
    assert len({mask.tobytes() for mask in masks}) == 50


@pytest.mark.parametrize("name", ["imagenet", "cityscapes_bgr", "tensorflow"])
def test_the_hidden_colour_is_what_a_normalisation_takes_to_zero(name):
    colour = validation.mean_colour(name)
    seen = normalise(jnp.float32(colour).reshape(1, 1, 1, 3), name=name)
    assert np.abs(np.asarray(seen)).max() < 0.51 / min(NORMALISATIONS[name].std)


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol(align="corners"),
        Protocol(mode="slide", window=(8, 8), stride=(6, 6), scales=(0.5, 1.0), mirror=True),
    ],
    ids=["corners", "slide"],
)
def test_the_source_is_scored_over_the_reported_classes_by_the_protocol_of_the_target(
    protocol, tmp_path, monkeypatch
):
    write_folders(tmp_path, count=4)
    made = config("source_only", "folders")
    made.update_from_flattened_dict(folder_fields(tmp_path))
    made.benchmark.source_eval = dict(made.benchmark.source)
    made.benchmark.eval_classes = "crosscity13"  # a true subset that is not the first 13
    made.eval.validators, made.eval.validator_images = ("source_miou",), 3
    confusion = np.random.default_rng(3).integers(1, 1000, (19, 19))
    given, beats = {}, []

    def measured(models, examples, *, num_classes, on_prediction, **options):
        given.update(options, models=models, num_classes=num_classes)
        for index, example in enumerate(examples):
            on_prediction(index, example, example["label"])
        return confusion

    monkeypatch.setattr(evaluate, "evaluate", measured)
    scores = validation.report(
        made, ["network"], None, protocol=protocol, heartbeat=lambda: beats.append(None)
    )
    assert given == {"protocol": protocol, "models": ["network"], "num_classes": 19}
    names = class_set("cityscapes19").names
    rows = [names.index(name) for name in class_set("crosscity13").names]
    assert len(rows) == 13 and rows != list(range(13))
    iou = [
        confusion[k, k] / (confusion[k].sum() + confusion[:, k].sum() - confusion[k, k])
        for k in rows
    ]
    assert scores == {"source_miou": pytest.approx(np.mean(iou)), "source_images": 3}
    assert len(beats) == 3
