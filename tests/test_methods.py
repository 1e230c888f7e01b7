import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import batch, config, shrink, streets_batch

from rtda_jax.adapt import build, terms
from rtda_jax.adapt.step import make_train_step
from rtda_jax.run import parallel
from rtda_jax.stages import KINDS
from rtda_jax.stages.plan import make_plan

# What stages train, once each; those of self-training and TUFL have files of their own.
EVERY = [
    ("source_only", "colour=0.5"),
    ("target_only", ""),
    ("adversarial", ""),
    ("adversarial", "level=three,network=fcd_light"),
    ("adversarial", "level=feature"),
    ("fda", ""),
    ("fda", "with=entropy"),
    ("minent", ""),
    ("advent", ""),
    ("dacs", ""),
    ("loss_study", "loss=focal,preset=paper"),
    ("nikiforos", "row=fda"),
    ("bartoletti", "discriminator=fcd_light"),
    ("adaptsegnet", "preset=ls"),
]


def two_steps(chosen):
    """Two steps on two devices: finite, everything that should move does, compiled once."""
    stage = build.build(chosen, axis_name=parallel.AXIS)
    mesh = parallel.mesh()
    begin = parallel.replicate(build.initial_state(stage), mesh)
    before = jax.tree.map(np.asarray, (begin.g_params, begin.d_params))
    traces = []
    inner = make_train_step(stage)

    def counted(current, data):
        traces.append(None)
        return inner(current, data)

    step = parallel.pmapped(counted, mesh)
    current = begin
    for n in range(2):
        current, logs = step(current, batch(n, target=stage.needs_target))
        assert all(np.isfinite(v) for v in jax.device_get(logs).values()), logs
    assert {name for name in logs if not terms.is_logged(name)} == {*stage.objective}
    assert len(traces) == 1
    assert int(current.step) == 2
    after = jax.tree.map(np.asarray, (current.g_params, current.d_params))
    still = [
        jax.tree_util.keystr(path)
        for (path, a), b in zip(
            jax.tree_util.tree_leaves_with_path(after), jax.tree.leaves(before), strict=True
        )
        if np.array_equal(a, b)
    ]
    return stage, current, still


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("source_only", "adversarial")]


@pytest.mark.parametrize("name", ["fda", *SLOW])
def test_one_step_of_real_networks(name):
    stage, _, still = two_steps(config(name))
    assert not still
    assert bool(stage.adversary.networks) == (name != "source_only")


@pytest.mark.parametrize(("name", "arg"), EVERY)
def test_two_steps_of_every_method(name, arg, monkeypatch):
    shrink(monkeypatch)
    whole = config(name, arg, eval__output="logits")  # tiny networks have no "coarse"
    for planned in make_plan(whole, KINDS).values():
        if planned.kind != "train":
            continue
        chosen = planned.config
        stage, current, still = two_steps(chosen)
        read = {term.head for term, _ in stage.objective.values()}
        unread = [
            path for path in still
            if any(f"['{head}']" in path for head in {"aux4", "aux8", "aux16", "aux32"} - read)
        ]  # fmt: skip
        assert set(still) == set(unread)
        assert bool(current.teacher) == (chosen.teacher.kind != "none")


def test_loss_falls_on_the_built_in_scenes():
    chosen = config("adversarial", fda_beta=0.05, steps=20)
    stage = build.build(chosen)
    step = jax.jit(make_train_step(stage), donate_argnums=0)
    current, seen = build.initial_state(stage), []
    for n in range(12):
        current, logs = step(current, streets_batch(n % 3))
        seen.append(float(logs["seg"]))
    assert np.mean(seen[-3:]) < 0.7 * np.mean(seen[:3])


def test_bfloat16_computes_with_float32_parameters():
    chosen = config("adversarial", dtype="bfloat16")
    stage = build.build(chosen)
    current = build.initial_state(stage)
    assert {leaf.dtype for leaf in jax.tree.leaves(current.g_params)} == {jnp.dtype("float32")}
    after, logs = jax.jit(make_train_step(stage))(current, batch())
    assert {leaf.dtype for leaf in jax.tree.leaves(after.g_stats)} == {jnp.dtype("float32")}
    assert np.isfinite(float(logs["loss"]))
