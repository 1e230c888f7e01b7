"""Training steps of a tiny network: methods, batches, and how states are compared."""

import jax
import numpy as np
from helpers import batch, config

from rtda_jax.adapt import build, views
from rtda_jax.adapt.step import make_train_step


def small_method(objective, *, axis_name=None, **fields):
    """The method of an objective on a tiny network without auxiliary heads."""
    fields = {"model__statistics": "both", "optim__g_lr": 0.05, "optim__d_lr": 1e-2, **fields}
    chosen = config("source_only", steps=50, **fields)
    chosen.model.options = {"heads": ()}
    chosen.objective.update({**dict.fromkeys(chosen.objective, 0.0), **objective})
    chosen.pseudo_labels = "label" if objective.get("pseudo") else ""
    return build.build(chosen, axis_name=axis_name)


def small_step(objective, **changes):
    """Its step, and its state before the first one."""
    method = small_method(objective, **changes)
    return make_train_step(method), build.initial_state(method)


def prepared_batch(made, **fields):
    parts = small_method({"seg": 1.0}, **fields).preparation
    return views.prepare(parts, made, jax.random.key(0), None)


def uneven(step=0):
    """A batch whose ignored pixels lie almost all on one device's half."""
    made = batch(step)
    made["source_label"][:2, 2:] = 255
    made["target_index"] = made["source_index"]
    return made


def run(step, start, count=3):
    for n in range(count):
        start, logs = step(start, uneven(n))
        jax.block_until_ready(logs)
    return start, logs


BOTH = {"seg": 1.0, "adv_output": 0.1}


def assert_states_agree(got, expected):
    """Up to rounding, which Adam's first steps make as large as the learning rate."""
    for field, tolerance in {"g_params": 1e-6, "g_stats": 1e-6, "d_params": 1e-4}.items():
        jax.tree.map(
            lambda a, b, atol=tolerance: np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol),
            getattr(got, field),
            getattr(expected, field),
        )
