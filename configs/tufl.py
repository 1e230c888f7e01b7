"""TUFL: threshold-adaptive unsupervised focal loss, in two stages.

objective(G) = seg/3                                stage `source`, over three heads, weighted
             = seg/3 + 0.08 consistency/3           `one`, from `source`, statistics frozen
             = seg/3 + 0.08 consistency/3 + 0.5 mix `two`, from `one`, which is also its teacher
consistency  = unsupervised focal loss of a strong view of the target (colours, shadow, noise,
               blur, affine) where the weak view's confidence exceeds its class's adaptive threshold
mix          = cross-entropy of target images with half of the source's classes pasted on them and,
               in some batches, rare classes of other source images; the teacher labels the rest

    preset=paper     the method as described in the text
    preset=code      the method of the released code: one fixed threshold, d = |p - q|, no rare
                     classes; in `one` and `two` every learning rate is ten times higher; noise,
                     blur and the target's moves are drawn once per run

The learning rate, the crop and the number of steps of stage `source` are our choice. It trains from
scratch or from --config.model.pretrained. configs/tufl_parts.py measures what each part adds.

Paper (tufl): Yan, Qian, Wang & Yang, Threshold-adaptive unsupervised focal loss for domain adaptive
semantic segmentation, arXiv 2208.10716.

    python main.py --config tufl
    python main.py --config tufl:cityscapes_to_crosscity:rome

Expected on `streets`: 19.2 ± 0.7 mIoU, seeds 0 to 2 (docs/results.md, from configs/tufl_parts.py).
Published for BiSeNet, Cityscapes to CrossCity, single scale: 52.3 Rome, 56.4 Rio, 51.1 Taipei,
48.6 Tokyo. That is preset=code after 2000 steps without stage two: `eval_one` of a run with
--config.stage.one.steps=2000.
"""

from collections.abc import Sequence
from typing import Any, Literal

from ml_collections import ConfigDict

from configs import arguments, base, benchmarks, recipes
from rtda_jax.data.labels import class_set
from rtda_jax.errors import require
from rtda_jax.train import LoopOptions

# The authors' class weights for Cityscapes and SYNTHIA, about 1 / ln(1.1 + frequency).
_CITYSCAPES = {
    "road": 2.6237, "sidewalk": 5.5961, "building": 3.9190, "wall": 8.7054, "fence": 9.7107,
    "pole": 9.4180, "traffic light": 10.2930, "traffic sign": 10.3435, "vegetation": 5.8592,
    "terrain": 8.5068, "sky": 4.4264, "person": 10.0758, "rider": 10.2338, "car": 8.1307,
    "truck": 8.8893, "bus": 8.7972, "train": 9.0867, "motorcycle": 10.2837, "bicycle": 10.1535,
}  # fmt: skip
_SYNTHIA = {
    "road": 3.9157, "sidewalk": 3.8139, "building": 2.9521, "wall": 9.8657, "fence": 10.1558,
    "pole": 9.5206, "traffic light": 10.4330, "traffic sign": 10.3821, "vegetation": 5.2590,
    "sky": 6.1880, "person": 7.4364, "rider": 10.0266, "car": 7.4412, "bus": 8.7787,
    "motorcycle": 10.2429, "bicycle": 10.2690,
}  # fmt: skip
# Classes whose weight the authors double in the table "middle", which they train with.
_TWICE = {
    "cityscapes19": (_CITYSCAPES, ("rider", "train", "motorcycle", "bicycle")),
    "crosscity13": (_CITYSCAPES, ("rider", "motorcycle", "bicycle")),
    "synthia16": (_SYNTHIA, ("rider", "car", "bus", "motorcycle", "bicycle")),
}

# The authors' sizes, by benchmark without the city: (H, W) of both domains before the zoom, the
# range of the zoom, and (H, W) for evaluation. Other benchmarks keep their own sizes.
_AUTHORS = {
    "cityscapes_to_crosscity": ((640, 1280), (1.0, 1.5), (647, 1280)),
    "gta5_to_cityscapes": ((1024, 2048), (0.75, 1.5), (1024, 2048)),
    "synthia_to_cityscapes": ((1024, 2048), (0.75, 1.5), (1024, 2048)),
    "synthia_to_cityscapes_13": ((1024, 2048), (0.75, 1.5), (1024, 2048)),
}

_EVALUATIONS = {
    **base.evaluated("source", "one", "two"),
    "eval_13": {
        "kind": "evaluate",
        "models": ("two",),
        "benchmark": {"eval_classes": "synthia13"},
    },
    "eval_scales": {
        "kind": "evaluate",
        "models": ("two",),
        "eval": {"mode": "slide", "scales": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "mirror": True},
    },
}


def weights(classes: str, names: tuple[str, ...]) -> tuple[float, ...]:
    """Returns the authors' weight of each class, or 1 for a class that they do not have."""
    table, twice = _TWICE.get(classes, ({}, ()))
    return tuple(table.get(name, 1.0) * (2 if name in twice else 1) for name in names)


def make(
    benchmark: str,
    *,
    network: Literal["bisenet", "deeplab"] = "bisenet",
    preset: Literal["paper", "code"] = "paper",
    pretrained: recipes.Network | None = None,
) -> ConfigDict:
    """Returns both stages of TUFL on a benchmark.

    Args:
      benchmark: a key of `BENCHMARKS`.
      network: BiSeNet with three heads or DeepLabV2 with one.
      preset: whether to follow the authors' text or their code where the two differ.
      pretrained: a network with ImageNet weights in place of `network`; all stages then have the
        optimizer of `recipes.py`.
    """
    config = base.make(benchmark)
    full = config.benchmark.name not in benchmarks.SMALL
    heads = base.HEADS[:1] if network == "deeplab" else base.HEADS
    source_optim = {"g_lr": config.optim.g_lr, "g_groups": "one"}

    if pretrained is not None:
        require(network == "bisenet", f"pretrained={pretrained} and network={network}: choose one")
        recipes.use_pretrained(config, pretrained)
        source_optim = {"g_groups": "heads"}  # also with preset=code
    else:
        config.model.name = "deeplab_resnet101" if network == "deeplab" else "bisenet_tufl"
        config.optim.update(
            {
                "g_decay": 5e-4,
                "g_decayed": "kernels",
                "g_groups": "heads",
                "g_lr": 5e-6 if full else 2.5e-4,
            }
        )
    config.model.batch_norm = "frozen"
    _set_losses(config, heads)
    _set_views(config)
    if full:
        config.checkpoint_every_steps = LoopOptions.checkpoint_every_steps  # its stages are short
        config.batch_size = 2
        config.augment.scale = (1.0, 1.5)
    _set_authors_sizes(config)
    if preset == "code":
        _follow_the_code(config)

    config.stages = ("source", "one", "two", "eval_source", "eval_one", "eval_two")
    if config.benchmark.eval_classes == "synthia16":
        config.stages += ("eval_13",)  # papers report both for the same network
    if full:
        config.stages += ("eval_scales",)  # tens of windows per image: slow on a CPU
    training = _training_stages(config, heads, full=full, source_optim=source_optim, preset=preset)
    config.stage = ConfigDict({**training, **_EVALUATIONS})
    return config


def _set_losses(config: ConfigDict, heads: Sequence[str]) -> None:
    classes = config.benchmark.classes
    config.loss.reduction = "pixels"
    if config.benchmark.name == "folders":  # the authors' weights are about 1 / ln(1.1 + share)
        config.loss.update({"weighting": "enet", "enet_c": 1.1})
    else:
        given = weights(classes, class_set(classes).names)
        config.loss.update({"weighting": "given", "weights": given})
    for head in base.HEADS:
        config.objective[f"seg{head}"] = 0.0
    for head in heads:
        config.objective[f"seg{head}"] = 1 / len(heads)
        config.objective[f"consistency{head}"] = 0.08 / len(heads)
    config.consistency.threshold = "adaptive"
    config.consistency.form = "deficit"


def _set_views(config: ConfigDict) -> None:
    config.augment.texture = "tufl_source"
    config.mix.update({"colour": "tufl_strong", "ignore": "class"})
    related = "gta5" if config.benchmark.classes == "cityscapes19" else "synthia"
    config.long_tail.update(
        {"slots": 6, "count": (2, 4), "related": related, "choice": "threshold"}
    )


def _set_authors_sizes(config: ConfigDict) -> None:
    """Sets the authors' sizes and windows, if the benchmark is one of theirs."""
    pair = config.benchmark.name.partition(":")[0]
    if pair not in _AUTHORS:
        return
    size, scale, eval_size = _AUTHORS[pair]
    config.benchmark.crop = (640, 1280)
    config.benchmark.size = size
    config.benchmark.eval_size = eval_size
    config.augment.scale = scale
    side = eval_size[0]
    stride = -(-5 * side // 6)
    config.eval.update(
        {"mode": "slide", "window": (side, side), "stride": (stride, stride), "align": "corners"}
    )


def _follow_the_code(config: ConfigDict) -> None:
    config.consistency.threshold = "fixed"
    config.consistency.form = "difference"
    config.long_tail.update({"choice": "uniform", "slots": 2, "count": (2, 2)})
    config.optim.g_groups = "all"
    config.augment.draw = "run"
    config.augment.target_moves = "once"


def _training_stages(
    config: ConfigDict,
    heads: Sequence[str],
    *,
    full: bool,
    source_optim: dict[str, Any],
    preset: str,
) -> dict[str, Any]:
    steps = config.get_oneway_ref("steps")  # of small pairs; it follows a flag
    # The warm-up of `recipes.LONG` would be longer than stage one.
    warm_up = recipes.SHORT.warmup_steps
    short = {"warmup_steps": warm_up} if config.optim.warmup_steps > warm_up else {}
    return {
        "source": {
            "kind": "train",
            "objective": {f"consistency{head}": 0.0 for head in heads},
            "model": {"batch_norm": "batch"},
            "optim": source_optim,
        },
        # Stage two starts from stage one after 1200 of its 2000 steps.
        "one": {
            "kind": "train",
            "init": "source",
            "steps": 1200 if full else steps // 2,
            "optim": {"schedule_steps": 2000 if full else steps * 3 // 4, **short},
        },
        "two": {
            "kind": "train",
            "init": "one",
            "objective": {"mix": 0.5},
            "teacher": {"kind": "frozen"},
            "optim": short,
            "long_tail": {"probability": 0.0 if preset == "code" else 0.3},
            "steps": 2000 if full else steps * 3 // 4,
        },
    }


get_config = arguments.parsed(make)
