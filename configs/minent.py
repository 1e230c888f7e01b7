"""MinEnt: entropy minimisation on the target, without a discriminator.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 minent + 0.0002 minent_aux16
             = seg + 0.1 seg_aux16 + 0.001 minent + 0.0002 minent_aux16            preset=released
minent       = mean over pixels of -sum_k p_k log_K p_k, in [0, 1]

    preset=released   the authors' recipe on DeepLabV2 with ResNet-101, see configs/adaptsegnet.py;
                      all four dilations, stopped at 120,000 of 250,000 iterations

The authors report the best of 60 checkpoints on the validation set; here it is the last one.

Paper: Vu, Jain, Bucher, Cord & Pérez, ADVENT: Adversarial entropy minimization for domain
adaptation in semantic segmentation, CVPR 2019.

    python main.py --config minent
    python main.py --config minent:gta5_to_cityscapes,preset=released \\
        --config.model.pretrained=DeepLab_resnet_pretrained_imagenet.pth

Expected on `streets`: 20.3 ± 0.5 mIoU, seeds 0 to 2 (docs/results.md). The preset needs GTA5,
Cityscapes and the authors' file of initial weights. Published for GTA5 to Cityscapes: 42.3 mIoU. We
have not trained it to the end; see docs/faithful.md.
"""

from typing import Literal

from ml_collections import ConfigDict

from configs import adaptsegnet, arguments, base

WEIGHTS = {"minent": 1e-3, "minent_aux16": 2e-4}


def make(benchmark: str, *, preset: Literal["released"] | None = None) -> ConfigDict:
    """Returns MinEnt on a benchmark.

    Args:
      benchmark: a key of `BENCHMARKS`.
      preset: the authors' recipe; None trains a real-time network.
    """
    config = base.make(benchmark)
    config.objective.update(WEIGHTS)
    if preset == "released":
        adaptsegnet.deeplab(config, heads=2, aspp="all", steps=120_000)
    return config


get_config = arguments.parsed(make)
