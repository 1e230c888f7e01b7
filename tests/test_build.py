import json
import math
import types

import jax
import pytest
from helpers import config, get, online

from rtda_jax.adapt import build, optim, terms
from rtda_jax.adapt.method import ModelOptions
from rtda_jax.adapt.optim import OptimOptions
from rtda_jax.adapt.state import TrainState
from rtda_jax.adapt.terms import Term
from rtda_jax.errors import ConfigError
from rtda_jax.run.options import check_followed, open_stage_field, read, stage_fields
from rtda_jax.stages import KINDS
from rtda_jax.stages.plan import make_plan
from rtda_jax.stages.train import describe, summary
from rtda_jax.tools import cost

MIX = {"objective.mix": 1.0, "teacher.kind": "ema"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixel_loss": "ce"}, "unknown pixel_loss 'ce'; known: cross_entropy"),
        ({"objective.adv_output": 1.0, "labelled": "target"}, "leaves no domain to adapt to"),
        ({"model.name": "bisenet"}, "unknown model.name 'bisenet'; known: .*bisenet_resnet18"),
        ({"dtype": "float17"}, "unknown dtype 'float17'; known: bfloat16, float32"),
        ({"model.pretrained_input": "none"}, "unknown model.pretrained_input 'none'; known: any"),
        ({"model.statistics": "none"}, "unknown model.statistics 'none'; known: both"),
        ({"normalisation": "none"}, "unknown normalisation 'none'"),
        ({"objective.pseudo": 1.0}, "term pseudo needs pseudo_labels"),
        ({"pseudo_labels": "label"}, "pseudo_labels='label' is read by no term"),
        ({"objective.mix": 1.0}, "mix terms need a teacher"),
        ({"teacher.kind": "average"}, "unknown teacher.kind 'average'; known: ema, frozen"),
        ({"teacher.kind": "ema", "teacher.decay": 1.5}, "teacher.decay must lie in"),
        ({"loss.weighting": "given"}, "loss.weights has 0 numbers, the class set has 19"),
        ({"loss.weighting": "enet", "loss.enet_c": 1.0}, "loss.enet_c must be above 1, got 1"),
        ({"loss.weighting": "median"}, "unknown loss.weighting 'median'"),
        ({"adversary.view": "logits"}, "unknown adversary.view 'logits'"),
        ({"adversary.network": "nope"}, "unknown adversary.network 'nope'; known: fcd, fcd_light"),
        ({"model.batch_norm": "last"}, "unknown model.batch_norm 'last'; known: batch, frozen"),
        ({"batch_size": 1}, "has no variance to train on; use a larger batch"),
        ({"loss.weights": (1.0,)}, "loss.weights is read by loss.weighting='given' only"),
        ({"fda_beta": 0.1, "fda_window": "round"}, "unknown fda_window 'round'; known: corners"),
        ({"augment.colour": 1.5}, "augment.colour must be a probability"),
        ({"consistency.initial": 1.5}, "consistency.initial must be a probability in"),
        ({"fda_beta": 5.0}, r"FDA beta must lie in \[0, 0.5\], got 5"),
        ({"teacher.threshold": -1.0}, "teacher.threshold must be a probability within"),
        (
            {**MIX, "teacher.borders": (32, 32, 0, 0)},
            r"teacher\.borders=\(32, 32, 0, 0\) leave nothing of benchmark\.crop=\(64, 128\)",
        ),
        ({**MIX, "teacher.borders": (0, 0, 120, 8)}, "leave nothing of benchmark.crop"),
        (
            {**MIX, "teacher.statistics": "batch", "model.batch_norm": "frozen"},
            "the teacher too: set teacher.statistics to 'running' and teacher.average to 'all'",
        ),
        ({"mix.boundary_blur": 2.0}, "it needs mix.boundary"),
        (
            {**MIX, "mix.boundary": 3, "mix.boundary_blur": 21.1},
            r"mix\.boundary_blur=21\.1 reaches 64 pixels away, .* benchmark\.crop=\(64, 128\)",
        ),
        (
            {"model.options": {"batch_norm": "frozen"}},
            r"model\.options\.batch_norm is set by model\.batch_norm",
        ),
        (
            {"objective.adv_output": 0.001, "adversary.options": {"bias": False}},
            r"adversary\.options of fcd: got an unexpected keyword argument 'bias'",
        ),
        ({"loss.weighting": "given", "loss.weights": (-1.0,) * 19}, r"loss\.weights must be at l"),
        ({"loss.weighting": "given", "loss.weights": (0.0,) * 19}, "one of them above 0"),
        (
            {"objective.seg_aux4": 1.0},
            "needs the output 'aux4'; bisenet_resnet18 has: aux16, aux32, logits",
        ),
    ],
)
def test_what_cannot_be_built_is_named(changes, message):
    config = get("source_only")
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=message):
        build.build(config)


def test_the_schedules_are_those_of_the_fields():
    config = get("source_only")
    config.optim.update({"warmup_steps": 4, "warmup_start": 1e-4, "schedule_steps": 24})
    config.optim.update({"g_lr": 0.1, "d_lr": 0.2, "power": 2.0, "schedule_every_steps": 5})
    g_lr, d_lr = optim.schedules(read(OptimOptions, config.optim, "optim"), steps=config.steps)
    for step, generator, discriminator in (
        (0, 1e-4, 0.2),
        (2, 1e-4 * 1000**0.5, 0.2),
        (4, 0.1, 0.2),
        (8, 0.1, 0.2 * (19 / 24) ** 2),
        (9, 0.1 * (15 / 20) ** 2, 0.2 * (19 / 24) ** 2),
        (24, 0.0, 0.2 * (4 / 24) ** 2),
    ):
        assert float(g_lr(step)) == pytest.approx(generator, rel=1e-5, abs=1e-9), step
        assert float(d_lr(step)) == pytest.approx(discriminator, rel=1e-5), step


def test_a_discriminator_is_described_as_it_is_built():
    config = get("adversarial", "level=feature,network=fcd_light")
    config.adversary.options = {"use_bias": False}
    stage = build.build(config)
    said = describe(stage, config)[1]
    shapes = jax.eval_shape(lambda: build.initial_state(stage))
    count = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes.d_params["feature"]))
    assert said.startswith(f"fcd_light: {count:,} parameters")


def test_the_summary_is_of_what_is_trained():
    tiny = {"size": (64, 128), "num_classes": 11}
    config = get("source_only", "synth_to_camvid")
    config.benchmark.crop, config.model.name = tiny["size"], "bisenet_stdc1"
    config.model.options = {"detail_head": True}
    detailed = cost.summary("bisenet_stdc1", detail_head=True, **tiny)
    assert summary(make_plan(config.lock(), KINDS)) == detailed

    config = get("adversarial", "synth_to_camvid")
    config.benchmark.crop, config.adversary.options = tiny["size"], {"use_bias": False}
    discriminator = cost.summary("fcd", in_channels=11, size=tiny["size"], use_bias=False)
    both = cost.summary("bisenet_resnet18", **tiny) + "\n" + discriminator
    assert summary(make_plan(config.lock(), KINDS)) == both


def test_pretrained_weights_are_asked_for_by_every_field_and_must_be_normalised_alike(monkeypatch):
    asked = []
    report = types.SimpleNamespace(path="b.pth", normalisation="caffe_bgr")

    def load(*arguments, **options):
        asked.append((arguments, options))
        return {"params": "new", "batch_stats": "theirs"}, report

    monkeypatch.setattr(build, "load_pretrained", load)
    chosen = config(
        "source_only",
        model__pretrained="a.pth",
        model__pretrained_part="all",
        model__pretrained_naming="torchvision",
        model__pretrained_key="ema_model",
        normalisation="caffe_bgr",
    )
    state = TrainState(0, None, "old", "old", None, {}, None)
    loaded, _ = build.pretrained_state(state, chosen)
    assert (loaded.g_params, loaded.g_stats, loaded.memory) == ("new", "theirs", {})
    old = {"params": "old", "batch_stats": "old"}
    options = {"part": "all", "naming": "torchvision", "key": "ema_model"}
    assert asked == [(("a.pth", "bisenet_resnet18", old), options)]
    chosen.model.pretrained_naming, chosen.normalisation = "", "tensorflow"
    with pytest.raises(ConfigError, match=r"b\.pth was trained with normalisation 'caffe_bgr'"):
        build.pretrained_state(state, chosen)
    assert asked[1][1]["naming"] is None
    chosen.model.pretrained_input = "any"
    _, sentence = build.pretrained_state(state, chosen)
    assert sentence.endswith("; its images are normalised by tensorflow from here on")


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({}, False),
        ({"fda_beta": 0.0}, True),  # exchanges the mean
        ({"objective__minent": 0.1}, True),
        ({"objective__adv_output": 0.1}, True),
        ({"augment__texture": "daformer"}, False),
    ],
)
def test_the_target_is_read_where_a_term_or_fda_needs_it(fields, needed):
    assert build.build(config("source_only", **fields)).needs_target == needed


def test_seeds_are_numbers_of_32_bits():
    for seed in (0, 2**32 - 1):
        build.build(config("source_only", seed=seed))
    for seed in (-1, 2**32):
        with pytest.raises(ConfigError, match=r"seed must lie in \[0, 2\^32\)"):
            build.build(config("source_only", seed=seed))


def test_a_reference_network_is_kept_only_where_a_term_reads_it():
    def memory(weight):
        method = build.build(get("mic", f"distance={weight}"))
        return jax.eval_shape(lambda: build.initial_state(method)).memory

    assert "reference" in memory(0.005)
    assert "reference" not in memory(0)


def test_adaptive_thresholds_of_more_classes_than_their_keys_hold_are_refused(tmp_path):
    def chosen(number):
        file = tmp_path / f"{number}.json"
        file.write_text(json.dumps({"classes": [{"name": f"class {n}"} for n in range(number)]}))
        adaptive = {"objective__consistency": 1.0, "consistency__threshold": "adaptive"}
        return config("source_only", "folders", benchmark__classes=str(file), **adaptive)

    assert build.build(chosen(31)).num_classes == 31
    with pytest.raises(ConfigError, match="'adaptive' serves at most 31 classes, got 32"):
        build.build(chosen(32))


def test_borders_may_leave_the_teacher_a_single_pixel():
    chosen = get("dacs")
    chosen.teacher.borders = (31, 32, 127, 0)
    assert build.build(chosen).size == (64, 128)


def test_options_that_were_recorded_in_json_are_those_of_the_run():
    """JSON has no tuples, and a network with a list among its options has no hash."""
    config = get("source_only")
    config.model.options = {"scales": (8, 16, 32)}
    before = read(ModelOptions, config.model, "model")
    config.model.options = json.loads(json.dumps(config.model.options.to_dict()))
    assert read(ModelOptions, config.model, "model") == before
    hash(build.build(config).generator)


@pytest.mark.parametrize(
    ("name", "field", "value", "own"),
    [
        ("fda_mbt", "fda_beta", 0.09, "beta_001 (0.01), beta_005 (0.05). No stage would read it"),
        ("bdl", "steps", 20, "adversarial (80000)"),  # the second training has these 20
        ("bdl", "pseudo.cut", 0.3, "label (0.5). No stage would read it"),
        ("fda_mbt", "fda_beta", 0.01, "beta_005 (0.05)"),
        ("fda_mbt", "batch_size", 2, None),
        ("ssl_control", "steps", 20, None),  # the control's number of steps follows
        ("fda_ssl", "optim.g_lr", 0.1, None),
    ],
)
def test_a_field_that_stages_set_for_themselves_is_named(name, field, value, own):
    made = get(name)
    before = stage_fields(made)
    made.update_from_flattened_dict({field: value})
    try:
        sentences = check_followed(made, before, ["seed", field])
    except ConfigError as error:
        sentences = [str(error)]
    prefix = f"--config.{field} does not change what a stage sets for itself: "
    assert not sentences if own is None else sentences[0].startswith(prefix + own)
    assert len(sentences) == (own is not None)


def test_a_flag_may_change_any_field_of_one_stage():
    made = get("fda_mbt")
    for field, value in (
        ("stage.beta_001.steps", 9),
        ("stage.beta_005.optim.g_lr", 0.5),
        ("stage.beta_005.rare_class", 0.1),
        ("stage.eval_mbt.eval.mode", "slide"),
    ):
        open_stage_field(made, field)
        made.update_from_flattened_dict({field: value})
    configs = {name: stage.config for name, stage in make_plan(made.lock(), KINDS).items()}
    assert (configs["beta_001"].steps, configs["beta_005"].steps) == (9, 400)
    assert (configs["beta_001"].optim.g_lr, configs["beta_005"].optim.g_lr) == (0.025, 0.5)
    assert (configs["beta_001"].rare_class, configs["beta_005"].rare_class) == (None, 0.1)
    assert [configs[f"eval_{name}"].eval.mode for name in ("001", "mbt")] == ["whole", "slide"]
    before = made.to_json_best_effort()
    for field in ("steps", "stage.train.steps", "stage.beta_001.stepz", "stage.beta_001.optim"):
        open_stage_field(made, field)
    assert made.to_json_best_effort() == before


def own_term(**fields):
    """A term of one's own that reads the target, as a table of terms has it."""
    evaluate = lambda outputs, batch: None  # noqa: E731
    return lambda context: Term(evaluate, frozenset({"target"}), "logits", **fields)


def test_a_term_of_ones_own_says_that_it_reads_pseudo_labels(monkeypatch):
    monkeypatch.setitem(terms.TERMS, "mine", own_term(needs_pseudo_labels=True))
    build.build(config(objective__mine=1.0, pseudo_labels="label"))
    with pytest.raises(ConfigError, match="term mine needs pseudo_labels, an earlier pseudo_label"):
        build.build(config(objective__mine=1.0))
    monkeypatch.setitem(terms.TERMS, "pseudo_mine", own_term())
    with pytest.raises(ConfigError, match="has needs_pseudo_labels=True"):
        build.build(config(objective__pseudo_mine=1.0, pseudo_labels="label"))


def test_a_large_network_learns_from_terms_of_any_name_but_those_that_distil(monkeypatch):
    monkeypatch.setitem(terms.TERMS, "distil_mine", own_term())
    monkeypatch.setitem(terms.TERMS, "mine", own_term(distils=True, needs_teacher=True))
    method = build.build(online(objective__distil_mine=1.0, objective__mine=1.0))
    assert {"distil_mine", "mine", "distil"} <= {*method.objective}
    assert "distil_mine" in method.large.objective
    assert not {"mine", "distil"} & {*method.large.objective}
    alone = {"objective__distil": 0.0, "objective__distil_aux16": 0.0, "objective__mine": 1.0}
    assert build.build(online(**alone)).weighs_classes
