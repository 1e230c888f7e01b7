"""Adversarial entropy minimisation: discriminators of self-information (AdvEnt, Vu et al. 2019).

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output + 0.0002 adv_aux16
objective(D) = 1/2 [BCE(D(I source), 0) + BCE(D(I target), 1)]           I_k = -p_k log_K p_k

    python main.py --config configs/advent.py

Expected on `streets`: 19.9 ± 0.5 mIoU, seeds 0 to 2 (README).
"""

from configs import adversarial


def get_config(arg: str = ""):
    config = adversarial.get_config(",".join(filter(None, (arg, "level=multi"))))
    config.adversary.view = "self_information"
    return config
