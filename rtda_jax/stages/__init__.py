"""The kinds of stages that an experiment is made of, in one table."""

from rtda_jax.stages import evaluate, pseudo_label, statistics, train
from rtda_jax.stages.plan import Kind

KINDS = {
    "train": Kind(train.run, train.check, leaves_network=True, several_processes=True),
    "pseudo_label": Kind(pseudo_label.run, pseudo_label.check, reads_networks=True),
    "statistics": Kind(statistics.run, statistics.check, reads_networks=True, leaves_network=True),
    "evaluate": Kind(evaluate.run, evaluate.check, reads_networks=True, several_processes=True),
}
