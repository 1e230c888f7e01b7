import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.ops.activations import argmax, leaky_relu, relu, relu6

FORMS = {0.0: relu, 0.01: lambda x: leaky_relu(x, 0.01), 0.2: lambda x: leaky_relu(x, 0.2)}


@pytest.mark.parametrize("slope", FORMS)
def test_rectifiers_and_their_gradients_are_pytorchs(slope):
    torch = pytest.importorskip("torch")
    x = np.array([-np.inf, -3, -1e-30, -0.0, 0, 1e-30, 2, np.inf, np.nan], np.float32)
    dy = np.arange(1, 10, dtype=np.float32)
    y, back = jax.vjp(FORMS[slope], jnp.asarray(x))
    given = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.leaky_relu(given, slope) if slope else torch.relu(given)
    expected.backward(torch.tensor(dy))
    np.testing.assert_array_equal(y, expected.detach())
    np.testing.assert_array_equal(back(jnp.asarray(dy))[0][:-1], given.grad[:-1])


def test_relu6_and_its_gradient_are_pytorchs():
    torch = pytest.importorskip("torch")
    below, above = np.nextafter(np.float32(6), [np.float32(0), np.float32(9)])
    x = np.array([-np.inf, -3, -1e-30, 0, 1e-30, 2, below, 6, above, 9, np.inf], np.float32)
    dy = np.arange(1, 12, dtype=np.float32)
    y, back = jax.vjp(relu6, jnp.asarray(x))
    given = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.relu6(given)
    expected.backward(torch.tensor(dy))
    np.testing.assert_array_equal(y, expected.detach())
    np.testing.assert_array_equal(back(jnp.asarray(dy))[0], given.grad)


@pytest.mark.parametrize("classes", [1, 2, 19, 256])
def test_the_first_largest_score(classes):
    rng = np.random.default_rng(classes)
    scores = rng.integers(-3, 3, (2, 5, 7, classes)).astype(np.float32)  # with many ties
    scores[0] += rng.normal(size=scores[0].shape)
    classes_of_pixels = jax.jit(argmax)(jnp.asarray(scores))
    assert classes_of_pixels.dtype == np.uint8
    np.testing.assert_array_equal(classes_of_pixels, scores.argmax(-1))


def test_more_classes_than_a_byte_are_refused():
    with pytest.raises(ValueError, match="1 to 256 classes"):
        argmax(jnp.zeros((1, 2, 2, 257)))
