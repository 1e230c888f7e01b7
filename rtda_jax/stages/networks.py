"""The networks that finished stages leave, by the names that a configuration gives them."""

import pathlib
from typing import Any

import jax

from rtda_jax import evaluate
from rtda_jax.adapt import build
from rtda_jax.adapt.state import TrainState
from rtda_jax.errors import CheckpointError, ConfigError
from rtda_jax.run import checkpoint, parallel
from rtda_jax.stages.plan import Plan, Stage, parse


def load(plan: Plan, reference: str, workdir: pathlib.Path) -> evaluate.Model:
    """Returns the network that "STAGE" or "STAGE:teacher" names, on the first device.

    Raises:
      ConfigError: the stage is not finished.
    """
    name, weights = parse(reference)
    stage = plan[name]
    fresh = _fresh(stage)
    wanted: dict[str, Any] = {"g_params": fresh.g_params, "g_stats": fresh.g_stats}
    if weights == "teacher":
        wanted = {"teacher": fresh.teacher}
    state = _restore(stage, workdir / name, wanted)
    variables = state.get("teacher") or {
        "params": state["g_params"],
        "batch_stats": state["g_stats"],
    }
    return evaluate.Model(_method(stage).generator, variables, stage.config.normalisation)


def start(
    state: TrainState, *, stage: Stage, plan: Plan, workdir: pathlib.Path
) -> tuple[TrainState, str]:
    """Returns a fresh state with the networks that the stage starts from, and a sentence.

    These are the segmentation network of the stage that `init` names, with its batch statistics,
    and the discriminators of the levels that both stages train. The optimizers stay fresh.

    Raises:
      ConfigError: that stage is not finished, its networks have another shape, or they read images
        of another normalisation.
    """
    reference, normalisation = stage.config.init, stage.config.normalisation
    model = load(plan, reference, workdir)
    if model.normalisation != normalisation:
        raise ConfigError(
            f"init={reference!r} was trained with normalisation {model.normalisation!r}, "
            f"not {normalisation!r}"
        )
    ours = {"params": state.g_params, "batch_stats": state.g_stats}
    _same_shapes(ours, model.variables, reference)
    earlier = plan[parse(reference)[0]]
    fresh = _fresh(earlier)
    shared = set() if earlier.models else set(fresh.d_params) & set(state.d_params)
    wanted = {level: fresh.d_params[level] for level in sorted(shared)}
    _same_shapes({level: state.d_params[level] for level in shared}, wanted, reference)
    restored = {}
    if shared:
        restored = _restore(earlier, workdir / earlier.name, {"d_params": wanted})["d_params"]
    state = state.replace(
        g_params=model.variables["params"],
        g_stats=model.variables["batch_stats"],
        d_params={**state.d_params, **restored},
    )
    taken = ", ".join(["segmentation network", *(f"discriminator of {level}" for level in wanted)])
    return state, f"starts from {reference}: {taken}"


def _method(stage: Stage) -> build.Method:
    assert stage.method is not None
    return stage.method


def _fresh(stage: Stage) -> TrainState:
    """Returns the shapes of the stage's state."""
    return jax.eval_shape(lambda: build.initial_state(_method(stage)))


def _restore(stage: Stage, folder: pathlib.Path, wanted: dict[str, Any]) -> dict[str, Any]:
    steps = stage.config.steps
    step = checkpoint.newest_healthy(folder / "checkpoints")
    if step != steps:
        raise ConfigError(f"{folder} stands at step {step} of {steps}: train it first")
    whole = parallel.replicated(parallel.local_mesh())
    found = checkpoint.abstract(wanted, whole)
    with checkpoint.reader(folder / "checkpoints") as held:
        try:
            return checkpoint.restore_only(held, found, step=steps)
        except CheckpointError as error:
            if checkpoint.is_sealed(folder / "checkpoints" / str(step)):
                raise
            raise CheckpointError(
                f"{error}\nIt has no seal that could have told. Remove {folder / 'done.json'}: "
                "--job=run then trains on from the checkpoint before it"
            ) from error


def _same_shapes(ours: Any, theirs: Any, reference: str) -> None:
    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {
            jax.tree_util.keystr(path, simple=True, separator="."): leaf.shape
            for path, leaf in leaves
        }

    here, there = shapes(ours), shapes(theirs)
    for path in sorted(here.keys() | there.keys()):
        if here.get(path) != there.get(path):
            raise ConfigError(
                f"init={reference!r}: {path} is {there.get(path, 'absent')} there, "
                f"{here.get(path, 'absent')} here"
            )
