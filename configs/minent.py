"""Entropy minimisation on the target, no discriminator (MinEnt, Vu et al. 2019).

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 minent + 0.0002 minent_aux16
minent       = mean over pixels of -sum_k p_k log_K p_k, in [0, 1]

    python main.py --config configs/minent.py

Expected on `streets`: 20.3 ± 0.5 mIoU, seeds 0 to 2 (README).
"""

from configs import base


def get_config(arg: str = ""):
    config = base.get_config(arg)
    config.objective.update({"minent": 1e-3, "minent_aux16": 2e-4})
    return config
