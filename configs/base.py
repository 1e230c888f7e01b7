"""Every field of an experiment with its default; the other files change a few of them.

A section such as `config.loss` is made from the option dataclass of the module that reads it. The
dataclass documents, validates and holds the default of each of its fields.
"""

from ml_collections import ConfigDict

from configs import arguments, benchmarks
from rtda_jax.adapt.adversary import AdversaryOptions
from rtda_jax.adapt.build import ModelOptions, StageOptions
from rtda_jax.adapt.consistency import ConsistencyOptions
from rtda_jax.adapt.distance import DistanceOptions
from rtda_jax.adapt.optim import OptimOptions
from rtda_jax.adapt.options import section
from rtda_jax.adapt.pseudo_labels import PseudoLabelOptions
from rtda_jax.adapt.teacher import TeacherOptions
from rtda_jax.adapt.terms import TERMS
from rtda_jax.adapt.views import ViewOptions
from rtda_jax.augment.colour import ColourOptions
from rtda_jax.data.stream import MoveOptions, StreamOptions
from rtda_jax.evaluate import Protocol
from rtda_jax.losses import LossOptions
from rtda_jax.stages.evaluate import EvalOptions
from rtda_jax.stages.statistics import StatisticsOptions
from rtda_jax.tools.cost import SpeedOptions
from rtda_jax.train import LoopOptions

HEADS = ("", "_aux16", "_aux32")  # suffixes of terms: the main head and both auxiliary heads


def make(benchmark: str) -> ConfigDict:
    """Returns the defaults on a benchmark, a key of `BENCHMARKS`."""
    pair = benchmarks.get(benchmark)
    config = ConfigDict()

    config.benchmark = pair  # source -> target pair: data, classes, sizes (benchmarks.py)
    config.data_dir = ""  # the root of the data sets; empty: --data_dir, $RTDA_JAX_DATA, ~/.cache
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
    stride = tuple((5 * side + 5) // 6 for side in pair.crop)
    config.eval = section(Protocol, EvalOptions, window=pair.crop, stride=stride)

    # How a run is monitored and saved: logs, checkpoints, nonfinite losses, stalls.
    config.update(section(LoopOptions))

    config.speed = section(SpeedOptions)  # how the job benchmark measures

    # The experiment: named stages in order. Each may override the fields above for itself.
    config.stages = ("train", "evaluate")
    config.stage = ConfigDict()
    config.stage.train = ConfigDict({"kind": "train"})
    config.stage.evaluate = ConfigDict({"kind": "evaluate", "models": ("train",)})
    return config


get_config = arguments.parsed(make)
