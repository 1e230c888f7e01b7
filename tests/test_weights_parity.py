"""Every network equals its PyTorch statement: outputs, statistics and gradients."""

import copy

import jax
import numpy as np
import pytest

from rtda_jax.models import create_model
from rtda_jax.weights import load_pretrained, torch_arrays

torch = pytest.importorskip("torch")

import torch_originals  # noqa: E402

from benchmarks import torch_twins  # noqa: E402

K = 7
REFERENCES = {
    "bisenet_resnet18": lambda: torch_originals.BiSeNet(K, depth=18, stages=(3, 4)),
    "bisenet_resnet101": lambda: torch_originals.BiSeNet(K, depth=101, stages=(3, 4)),
    "bisenet_mpg_resnet18": lambda: torch_originals.BiSeNet(K, depth=18, stages=(1, 2, 3, 4)),
    "bisenet_mpg_resnet101": lambda: torch_originals.BiSeNet(K, depth=101, stages=(1, 2, 3, 4)),
    "bisenet_stdc1": lambda: torch_originals.BiSeNetV1(K, kind="stdc1", detail=True),
    "bisenet_stdc2": lambda: torch_originals.BiSeNetV1(K, kind="stdc2"),
    "bisenet_tufl": lambda: torch_originals.BiSeNetV1(K, kind="tufl"),
    "bisenet_coincheung": lambda: torch_originals.BiSeNetV1(K, kind="coincheung"),
    "bisenet_lite0": lambda: torch_twins.BiSeNetLite(K, variant="lite0"),
    "bisenet_lite1": lambda: torch_twins.BiSeNetLite(K, variant="lite1"),
    "bisenet_lite2": lambda: torch_twins.BiSeNetLite(K, variant="lite2"),
    "deeplab_resnet101": lambda: torch_originals.DeepLab(K, heads=1),
    "deeplab_resnet101_multi": lambda: torch_originals.first_two(
        torch_originals.DeepLab(K, heads=2)
    ),
    "deeplab_vgg16": lambda: torch_originals.first_two(torch_originals.DeepLabVGG(K)),
}
OPTIONS = {
    "bisenet_stdc1": {"detail_head": True},
    "deeplab_resnet101_multi": {"aspp": "first_two"},
    "deeplab_vgg16": {"aspp": "first_two"},
}
NAMINGS = {"bisenet_tufl": "tufl"}  # the reference has plain batch normalisation
# Its 48 normalisations amplify rounding where every activation sits on one side of its kinks.
KINKED = ("bisenet_lite0", "bisenet_lite1", "bisenet_lite2")
FAST = ("bisenet_resnet18", "bisenet_lite0")


def cases():
    slow = pytest.mark.slow
    return [pytest.param(n, marks=() if n in FAST else slow, id=n) for n in REFERENCES]


def images(seed, size, batch=4):
    return np.random.default_rng(seed).normal(size=(batch, *size, 3)).astype(np.float32)


def to_torch(x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def from_torch(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


def squares(outputs, weights):
    """A scalar of all the logits, for its gradient."""
    return sum((((v * weights[k]) ** 2).mean()) for k, v in outputs.items() if k != "feature")


def trained(reference, x, dtype):
    """Outputs, weights of the scalar, its gradients and the new statistics, all in float64."""
    copied = copy.deepcopy(reference).to(dtype).train()
    outputs = copied(to_torch(x).to(dtype))
    weights = {k: images(i, v.shape[2:])[..., :1] for i, (k, v) in enumerate(outputs.items())}
    squares(outputs, {k: to_torch(v).to(dtype) for k, v in weights.items()}).backward()
    gradients = {
        k: np.zeros(p.shape) if p.grad is None else p.grad.double().numpy()
        for k, p in copied.named_parameters()
    }
    state = {k: v.double().numpy() for k, v in copied.state_dict().items()}
    return {k: from_torch(v.double()) for k, v in outputs.items()}, weights, gradients, state


def same(ours, exact, rounded):
    """Within 1e-4 of the exact values, beyond what PyTorch loses itself in single precision."""
    assert set(ours) == set(exact)
    for key, value in exact.items():
        allowed = 1e-4 * max(1, np.abs(value).max()) + 2 * np.abs(rounded[key] - value).max()
        assert np.abs(ours[key] - value).max() <= allowed, key


@pytest.mark.parametrize("name", cases())
def test_equals_pytorch(name, tmp_path):
    size = (67, 97)
    reference = REFERENCES[name]()
    model = create_model(name, K, **OPTIONS.get(name, {}))
    x = images(2, size)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=True))
    initial = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
    evaluate = jax.jit(model.apply)

    @jax.jit
    def train(variables, weights):
        def loss(params):
            tree = {**variables, "params": params}
            out, new = model.apply(tree, x, train=True, mutable=["batch_stats"])
            return squares(out, weights), (out, new)

        (_, aux), gradients = jax.value_and_grad(loss, has_aux=True)(variables["params"])
        return *aux, gradients

    for kinks in (True,) if name in KINKED else (True, False):
        torch_originals.randomise(reference, to_torch(images(0, size)), seed=1, kinks=kinks)
        path = tmp_path / f"weights{kinks}.pth"
        torch.save({"state_dict": reference.state_dict()}, path)
        naming = NAMINGS.get(name)
        variables, report = load_pretrained(path, name, initial, part="all", naming=naming)
        assert report.missing == ()

        with torch.no_grad():
            expected = {k: from_torch(v) for k, v in reference.eval()(to_torch(x)).items()}
        same(evaluate(variables, x), expected, expected)
        exact, weights, exact_gradients, exact_state = trained(reference, x, torch.float64)
        rounded, _, rounded_gradients, rounded_state = trained(reference, x, torch.float32)
        outputs, new, gradients = train(variables, weights)
        same(outputs, exact, rounded)
        statistics = torch_arrays(new, name)
        keys = statistics.keys()
        same(statistics, {k: exact_state[k] for k in keys}, {k: rounded_state[k] for k in keys})

    scale = max(np.linalg.norm(v) for v in exact_gradients.values())
    for key, value in torch_arrays({"params": gradients}, name).items():
        want = exact_gradients[key]
        allowed = 1e-3 * np.linalg.norm(want) + 1e-7 * scale
        allowed += 4 * np.linalg.norm(rounded_gradients[key] - want)
        assert np.linalg.norm(value - want) <= allowed, key
