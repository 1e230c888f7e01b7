"""Every field of an experiment with its default; the other files change a few of them.

A section such as `config.loss` is made from the option dataclass of the module that reads it. The
dataclass documents, validates and holds the default of each of its fields.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from configs import arguments, benchmarks
from rtda_jax.adapt.adversary import AdversaryOptions
from rtda_jax.adapt.build import StageOptions
from rtda_jax.adapt.consistency import ConsistencyOptions
from rtda_jax.adapt.distance import DistanceOptions
from rtda_jax.adapt.method import ModelOptions
from rtda_jax.adapt.optim import OptimOptions
from rtda_jax.adapt.pseudo_labels import PseudoLabelOptions
from rtda_jax.adapt.teacher import TeacherOptions
from rtda_jax.adapt.terms import TERMS
from rtda_jax.adapt.views import ViewOptions
from rtda_jax.augment.colour import ColourOptions
from rtda_jax.data.stream import MoveOptions, StreamOptions
from rtda_jax.evaluate import Protocol
from rtda_jax.losses import LossOptions
from rtda_jax.run.options import flat, plain, section
from rtda_jax.stages.evaluate import EvalOptions
from rtda_jax.stages.statistics import StatisticsOptions
from rtda_jax.tools.cost import SpeedOptions
from rtda_jax.train import LoopOptions

FREE = ("stage", *benchmarks.ROLES)  # sections whose fields are not those of the defaults
HEADS = ("", "_aux16", "_aux32")  # suffixes of terms: the main head and both auxiliary heads


def make(benchmark: str) -> ConfigDict:
    """Returns the defaults on a benchmark, a key of `BENCHMARKS`."""
    pair = benchmarks.get(benchmark)
    config = ConfigDict()

    config.benchmark = pair  # source -> target pair: data, classes, sizes (benchmarks.py)
    config.data_dir = ""  # the root of the data sets; empty: --data_dir, $RTDA_JAX_DATA, ~/.cache
    config.code = ""  # a file of the user's own, its argument and a hash; set when it is loaded
    # seed, steps, batch_size, dtype, labelled, pixel_loss, init, taught_by, pseudo_labels
    config.update(section(StageOptions, steps=pair.steps, batch_size=pair.batch_size))

    # What is trained: the network, its optimizers, and the objective as weighted named terms. A
    # term of weight 0 is not traced. TERMS lists them: `seg` learns from labels, `adv_*` fools a
    # discriminator, `pseudo` and `mix` learn from pseudo-labels; `_aux16` is an auxiliary head.
    config.model = section(ModelOptions)
    config.optim = section(OptimOptions, g_lr=pair.g_lr)
    config.objective = ConfigDict(dict.fromkeys(TERMS, 0.0))
    config.objective.update({f"seg{head}": 1.0 for head in HEADS})
    config.loss = section(LossOptions)  # class weights, focal loss, OHEM, robust entropy
    config.adversary = section(AdversaryOptions)  # the discriminators of adv_* terms
    config.consistency = section(ConsistencyOptions)  # strong views against weak ones (TUFL)
    config.teacher = section(TeacherOptions)  # labels the target of mixed and masked images
    config.distance = section(DistanceOptions)  # keeps features near the pretrained ones

    # What the networks read: the stream of batches, and the views that the device makes of them
    # (normalisation, FDA, colours, class mixing, long-tail pasting, the strong view).
    config.update(section(StreamOptions))  # rare_*, target_margins, cache_gib, threads
    # normalisation, fda_*, and the sections mix (MixOptions), long_tail (LongTailOptions), affine
    # (AffineOptions) and masked (MaskOptions)
    config.update(section(ViewOptions))
    # Two modules read `augment`: the host moves images, and the device changes their colours. This
    # section replaces the one that ViewOptions declares for the device alone.
    config.augment = section(MoveOptions, ColourOptions)

    # Options of the other kinds of stages.
    config.pseudo = section(PseudoLabelOptions)  # how a pseudo_label stage labels
    config.statistics = section(StatisticsOptions)  # what a statistics stage averages
    config.eval = section(Protocol, EvalOptions, **benchmarks.windows(pair.crop))

    # How a run is monitored and saved: logs, checkpoints, nonfinite losses, stalls.
    every = max(LoopOptions.checkpoint_every_steps, pair.steps // 40)
    config.update(section(LoopOptions, checkpoint_every_steps=every))

    config.speed = section(SpeedOptions)  # how the job benchmark measures

    # The experiment: named stages in order. Each may override the fields above for itself.
    evaluate = {"kind": "evaluate", "models": ("train",)}
    set_stages(config, {"train": {"kind": "train"}, "evaluate": evaluate})
    return config


def set_stages(config: ConfigDict, stages: Mapping[str, Mapping[str, Any]]) -> None:
    """Makes the experiment consist of these stages, in this order."""
    config.stages, config.stage = tuple(stages), ConfigDict(stages)


def evaluated(*names: str) -> dict[str, dict[str, Any]]:
    """Returns a stage eval_NAME for the network of each named train stage."""
    return {f"eval_{name}": {"kind": "evaluate", "models": (name,)} for name in names}


def defaults(benchmark: str) -> dict[str, Any]:
    """Returns the plain value of every field, by its dotted name, where nobody has changed it."""
    return flat(plain(unchanged(benchmark)))


def unchanged(benchmark: str) -> ConfigDict:
    """Returns the defaults on a benchmark, also on one that a user's own configuration defines."""
    known = benchmark in benchmarks.BENCHMARKS
    return make(benchmark if known else benchmarks.DEFAULT)


def unknown_fields(config: ConfigDict) -> list[str]:
    """Returns the dotted names of fields that an experiment does not have and nothing would read.

    Those of stages are left out, because the plan of an experiment refuses them.

    Raises:
      ConfigError: names an invalid field of a data set.
    """
    benchmarks.check(config.benchmark)
    return _unknown(config, unchanged(config.benchmark.name), "")


def _unknown(config: ConfigDict, known: ConfigDict, place: str) -> list[str]:
    names = []
    for name, value in config.items():
        if name not in known:
            names.append(place + name)
        # A section that is empty by default, such as model.options, takes any field.
        elif isinstance(value, ConfigDict) and known[name] and name not in FREE:
            names += _unknown(value, known[name], f"{place}{name}.")
    return names


get_config = arguments.parsed(make)
