"""The networks that finished stages left, by the names a configuration gives them."""

import pathlib
from typing import Any

import jax

from rtda_jax import build, checkpoint, evaluate, parallel
from rtda_jax.errors import ConfigError
from rtda_jax.plan import Plan, parse
from rtda_jax.state import TrainState


def load(plan: Plan, reference: str, workdir: pathlib.Path) -> evaluate.Model:
    """The network "STAGE" or "STAGE:teacher" names, on the first device.

    Raises:
      ConfigError: the stage is not finished, or trains no teacher.
    """
    name, weights = parse(reference)
    config = plan[name]
    parts = build.build(config)
    fresh = jax.eval_shape(lambda: build.initial_state(parts, config))
    wanted: dict[str, Any] = {"g_params": fresh.g_params, "g_stats": fresh.g_stats}
    if weights == "teacher":
        if not fresh.teacher or config.kind != "train":
            raise ConfigError(f"{reference}: stage {name} has no teacher")
        wanted = {"teacher": fresh.teacher}
    state = _restore(config, workdir / name, wanted)
    variables = state.get("teacher") or {
        "params": state["g_params"],
        "batch_stats": state["g_stats"],
    }
    return evaluate.Model(parts.generator, variables, config.normalisation)


def start(
    state: TrainState, plan: Plan, reference: str, workdir: pathlib.Path
) -> tuple[TrainState, str]:
    """A fresh state with the networks of an earlier stage, and what was taken in a sentence.

    The segmentation network with its batch statistics, and the discriminators of the levels that
    both stages train; the optimizers stay fresh.

    Raises:
      ConfigError: the stage is not finished, or its networks are of another shape.
    """
    model = load(plan, reference, workdir)
    params, stats = model.variables["params"], model.variables["batch_stats"]
    _same_shapes(
        {"params": state.g_params, "batch_stats": state.g_stats}, model.variables, reference
    )
    state = state.replace(g_params=params, g_stats=stats)
    name, _ = parse(reference)
    levels: list[str] = []
    if plan[name].kind == "train":
        earlier = build.build(plan[name])
        levels = sorted(set(state.d_params) & set(earlier.discriminators))
    if levels:
        fresh = jax.eval_shape(lambda: build.initial_state(earlier, plan[name]))
        wanted = {level: fresh.d_params[level] for level in levels}
        _same_shapes({k: state.d_params[k] for k in levels}, wanted, reference)
        found = _restore(plan[name], workdir / name, {"d_params": wanted})["d_params"]
        state = state.replace(d_params={**state.d_params, **found})
    taken = ["segmentation network", *(f"discriminator {level}" for level in levels)]
    return state, f"starts from {reference}: {', '.join(taken)}"


def _restore(config: Any, folder: pathlib.Path, wanted: dict[str, Any]) -> dict[str, Any]:
    with checkpoint.manager(folder / "checkpoints", keep=config.checkpoint_keep) as held:
        step = held.latest_step()
        if step != config.steps:
            raise ConfigError(f"{folder} stands at step {step} of {config.steps}: train it first")
        whole = parallel.everywhere(parallel.mesh(jax.devices()[:1]))
        return checkpoint.restore_only(held, checkpoint.abstract(wanted, whole), step=step)


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
