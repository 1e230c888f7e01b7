"""What each part of TUFL adds: fixed and adaptive thresholds, class mixing, rare classes.

objective(G) = that of configs/tufl.py, in these stages:
  source     the labelled source alone
  fixed      from `source`: consistency above one fixed threshold
  adaptive   from `source`: consistency above an adaptive threshold for each class
  longer     from `adaptive`: the same again, for the number of steps of the next stages (control)
  mixing     from `adaptive`: class mixing as well, with that stage as the frozen teacher
  long_tail  from `adaptive`: class mixing with rare classes pasted on the source

Paper (tufl): Yan, Qian, Wang & Yang, Threshold-adaptive unsupervised focal loss for domain adaptive
semantic segmentation, arXiv 2208.10716.

    python main.py --config tufl_parts

Expected on `streets`: 17.4 ± 0.9 source, 18.6 ± 0.8 fixed and adaptive, 19.2 ± 0.5 longer,
19.1 ± 0.4 mixing, 19.2 ± 0.7 long_tail, mIoU, seeds 0 to 2 (docs/tufl.md).
"""

from typing import Literal

from ml_collections import ConfigDict

from configs import arguments, base, recipes, tufl

TRAINED = ("source", "fixed", "adaptive", "longer", "mixing", "long_tail")


def like(stage: ConfigDict) -> dict:
    """Returns the fields of a stage; fields that follow another field keep doing so."""
    return {
        name: like(value) if isinstance(value, ConfigDict) else stage.get_oneway_ref(name)
        for name, value in stage.items()
    }


def make(
    benchmark: str,
    *,
    network: Literal["bisenet", "deeplab"] = "bisenet",
    preset: Literal["paper", "code"] = "paper",
    pretrained: recipes.Network | None = None,
) -> ConfigDict:
    """Returns the stages on a benchmark; the options are those of `tufl.make`."""
    config = tufl.make(benchmark, network=network, preset=preset, pretrained=pretrained)
    one, two = config.stage.one, config.stage.two
    again = {"kind": "train", "init": "adaptive", "steps": two.get_oneway_ref("steps")}
    stages = {
        "source": like(config.stage.source),
        "fixed": {**like(one), "consistency": {"threshold": "fixed"}},
        "adaptive": {**like(one), "consistency": {"threshold": "adaptive"}},
        "longer": again,
        "mixing": {**like(two), "init": "adaptive", "long_tail": {"probability": 0.0}},
        "long_tail": {**like(two), "init": "adaptive", "long_tail": {"probability": 0.3}},
    }
    base.set_stages(config, {**stages, **base.evaluated(*TRAINED)})
    return config


get_config = arguments.parsed(make)
