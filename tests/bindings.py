"""Configurations in plain values, and workdirs that are bound to them."""

import copy
import functools

from configs import base
from rtda_jax.run import binding
from rtda_jax.run.options import plain
from rtda_jax.run.workdir import write_json
from rtda_jax.stages import KINDS

PLAIN = plain(base.get_config())
claim = functools.partial(binding.claim, kinds=KINDS)
check_bound = functools.partial(binding.check_bound, kinds=KINDS)
bound_fields = functools.partial(binding.bound_fields, kinds=KINDS)


def config(**fields):
    """Returns the default experiment with changed fields; two underscores stand for a dot."""
    changed = copy.deepcopy(PLAIN)
    for name, value in fields.items():
        *groups, last = name.split("__")
        section = changed
        for group in groups:
            section = section[group]
        section[last] = value
    return changed


def begin(workdir, *names, step=400):
    """Leaves what finished stages leave."""
    for name in names:
        (workdir / name / "checkpoints" / str(step)).mkdir(parents=True)
        write_json(workdir / name / "done.json", {"step": step})


def chain(**fields):
    """Returns an experiment that trains, labels the target, and trains again."""
    made = config(stages=["train", "labels", "again"], **fields)
    made["stage"]["labels"] = {"kind": "pseudo_label", "models": ["train"]}
    made["stage"]["again"] = {"kind": "train", "init": "train", "pseudo_labels": "labels"}
    return made
