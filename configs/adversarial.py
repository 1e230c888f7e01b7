"""Adversarial adaptation (Tsai et al. 2018; S0 to S3).

objective(G) = seg + seg_aux16 + seg_aux32 + adv(level)
objective(D) = 1/2 [BCE(D(view source), 0) + BCE(D(view target), 1)]     for each level

    level=output    0.001 adv_output                             view = softmax of the logits
    level=multi     0.001 adv_output + 0.0002 adv_aux16          (AdaptSegNet's weights)
    level=three     0.001 adv_output + 0.0002 adv_aux16 + 0.0002 adv_aux32     (S1's weights)
    level=feature   0.001 adv_feature                            view = features, at image size

The argument is [BENCHMARK,]level=L,network=D with D = fcd or fcd_light.

    python main.py --config configs/adversarial.py
    python main.py --config configs/adversarial.py:level=multi,network=fcd_light

Expected on `streets`: 19.8 ± 0.2 mIoU at level=output, 21.0 ± 0.3 at multi, 21.0 ± 0.4 at feature,
19.2 ± 0.6 with fcd_light, seeds 0 to 2 (README).
"""

from configs import base

LEVELS = {
    "output": {"adv_output": 1e-3},
    "multi": {"adv_output": 1e-3, "adv_aux16": 2e-4},
    "three": {"adv_output": 1e-3, "adv_aux16": 2e-4, "adv_aux32": 2e-4},
    "feature": {"adv_feature": 1e-3},
}


def get_config(arg: str = ""):
    benchmark, options = base.parse(arg, level=tuple(LEVELS), network=("fcd", "fcd_light"))
    config = base.get_config(benchmark)
    config.objective.update(LEVELS[options["level"]])
    config.adversary.network = options["network"]
    return config
