"""The networks that finished stages left, by the names a configuration gives them."""

import pathlib
from typing import Any

import jax

from rtda_jax import evaluate
from rtda_jax.adapt import build
from rtda_jax.adapt.state import TrainState
from rtda_jax.errors import CheckpointError, ConfigError
from rtda_jax.run import checkpoint, parallel
from rtda_jax.stages.plan import Plan, parse


def load(plan: Plan, reference: str, workdir: pathlib.Path) -> evaluate.Model:
    """The network "STAGE" or "STAGE:teacher" names, on the first device.

    Raises:
      ConfigError: the stage is not finished.
    """
    name, weights = parse(reference)
    config = plan[name]
    parts = build.build(config)
    fresh = jax.eval_shape(lambda: build.initial_state(parts, config))
    wanted: dict[str, Any] = {"g_params": fresh.g_params, "g_stats": fresh.g_stats}
    if weights == "teacher":
        wanted = {"teacher": fresh.teacher}
    state = _restore(config, workdir / name, wanted)
    variables = state.get("teacher") or {
        "params": state["g_params"],
        "batch_stats": state["g_stats"],
    }
    return evaluate.Model(parts.generator, variables, config.normalisation)


def start(
    state: TrainState, *, config: Any, plan: Plan, workdir: pathlib.Path
) -> tuple[TrainState, str]:
    """A fresh state with the networks of the stage `config.init` names, and a sentence about them.

    These are the segmentation network with its batch statistics and the discriminators of the
    levels that both stages train. The optimizers stay fresh.

    Raises:
      ConfigError: that stage is not finished, its networks are of another shape or read images of
        another normalisation.
    """
    model = load(plan, config.init, workdir)
    if model.normalisation != config.normalisation:
        raise ConfigError(
            f"init={config.init!r} was trained with normalisation {model.normalisation!r}, "
            f"not {config.normalisation!r}"
        )
    ours = {"params": state.g_params, "batch_stats": state.g_stats}
    _same_shapes(ours, model.variables, config.init)
    name, _ = parse(config.init)
    parts = build.build(plan[name])
    fresh = jax.eval_shape(lambda: build.initial_state(parts, plan[name]))
    shared = set(fresh.d_params) & set(state.d_params) if plan[name].kind == "train" else set()
    wanted = {level: fresh.d_params[level] for level in sorted(shared)}
    _same_shapes({level: state.d_params[level] for level in shared}, wanted, config.init)
    found = _restore(plan[name], workdir / name, {"d_params": wanted})["d_params"] if shared else {}
    state = state.replace(
        g_params=model.variables["params"],
        g_stats=model.variables["batch_stats"],
        d_params={**state.d_params, **found},
    )
    taken = ", ".join(["segmentation network", *(f"discriminator of {level}" for level in wanted)])
    return state, f"starts from {config.init}: {taken}"


def _restore(config: Any, folder: pathlib.Path, wanted: dict[str, Any]) -> dict[str, Any]:
    step = checkpoint.newest_healthy(folder / "checkpoints")
    if step != config.steps:
        raise ConfigError(f"{folder} stands at step {step} of {config.steps}: train it first")
    whole = parallel.replicated(parallel.local_mesh())
    found = checkpoint.abstract(wanted, whole)
    with checkpoint.reader(folder / "checkpoints") as held:
        try:
            return checkpoint.restore_only(held, found, step=config.steps)
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
