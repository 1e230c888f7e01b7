"""Adversarial adaptation: the network learns to fool a discriminator of source and target.

objective(G) = seg + seg_aux16 + seg_aux32 + adv(level)
objective(D) = 1/2 [BCE(D(x source), 0) + BCE(D(x target), 1)]           for each level

    level=output    0.001 adv_output                             x = softmax of the logits
    level=multi     0.001 adv_output + 0.0002 adv_aux16          (AdaptSegNet's weights)
    level=three     0.001 adv_output + 0.0002 adv_aux16 + 0.0002 adv_aux32     (Nikiforos et al.)
    level=feature   0.001 adv_feature                            x = features, at image size

Paper: Tsai, Hung, Schulter, Sohn, Yang & Chandraker, Learning to adapt structured output space for
semantic segmentation (AdaptSegNet), CVPR 2018. Brunstein & De Souza Coelho, Nikiforos et al. and
Bartoletti et al. use it with BiSeNet, as is done here.

    python main.py --config adversarial
    python main.py --config adversarial:level=multi,network=fcd_light

Expected on `streets`: 19.8 ± 0.2 mIoU at level=output, 21.0 ± 0.3 at multi, 21.0 ± 0.4 at feature,
19.2 ± 0.6 with fcd_light, seeds 0 to 2 (docs/results.md).
"""

from typing import Literal

from ml_collections import ConfigDict

from configs import arguments, base

Level = Literal["output", "multi", "three", "feature"]
Discriminator = Literal["fcd", "fcd_light"]

LEVELS: dict[Level, dict[str, float]] = {
    "output": {"adv_output": 1e-3},
    "multi": {"adv_output": 1e-3, "adv_aux16": 2e-4},
    "three": {"adv_output": 1e-3, "adv_aux16": 2e-4, "adv_aux32": 2e-4},
    "feature": {"adv_feature": 1e-3},
}


def make(benchmark: str, *, level: Level = "output", network: Discriminator = "fcd") -> ConfigDict:
    """Returns adversarial adaptation on a benchmark.

    Args:
      benchmark: a key of `BENCHMARKS`.
      level: which outputs the discriminators judge.
      network: the discriminators.
    """
    config = base.make(benchmark)
    config.objective.update(LEVELS[level])
    config.adversary.network = network
    return config


get_config = arguments.parsed(make)
