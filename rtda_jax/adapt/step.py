"""The training step: label, prepare, forward, generator loss, discriminator loss, update.

The segmentation network is the generator of the adversarial game (`g_`) and the teacher's student;
the discriminators are `d_`. docs/architecture.md follows a batch through the step.
"""

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
from rtda_jax.adapt.teacher import OtherNetwork, TeacherOptions
from rtda_jax.adapt.terms import Objective, Outputs
from rtda_jax.adapt.views import TARGET_VIEWS, VIEWS
from rtda_jax.augment import Batch
from rtda_jax.augment.normalise import normalise
from rtda_jax.losses import Sum

# The views whose forward passes update the running statistics, by `model.statistics`.
UPDATING_VIEWS = {"both": VIEWS, "source": ("source",), "target": TARGET_VIEWS}

Logs = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Logs]]


@dataclasses.dataclass(frozen=True)
class Method:
    """Everything that a training step closes over, built once per stage by `build.build`.

    Attributes:
      generator: the segmentation network.
      adversary: the discriminators, the levels that they judge and how they are trained.
      objective: the active terms with their weights.
      preparation: the parts that make views of a batch, see `views`.
      consistency: the options of consistency terms.
      teacher: the options of the teacher; its variables are `TrainState.teacher`.
      other: the teacher's network where it is not the student's, but one of an earlier stage.
      distance: the options of feature_distance.
      normalisation: the normalisation of the images that the networks read.
      statistics: the views that update the running statistics, a key of `UPDATING_VIEWS`.
      batch_norm: how views go through the network, a key of `BATCH_NORMS`.
      g_tx, d_tx: the optimizers.
      g_schedule, d_schedule: the learning rates of the optimizers by step.
      num_classes: the number of classes, K.
      size: the sides (H, W) of a training crop.
      seed: the seed of the run.
      needs_target: whether the target's images are read at all.
      axis_name: the device axis of a mapped step, None under plain jit.
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
    other: OtherNetwork | None = None

    @property
    def consistency_heads(self) -> list[str]:
        """The heads that consistency terms compare, from the main one down."""
        return terms.heads(self.objective, view="strong")

    @property
    def teaches(self) -> bool:
        """Whether a term reads what the teacher sees in the target."""
        return any(term.needs_teacher for term, _ in self.objective.values())

    @property
    def uses_reference(self) -> bool:
        """Whether feature_distance compares features with those of a frozen reference network."""
        return terms.uses_reference(self.objective)


def make_train_step(method: Method) -> TrainStep:
    """Returns the pure function (state, batch) -> (state, logs) of one update.

    It updates the segmentation network, the discriminators and the teacher. The logs hold the value
    of every term, the discriminators' losses and accuracies, the norms of the gradients and
    statistics of the target's predictions.
    """

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Logs]:
        key = jax.random.fold_in(state.key, state.step)
        teacher_variables = state.teacher
        if method.teacher.follows == "before":
            student = {"params": state.g_params, "batch_stats": state.g_stats}
            teacher_variables = teacher.follow(
                teacher_variables, student, state.step, options=method.teacher
            )
        batch, teacher_variables, teacher_sums = label_target(method, teacher_variables, batch)
        batch = views.prepare(method.preparation, batch, key, state)

        # The gradient is taken in two steps, at the outputs and then at the parameters: the first
        # shows how hard each view pulls, and the discriminators read the same outputs.
        outputs, vjp, stats = jax.vjp(
            lambda params: forward(method, params, state.g_stats, batch),
            state.g_params,
            has_aux=True,
        )
        (g_loss, (shares, memory)), output_grads = jax.value_and_grad(generator_loss, has_aux=True)(
            outputs, method, state, batch
        )
        # Every device differentiates its share of the loss, so the sum over devices is the
        # gradient.
        g_grads = _psum(vjp(output_grads)[0], method)
        g_updates, g_opt = method.g_tx.update(g_grads, state.g_opt, state.g_params)
        g_params = optax.apply_updates(state.g_params, g_updates)

        shares |= {name: _share_of_mean(sums, method) for name, sums in teacher_sums.items()}
        logs = _psum({"loss": g_loss, **shares}, method)
        logs["grad_norm"] = optax.tree.norm(g_grads)
        logs |= pulls(output_grads, method)
        logs |= predictions(outputs, method)

        d_params, d_opt = state.d_params, state.d_opt
        if method.adversary.networks:
            # generator_loss already ran the discriminators on the target. It is traced again here,
            # and XLA merges the two equal forward passes.
            (d_loss, d_shares), d_grads = jax.value_and_grad(discriminator_loss, has_aux=True)(
                d_params, method, lax.stop_gradient(outputs), batch
            )
            d_grads = _psum(d_grads, method)
            d_updates, d_opt = method.d_tx.update(d_grads, d_opt, d_params)
            d_params = optax.apply_updates(d_params, d_updates)
            logs |= _psum({"d_loss": d_loss, **d_shares}, method)
            logs["d_grad_norm"] = optax.tree.norm(d_grads)

        if method.teacher.follows == "after":
            student = {"params": g_params, "batch_stats": stats}
            teacher_variables = teacher.follow(
                teacher_variables, student, state.step, options=method.teacher
            )
        return state.replace(
            step=state.step + 1,
            g_params=g_params,
            g_stats=stats,
            g_opt=g_opt,
            d_params=d_params,
            d_opt=d_opt,
            teacher=teacher_variables,
            memory=memory,
        ), logs

    return step


def label_target(
    method: Method, teacher_variables: Any, batch: Batch
) -> tuple[Batch, Any, dict[str, Sum]]:
    """Adds what the teacher sees in the target to a batch, where a term reads it.

    Returns:
      The batch, the teacher's variables after its forward pass, and sums to log.
    """
    if not method.teaches:
        return batch, teacher_variables, {}
    network, normalisation = method.generator, method.normalisation
    if method.other is not None:
        network, normalisation = method.other.module, method.other.normalisation
    images = normalise(batch["target_image"].astype(jnp.float32), name=normalisation)
    labels, sums, teacher_variables = teacher.label(
        network,
        teacher_variables,
        images,
        options=method.teacher,
        unlabelled=batch.get("target_border"),
        axis_name=method.axis_name,
    )
    return {**batch, **labels}, teacher_variables, sums


def forward(method: Method, params: Any, stats: Any, batch: Batch) -> tuple[Outputs, Any]:
    """Returns the outputs of every view that a term reads, and the new running statistics."""
    needed = {view: heads for view in VIEWS if (heads := _heads_needed(view, method))}
    return BATCH_NORMS[method.batch_norm](method, needed, params, stats, batch)


def _all_views_at_once(
    method: Method, needed: Mapping[str, tuple[str, ...]], params: Any, stats: Any, batch: Batch
) -> tuple[Outputs, Any]:
    images = [batch[f"{view}_image"] for view in needed]
    if len({x.shape[1:] for x in images}) > 1:
        return _view_by_view(method, needed, params, stats, batch)
    raw_outputs, updated = _apply(method, params, stats, jnp.concatenate(images))
    heads_of_any_view = sorted(set().union(*needed.values()))
    joint = {head: _read(method, head, raw_outputs, updated) for head in heads_of_any_view}
    ends = list(itertools.accumulate(len(x) for x in images))
    outputs = {
        view: {head: joint[head][end - len(x) : end] for head in heads}
        for (view, heads), x, end in zip(needed.items(), images, ends, strict=True)
    }
    return outputs, stats


def _view_by_view(
    method: Method, needed: Mapping[str, tuple[str, ...]], params: Any, stats: Any, batch: Batch
) -> tuple[Outputs, Any]:
    # A network that sees one view only, such as source_only, takes the statistics of that view.
    updating = UPDATING_VIEWS[method.statistics] if len(needed) > 1 else VIEWS
    outputs = {}
    for view, heads in needed.items():
        raw_outputs, updated = _apply(method, params, stats, batch[f"{view}_image"])
        outputs[view] = {head: _read(method, head, raw_outputs, updated) for head in heads}
        if view in updating:
            stats = updated["batch_stats"]
    return outputs, stats


# How views go through the network: each by itself, or all of one size in one pass where the output
# for an image does not depend on the rest of its batch.
BATCH_NORMS = {"batch": _view_by_view, "frozen": _all_views_at_once}


def _apply(method: Method, params: Any, stats: Any, images: jax.Array) -> tuple[Any, Any]:
    variables = {"params": params, "batch_stats": stats}
    if not method.uses_reference:
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


def _heads_needed(view: str, method: Method) -> tuple[str, ...]:
    """Returns the heads of a view that are read, in alphabetical order; XLA drops the others."""
    heads = {term.head for term, _ in method.objective.values() if view in term.views}
    if heads and view != "source":
        heads.add("logits")  # for `predictions`
    return tuple(sorted(heads))


def generator_loss(
    outputs: Outputs, method: Method, state: TrainState, batch: Batch
) -> tuple[jax.Array, tuple[Logs, Any]]:
    """Returns this device's share of the objective, with every term's value and the new memory."""
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
    if method.adversary.networks:
        term_inputs["verdicts"] = _judge(method, state.d_params, "target", outputs, batch)
    shares = {
        name: _share_of_mean(term.evaluate(term_inputs, batch), method)
        for name, (term, _) in method.objective.items()
    }
    loss = sum(weight * shares[name] for name, (_, weight) in method.objective.items())
    shares |= {name: _share_of_mean(sums, method) for name, sums in measured.items()}
    return jnp.asarray(loss), (shares, memory)


def discriminator_loss(
    d_params: Any, method: Method, outputs: Outputs, batch: Batch
) -> tuple[jax.Array, Logs]:
    """Returns this device's share of the discriminators' loss, with its parts and accuracies."""
    verdicts = {
        domain: _judge(method, d_params, domain, outputs, batch) for domain in ("source", "target")
    }
    losses = method.adversary.losses(verdicts)
    shares = {name: _share_of_mean(sums, method) for name, sums in losses.items()}
    loss = method.adversary.options.d_factor * sum(shares.values())
    accuracies = method.adversary.accuracies(verdicts)
    shares |= {name: _share_of_mean(sums, method) for name, sums in accuracies.items()}
    return jnp.asarray(loss), shares


def _judge(
    method: Method, d_params: Any, view: str, outputs: Outputs, batch: Batch
) -> dict[str, jax.Array]:
    size = batch[f"{view}_image"].shape[1:3]
    return method.adversary.judge(d_params, outputs[view], size=(size[0], size[1]))


def _psum(tree: Any, method: Method) -> Any:
    """Returns the sum over all devices."""
    return tree if method.axis_name is None else lax.psum(tree, method.axis_name)


def _share_of_mean(sums: Sum, method: Method) -> jax.Array:
    """Returns this device's share of the mean over all devices: the shares add up to the mean."""
    count = lax.stop_gradient(_psum(sums.count, method))
    return sums.total / jnp.maximum(count, 1.0)


def pulls(output_grads: Outputs, method: Method) -> Logs:
    """Returns how hard each view pulls: the norm of the loss's gradient at the view's outputs."""
    return {
        f"pull_{view}": jnp.sqrt(_psum(optax.tree.norm(grads, squared=True), method))
        for view, grads in output_grads.items()
    }


def predictions(outputs: Outputs, method: Method) -> Logs:
    """Returns how sure the target's predictions are and over how many classes they spread.

    target_entropy in [0,1] is the mean entropy of a pixel. target_classes in [1,K] is the
    exponential of the mean prediction's entropy. Both fall when the network collapses. They
    describe the target itself, or the mixed or masked images where the target does not go through
    the network.
    """
    target_logits = [outputs[view]["logits"] for view in TARGET_VIEWS if view in outputs]
    if not target_logits:
        return {}
    log_p = jax.nn.log_softmax(lax.stop_gradient(target_logits[0]), axis=-1)
    p = jnp.exp(log_p)
    count = jnp.float32(p.size // p.shape[-1])

    def mean(total: jax.Array) -> jax.Array:
        return _psum(_share_of_mean(Sum(total, count), method), method)

    entropy = mean(-(p * log_p).sum())
    average = mean(p.sum(axis=(0, 1, 2)))
    spread = jnp.exp(-(average * jnp.log(average + 1e-30)).sum())
    return {"target_entropy": entropy / jnp.log(p.shape[-1]), "target_classes": spread}
