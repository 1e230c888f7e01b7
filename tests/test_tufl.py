"""Both stages of TUFL as steps: views, thresholds in the state, mixing, devices, resuming."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import batch, config

from configs import benchmarks, tufl
from rtda_jax import evaluate
from rtda_jax.adapt import build, optim, views
from rtda_jax.adapt.optim import OptimOptions
from rtda_jax.adapt.step import label_target, make_train_step
from rtda_jax.augment import colour, geometry
from rtda_jax.data.labels import class_set
from rtda_jax.errors import ConfigError
from rtda_jax.run import checkpoint, parallel
from rtda_jax.run.options import flat, plain, read
from rtda_jax.stages import KINDS
from rtda_jax.stages.plan import make_plan


class Small(nn.Module):
    """A network with three heads and without statistics of the batch, as if they were frozen."""

    num_classes: int = 19

    @nn.compact
    def __call__(self, images, *, train=False):
        self.variable("batch_stats", "mean", jnp.zeros, (1,))
        x = nn.relu(nn.Conv(12, (3, 3), padding=1, name="backbone")(images))
        names = ("logits", "aux16", "aux32") if train else ("logits",)
        return {n: 3 * nn.Conv(self.num_classes, (1, 1), name=n)(x) for n in names}


@pytest.fixture(autouse=True, scope="module")
def small_networks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "create_model", lambda name, num_classes, **_: Small(num_classes))
        yield


def stages(**fields):
    """Returns the stages' configurations, with the small network instead of the one they name."""
    made = config("tufl", **fields)
    made.augment.texture = made.augment.strong = made.mix.colour = "none"
    configs = {name: stage.config for name, stage in make_plan(made, KINDS).items()}
    for chosen in configs.values():
        chosen.optim.g_lr = 0.01
    return configs


def indexed(step=0, slots=0):
    made = batch(step)
    made["source_index"] = np.arange(4, dtype=np.int32) + 4 * step
    made["target_index"] = np.arange(4, dtype=np.int32) + 4 * step + 100
    if slots:
        other = [batch(100 + 10 * step + slot) for slot in range(slots)]
        made["candidate_images"] = np.stack([o["source_image"] for o in other], axis=1)
        made["candidate_labels"] = np.stack([o["source_label"] for o in other], axis=1)
        classes = made["candidate_labels"][:, :, 4, 4].copy()
        classes[0] = 255
        made["candidate_classes"] = classes
    return made


SLOTS = {"one": 0, "two": 6}


def run(stage, steps, *, slots=0):
    """Returns the states and logs after each step, from one compilation."""
    parts = build.build(stage)
    step = jax.jit(make_train_step(parts))
    # Placed like a restored state, for which the step would be compiled again otherwise.
    mesh = parallel.mesh(jax.devices()[:1])
    states, logs = [parallel.replicate(build.initial_state(parts), mesh)], []
    for n in range(steps):
        state, log = step(states[-1], indexed(n, slots))
        states.append(state)
        logs.append(log)
    assert step._cache_size() == 1
    return step, states, logs


@functools.cache
def trajectory(name):
    return run(stages()[name], 4, slots=SLOTS[name])


def test_stage_one_moves_its_thresholds():
    _, states, logs = trajectory("one")
    theta = np.asarray(states[-1].memory["theta"])
    assert theta.shape == (19,)
    assert (theta < 0.8).any()
    assert logs[-1]["theta"] == pytest.approx(theta.mean(), abs=1e-6)
    assert 0 <= logs[-1]["sure"] <= 1
    assert states[-1].teacher == {}


def test_stage_two_mixes_and_its_teacher_stays():
    _, states, logs = trajectory("two")
    assert logs[-1]["mix"] > 0
    old, new = states[0].teacher["params"], states[-1].teacher["params"]
    for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
        np.testing.assert_array_equal(a, b)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), states[0].g_params, states[-1].g_params)
    assert min(jax.tree.leaves(moved)) > 0


def test_a_batch_of_which_nothing_is_sure_trains_like_the_source_alone():
    stage = stages(
        consistency__threshold="fixed",
        consistency__initial=0.99999,
        long_tail__choice="uniform",  # for stage two, which is planned too
    )["one"]
    _, unsure, logs = run(stage, 2)
    assert logs[-1]["consistency"] == 0
    assert logs[-1]["sure"] == 0
    assert logs[-1]["pull_strong"] == 0
    for name in ("consistency", "consistency_aux16", "consistency_aux32"):
        stage.objective[name] = 0.0
    _, alone, _ = run(stage, 2)
    pairs = zip(
        jax.tree.leaves(unsure[-1].g_params), jax.tree.leaves(alone[-1].g_params), strict=True
    )
    for a, b in pairs:
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_one_pass_of_all_views_is_a_pass_of_each():
    _, states, logs = trajectory("two")
    stage = stages()["two"]
    stage.model.batch_norm = "batch"  # the small network has no batch normalisation
    _, others, other_logs = run(stage, 1, slots=SLOTS["two"])
    for a, b in zip(
        jax.tree.leaves(states[1].g_params), jax.tree.leaves(others[1].g_params), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)
    for key, value in logs[0].items():
        np.testing.assert_allclose(other_logs[0][key], value, rtol=1e-3, atol=1e-6, err_msg=key)


@pytest.mark.parametrize("name", ["one", "two"])
def test_two_devices_do_what_one_does(name):
    _, states, logs = trajectory(name)
    stage, mesh = stages()[name], parallel.mesh()
    parts = build.build(stage, axis_name=parallel.AXIS)
    step = parallel.pmapped(make_train_step(parts), mesh)
    state = parallel.replicate(build.initial_state(parts), mesh)
    for n in range(2):
        state, both = step(state, indexed(n, SLOTS[name]))
        jax.block_until_ready(both)
    one = states[2]
    np.testing.assert_allclose(state.memory["theta"], one.memory["theta"], atol=1e-6)
    for a, b in zip(jax.tree.leaves(state.g_params), jax.tree.leaves(one.g_params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for key, value in logs[1].items():
        np.testing.assert_allclose(both[key], value, rtol=2e-3, atol=1e-5, err_msg=key)


@pytest.mark.parametrize("name", ["one", "two"])
def test_a_resumed_stage_is_the_same_bit_for_bit(tmp_path, name):
    step, states, _ = trajectory(name)
    stage = stages()[name]
    with checkpoint.manager(tmp_path, keep=2) as held:
        checkpoint.save(held, states[2], step=2)
        held.wait_until_finished()
        fresh = jax.eval_shape(lambda: build.initial_state(build.build(stage)))
        whole = parallel.replicated(parallel.mesh(jax.devices()[:1]))
        state = checkpoint.restore(held, checkpoint.abstract(fresh, whole))
    assert state.memory["theta"].shape == (19,)
    for n in (2, 3):
        state, _ = step(state, indexed(n, SLOTS[name]))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(states[4]), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def prepared(stage, made, seed):
    """Returns the images that the network reads, and the state that they were made with."""
    parts = build.build(stage)
    state = build.initial_state(parts)

    @jax.jit
    def prepare(made, key, state):
        made, _, _ = label_target(parts, state.teacher, made)
        return views.prepare(parts.preparation, made, key, state)

    return prepare(made, jax.random.key(seed), state), state


def test_the_mixed_view_pixel_by_pixel():
    stage = stages(long_tail__choice="uniform", normalisation="caffe_bgr")["two"]
    made = indexed(0, 6)
    got, state = prepared(stage, made, 7)
    teacher = Small().apply(state.teacher, got["target_image"])["logits"]
    probability = np.asarray(jax.nn.softmax(teacher))
    guess, sure = probability.argmax(-1), (probability.max(-1) >= 0.968).mean((1, 2))
    mean = np.float32([104.00698793, 116.66876762, 122.67891434])
    pasted = []
    for i in range(4):
        layers = [(made["target_image"][i], guess[i])]
        layers.append((made["source_image"][i], made["source_label"][i]))
        layers += list(zip(made["candidate_images"][i], made["candidate_labels"][i], strict=True))
        image, label = np.asarray(got["mixed_image"][i]), np.asarray(got["mixed_label"][i])
        fits = np.array(
            [
                (np.abs(image - (np.float32(pixels)[..., ::-1] - mean)) < 1e-3).all(-1)
                & (label == classes)
                for pixels, classes in layers
            ]
        )
        assert fits.any(axis=0).all()  # every pixel comes from one layer, its label and its colour
        weight = np.asarray(got["mixed_weight"][i])
        np.testing.assert_allclose(weight[~fits[1:].any(axis=0)], sure[i], atol=1e-6)
        assert (weight[fits[1:].any(axis=0) & ~fits[0]] == 1).all()
        pasted.append((fits[2:].any(axis=0) & ~fits[:2].any(axis=0)).sum())
        # Whole classes of the source are pasted, at most half of them.
        own = np.unique(made["source_label"][i][fits[1] & ~fits[0]])
        assert len(own) <= (len(np.unique(made["source_label"][i])) + 1) // 2
    assert pasted[0] == 0  # nothing was offered to the first image
    assert min(pasted[1:]) > 0


def test_the_strong_view_is_the_weak_one_moved():
    stage = stages()["one"]
    got, _ = prepared(stage, indexed(0), 1)
    np.testing.assert_allclose(
        got["strong_image"], geometry.warp(got["target_image"], got["strong_affine"]), atol=1e-5
    )
    again, _ = prepared(stage, indexed(0), 2)
    assert not np.allclose(again["strong_affine"], got["strong_affine"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"consistency__threshold": "fixed"}, "long_tail.choice='threshold' needs consistency"),
        ({"consistency__form": "ratio"}, "known: deficit, difference"),
        ({"augment__draw": "epoch"}, r"unknown augment\.draw 'epoch'; known: batch, image, run"),
        ({"long_tail__count": (2, 9)}, r"range within 1\.\.6"),
        ({"mix__related": "kitti"}, "mix.related"),
        ({"optim__g_groups": "some"}, "optim.g_groups"),
        ({"consistency__temperature": 0.0}, "temperature must be above 0"),
    ],
)
def test_what_cannot_be_built_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        stages(**fields)


def test_noise_and_blur_of_a_whole_run_depend_on_the_seed_alone():
    keys = []
    for seed in (0, 0, 1):
        recolour = colour.recolour("tufl_strong", draw="run", seed=seed)
        keys.append(jax.random.key_data(recolour.keywords["once"]))
    np.testing.assert_array_equal(keys[0], keys[1])
    assert (keys[0] != keys[2]).any()


def plan_of(arg):
    """Returns the plan of the configuration as it is."""
    return make_plan(tufl.get_config(arg).lock(), KINDS)


def of(arg):
    """Returns the configuration as it is, and those of its stages."""
    return tufl.get_config(arg), {name: stage.config for name, stage in plan_of(arg).items()}


def g_schedule(chosen):
    return optim.schedules(read(OptimOptions, chosen.optim, "optim"), steps=chosen.steps)[0]


# The sizes of the authors' pairs: size, zoom, crop, eval size, window and stride.
SIZES = {
    "cityscapes_to_crosscity:rome": ((640, 1280), (1.0, 1.5), (640, 1280), (647, 1280), 647, 540),
    "gta5_to_cityscapes": ((1024, 2048), (0.75, 1.5), (640, 1280), (1024, 2048), 1024, 854),
    "synthia_to_cityscapes_13": ((1024, 2048), (0.75, 1.5), (640, 1280), (1024, 2048), 1024, 854),
}


@pytest.mark.parametrize("pair", sorted(SIZES))
def test_the_authors_pairs_have_their_sizes_and_schedule(pair):
    made, plan = of(pair)
    size, zoom, crop, eval_size, window, stride = SIZES[pair]
    for stage in plan.values():
        assert (stage.benchmark.size, stage.benchmark.crop) == (size, crop)
        assert (stage.augment.scale, stage.benchmark.eval_size) == (zoom, eval_size)
        assert stage.eval.mode == "slide"
        assert (stage.eval.window, stage.eval.stride) == ((window, window), (stride, stride))
    assert made.batch_size == 2
    optims = {n: plan[n].optim for n in ("source", "one", "two")}
    assert [o.g_lr for o in optims.values()] == [0.01, 5e-6, 5e-6]
    assert [o.g_groups for o in optims.values()] == ["one", "heads", "heads"]
    assert {(o.g_decay, o.g_decayed, o.g_factor, o.power) for o in optims.values()} == {
        (5e-4, "kernels", 10.0, 0.9)
    }
    assert [plan[n].steps for n in optims] == [40000, 1200, 2000]
    assert optims["one"].schedule_steps == 2000
    assert float(g_schedule(plan["one"])(1200)) == pytest.approx(5e-6 * 0.4**0.9)
    assert float(g_schedule(plan["two"])(2000)) == 0
    assert (plan["source"].model.batch_norm, plan["one"].model.batch_norm) == ("batch", "frozen")
    assert plan["eval_scales"].eval.scales == (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


@pytest.mark.parametrize("pair", ["synthia_to_camvid", "gta5_to_idd", "folders"])
def test_other_pairs_keep_their_sizes(pair):
    made, own = of(pair)[0], benchmarks.get(pair)
    for field in ("size", "crop", "eval_size"):
        assert made.benchmark[field] == own[field]
    assert (made.eval.mode, made.eval.window) == ("whole", own.crop)
    assert made.optim.g_lr == 5e-6


# The single weights of the classes that count twice.
_CITY = {"rider": 10.2338, "motorcycle": 10.2837, "bicycle": 10.1535}
TWICE = {
    "cityscapes_to_crosscity:rome": _CITY,
    "gta5_to_cityscapes": {**_CITY, "train": 9.0867},
    "synthia_to_cityscapes": {
        "rider": 10.0266,
        "car": 7.4412,
        "bus": 8.7787,
        "motorcycle": 10.2429,
        "bicycle": 10.2690,
    },
}


@pytest.mark.parametrize("pair", sorted(TWICE))
def test_class_weights_are_those_of_frequencies_but_some_count_twice(pair):
    made, plan = of(pair)
    names, loss = class_set(made.benchmark.classes).names, plan["two"].loss
    weights = dict(zip(names, loss.weights, strict=True))
    assert (loss.weighting, loss.reduction) == ("given", "pixels")
    once = {name: weight - TWICE[pair].get(name, 0.0) for name, weight in weights.items()}
    for name, weight in TWICE[pair].items():
        assert once[name] == pytest.approx(weight)
    assert all(2.5 < weight < 10.5 for weight in once.values())
    # Weights are 1 / ln(1.1 + frequency), and the frequencies of all classes add up to about 1.
    assert sum(np.exp(1 / weight) - 1.1 for weight in once.values()) == pytest.approx(1, abs=0.06)
    assert once["road"] == (3.9157 if pair.startswith("synthia") else 2.6237)
    assert plan["two"].long_tail.related == ("gta5" if pair.startswith("gta5") else "synthia")


def test_classes_of_ones_own_are_weighted_by_their_own_frequencies():
    made = config("tufl", "folders")
    assert (made.loss.weighting, made.loss.enet_c, made.loss.weights) == ("enet", 1.1, ())


def changed(plan, other, stage):
    """Returns the fields of a stage that differ, with their values in the other plan."""
    a, b = (flat(plain(p[stage])) for p in (plan, other))
    assert a.keys() == b.keys()
    return {name: b[name] for name in a if a[name] != b[name]}


def test_what_released_changes():
    plan, released = (of(f"cityscapes_to_crosscity:rome{o}")[1] for o in ("", ",preset=code"))
    everywhere = {
        "consistency.threshold": "fixed",
        "consistency.form": "difference",
        "long_tail.choice": "uniform",
        "long_tail.slots": 2,
        "long_tail.count": [2, 2],
        "augment.draw": "run",
        "augment.target_moves": "once",
    }
    assert changed(plan, released, "source") == everywhere
    assert changed(plan, released, "one") == {**everywhere, "optim.g_groups": "all"}
    two = {**everywhere, "optim.g_groups": "all", "long_tail.probability": 0.0}
    assert changed(plan, released, "two") == two
    assert plan["two"].long_tail.probability == 0.3
    assert (plan["two"].long_tail.slots, plan["two"].long_tail.count) == (6, (2, 4))
    assert plan["two"].consistency.initial == released["two"].consistency.initial == 0.8
    for stage in plan_of("cityscapes_to_crosscity:rome,preset=code").values():
        assert (stage.method is not None) == (stage.kind == "train")


def test_synthia_reports_16_and_13_classes_of_one_network():
    plan = plan_of("synthia_to_cityscapes")
    both = {name: plan[name].config.benchmark.eval_classes for name in ("eval_two", "eval_13")}
    assert both == {"eval_two": "synthia16", "eval_13": "synthia13"}
    assert plan["eval_13"].models == plan["eval_two"].models
    assert "eval_13" not in plan_of("synthia_to_cityscapes_13")
    head, results = class_set("synthia16"), {}
    for name, classes in both.items():
        wanted = class_set(classes)
        results[name] = evaluate.report(
            np.eye(len(head)), names=wanted.names, rows=head.rows(wanted)
        )
    for results in (results, dict(reversed(results.items()))):  # noqa: B020
        rows = {line.split("  ")[0]: line for line in evaluate.table(results).splitlines()}
        assert "n/a" in rows["wall"]
        assert "n/a" not in rows["road"]
