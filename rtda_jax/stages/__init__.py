"""The kinds of stages that an experiment is made of, in one table."""

from rtda_jax import train as loop
from rtda_jax.stages import evaluate, pseudo_label, statistics, train
from rtda_jax.stages.plan import Kind

KINDS = {
    "train": Kind(
        run=train.run,
        check=train.check,
        reads=train.reads,
        bound=loop.bound,
        record="training",
        sees_target=True,
        leaves_network=True,
    ),
    "pseudo_label": Kind(
        run=pseudo_label.run,
        check=pseudo_label.check,
        reads=pseudo_label.reads,
        bound=pseudo_label.bound,
        sees_target=True,
        reads_networks=True,
    ),
    "statistics": Kind(
        run=statistics.run,
        check=statistics.check,
        reads=statistics.reads,
        bound=statistics.bound,
        sees_target=True,
        reads_networks=True,
        leaves_network=True,
    ),
    "evaluate": Kind(
        run=evaluate.run,
        check=evaluate.check,
        bound=evaluate.bound,
        record="scores",
        reads_networks=True,
    ),
}
