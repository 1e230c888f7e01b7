import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax.ops.rectify import leaky_relu, relu

FORMS = {0.0: relu, 0.01: lambda x: leaky_relu(x, 0.01), 0.2: lambda x: leaky_relu(x, 0.2)}


@pytest.mark.parametrize("slope", FORMS)
def test_value_and_gradient_are_pytorchs(slope):
    torch = pytest.importorskip("torch")
    x = np.array([-np.inf, -3, -1e-30, -0.0, 0, 1e-30, 2, np.inf, np.nan], np.float32)
    dy = np.arange(1, 10, dtype=np.float32)
    y, back = jax.vjp(FORMS[slope], jnp.asarray(x))
    given = torch.tensor(x, requires_grad=True)
    expected = torch.nn.functional.leaky_relu(given, slope) if slope else torch.relu(given)
    expected.backward(torch.tensor(dy))
    np.testing.assert_array_equal(y, expected.detach())
    np.testing.assert_array_equal(back(jnp.asarray(dy))[0][:-1], given.grad[:-1])
