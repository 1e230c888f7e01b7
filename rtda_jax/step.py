"""The training step: prepare, forward, generator loss, discriminator loss, update."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from rtda_jax import fda
from rtda_jax.normalise import normalise
from rtda_jax.state import TrainState
from rtda_jax.terms import LEVELS, Sums, Term

STATISTICS = {"both": ("source", "target"), "source": ("source",), "target": ("target",)}

Logs = dict[str, jax.Array]


def make_prepare(*, normalisation: str, fda_beta: float | None) -> Callable[[dict], dict]:
    """The device's half of the input: uint8 pixels to what the network reads.

    Args:
      normalisation: a name `rtda_jax.normalise` knows.
      fda_beta: stylise the source after the target of the same batch position; None does not.
    """

    def prepare(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        prepared = dict(batch)
        images = {k: v.astype(jnp.float32) for k, v in batch.items() if k.endswith("_image")}
        if fda_beta is not None:
            images["source_image"] = fda.transfer(
                images["source_image"], images["target_image"], beta=fda_beta
            )
        prepared.update({k: normalise(v, name=normalisation) for k, v in images.items()})
        return prepared

    return prepare


def make_train_step(
    generator: nn.Module,
    discriminators: Mapping[str, nn.Module],
    g_tx: optax.GradientTransformation,
    d_tx: optax.GradientTransformation,
    *,
    objective: Mapping[str, tuple[Term, float]],
    d_objective: Mapping[str, Mapping[str, Callable[..., Sums]]],
    d_factor: float,
    prepare: Callable[[dict], dict],
    statistics: str = "both",
    axis_name: str | None = None,
) -> Callable[[TrainState, dict], tuple[TrainState, Logs]]:
    """The function (state, batch) -> (state, logs) that trains both networks once.

    Args:
      generator: the segmentation network.
      discriminators: by level; their generator terms must be in the objective.
      g_tx: its optimizer.
      d_tx: the discriminators' optimizer.
      objective: the active generator terms with their weights, from `terms.select`.
      d_objective: by level, the two discriminator terms.
      d_factor: what the sum of a level's two terms is multiplied by, 1/2 or 1.
      prepare: the device's half of the input.
      statistics: whose forward passes update the running statistics, a key of `STATISTICS`.
      axis_name: the device axis when pmapped, None under plain or sharded jit.

    Returns:
      A pure function; logs hold every term, discriminator accuracies and both gradient norms.
    """
    domains = [
        d for d in ("source", "target") if any(d in t.domains for t, _ in objective.values())
    ]
    updating = STATISTICS[statistics] if len(domains) == 2 else tuple(domains)

    def everywhere(tree):
        return tree if axis_name is None else lax.psum(tree, axis_name)

    def mean(sums: Sums) -> jax.Array:
        """This device's share of the mean over all devices."""
        total, count = sums
        return total / jnp.maximum(lax.stop_gradient(everywhere(count)), 1.0)

    def forward(params: Any, stats: Any, batch: dict) -> tuple[dict, Any]:
        outputs = {}
        for domain in domains:
            outputs[domain], updated = generator.apply(
                {"params": params, "batch_stats": stats},
                batch[f"{domain}_image"],
                train=True,
                mutable=["batch_stats"],
            )
            if domain in updating:
                stats = updated["batch_stats"]
        return outputs, stats

    def judge(d_params: Any, outputs: dict) -> dict[str, Any]:
        return {
            level: module.apply({"params": d_params[level]}, LEVELS[level].view(outputs))
            for level, module in discriminators.items()
        }

    def generator_loss(g_params: Any, state: TrainState, batch: dict):
        outputs, stats = forward(g_params, state.g_stats, batch)
        if discriminators:
            outputs["judged_target"] = judge(state.d_params, outputs["target"])
        values = {
            name: mean(term.evaluate(outputs, batch)) for name, (term, _) in objective.items()
        }
        loss = sum(weight * values[name] for name, (_, weight) in objective.items())
        return loss, (values, outputs, stats)

    def discriminator_loss(d_params: Any, outputs: dict, batch: dict):
        judged = {f"judged_{d}": judge(d_params, outputs[d]) for d in domains}
        values = {
            name: mean(evaluate(judged, batch))
            for terms in d_objective.values()
            for name, evaluate in terms.items()
        }
        return d_factor * sum(values.values()), (values, judged)

    def step(state: TrainState, batch: dict) -> tuple[TrainState, Logs]:
        batch = prepare(batch)
        (loss, (values, outputs, stats)), g_grads = jax.value_and_grad(
            generator_loss, has_aux=True
        )(state.g_params, state, batch)
        logs = {"loss": loss, **values}
        g_grads = everywhere(g_grads)
        g_updates, g_opt = g_tx.update(g_grads, state.g_opt, state.g_params)
        norms = {"grad_norm": optax.tree.norm(g_grads)}

        d_params, d_opt = state.d_params, state.d_opt
        if discriminators:
            # Both gradients come from one forward pass: the compiler merges the equal halves.
            (d_loss, (d_values, judged)), d_grads = jax.value_and_grad(
                discriminator_loss, has_aux=True
            )(d_params, lax.stop_gradient(outputs), batch)
            d_grads = everywhere(d_grads)
            d_updates, d_opt = d_tx.update(d_grads, d_opt, d_params)
            d_params = optax.apply_updates(d_params, d_updates)
            logs |= {"d_loss": d_loss, **d_values, **{k: mean(s) for k, s in accuracies(judged)}}
            norms["d_grad_norm"] = optax.tree.norm(d_grads)

        state = state.replace(
            step=state.step + 1,
            g_params=optax.apply_updates(state.g_params, g_updates),
            g_stats=stats,
            g_opt=g_opt,
            d_params=d_params,
            d_opt=d_opt,
        )
        return state, {**everywhere(logs), **norms}

    return step


def accuracies(judged: Mapping[str, Mapping[str, jax.Array]]) -> list[tuple[str, Sums]]:
    """How often each discriminator is right on each domain; 1/2 is chance."""
    rows = []
    for level in judged["judged_source"]:
        source, target = judged["judged_source"][level], judged["judged_target"][level]
        for domain, right in (("source", source < 0), ("target", target > 0)):
            sums = right.sum(dtype=jnp.float32), jnp.float32(right.size)
            rows.append((f"d_{level}_accuracy_{domain}", sums))
    return rows
