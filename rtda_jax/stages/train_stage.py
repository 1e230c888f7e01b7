"""A train stage of an experiment: from its configuration to its record."""

import functools
import pathlib
import time
from typing import Any

from rtda_jax.adapt import build, views
from rtda_jax.adapt.terms import formula
from rtda_jax.run import checkpoint, log
from rtda_jax.run.workdir import read_json, write_json
from rtda_jax.stages import trained
from rtda_jax.stages.plan import Plan
from rtda_jax.train import train


def run(plan: Plan, name: str, workdir: pathlib.Path) -> dict[str, Any]:
    """Train the stage to its end, from wherever it stands; what results.json says of it."""
    stage, folder = plan[name], workdir / name
    done = folder / "done.json"
    if done.exists() and not checkpoint.is_damaged(folder / "checkpoints"):
        log.say(f"[{name}] finished, skipped")
        return read_json(done)
    parts = build.build(stage)
    inputs = views.describe(stage, parts.objective)
    log.say(f"[{name}] objective = {formula(parts.objective)}   inputs {inputs}")
    networks = build.describe(parts, stage)
    for sentence in networks:
        log.say(f"  {sentence}")
    begin = time.perf_counter()
    state = train(
        stage,
        folder,
        start_from=functools.partial(trained.start, config=stage, plan=plan, workdir=workdir)
        if stage.init
        else None,
        pseudo=workdir / stage.pseudo_labels if stage.pseudo_labels else None,
    )
    record = {
        "step": int(state.step),
        "seconds": round(time.perf_counter() - begin, 1),
        "objective": formula(parts.objective),
        "fda_beta": stage.fda_beta,
        "networks": networks,
    }
    write_json(done, record)
    return record
