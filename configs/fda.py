"""FDA: adversarial adaptation on source images in the target's style, one frequency band.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output           with=adversary
             = seg + seg_aux16 + seg_aux32 + 0.005 robust_entropy       with=entropy
inputs       = fda(source, target, beta), target

with=adversary is the combination of Nikiforos et al.; with=entropy is FDA's own objective, without
discriminators. FDA's PyTorch code exchanges corners of the spectrum: --config.fda_window=corners.

Papers: Yang & Soatto, FDA: Fourier domain adaptation for semantic segmentation, CVPR 2020;
Nikiforos, Cappello & Macaluso, Real-time domain adaptation in semantic segmentation.

    python main.py --config configs/fda.py:beta=0.05

Expected on `streets`: 22.3 ± 0.8 mIoU at 0.01, 21.2 ± 1.0 at 0.05, seeds 0 to 2 (docs/results.md).
"""

from typing import Literal

from ml_collections import ConfigDict

from configs import adversarial, arguments


def make(
    benchmark: str, *, beta: float = 0.01, with_: Literal["adversary", "entropy"] = "adversary"
) -> ConfigDict:
    """Returns FDA on a benchmark.

    Args:
      benchmark: a key of `BENCHMARKS`.
      beta: half of the side of the exchanged band, as a share of the image's side.
      with_: what is added to the supervised terms.
    """
    config = adversarial.make(benchmark)
    if with_ == "entropy":
        config.objective.update({"adv_output": 0.0, "robust_entropy": 0.005})
    config.fda_beta = beta
    return config


get_config = arguments.parsed(make)
