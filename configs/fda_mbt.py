"""MBT, multi-band transfer: adversarial adaptation with FDA in two bands, and a fused prediction.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output           for each beta
inputs       = fda(source, target, beta), target                        beta in {0.01, 0.05}
prediction   = argmax 1/2 [softmax G_0.01 + softmax G_0.05]

Papers: Nikiforos, Cappello & Macaluso, Real-time domain adaptation in semantic segmentation;
Yang & Soatto, FDA: Fourier domain adaptation for semantic segmentation, CVPR 2020.

    python main.py --config fda_mbt

Expected on `streets`: 22.9 ± 1.3 mIoU, seeds 0 to 2 (docs/results.md).
configs/fda.py trains either band alone.
"""

from ml_collections import ConfigDict

from configs import adversarial, arguments, base


def make(
    benchmark: str,
    *,
    level: adversarial.Level = "output",
    network: adversarial.Discriminator = "fcd",
) -> ConfigDict:
    """Returns multi-band transfer on a benchmark; the options are those of `adversarial.make`."""
    config = adversarial.make(benchmark, level=level, network=network)
    base.set_stages(
        config,
        {
            "beta_001": {"kind": "train", "fda_beta": 0.01},
            "beta_005": {"kind": "train", "fda_beta": 0.05},
            "eval_001": {"kind": "evaluate", "models": ("beta_001",)},
            "eval_005": {"kind": "evaluate", "models": ("beta_005",)},
            "eval_mbt": {"kind": "evaluate", "models": ("beta_001", "beta_005")},
        },
    )
    return config


get_config = arguments.parsed(make)
