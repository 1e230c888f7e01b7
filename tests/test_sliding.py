import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax import evaluate
from rtda_jax.augment.normalise import normalise
from rtda_jax.evaluate import Protocol


@pytest.mark.parametrize(
    ("length", "window", "stride", "expected"),
    [(10, 10, 3, [0]), (10, 4, 3, [0, 3, 6]), (11, 4, 3, [0, 3, 6, 7])],
)
def test_windows_cover_the_side(length, window, stride, expected):
    assert evaluate.starts(length, window, stride) == expected


def test_a_window_larger_than_the_side_is_refused():
    with pytest.raises(ValueError, match="larger than the image"):
        evaluate.starts(5, 6, 1)


class Local(nn.Module):
    """Logits that depend on the neighbours and on the place in the window."""

    @nn.compact
    def __call__(self, images, *, train=False):
        logits = nn.Conv(3, (3, 3), padding=1, name="conv")(images)
        ramp = jnp.linspace(0, 1, images.shape[2]).reshape(1, 1, -1, 1)
        return {"logits": logits + ramp * jnp.array([1.0, 0.0, -1.0]).reshape(1, 1, 1, 3)}


def network():
    return Local(), Local().init(jax.random.key(0), jnp.zeros((1, 5, 5, 3)))


def numpy_resize(image, size):
    """Bilinear, corners on corners, pixel by pixel."""
    out = np.zeros((*size, image.shape[-1]))
    last = image.shape[0] - 1, image.shape[1] - 1
    for i in range(size[0]):
        for j in range(size[1]):
            y, x = i * last[0] / (size[0] - 1), j * last[1] / (size[1] - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, last[0]), min(left + 1, last[1])
            upper = image[top, left] * (1 - x + left) + image[top, right] * (x - left)
            lower = image[bottom, left] * (1 - x + left) + image[bottom, right] * (x - left)
            out[i, j] = upper * (1 - y + top) + lower * (y - top)
    return out


def numpy_evaluation(image, size, *, window, stride, scales, mirror):
    """Returns what the evaluator of TUFL's authors computes for one normalised image [h,w,3]."""
    module, variables = network()

    def softmax(chip):
        z = np.asarray(module.apply(variables, jnp.float32(chip)[None])["logits"])[0]
        e = np.exp(z - z.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    total = np.zeros((*size, 3))
    for scale in scales:
        height, width = int(image.shape[0] * scale), int(image.shape[1] * scale)
        scaled = numpy_resize(image, (height, width))
        full = max(height, window[0]), max(width, window[1])
        top, left = (full[0] - height) // 2, (full[1] - width) // 2
        canvas = np.zeros((*full, 3))
        canvas[top : top + height, left : left + width] = scaled
        summed = np.zeros((*full, 3))
        for iy in range(int(np.ceil((full[0] - window[0]) / stride[0])) + 1):
            for ix in range(int(np.ceil((full[1] - window[1]) / stride[1])) + 1):
                bottom = min(full[0], stride[0] * iy + window[0])
                right = min(full[1], stride[1] * ix + window[1])
                rows = slice(bottom - window[0], bottom)
                columns = slice(right - window[1], right)
                summed[rows, columns] += softmax(canvas[rows, columns])
                if mirror:
                    summed[rows, columns] += softmax(canvas[rows, columns][:, ::-1])[:, ::-1]
        total += numpy_resize(summed[top : top + height, left : left + width], size)
    return total


SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@pytest.mark.parametrize(
    ("shape", "size", "window", "stride", "scales", "mirror"),
    [
        ((11, 17), (11, 17), (9, 9), (8, 8), (1.0,), False),
        ((11, 17), (11, 17), (9, 9), (8, 8), SCALES, True),
        ((7, 13), (10, 19), (12, 12), (10, 10), (0.5, 1.0, 1.75), True),
    ],
)
def test_against_a_slow_statement_on_odd_sizes(shape, size, window, stride, scales, mirror):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
    image = np.asarray(normalise(jnp.float32(pixels)[None], name="imagenet"))
    options = {"window": window, "stride": stride, "scales": scales, "mirror": mirror}
    expected = numpy_evaluation(np.float64(image[0]), size, **options)
    module, variables = network()
    protocol = Protocol(mode="slide", align="corners", **options)
    got = evaluate.slide(
        lambda chip: jax.nn.softmax(module.apply(variables, chip)["logits"]),
        jnp.asarray(image),
        size=size,
        protocol=protocol,
    )
    np.testing.assert_allclose(got[0], expected, atol=2e-4)
    model = evaluate.Model(module, variables, "imagenet")
    predict = evaluate.predictor([model], protocol=protocol)
    agree = np.asarray(predict(pixels, size=size)) == expected.argmax(-1)
    assert agree.mean() > 0.98
