"""What released code computes and papers do not say, against PyTorch and NumPy transcriptions."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rtda_jax import evaluate, losses, metrics
from rtda_jax.adapt import terms
from rtda_jax.adapt.terms import TermContext
from rtda_jax.errors import ConfigError
from rtda_jax.evaluate import Protocol
from rtda_jax.models import create_model
from rtda_jax.stages import pseudo_label

torch = pytest.importorskip("torch")
functional = torch.nn.functional

CLASSES, SIZE, COARSE = 19, (32, 48), (5, 7)


class Coarse(nn.Module):
    """The outputs of a DeepLab without its trunk: fixed logits at 1/8, and their resize."""

    seed: int

    def logits(self):
        rng = np.random.default_rng(self.seed)
        return (4 * rng.normal(size=(1, *COARSE, CLASSES))).astype(np.float32)

    @nn.compact
    def __call__(self, images, *, train=False):
        nn.Dense(1)(images)
        fine = resized(torch_map(self.logits()), SIZE)
        return {"logits": jnp.asarray(channels_last(fine)), "coarse": jnp.asarray(self.logits())}


def torch_map(logits):
    return torch.tensor(logits).permute(0, 3, 1, 2).contiguous()


def channels_last(x):
    return x.permute(0, 2, 3, 1).detach().numpy()


def resized(x, size):
    return functional.interpolate(x, size, mode="bilinear", align_corners=True)


@pytest.fixture
def networks():
    image = jnp.zeros((1, *SIZE, 3))
    modules = [Coarse(seed) for seed in range(3)]
    variables = [module.init(jax.random.key(0), image) for module in modules]
    return [evaluate.Model(m, v, "imagenet") for m, v in zip(modules, variables, strict=True)]


def classes_of(networks, protocol, size):
    predict = evaluate.predictor(networks, protocol=protocol)
    return np.asarray(predict(np.zeros((*SIZE, 3), np.uint8), size=size))


def test_deeplab_returns_the_map_that_its_logits_are_resized_from():
    for name in ("deeplab_resnet101", "deeplab_vgg16"):
        network = create_model(name, num_classes=4)
        images = jnp.zeros((1, 33, 41, 3))
        shapes = jax.eval_shape(
            lambda key, n=network, x=images: n.init_with_output(key, x)[0], jax.random.key(0)
        )
        assert shapes["logits"].shape == (1, 33, 41, 4)
        assert shapes["coarse"].shape == (1, *shapes["feature"].shape[1:3], 4)


def test_the_entropy_of_fda_is_that_of_the_coarse_map(networks):
    coarse = torch_map(networks[0].module.logits())
    p, log_p = functional.softmax(coarse, dim=1), functional.log_softmax(coarse, dim=1)
    entropy = -(p * log_p).sum(dim=1) / np.log(CLASSES)
    expected = float(((entropy**2.0 + 1e-8) ** 2.0).mean())
    outputs = {"target": networks[0].module.apply(networks[0].variables, jnp.zeros((1, *SIZE, 3)))}
    values = {}
    for name in ("robust_entropy", "robust_entropy_coarse"):
        term = terms.TERMS[name](TermContext(losses.cross_entropy))
        total, count = term.evaluate(outputs, {})
        values[name] = float(total / count)
    assert values["robust_entropy_coarse"] == pytest.approx(expected, rel=1e-5)
    assert values["robust_entropy"] != pytest.approx(expected, rel=1e-2)


def test_multi_band_transfer_averages_softmax_before_the_resize(networks):
    size = (64, 96)
    mean = torch.stack([functional.softmax(torch_map(n.module.logits()), dim=1) for n in networks])
    expected = resized(mean.mean(0), size).argmax(dim=1)[0].numpy()
    ours = classes_of(networks, Protocol(align="corners", output="coarse"), size)
    np.testing.assert_array_equal(ours, expected)
    fine = classes_of(networks, Protocol(align="corners"), size)
    assert (fine != expected).mean() > 0.01


def test_the_ensemble_of_advent_averages_logits(networks):
    size = (64, 96)
    mean = torch.stack([resized(torch_map(n.module.logits()), size) for n in networks]).mean(0)
    expected = mean.argmax(dim=1)[0].numpy()
    protocol = Protocol(align="corners", output="coarse", fusion="logits")
    ours = classes_of(networks, protocol, size)
    np.testing.assert_array_equal(ours, expected)
    softmax = classes_of(networks, Protocol(align="corners", output="coarse"), size)
    assert (softmax != expected).mean() > 0.01


def test_observers_see_probabilities_whatever_is_fused(networks):
    for protocol in (Protocol(output="coarse", fusion="logits"), Protocol(output="coarse")):
        seen = []
        predict = evaluate.predictor(networks, protocol=protocol, on_softmax=seen.append)
        predict(np.zeros((*SIZE, 3), np.uint8), size=SIZE)
        np.testing.assert_allclose(np.asarray(seen[0]).sum(-1), 1.0, rtol=1e-5)


def test_a_network_without_a_coarse_map_is_refused():
    network = create_model("bisenet_resnet18", num_classes=4)
    image = jnp.zeros((1, 64, 64, 3))
    variables = network.init(jax.random.key(0), image)
    model = evaluate.Model(network, variables, "imagenet")
    with pytest.raises(ConfigError, match=r"eval\.output of BiSeNet"):
        evaluate.class_scores([model], [variables], image, protocol=Protocol(output="coarse"))


def test_windows_average_softmax_at_the_images_size_only():
    slide = {"mode": "slide", "window": (8, 8), "stride": (4, 4)}
    with pytest.raises(ConfigError, match="mode='whole' only"):
        Protocol(**slide, fusion="logits")
    with pytest.raises(ConfigError, match="mode='whole' only"):
        Protocol(**slide, output="coarse")


def test_pseudo_labels_of_coarse_maps_are_the_resized_mean_softmax(networks):
    mean = torch.stack([functional.softmax(torch_map(n.module.logits()), dim=1) for n in networks])
    fused = resized(mean.mean(0), SIZE)[0]

    class Always(Coarse):
        auxiliary: str = "training"

    models = [m._replace(module=Always(m.module.seed)) for m in networks]
    predict = pseudo_label.predictor(models, heads=("coarse",), fusion="mean")
    labels, confidence = predict(np.zeros((*SIZE, 3), np.uint8))
    np.testing.assert_array_equal(np.asarray(labels), fused.argmax(0).numpy())
    np.testing.assert_allclose(np.asarray(confidence), fused.max(0).values.numpy(), rtol=1e-5)


def test_the_mean_of_tavera_counts_an_absent_class_as_zero():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 1000, (5, 5))
    counts[3], counts[:, 3] = 0, 0
    hits = np.diag(counts)
    expected = (hits / (counts.sum(1) + counts.sum(0) - hits + 1e-5)).mean()
    assert metrics.mean_iou(counts, absent="zero") == pytest.approx(expected, abs=1e-8)
    assert metrics.mean_iou(counts) == pytest.approx(expected * 5 / 4, abs=1e-8)
    report = evaluate.report(counts, names="abcde", rows=range(5), absent="zero")
    assert report["miou"] == pytest.approx(expected, abs=1e-8)
    assert report["iou"]["d"] is None


def detail_aggregation(logits, labels):
    """Returns STDC-Seg's binary cross-entropy and Dice loss, step by step."""
    kernel = torch.full((1, 1, 3, 3), -1.0)
    kernel[0, 0, 1, 1] = 8
    full, pyramid = labels.shape[1:], []
    for stride in (1, 2, 4):
        edges = functional.conv2d(labels[:, None].float(), kernel, stride=stride, padding=1)
        edges = functional.interpolate(edges.clamp(min=0), full, mode="nearest")
        pyramid.append((edges > 0.1).float())
    fuse = torch.tensor([0.6, 0.3, 0.1]).reshape(1, 3, 1, 1)
    target = (functional.conv2d(torch.cat(pyramid, 1), fuse) > 0.1).float()
    bce = functional.binary_cross_entropy_with_logits(logits, target)
    p, t = torch.sigmoid(logits).flatten(1), target.flatten(1)
    dice = 1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
    return bce + dice.mean(), target[:, 0]


@pytest.mark.parametrize("size", [(32, 64), (45, 51)])
def test_the_detail_loss_of_stdc(size):
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 6, (2, 9, 9)).repeat(8, 1).repeat(8, 2)[:, : size[0], : size[1]]
    labels = np.where(blocks == 5, 255, blocks).astype(np.uint8)
    logits = rng.normal(size=(2, *size, 1)).astype(np.float32)
    theirs = torch_map(logits).requires_grad_()
    expected, target = detail_aggregation(theirs, torch.tensor(labels.astype(np.int64)))
    expected.backward()
    np.testing.assert_array_equal(losses.detail_targets(jnp.asarray(labels)), target.numpy())
    term = terms.TERMS["detail"](TermContext(losses.cross_entropy))

    def value(z):
        total, count = term.evaluate({"source": {"detail": z}}, {"source_label": labels})
        return total / count

    ours, slope = jax.value_and_grad(value)(jnp.asarray(logits))
    assert float(ours) == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(slope, channels_last(theirs.grad), rtol=1e-4, atol=1e-9)
