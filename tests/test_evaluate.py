import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import Pixelwise, softmax

from rtda_jax import evaluate
from rtda_jax.augment.normalise import normalise
from rtda_jax.errors import ConfigError
from rtda_jax.evaluate import Protocol
from rtda_jax.models import create_model
from rtda_jax.ops.resize import upsample


def models(count):
    """Networks of different weights that read differently normalised images."""
    made = []
    for seed in range(count):
        module = Pixelwise(classes=4)
        variables = module.init(jax.random.key(seed), jnp.zeros((1, 2, 2, 3)))
        made.append(evaluate.Model(module, variables, ("imagenet", "tensorflow")[seed]))
    return made


def images(count, size, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, (count, *size)).astype(np.uint8)
    labels[:, :1] = 255
    pixels = rng.integers(0, 256, (count, *size, 3), np.uint8)
    return [{"image": i, "label": y} for i, y in zip(pixels, labels, strict=True)]


def probabilities(model, image):
    x = np.asarray(normalise(jnp.float32(image)[None], name=model.normalisation))
    dense = model.variables["params"]["dense"]
    z = x @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
    return softmax(z)[0]


@pytest.mark.parametrize("mode", ["whole", "slide"])
@pytest.mark.parametrize("count", [1, 2])
def test_fusion_is_the_mean_softmax_over_one_confusion_matrix(mode, count):
    fused, data = models(count), images(3, (10, 13))
    seen = []
    confusion = evaluate.evaluate(
        fused,
        data,
        num_classes=4,
        protocol=Protocol(mode=mode, window=(6, 6), stride=(4, 5)),
        on_prediction=lambda index, example, prediction: seen.append(index),
    )
    expected = np.zeros((4, 4), np.int64)
    for example in data:
        mean = np.mean([probabilities(model, example["image"]) for model in fused], 0)
        for truth, guess in zip(example["label"].ravel(), mean.argmax(-1).ravel(), strict=True):
            if truth != 255:
                expected[truth, guess] += 1
    np.testing.assert_array_equal(confusion, expected)
    assert seen == [0, 1, 2]


def test_images_without_labels_are_predicted_at_their_size_and_not_counted():
    data = [{"image": example["image"]} for example in images(2, (10, 13))]
    shapes = []
    confusion = evaluate.evaluate(
        models(1),
        data,
        num_classes=4,
        on_prediction=lambda index, example, prediction: shapes.append(prediction.shape),
    )
    assert not confusion.any()
    assert shapes == [(10, 13)] * 2


def test_prediction_is_made_at_the_labels_resolution():
    predict = evaluate.predictor(models(1))
    image = images(1, (8, 12))[0]["image"]
    assert predict(image, size=(24, 37)).shape == (24, 37)


@pytest.mark.parametrize("mode", ["whole", "slide"])
@pytest.mark.parametrize("align", ["half_pixel", "corners"])
def test_scores_are_enlarged_as_the_protocol_says(mode, align):
    (model,), (data,) = models(1), images(1, (8, 12))
    protocol = Protocol(mode=mode, align=align, window=(8, 12), stride=(8, 12))
    predict = evaluate.predictor([model], protocol=protocol)
    x = normalise(jnp.float32(data["image"])[None], name="imagenet")
    z = model.module.apply(model.variables, x)["logits"]
    scores = z if mode == "whole" else jax.nn.softmax(z)
    expected = upsample(scores, size=(31, 47), align=align).argmax(-1)[0]
    np.testing.assert_array_equal(predict(data["image"], size=(31, 47)), expected)


def test_bad_protocols_are_refused():
    for field in ({"scales": (0.5, 1.0)}, {"mirror": True}):
        with pytest.raises(ValueError, match=r"are read by eval\.mode='slide' only"):
            Protocol(**field)
    with pytest.raises(ValueError, match=r"unknown eval\.align 'edges'; known: corners, half"):
        Protocol(align="edges")
    with pytest.raises(ValueError, match="known: slide, whole"):
        Protocol(mode="tiles")
    with pytest.raises(ValueError, match=r"needs eval\.window"):
        Protocol(mode="slide")
    with pytest.raises(ValueError, match="leave pixels unseen"):
        Protocol(mode="slide", window=(4, 4), stride=(5, 4))
    with pytest.raises(ValueError, match="scales must be above 0"):
        Protocol(mode="slide", window=(4, 4), stride=(4, 4), scales=(0.0,))
    slide = {"mode": "slide", "window": (4, 6), "stride": (4, 6)}
    Protocol(**slide)  # windows that meet leave no pixel unseen
    for fields, message in (
        ({"scales": ()}, r"scales must be above 0, got \(\)"),
        ({"scales": (1.0, float("inf"))}, "scales must be above 0"),
        ({"stride": (4, 7)}, "leave pixels unseen"),
        ({"stride": (0, 6)}, r"eval\.stride must be \(height, width\) in pixels, got \(0, 6\)"),
        ({"window": (4,)}, r"eval\.window must be \(height, width\) in pixels, got \(4,\)"),
        ({"output": "coarse"}, r"eval\.output='coarse' and eval\.fusion='logits' are read by"),
        ({"fusion": "logits"}, r"eval\.output='coarse' and eval\.fusion='logits' are read by"),
        ({"stride": None}, r"needs eval\.window and eval\.stride"),
    ):
        with pytest.raises(ConfigError, match=message):
            Protocol(**{**slide, **fields})
    with pytest.raises(ConfigError, match=r"eval\.output 'aux16'; known: coarse, logits"):
        Protocol(output="aux16")
    with pytest.raises(ConfigError, match=r"eval\.fusion 'vote'; known: logits, softmax"):
        Protocol(fusion="vote")
    with pytest.raises(ConfigError, match=r"eval\.absent 'one'; known: left_out, zero"):
        Protocol(absent="one")


def test_an_image_smaller_than_the_stride_says_the_smallest():
    module = create_model("bisenet_resnet18", 4)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))
    variables = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    predict = evaluate.predictor([evaluate.Model(module, variables, "imagenet")])
    with pytest.raises(ConfigError, match="the smallest image is 32x32, got 31x64"):
        predict(images(1, (31, 64))[0]["image"], size=(31, 64))
