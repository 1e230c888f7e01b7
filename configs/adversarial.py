"""Output-space adversarial adaptation (Tsai et al. 2018, single level; S0 to S3).

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output
objective(D) = 1/2 [BCE(D(softmax source), 0) + BCE(D(softmax target), 1)]

    python main.py --config configs/adversarial.py
"""

from configs import base


def get_config(arg: str = ""):
    config = base.get_config(arg)
    config.objective.adv_output = 1e-3
    return config
