import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.ops.argmax import argmax


@pytest.mark.parametrize("classes", [1, 2, 19, 256])
def test_the_first_largest_score(classes):
    rng = np.random.default_rng(classes)
    scores = rng.integers(-3, 3, (2, 5, 7, classes)).astype(np.float32)  # with many ties
    scores[0] += rng.normal(size=scores[0].shape)
    found = jax.jit(argmax)(jnp.asarray(scores))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, scores.argmax(-1))


def test_more_classes_than_a_byte_are_refused():
    with pytest.raises(ValueError, match="1 to 256 classes"):
        argmax(jnp.zeros((1, 2, 2, 257)))
