"""The training step: label, prepare, forward, generator loss, discriminator loss, update."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from rtda_jax.adapt import consistency, distance, teacher, terms, views
from rtda_jax.adapt.adversary import Adversary
from rtda_jax.adapt.consistency import ConsistencyOptions
from rtda_jax.adapt.distance import DistanceOptions
from rtda_jax.adapt.state import TrainState
from rtda_jax.adapt.teacher import TeacherOptions
from rtda_jax.adapt.terms import Objective
from rtda_jax.adapt.views import LABELLED, VIEWS
from rtda_jax.augment.normalise import normalise
from rtda_jax.losses import Sum

# The views whose forward passes update the running statistics.
STATISTICS = {"both": VIEWS, "source": ("source",), "target": VIEWS[1:]}

Logs = dict[str, jax.Array]
Outputs = dict[str, dict[str, jax.Array]]
Batch = Mapping[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Logs]]


@dataclasses.dataclass(frozen=True)
class Method:
    """Everything that a training step closes over, built once per stage by `build.build`.

    Attributes:
      generator: the segmentation network.
      adversary: the discriminators, their places and how they are trained.
      objective: the active terms with their weights.
      preparation: what is done to a batch, see `views`.
      consistency: how views are compared, where consistency terms are active.
      teacher: how the teacher follows the student and labels the target.
      distance: which features feature_distance compares.
      normalisation: of the images that the networks read.
      statistics: whose forward passes update the running statistics, a key of `STATISTICS`.
      batch_norm: a key of `BATCH_NORMS`.
      g_tx, d_tx: the optimizers.
      g_schedule, d_schedule: their learning rates by step.
      num_classes: K.
      size: (H, W) of a training crop.
      seed: of the run.
      needs_target: whether the target's images are read at all.
      axis_name: the device axis of a pmapped step, None under plain jit.
    """

    generator: nn.Module
    adversary: Adversary
    objective: Objective
    preparation: Sequence[views.Part]
    consistency: ConsistencyOptions
    teacher: TeacherOptions
    distance: DistanceOptions
    normalisation: str
    statistics: str
    batch_norm: str
    g_tx: optax.GradientTransformation
    d_tx: optax.GradientTransformation
    g_schedule: optax.Schedule
    d_schedule: optax.Schedule
    num_classes: int
    size: tuple[int, int]
    seed: int
    needs_target: bool
    axis_name: str | None = None

    @property
    def compared(self) -> list[str]:
        """The outputs that consistency terms compare, from the main one down."""
        return terms.heads(self.objective, view="strong")

    @property
    def teaches(self) -> bool:
        """Whether a view is trained with the teacher's labels."""
        return not terms.views(self.objective).isdisjoint(LABELLED.values())

    @property
    def refers(self) -> bool:
        """Whether features are compared with those of the pretrained network."""
        return terms.refers(self.objective)


def make_train_step(method: Method) -> TrainStep:
    """Returns the pure function (state, batch) -> (state, logs) that updates both networks once.

    The logs hold the value of every term, the discriminators' losses and accuracies, the norms of
    the gradients and statistics of the target's predictions.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Logs]:
        key = jax.random.fold_in(state.key, state.step)
        batch, follower, seen = labelled(method, state, batch)
        batch = views.prepare(method.preparation, batch, key, state)

        outputs, pull_back, stats = jax.vjp(
            lambda params: forward(method, params, state.g_stats, batch),
            state.g_params,
            has_aux=True,
        )
        (g_loss, (values, memory)), slopes = jax.value_and_grad(generator_loss, has_aux=True)(
            outputs, method, state, batch
        )
        g_grads = _total(pull_back(slopes)[0], method)
        g_updates, g_opt = method.g_tx.update(g_grads, state.g_opt, state.g_params)
        g_params = optax.apply_updates(state.g_params, g_updates)

        values |= {name: _mean(sums, method) for name, sums in seen.items()}
        logs = _total({"loss": g_loss, **values}, method)
        logs["grad_norm"] = optax.tree.norm(g_grads)
        logs |= pulls(slopes, method)
        logs |= predictions(outputs, method)

        d_params, d_opt = state.d_params, state.d_opt
        if method.adversary.networks:
            # Both gradients come from one forward pass: the compiler merges the equal halves.
            (d_loss, d_values), d_grads = jax.value_and_grad(discriminator_loss, has_aux=True)(
                d_params, method, lax.stop_gradient(outputs), batch
            )
            d_grads = _total(d_grads, method)
            d_updates, d_opt = method.d_tx.update(d_grads, d_opt, d_params)
            d_params = optax.apply_updates(d_params, d_updates)
            logs |= _total({"d_loss": d_loss, **d_values}, method)
            logs["d_grad_norm"] = optax.tree.norm(d_grads)

        if method.teacher.update == "after":
            student = {"params": g_params, "batch_stats": stats}
            follower = teacher.follow(follower, student, state.step, options=method.teacher)
        return state.replace(
            step=state.step + 1,
            g_params=g_params,
            g_stats=stats,
            g_opt=g_opt,
            d_params=d_params,
            d_opt=d_opt,
            teacher=follower,
            memory=memory,
        ), logs

    return step


def labelled(method: Method, state: TrainState, batch: Batch) -> tuple[Batch, Any, dict[str, Sum]]:
    """Returns the batch with the teacher's labels of the target, the teacher, and what to log."""
    options, follower = method.teacher, state.teacher
    if options.update == "before":
        student = {"params": state.g_params, "batch_stats": state.g_stats}
        follower = teacher.follow(follower, student, state.step, options=options)
    if not method.teaches:
        return batch, follower, {}
    images = normalise(batch["target_image"].astype(jnp.float32), name=method.normalisation)
    labels, seen, follower = teacher.label(
        method.generator,
        follower,
        images,
        options=options,
        hidden=batch.get("target_border"),
        axis_name=method.axis_name,
    )
    return {**batch, **labels}, follower, seen


def forward(method: Method, params: Any, stats: Any, batch: Batch) -> tuple[Outputs, Any]:
    """Returns the outputs of every view that a term reads, and the new running statistics."""
    needed = {view: heads for view in VIEWS if (heads := _heads(view, method))}
    return BATCH_NORMS[method.batch_norm](method, needed, params, stats, batch)


def _joint(
    method: Method, needed: Mapping[str, frozenset[str]], params: Any, stats: Any, batch: Batch
) -> tuple[Outputs, Any]:
    images = [batch[f"{view}_image"] for view in needed]
    seen, updated = _apply(method, params, stats, jnp.concatenate(images))
    wanted = frozenset().union(*needed.values())
    joint = {head: _read(method, head, seen, updated) for head in wanted}
    ends = list(itertools.accumulate(len(x) for x in images))
    outputs = {
        view: {head: joint[head][end - len(x) : end] for head in heads}
        for (view, heads), x, end in zip(needed.items(), images, ends, strict=True)
    }
    return outputs, stats


def _each(
    method: Method, needed: Mapping[str, frozenset[str]], params: Any, stats: Any, batch: Batch
) -> tuple[Outputs, Any]:
    updating = STATISTICS[method.statistics] if len(needed) > 1 else VIEWS
    outputs = {}
    for view, heads in needed.items():
        seen, updated = _apply(method, params, stats, batch[f"{view}_image"])
        outputs[view] = {head: _read(method, head, seen, updated) for head in heads}
        if view in updating:
            stats = updated["batch_stats"]
    return outputs, stats


# How views go through the network: each by itself, or all in one pass where the output for an
# image does not depend on the rest of its batch.
BATCH_NORMS = {"batch": _each, "frozen": _joint}


def _apply(method: Method, params: Any, stats: Any, images: jax.Array) -> tuple[Any, Any]:
    variables = {"params": params, "batch_stats": stats}
    if not method.refers:
        return method.generator.apply(variables, images, train=True, mutable=["batch_stats"])
    return method.generator.apply(
        variables,
        images,
        train=True,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=distance.is_trunk,
    )


def _read(method: Method, head: str, outputs: Any, captured: Any) -> jax.Array:
    if head == distance.HEAD:
        return distance.maps_of(captured)[method.distance.stage]
    return outputs[head]


def _heads(view: str, method: Method) -> frozenset[str]:
    """Returns the outputs of a view that are read; the others are not computed."""
    active = [term for term, _ in method.objective.values()]
    if not any(view in term.views for term in active):
        return frozenset()
    heads = {term.head for term in active if view in term.views and term.level is None}
    if view != "source":
        heads.add("logits")  # for `predictions`
    if view in ("source", "target"):
        heads |= {term.head for term in active if term.level is not None}
    return frozenset(heads)


def generator_loss(
    outputs: Outputs, method: Method, state: TrainState, batch: Batch
) -> tuple[jax.Array, tuple[Logs, Any]]:
    """Returns this device's share of the objective, with every term's value and the new memory."""
    memory = state.memory
    measured: dict[str, Sum] = {}
    seen: dict[str, Any] = dict(outputs)
    if method.compared:
        added, memory, measured = consistency.compare(
            outputs,
            batch["strong_affine"],
            memory,
            heads=method.compared,
            options=method.consistency,
            step=state.step,
            axis_name=method.axis_name,
        )
        seen |= added
    if method.adversary.networks:
        seen["verdicts"] = _judge(method, state.d_params, "target", outputs, batch)
    values = {
        name: _mean(term.evaluate(seen, batch), method)
        for name, (term, _) in method.objective.items()
    }
    loss = sum(weight * values[name] for name, (_, weight) in method.objective.items())
    values |= {name: _mean(sums, method) for name, sums in measured.items()}
    return jnp.asarray(loss), (values, memory)


def discriminator_loss(
    d_params: Any, method: Method, outputs: Outputs, batch: Batch
) -> tuple[jax.Array, Logs]:
    """Returns this device's share of the discriminators' loss, with its parts and accuracies."""
    verdicts = {
        domain: _judge(method, d_params, domain, outputs, batch) for domain in ("source", "target")
    }
    values = {n: _mean(sums, method) for n, sums in method.adversary.losses(verdicts).items()}
    loss = method.adversary.options.d_factor * sum(values.values())
    right = method.adversary.accuracies(verdicts)
    return jnp.asarray(loss), values | {n: _mean(sums, method) for n, sums in right.items()}


def _judge(
    method: Method, d_params: Any, view: str, outputs: Outputs, batch: Batch
) -> dict[str, jax.Array]:
    size = batch[f"{view}_image"].shape[1:3]
    return method.adversary.judge(d_params, outputs[view], size=(size[0], size[1]))


def _total(tree: Any, method: Method) -> Any:
    """Returns the sum over all devices."""
    return tree if method.axis_name is None else lax.psum(tree, method.axis_name)


def _mean(sums: Sum, method: Method) -> jax.Array:
    """Returns this device's share of the mean over all devices."""
    count = lax.stop_gradient(_total(sums.count, method))
    return sums.total / jnp.maximum(count, 1.0)


def pulls(slopes: Outputs, method: Method) -> Logs:
    """Returns how hard each view pulls at the outputs: its share of the gradient, for free."""
    return {
        f"pull_{view}": jnp.sqrt(_total(optax.tree.norm(slope, squared=True), method))
        for view, slope in slopes.items()
    }


def predictions(outputs: Outputs, method: Method) -> Logs:
    """Returns how sure the target's predictions are and over how many classes they spread.

    target_entropy in [0,1] is the mean entropy of a pixel. target_classes in [1,K] is the
    exponential of the mean prediction's entropy. Both fall when the network collapses. They
    describe the target itself, or the mixed or masked images where the target does not go through
    the network.
    """
    seen = [outputs[view]["logits"] for view in VIEWS[1:] if view in outputs]
    if not seen:
        return {}
    log_p = jax.nn.log_softmax(lax.stop_gradient(seen[0]), axis=-1)
    p = jnp.exp(log_p)
    count = jnp.float32(p.size // p.shape[-1])

    def mean(total: jax.Array) -> jax.Array:
        return _total(_mean(Sum(total, count), method), method)

    entropy = mean(-(p * log_p).sum())
    average = mean(p.sum(axis=(0, 1, 2)))
    spread = jnp.exp(-(average * jnp.log(average + 1e-30)).sum())
    return {"target_entropy": entropy / jnp.log(p.shape[-1]), "target_classes": spread}
