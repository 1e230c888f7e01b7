"""The released optimizers of DeepLab against PyTorch, and against a transcription of its old step.

`get_1x_lr_params_NOscale` yields the parameters of every module of the trunk, so that a parameter
stands in the optimizer once for every module around it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rtda_jax.adapt import optim
from rtda_jax.adapt.optim import OptimOptions
from rtda_jax.errors import ConfigError
from rtda_jax.models import create_model

STEPS = 5
RATES = [0.1 * (1 - t / STEPS) ** 0.9 for t in range(STEPS)]


def residual_network(torch):
    """Returns a network whose modules are nested as those of AdaptSegNet's ResNet."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, shortcut):
            super().__init__()
            self.conv1 = nn.Conv2d(2, 2, 3, bias=False)
            self.downsample = shortcut

    shortcut = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False))
    network = nn.Module()
    network.conv1 = nn.Conv2d(3, 2, 7, bias=False)
    network.layer1 = nn.Sequential(Block(shortcut), Block(None))
    network.layer6 = nn.Conv2d(2, 4, 3)
    return network


def listed(network):
    """Returns the trunk's parameters as the originals list them."""
    return [
        parameter
        for child in (network.conv1, network.layer1)
        for module in child.modules()
        for parameter in module.parameters()
    ]


PATHS = {
    "conv1.weight": ("backbone", "conv1", "kernel"),
    "layer1.0.conv1.weight": ("backbone", "layer1_0", "conv1", "kernel"),
    "layer1.0.downsample.0.weight": ("backbone", "layer1_0", "downsample_conv", "kernel"),
    "layer1.1.conv1.weight": ("backbone", "layer1_1", "conv1", "kernel"),
    "layer6.weight": ("classifier", "dilation6", "kernel"),
    "layer6.bias": ("classifier", "dilation6", "bias"),
}


def nested(values):
    """Returns values by PyTorch name as the tree of our names."""
    tree = {}
    for name, value in values.items():
        *parents, leaf = PATHS[name]
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = jnp.asarray(value)
    return tree


def flat(tree):
    """Returns the tree of our names as values by PyTorch name."""
    leaves = {
        tuple(key.key for key in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
    return {name: leaves[path] for name, path in PATHS.items()}


def ours(start, gradients, *, repeats):
    options = OptimOptions(g_decay=0.05, g_groups="heads", g_factor=10.0, g_repeats=repeats)
    network = create_model("deeplab_resnet101", num_classes=4)
    schedule = optim.decay(0.1, OptimOptions(), steps=STEPS)
    transform = optim.generator_optimizer(options, network, schedule)
    params = nested(start)
    state = transform.init(params)
    for gradient in gradients:
        updates, state = jax.jit(transform.update)(nested(gradient), state, params)
        params = optax.apply_updates(params, updates)
    return flat(params)


@pytest.fixture
def problem():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    network = residual_network(torch)
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    start, *gradients = (
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        for _ in range(1 + STEPS)
    )
    return torch, network, start, gradients


def test_released_is_pytorch_with_every_parameter_as_often_as_it_is_listed(problem):
    torch, network, start, gradients = problem
    network.load_state_dict({name: torch.tensor(value) for name, value in start.items()})
    heads = list(network.layer6.parameters())
    with pytest.warns(UserWarning, match="duplicate parameters"):
        theirs = torch.optim.SGD(
            [{"params": listed(network)}, {"params": heads}],
            lr=0.1,
            momentum=0.9,
            weight_decay=0.05,
            foreach=False,
        )
    for parameter in network.parameters():  # as PyTorch before 1.9 finds it in the first step
        theirs.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    for rate, gradient in zip(RATES, gradients, strict=True):
        theirs.param_groups[0]["lr"], theirs.param_groups[1]["lr"] = rate, 10 * rate
        for name, parameter in network.named_parameters():
            parameter.grad = torch.tensor(gradient[name])
        theirs.step()
    moved = ours(start, gradients, repeats="released")
    once = ours(start, gradients, repeats="none")
    for name, parameter in network.named_parameters():
        expected = parameter.detach().numpy()
        np.testing.assert_allclose(moved[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)
        repeated = name.startswith("layer1")
        assert np.allclose(once[name], expected, rtol=1e-2, atol=1e-2) != repeated, name


def test_released_04_adds_the_decay_to_the_gradient_that_the_next_update_reads(problem):
    _, network, start, gradients = problem
    params = {name: value.copy() for name, value in start.items()}
    names = {id(p): name for name, p in network.named_parameters()}
    trunk = [names[id(p)] for p in listed(network)]
    buffers = {name: np.zeros_like(value) for name, value in params.items()}
    for rate, step in zip(RATES, gradients, strict=True):
        grad = {name: value.copy() for name, value in step.items()}
        for factor, group in ((1, trunk), (10, ["layer6.weight", "layer6.bias"])):
            for name in group:
                grad[name] += 0.05 * params[name]
                buffers[name] = 0.9 * buffers[name] + grad[name]
                params[name] = params[name] - factor * rate * buffers[name]
    moved = ours(start, gradients, repeats="released_04")
    plain = ours(start, gradients, repeats="released")
    for name, expected in params.items():
        np.testing.assert_allclose(moved[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)
    assert not np.allclose(plain["layer1.0.conv1.weight"], params["layer1.0.conv1.weight"])


def test_visits_of_the_whole_network():
    network = create_model("deeplab_resnet101_multi", num_classes=19)
    shapes = jax.eval_shape(
        lambda key: network.init(key, jnp.zeros((1, 64, 64, 3)), train=True), jax.random.key(0)
    )
    counts = {1: 0, 3: 0, 4: 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes["params"]):
        names = tuple(key.key for key in path)
        if names[0] == "backbone" and leaf.ndim == 4:
            counts[optim.visits(names)] += 1
    # conv1; 3 convolutions in each of 33 blocks; the shortcuts of the four layers
    assert counts == {1: 1, 3: 99, 4: 4}


@pytest.mark.parametrize(
    "changed", [{"g_optimizer": "adamw"}, {"g_groups": "all"}, {"g_decayed": "kernels"}]
)
def test_repeats_are_those_of_the_released_sgd(changed):
    with pytest.raises(ConfigError, match=r"optim\.g_repeats='released'"):
        OptimOptions(g_repeats="released", **changed)


def test_repeats_of_another_network_are_refused():
    options = OptimOptions(g_repeats="released")
    network = create_model("bisenet_resnet18", num_classes=4)
    with pytest.raises(ConfigError, match="other networks"):
        optim.generator_optimizer(options, network, optim.decay(0.1, OptimOptions(), steps=5))
