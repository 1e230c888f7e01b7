"""Terms of an objective against NumPy: which loss, over which pixels, divided by what."""

import types

import numpy as np
import pytest
from helpers import softmax

from rtda_jax import losses
from rtda_jax.adapt import adversary, step, terms
from rtda_jax.adapt.adversary import AdversaryOptions
from rtda_jax.adapt.terms import TermContext
from rtda_jax.errors import ConfigError
from rtda_jax.losses import LossOptions

K, SHAPE = 6, (2, 5, 7)


def context(name="cross_entropy", **changes):
    pixel_loss = losses.pixel_loss(name, LossOptions(), num_classes=K)
    return TermContext(**{"pixel_loss": pixel_loss, **changes})


def case(seed=0):
    """Logits [2,5,7,6], labels of which a third is ignored, and the cross-entropy in NumPy."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (*SHAPE, K)).astype(np.float32)
    labels = rng.integers(0, K, SHAPE).astype(np.uint8)
    labels[rng.random(SHAPE) < 1 / 3] = 255
    valid = labels != 255
    picked = np.take_along_axis(
        softmax(np.float64(logits)), np.where(valid, labels, 0)[..., None].astype(int), -1
    )[..., 0]
    return logits, labels, np.where(valid, -np.log(picked), 0)


@pytest.mark.parametrize("view", ["mixed", "masked"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", sorted(losses.REDUCTIONS))
def test_labelled_views_are_meaned_over_all_pixels_or_over_class_weights(view, weighted, reduction):
    logits, labels, loss = case()
    rng = np.random.default_rng(1)
    weight = rng.uniform(0, 2, SHAPE).astype(np.float32)
    classes = rng.uniform(1, 9, K).astype(np.float32)
    name = {"mixed": "mix", "masked": "masked"}[view]
    chosen = context(
        class_weights=lambda: classes if weighted else None, loss=LossOptions(reduction=reduction)
    )
    term = terms.TERMS[f"{name}_aux16"](chosen)
    assert (term.head, term.views, term.level) == ("aux16", {view}, None)
    batch = {f"{view}_label": labels, f"{view}_weight": weight}
    total, count = term.evaluate({view: {"aux16": logits}}, batch)
    by_class = np.where(labels != 255, classes[np.where(labels != 255, labels, 0)], 0)
    if weighted:
        loss = loss * by_class
    divisor = by_class.sum() if weighted and reduction == "weights" else labels.size
    np.testing.assert_allclose(total, (loss * weight).sum(), rtol=1e-5)
    np.testing.assert_allclose(count, divisor, rtol=1e-6)


@pytest.mark.parametrize("name", ["seg", "mix", "masked", "consistency"])
def test_the_scale_of_class_weights_changes_no_term(name):
    """All of them are divided by the weights that multiply them."""
    logits, labels, _ = case(8)
    weak, _, _ = case(9)
    heads = {"logits": logits}
    outputs = dict.fromkeys(("source", "mixed", "masked", "strong"), heads)
    outputs |= {"weak": {"logits": weak}, "threshold": {"logits": np.float32(0.8)}}
    batch = {f"{view}_label": labels for view in ("source", "mixed", "masked")}
    batch |= {f"{view}_weight": np.ones(SHAPE, np.float32) for view in ("mixed", "masked")}
    classes = np.random.default_rng(10).uniform(1, 9, K).astype(np.float32)

    def mean(factor):
        options = LossOptions(weighting="given", weights=tuple(map(float, factor * classes)))
        chosen = TermContext(
            pixel_loss=losses.pixel_loss("cross_entropy", options, num_classes=K),
            class_weights=lambda: losses.class_weights(options, num_classes=K),
            loss=options,
        )
        return step._shares({name: terms.TERMS[name](chosen).evaluate(outputs, batch)}, alone)[name]

    alone = types.SimpleNamespace(axis_name=None)
    for factor in (10, 1e-6):
        np.testing.assert_allclose(mean(factor), mean(1), rtol=1e-5)


@pytest.mark.parametrize("pixel_loss", ["cross_entropy", "focal", "ohem"])
def test_pseudo_labels_are_trained_with_plain_cross_entropy_whatever_the_source_is(pixel_loss):
    logits, labels, loss = case(2)
    weighted = context(pixel_loss, class_weights=lambda: np.arange(1.0, K + 1))
    term = terms.TERMS["pseudo"](weighted)
    total, count = term.evaluate({"target": {"logits": logits}}, {"target_label": labels})
    np.testing.assert_allclose(total, loss.sum(), rtol=1e-5)
    assert count == (labels != 255).sum()


@pytest.mark.parametrize("pixel_loss", ["focal", "ohem"])
def test_labels_of_the_source_are_trained_with_the_chosen_loss(pixel_loss):
    logits, labels, _ = case(3)
    term = terms.TERMS["seg_aux32"](context(pixel_loss))
    sums = term.evaluate({"source": {"aux32": logits}}, {"source_label": labels})
    expected = losses.pixel_loss(pixel_loss, LossOptions(), num_classes=K)(logits, labels)
    np.testing.assert_allclose(sums, expected, rtol=1e-6)


@pytest.mark.parametrize("eta", [1.0, 1.5])
def test_the_entropies_of_the_target_are_meaned_over_all_pixels(eta):
    logits, _, _ = case(4)
    p = softmax(np.float64(logits))
    entropy = -(p * np.log(p)).sum(-1) / np.log(K)
    outputs = {"target": {"logits": logits, "coarse": logits}}
    chosen = context(loss=LossOptions(eta=eta))
    for suffix in ("", "_coarse"):
        total, count = terms.TERMS[f"minent{suffix}"](chosen).evaluate(outputs, {})
        np.testing.assert_allclose(total, entropy.sum(), rtol=1e-5)
        assert count == entropy.size
        total, count = terms.TERMS[f"robust_entropy{suffix}"](chosen).evaluate(outputs, {})
        np.testing.assert_allclose(total, ((entropy**2 + 1e-8) ** eta).sum(), rtol=1e-5)
        assert count == entropy.size


@pytest.mark.parametrize("level", sorted(adversary.LEVELS))
@pytest.mark.parametrize("gan_loss", ["bce", "least_squares"])
def test_deceiving_is_the_loss_of_a_source_at_the_level(level, gan_loss):
    z = np.random.default_rng(5).normal(0, 2, (2, 3, 4, 1)).astype(np.float32)
    term = terms.TERMS[f"adv_{level}"](context(adversary=AdversaryOptions(gan_loss=gan_loss)))
    head = {"output": "logits"}.get(level, level)
    assert (term.head, term.level, term.views) == (head, level, {"source", "target"})
    total, count = term.evaluate({"verdicts": {level: z}}, {})
    expected = np.log1p(np.exp(z)) if gan_loss == "bce" else z**2
    np.testing.assert_allclose(total, expected.sum(), rtol=1e-5)
    assert count == z.size


def test_heads_are_in_the_order_of_the_network_and_not_of_their_names():
    weights = {"consistency_aux16": 1.0, "consistency_aux4": 1.0, "consistency": 1.0, "seg": 1.0}
    objective = terms.select({**weights, "consistency_aux32": 1.0}, context())
    assert terms.heads(objective, view="strong") == ["logits", "aux4", "aux16", "aux32"]
    assert terms.heads(objective, view="source") == ["logits"]
    assert terms.views(objective) == {"source", "target", "strong"}


def test_a_term_can_be_asked_of_every_output_that_a_network_has():
    outputs = {"": "logits", "_aux4": "aux4", "_aux8": "aux8", "_aux16": "aux16", "_aux32": "aux32"}
    assert outputs == terms.HEADS


def test_the_terms_that_need_a_teacher_are_those_that_read_its_labels():
    made = {name: term(context()) for name, term in terms.TERMS.items() if "_" not in name}
    needing = {name for name, term in made.items() if term.needs_teacher}
    assert needing == {"distil", *terms.TEACHER_LABELLED_VIEWS}
    assert needing < set(made)


def test_every_head_of_a_family_needs_a_teacher_as_the_main_one_does():
    for name in ("distil", "mix", "masked", "seg", "pseudo", "consistency", "minent"):
        needs = {terms.TERMS[f"{name}{suffix}"](context()).needs_teacher for suffix in terms.HEADS}
        assert needs == {name in ("distil", "mix", "masked")}, name


@pytest.mark.parametrize("suffix", terms.HEADS)
def test_an_objective_distils_with_any_head(suffix):
    families = ("distil", "seg", "mix", "masked", "pseudo", "consistency", "minent")
    made = {name: terms.TERMS[f"{name}{suffix}"](context()) for name in families}
    assert [name for name, term in made.items() if term.distils] == ["distil"]
    assert [name for name, term in made.items() if term.needs_pseudo_labels] == ["pseudo"]


def test_distilling_without_weights_is_the_mean_over_the_labelled_pixels():
    logits, labels, _ = case(6)
    taught, _, _ = case(7)
    labelled = labels != 255
    p, q = (softmax(np.float64(z) / 3) for z in (taught, logits))
    term = terms.TERMS["distil_aux16"](context(temperature=3.0))
    assert (term.head, term.views) == ("aux16", {"target"})
    batch = {"teacher_logits": taught, "teacher_labelled": labelled, "teacher_label": None}
    total, count = term.evaluate({"target": {"aux16": logits}}, batch)
    np.testing.assert_allclose(total, 9 * (p * np.log(p / q)).sum(-1)[labelled].sum(), rtol=1e-4)
    assert count == labelled.sum()


def test_an_objective_is_what_has_a_weight():
    objective = terms.select({"seg": 1.0, "minent": 0.0, "mix": 0.25}, context())
    assert {name: weight for name, (_, weight) in objective.items()} == {"seg": 1.0, "mix": 0.25}
    assert terms.formula(objective) == "1·seg + 0.25·mix"


def test_unknown_terms_and_losses_are_named():
    with pytest.raises(ConfigError, match=r"term of the objective 'sge'; known: adv_"):
        terms.select({"sge": 1.0}, context())
    with pytest.raises(ConfigError, match="no term"):
        terms.select({"seg": 0.0}, context())
    with pytest.raises(ConfigError, match=r"objective\.seg must be at least 0, got -1"):
        terms.select({"seg": -1.0}, context())
    with pytest.raises(ConfigError, match="pixel_loss 'ce'; known: cross_entropy, focal, ohem"):
        losses.pixel_loss("ce", losses.LossOptions(), num_classes=K)
    with pytest.raises(ConfigError, match=r"gan_loss 'wgan'; known: bce, least_squares"):
        AdversaryOptions(gan_loss="wgan")


@pytest.mark.parametrize(
    "name", ["loss", "g_lr", "target_entropy", "teacher_sure", "d_loss", "large_seg", "pull_me"]
)
def test_a_term_may_not_have_the_name_of_another_number_of_the_log(name, monkeypatch):
    monkeypatch.setitem(terms.TERMS, name, terms.TERMS["seg"])
    with pytest.raises(
        ConfigError, match=f"term {name}: the log gives this name to another number"
    ):
        terms.select({"seg": 1.0, name: 0.5}, context())
    assert set(terms.select({"seg": 1.0, name: 0.0}, context())) == {"seg"}


def test_terms_of_any_other_name_are_taken(monkeypatch):
    for name in ("target_kl", "teacher_kl", "losses", "distant", "stepwise"):
        monkeypatch.setitem(terms.TERMS, name, terms.TERMS["seg"])
        assert name in terms.select({name: 0.5}, context())
