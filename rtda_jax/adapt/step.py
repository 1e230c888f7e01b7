"""The training step: label, prepare, learn (forward, generator and discriminator loss), update.

The segmentation network is the generator of the adversarial game (`g_`) and the teacher's student;
the discriminators are `d_`. Losses take first what they are differentiated by, and then the method.
docs/architecture.md follows a batch through the step.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from rtda_jax.adapt import consistency, teacher, views
from rtda_jax.adapt.method import Method, forward
from rtda_jax.adapt.state import TrainState
from rtda_jax.adapt.terms import Outputs
from rtda_jax.augment import Batch
from rtda_jax.augment.normalise import normalise
from rtda_jax.losses import Sum

Logs = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Logs]]


def make_train_step(method: Method) -> TrainStep:
    """Returns `train_step` of a method, the pure function (state, batch) -> (state, logs)."""
    return functools.partial(train_step, method)


def train_step(method: Method, state: TrainState, batch: Batch) -> tuple[TrainState, Logs]:
    """Makes one update of the segmentation networks, the discriminators and the teacher.

    The logs hold the value of every term, the discriminators' losses and accuracies, the norms of
    the gradients and statistics of the target's predictions. Those of the large network, if one is
    trained, begin with "large_".
    """
    key = jax.random.fold_in(state.key, state.step)
    state = _follow(method, state, "before")
    batch, teacher_variables, teacher_sums = label_target(method, state.teacher, batch)
    updated, logs = update_networks(method, state, batch, key, teacher_sums)
    if method.large is not None:
        large, large_logs = update_networks(method.large, state.large, batch, key, {})
        updated = updated.with_large(large)
        logs |= {f"large_{name}": value for name, value in large_logs.items()}
    updated = updated.replace(teacher=teacher_variables)
    updated = _follow(method, updated, "after")
    return updated.replace(step=updated.step + 1), logs


def label_target(
    method: Method, teacher_variables: Any, batch: Batch
) -> tuple[Batch, Any, dict[str, Sum]]:
    """Adds the teacher's predictions for the target to a batch, if a term reads them.

    Returns:
      The batch, the teacher's variables after its forward pass, and sums to log.
    """
    if not method.teaches:
        return batch, teacher_variables, {}
    network = method.network("teacher")
    images = normalise(batch["target_image"].astype(jnp.float32), name=network.normalisation)
    labels, sums, teacher_variables = teacher.label(
        network.module,
        teacher_variables,
        images,
        options=method.teacher,
        unlabelled=batch.get("target_border"),
        axis_name=method.axis_name,
    )
    return {**batch, **labels}, teacher_variables, sums


def update_networks(
    method: Method,
    state: TrainState,
    labelled: Batch,
    key: jax.Array,
    teacher_sums: Mapping[str, Sum],
) -> tuple[TrainState, Logs]:
    """Updates the segmentation network and the discriminators on a batch that is labelled.

    Args:
      method: the method, whose large network is left alone.
      state: the state, whose step and teacher stay.
      labelled: the batch from `label_target`.
      key: the random key of the step.
      teacher_sums: what to log of the teacher.
    """
    batch = views.prepare(method.preparation, labelled, key, state)

    learned = learn_in_parts(method, state, batch)
    g_grads = _psum(learned.g_grads, method)
    g_params, g_opt = _update(method.g_tx, g_grads, state.g_opt, state.g_params)
    logs = described(_psum({**learned.shares, **_shares(teacher_sums, method)}, method))
    logs["grad_norm"] = optax.tree.norm(g_grads)
    squares = _psum(learned.squared_pulls, method)
    logs |= {f"pull_{view}": jnp.sqrt(square) for view, square in squares.items()}

    d_params, d_opt = state.d_params, state.d_opt
    if method.adversary.networks:
        d_grads = _psum(learned.d_grads, method)
        d_params, d_opt = _update(method.d_tx, d_grads, d_opt, d_params)
        logs["d_grad_norm"] = optax.tree.norm(d_grads)

    memory, logs = _remember(method, learned.memory, logs)
    state = state.replace(
        g_params=g_params,
        g_stats=learned.stats,
        g_opt=g_opt,
        d_params=d_params,
        d_opt=d_opt,
        memory=memory,
    )
    return state, logs


def _remember(method: Method, memory: Any, logs: Logs) -> tuple[Any, Logs]:
    """Returns memory and logs after the areas of agreement have moved from the logs to the memory.

    They are averaged with the teacher's decay. The log `inconsistency` is the mean over the classes
    that have been predicted.
    """
    if not method.weighs_classes:
        return memory, logs
    logs = dict(logs)
    stays = method.teacher.decay
    areas = stays * memory["agreement"] + (1 - stays) * logs.pop("agreement")
    seen = areas[1] > 0
    each = jnp.where(seen, teacher.inconsistency(areas), 0.0)
    logs["inconsistency"] = each.sum() / jnp.maximum(seen.sum(), 1)
    return {**memory, "agreement": areas}, logs


def _follow(method: Method, state: TrainState, moment: str) -> TrainState:
    """Returns the state whose teacher has followed the student, if this is the moment for it."""
    if method.teacher.follows != moment:
        return state
    options = method.teacher
    variables = teacher.follow(state.teacher, state.followed, state.step, options=options)
    return state.replace(teacher=variables)


def _update(
    optimizer: optax.GradientTransformation, gradients: Any, optimizer_state: Any, params: Any
) -> tuple[Any, Any]:
    """Returns the parameters and the state of their optimizer after one update."""
    updates, optimizer_state = optimizer.update(gradients, optimizer_state, params)
    return optax.apply_updates(params, updates), optimizer_state


class Learned(NamedTuple):
    """What one device learns from a batch; all but stats and memory adds up over devices and parts.

    Attributes:
      g_grads, d_grads: the gradients of this device's share of the losses, by parameter.
      shares: this device's share of every mean to log, of losses too.
      squared_pulls: the squared norm of the loss's gradient at the outputs of each view, which says
        how hard the view pulls.
      stats: the running statistics of the segmentation network.
      memory: what the method keeps between steps.
    """

    g_grads: Any
    d_grads: Any
    shares: Logs
    squared_pulls: Logs
    stats: Any
    memory: Any


def learn(method: Method, state: TrainState, batch: Batch, counts: Logs | None = None) -> Learned:
    """Returns the gradients of both losses on a prepared batch or a part of it.

    Args:
      method: the method.
      state: the state, of which nothing changes here.
      batch: the views of this device's images, or of a part of them.
      counts: the numbers that means over the whole batch are divided by, from `count`; None where
        `batch` is this device's whole share.
    """
    # The gradient is computed in two steps, first at the outputs and then at the parameters. The
    # first step gives the strength of each view's gradient, and the discriminators read the same
    # outputs.
    outputs, vjp, stats = jax.vjp(
        lambda params: forward(method, params, state.g_stats, batch), state.g_params, has_aux=True
    )
    (loss, (shares, memory)), output_grads = jax.value_and_grad(generator_loss, has_aux=True)(
        outputs, method, state, batch, counts
    )
    shares = {"loss": loss, **shares, **_shares(target_statistics(outputs), method, counts)}
    squares = {view: optax.tree.norm(g, squared=True) for view, g in output_grads.items()}
    d_grads: Any = {}
    if method.adversary.networks:
        # generator_loss already ran the discriminators on the target. It is traced again here, and
        # XLA merges the two equal forward passes.
        (d_loss, d_shares), d_grads = jax.value_and_grad(discriminator_loss, has_aux=True)(
            state.d_params, method, lax.stop_gradient(outputs), batch, counts
        )
        shares |= {"d_loss": d_loss, **d_shares}
    # Every device differentiates its share of the loss, so the sum over devices is the gradient.
    return Learned(vjp(output_grads)[0], d_grads, shares, squares, stats, memory)


def learn_in_parts(method: Method, state: TrainState, batch: Batch) -> Learned:
    """Returns what `learn` does, one micro-batch after the other where the method accumulates.

    The micro-batches are consecutive rows of this device's share. All start from the same running
    statistics, and the new ones are the mean over the micro-batches.
    """
    if method.accumulate == 1:
        return learn(method, state, batch)
    parts = jax.tree.map(lambda x: x.reshape(method.accumulate, -1, *x.shape[1:]), dict(batch))
    counts = _psum(_sum_over_parts(lambda part: count(method, state, part), parts), method)

    def changes(part: Batch) -> Learned:
        learned = learn(method, state, part, counts)
        # Differences, so that statistics which stay as they are keep every bit.
        moved = jax.tree.map(jnp.subtract, learned.stats, state.g_stats)
        return learned._replace(stats=moved, memory={})

    total = _sum_over_parts(changes, parts)
    stats = jax.tree.map(lambda x, dx: x + dx / method.accumulate, state.g_stats, total.stats)
    return total._replace(stats=stats, memory=state.memory)


def _sum_over_parts(function: Callable[[Batch], Any], parts: Batch) -> Any:
    """Returns the sum of a function of every micro-batch, of which one at a time is in memory."""
    shapes = jax.eval_shape(function, jax.tree.map(lambda x: x[0], parts))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def add(total: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, function(part)), None

    total, _ = lax.scan(add, zeros, parts)
    return total


def count(method: Method, state: TrainState, batch: Batch) -> Logs:
    """Returns the number, mostly of pixels, that each mean over a prepared batch is divided by.

    XLA drops what the numbers do not depend on, which is all but the labels for most terms. Those
    of consistency terms and OHEM depend on predictions and cost a forward pass.
    """
    outputs, _ = forward(method, state.g_params, state.g_stats, batch)
    sums, _ = generator_sums(outputs, method, state, batch)
    losses, accuracies = discriminator_sums(state.d_params, method, outputs, batch)
    sums |= target_statistics(outputs) | losses | accuracies
    return {name: lax.stop_gradient(sum_.count) for name, sum_ in sums.items()}


def generator_loss(
    outputs: Outputs, method: Method, state: TrainState, batch: Batch, counts: Logs | None
) -> tuple[jax.Array, tuple[Logs, Any]]:
    """Returns this device's share of the objective, with every term's value and the new memory."""
    sums, memory = generator_sums(outputs, method, state, batch)
    shares = _shares(sums, method, counts)
    loss = sum(weight * shares[name] for name, (_, weight) in method.objective.items())
    return jnp.asarray(loss), (shares, memory)


def generator_sums(
    outputs: Outputs, method: Method, state: TrainState, batch: Batch
) -> tuple[dict[str, Sum], Any]:
    """Returns the sums of every term and of what is logged beside them, and the new memory."""
    memory = state.memory
    measured: dict[str, Sum] = {}
    term_inputs: dict[str, Any] = dict(outputs)
    if method.consistency_heads:
        comparison, memory, measured = consistency.compare(
            outputs,
            batch["strong_affine"],
            memory,
            heads=method.consistency_heads,
            options=method.consistency,
            step=state.step,
            axis_name=method.axis_name,
        )
        term_inputs |= comparison
    if method.weighs_classes:
        strength = method.teacher.inconsistency
        weights = teacher.distil_weights(memory["agreement"], strength=strength)
        term_inputs["weights"] = {"classes": weights}
        measured["agreement"] = teacher.agreement(
            outputs["target"]["logits"],
            batch["teacher_label"],
            batch["teacher_labelled"],
            num_classes=method.num_classes,
        )
    if method.adversary.networks:
        term_inputs["verdicts"] = _judge(method, state.d_params, "target", outputs, batch)
    sums = {name: term.evaluate(term_inputs, batch) for name, (term, _) in method.objective.items()}
    return sums | measured, memory


def discriminator_loss(
    d_params: Any, method: Method, outputs: Outputs, batch: Batch, counts: Logs | None
) -> tuple[jax.Array, Logs]:
    """Returns this device's share of the discriminators' loss, with its parts and accuracies."""
    losses, accuracies = discriminator_sums(d_params, method, outputs, batch)
    shares = _shares(losses, method, counts)
    loss = method.adversary.options.d_factor * sum(shares.values())
    return jnp.asarray(loss), shares | _shares(accuracies, method, counts)


def discriminator_sums(
    d_params: Any, method: Method, outputs: Outputs, batch: Batch
) -> tuple[dict[str, Sum], dict[str, Sum]]:
    """Returns the sums of the discriminators' losses and those of their accuracies."""
    if not method.adversary.networks:
        return {}, {}
    verdicts = {
        domain: _judge(method, d_params, domain, outputs, batch) for domain in ("source", "target")
    }
    return method.adversary.losses(verdicts), method.adversary.accuracies(verdicts)


def _judge(
    method: Method, d_params: Any, view: str, outputs: Outputs, batch: Batch
) -> dict[str, jax.Array]:
    size = batch[f"{view}_image"].shape[1:3]
    return method.adversary.judge(d_params, outputs[view], size=(size[0], size[1]))


def _psum(tree: Any, method: Method) -> Any:
    """Returns the sum over all devices."""
    return tree if method.axis_name is None else lax.psum(tree, method.axis_name)


def _shares(sums: Mapping[str, Sum], method: Method, counts: Logs | None = None) -> Logs:
    """Returns shares of means over the whole batch: those of all devices and parts add up to it."""
    if counts is None:
        counts = {name: lax.stop_gradient(_psum(s.count, method)) for name, s in sums.items()}
    # Class weights of a small scale count less than one pixel; only a count of 0 has no mean.
    divisors = {name: jnp.where(count > 0, count, 1.0) for name, count in counts.items()}
    return {name: s.total / divisors[name] for name, s in sums.items()}


def target_statistics(outputs: Outputs) -> dict[str, Sum]:
    """Returns the summed entropy of the target's predictions and their summed softmax [K].

    The entropy is in nats. Both describe the target itself, or the mixed or masked images where the
    target does not go through the network.
    """
    shown = [view for view, domain in views.VIEWS.items() if domain == "target" and view in outputs]
    if not shown:
        return {}
    log_p = jax.nn.log_softmax(lax.stop_gradient(outputs[shown[0]]["logits"]), axis=-1)
    p = jnp.exp(log_p)
    pixels = jnp.float32(p.size // p.shape[-1])
    return {
        "target_entropy": Sum(-(p * log_p).sum(), pixels),
        "target_average": Sum(p.sum(axis=(0, 1, 2)), pixels),
    }


def described(logs: Logs) -> Logs:
    """Returns the logs with `target_entropy` and `target_classes` instead of the mean prediction.

    target_entropy in [0,1] is the mean entropy of a pixel. target_classes in [1,K] is the
    exponential of the mean prediction's entropy: over how many classes it spreads. Both fall when
    the network collapses.
    """
    if "target_average" not in logs:
        return logs
    average = logs["target_average"]
    spread = jnp.exp(-(average * jnp.log(average + 1e-30)).sum())
    entropy = logs["target_entropy"] / jnp.log(len(average))
    rest = {name: value for name, value in logs.items() if name != "target_average"}
    return {**rest, "target_entropy": entropy, "target_classes": spread}
