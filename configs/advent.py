"""AdvEnt: adversarial entropy minimisation, with discriminators that see self-information.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output + 0.0002 adv_aux16
objective(D) = 1/2 [BCE(D(I source), 0) + BCE(D(I target), 1)]           I_k = -p_k log_K p_k

Paper: Vu, Jain, Bucher, Cord & Pérez, ADVENT: Adversarial entropy minimization for domain
adaptation in semantic segmentation, CVPR 2019.

    python main.py --config configs/advent.py

Expected on `streets`: 19.9 ± 0.5 mIoU, seeds 0 to 2 (docs/results.md).
"""

from ml_collections import ConfigDict

from configs import adversarial, arguments


def make(benchmark: str, *, network: adversarial.Discriminator = "fcd") -> ConfigDict:
    """Returns AdvEnt on a benchmark, with the named discriminators."""
    config = adversarial.make(benchmark, level="multi", network=network)
    config.adversary.view = "self_information"
    return config


get_config = arguments.parsed(make)
