import jax
import numpy as np
import pytest

from rtda_jax.augment.normalise import NORMALISATIONS, check_normalisation, normalise
from rtda_jax.errors import ConfigError

RED, GREEN, BLUE = 200.0, 100.0, 50.0
EXPECTED = {
    "imagenet": [
        (RED / 255 - 0.485) / 0.229,
        (GREEN / 255 - 0.456) / 0.224,
        (BLUE / 255 - 0.406) / 0.225,
    ],
    "tensorflow": [(RED - 127) / 128, (GREEN - 127) / 128, (BLUE - 127) / 128],
    "caffe_bgr": [BLUE - 104.00698793, GREEN - 116.66876762, RED - 122.67891434],
    "cityscapes_bgr": [BLUE - 73.158, GREEN - 82.909, RED - 72.392],
    "cityscapes": [
        (RED / 255 - 0.3257) / 0.2112,
        (GREEN / 255 - 0.3690) / 0.2148,
        (BLUE / 255 - 0.3223) / 0.2115,
    ],
}


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_each_normalisation_by_hand(name):
    images = np.broadcast_to(np.array([RED, GREEN, BLUE], np.float32), (2, 3, 4, 3))
    normalised = jax.jit(lambda x: normalise(x, name=name))(images)
    expected = np.broadcast_to(EXPECTED[name], normalised.shape)
    np.testing.assert_allclose(normalised, expected, rtol=2e-5)
    assert normalised.dtype == np.float32


def test_bytes_are_normalised_as_floats():
    images = np.full((1, 2, 2, 3), 3, np.uint8)
    expected = normalise(images.astype(np.float32), name="caffe_bgr")
    np.testing.assert_array_equal(normalise(images, name="caffe_bgr"), expected)


def test_an_unknown_normalisation_is_named():
    message = r"unknown normalisation 'bgr'; known: caffe_bgr, cityscapes, cityscapes_bgr, "
    with pytest.raises(ConfigError, match=message):
        normalise(np.zeros((1, 1, 1, 3), np.float32), name="bgr")
    with pytest.raises(ConfigError, match=message):
        check_normalisation("bgr", required=None)


def test_weights_of_another_normalisation_are_refused():
    with pytest.raises(ConfigError, match=r"w.pth was trained with .*caffe_bgr.*says 'imagenet'"):
        check_normalisation("imagenet", required="caffe_bgr", path="w.pth")
    with pytest.raises(ConfigError, match="weights was trained"):
        check_normalisation("imagenet", required="caffe_bgr")
    check_normalisation("imagenet", required="imagenet")
    check_normalisation("imagenet", required=None)
