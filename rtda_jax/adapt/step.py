"""The training step: prepare, forward, generator loss, discriminator loss, update."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from rtda_jax.adapt.levels import Level
from rtda_jax.adapt.prepare import Part
from rtda_jax.adapt.state import TrainState
from rtda_jax.adapt.teacher import Follow
from rtda_jax.adapt.terms import Sums, Term, views

# Images go through the network in this order, which decides whose statistics come last.
ORDER = ("source", "target", "weak", "strong", "mixed")

# Whose forward passes update the running statistics.
STATISTICS = {"both": ORDER, "source": ("source",), "target": ORDER[1:]}

Logs = dict[str, jax.Array]
Remember = Callable[[dict, Mapping, dict], tuple[dict, dict, dict[str, Sums]]]


def make_train_step(
    generator: nn.Module,
    discriminators: Mapping[str, nn.Module],
    g_tx: optax.GradientTransformation,
    d_tx: optax.GradientTransformation,
    *,
    objective: Mapping[str, tuple[Term, float]],
    levels: Mapping[str, Level],
    d_objective: Mapping[str, Mapping[str, Callable[..., Sums]]],
    d_factor: float,
    prepare: Part,
    follow: Follow,
    remember: Remember | None = None,
    statistics: str = "both",
    passes: str = "each",
    axis_name: str | None = None,
) -> Callable[[TrainState, dict], tuple[TrainState, Logs]]:
    """The function (state, batch) -> (state, logs) that trains both networks once.

    Args:
      generator: the segmentation network.
      discriminators: by level; their generator terms must be in the objective.
      g_tx: its optimizer.
      d_tx: the discriminators' optimizer.
      objective: the active generator terms with their weights, from `terms.select`.
      levels: where each discriminator looks.
      d_objective: by level, the two discriminator terms.
      d_factor: what the sum of a level's two terms is multiplied by, 1/2 or 1.
      prepare: the device's half of the input, from `prepare.in_order`.
      follow: how the teacher follows the student, `teacher.stay` or one from `teacher.average`.
      remember: (outputs, batch, memory) -> (outputs, memory, what to log) of a method that adds
        to the outputs or has a state of its own. Its memory is in the batch under its names.
      statistics: whose forward passes update the running statistics, a key of `STATISTICS`.
      passes: "each" view through the network by itself, or all in one "joint" pass, for a network
        whose output does not depend on the rest of its batch (frozen statistics).
      axis_name: the device axis when pmapped, None under plain or sharded jit.

    Returns:
      A pure function; logs hold every term, the health of the adversary and gradient norms.
    """
    needed = {view: _heads(view, objective, levels) for view in ORDER if view in views(objective)}
    updating = STATISTICS[statistics] if len(needed) > 1 else ORDER

    def everywhere(tree):
        return tree if axis_name is None else lax.psum(tree, axis_name)

    def mean(sums: Sums) -> jax.Array:
        """This device's share of the mean over all devices."""
        total, count = sums
        return total / jnp.maximum(lax.stop_gradient(everywhere(count)), 1.0)

    def at_once(params: Any, stats: Any, batch: dict) -> tuple[dict, Any]:
        images = [batch[f"{view}_image"] for view in needed]
        found, _ = generator.apply(
            {"params": params, "batch_stats": stats},
            jnp.concatenate(images),
            train=True,
            mutable=["batch_stats"],
        )
        ends = list(itertools.accumulate(len(x) for x in images))
        outputs = {
            view: {head: found[head][end - len(x) : end] for head in heads}
            for (view, heads), x, end in zip(needed.items(), images, ends, strict=True)
        }
        return outputs, stats

    def one_by_one(params: Any, stats: Any, batch: dict) -> tuple[dict, Any]:
        outputs = {}
        for view, heads in needed.items():
            found, updated = generator.apply(
                {"params": params, "batch_stats": stats},
                batch[f"{view}_image"],
                train=True,
                mutable=["batch_stats"],
            )
            outputs[view] = {head: found[head] for head in heads}
            if view in updating:
                stats = updated["batch_stats"]
        return outputs, stats

    forward = {"each": one_by_one, "joint": at_once}[passes]

    def judge(d_params: Any, view: str, outputs: dict, batch: dict) -> dict[str, Any]:
        size = batch[f"{view}_image"].shape[1:3]
        return {
            level: module.apply(
                {"params": d_params[level]},
                levels[level].view(outputs[view][levels[level].head], size),
            )
            for level, module in discriminators.items()
        }

    def generator_loss(outputs: dict, state: TrainState, batch: dict):
        memory = state.memory
        measured: dict[str, Sums] = {}
        if remember is not None:
            outputs, memory, measured = remember(outputs, batch, memory)
        if discriminators:
            judged = judge(state.d_params, "target", outputs, batch)
            outputs = {**outputs, "judged_target": judged}
        values = {
            name: mean(term.evaluate(outputs, batch)) for name, (term, _) in objective.items()
        }
        loss = sum(weight * values[name] for name, (_, weight) in objective.items())
        values |= {name: mean(sums) for name, sums in measured.items()}
        return loss, (values, memory)

    def discriminator_loss(d_params: Any, outputs: dict, batch: dict):
        judged = {f"judged_{d}": judge(d_params, d, outputs, batch) for d in ("source", "target")}
        values = {
            name: mean(evaluate(judged, batch))
            for terms in d_objective.values()
            for name, evaluate in terms.items()
        }
        return d_factor * sum(values.values()), (values, judged)

    def step(state: TrainState, batch: dict) -> tuple[TrainState, Logs]:
        key = jax.random.fold_in(state.key, state.step)
        batch = prepare({**batch, **state.memory, "step": state.step}, key, state.teacher)
        outputs, pull_back, stats = jax.vjp(
            lambda params: forward(params, state.g_stats, batch), state.g_params, has_aux=True
        )
        (loss, (values, memory)), slopes = jax.value_and_grad(generator_loss, has_aux=True)(
            outputs, state, batch
        )
        g_grads = everywhere(pull_back(slopes)[0])
        g_updates, g_opt = g_tx.update(g_grads, state.g_opt, state.g_params)
        g_params = optax.apply_updates(state.g_params, g_updates)
        logs = everywhere({"loss": loss, **values})
        logs["grad_norm"] = optax.tree.norm(g_grads)
        # How hard each view pulls at the network's outputs: its share of the gradient, for free.
        logs |= {
            f"pull_{view}": jnp.sqrt(everywhere(optax.tree.norm(slope, squared=True)))
            for view, slope in slopes.items()
        }
        logs |= predictions(outputs, mean=lambda sums: everywhere(mean(sums)))

        d_params, d_opt = state.d_params, state.d_opt
        if discriminators:
            # Both gradients come from one forward pass: the compiler merges the equal halves.
            (d_loss, (d_values, judged)), d_grads = jax.value_and_grad(
                discriminator_loss, has_aux=True
            )(d_params, lax.stop_gradient(outputs), batch)
            d_grads = everywhere(d_grads)
            d_updates, d_opt = d_tx.update(d_grads, d_opt, d_params)
            d_params = optax.apply_updates(d_params, d_updates)
            right = {name: mean(sums) for name, sums in accuracies(judged)}
            logs |= everywhere({"d_loss": d_loss, **d_values, **right})
            logs["d_grad_norm"] = optax.tree.norm(d_grads)

        student = {"params": g_params, "batch_stats": stats}
        state = state.replace(
            step=state.step + 1,
            g_params=g_params,
            g_stats=stats,
            g_opt=g_opt,
            d_params=d_params,
            d_opt=d_opt,
            teacher=follow(state.teacher, student, state.step),
            memory=memory,
        )
        return state, logs

    return step


def _heads(view: str, objective: Mapping, levels: Mapping[str, Level]) -> frozenset[str]:
    """The outputs of a view that anyone reads; the others are not computed."""
    heads = {t.head for t, _ in objective.values() if view in t.views and t.level is None}
    if view != "source":
        heads.add("logits")  # for `predictions`
    if view in ("source", "target"):
        heads |= {levels[t.level].head for t, _ in objective.values() if t.level is not None}
    return frozenset(heads)


def predictions(outputs: Mapping, *, mean: Callable[[Sums], jax.Array]) -> Logs:
    """How sure the target's predictions are, and over how many classes they spread.

    target_entropy in [0,1] is the mean entropy of a pixel; target_classes in [1,K] is the
    exponential of the mean prediction's entropy. Both fall when the network collapses. Without
    the target itself they are of its weak view, without that of the images mixed with it.
    """
    seen = [outputs[view]["logits"] for view in ("target", "weak", "mixed") if view in outputs]
    if not seen:
        return {}
    logits = seen[0]
    log_p = jax.nn.log_softmax(lax.stop_gradient(logits), axis=-1)
    p = jnp.exp(log_p)
    count = jnp.float32(p.size // p.shape[-1])
    entropy = mean((-(p * log_p).sum(), count))
    average = mean((p.sum(axis=(0, 1, 2)), count))
    spread = jnp.exp(-(average * jnp.log(average + 1e-30)).sum())
    return {"target_entropy": entropy / jnp.log(p.shape[-1]), "target_classes": spread}


def accuracies(judged: Mapping[str, Mapping[str, jax.Array]]) -> list[tuple[str, Sums]]:
    """How often each discriminator is right on each domain; 1/2 is chance."""
    rows = []
    for level in judged["judged_source"]:
        source, target = judged["judged_source"][level], judged["judged_target"][level]
        for domain, right in (("source", source < 0), ("target", target > 0)):
            sums = right.sum(dtype=jnp.float32), jnp.float32(right.size)
            rows.append((f"d_{level}_accuracy_{domain}", sums))
    return rows
