"""MinEnt: entropy minimisation on the target, without a discriminator.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 minent + 0.0002 minent_aux16
minent       = mean over pixels of -sum_k p_k log_K p_k, in [0, 1]

Paper: Vu, Jain, Bucher, Cord & Pérez, ADVENT: Adversarial entropy minimization for domain
adaptation in semantic segmentation, CVPR 2019.

    python main.py --config configs/minent.py

Expected on `streets`: 20.3 ± 0.5 mIoU, seeds 0 to 2 (docs/results.md).
"""

from ml_collections import ConfigDict

from configs import arguments, base


def make(benchmark: str) -> ConfigDict:
    """Returns MinEnt on a benchmark."""
    config = base.make(benchmark)
    config.objective.update({"minent": 1e-3, "minent_aux16": 2e-4})
    return config


get_config = arguments.parsed(make)
