"""Self-training on the labels of multi-band transfer: the last rows of Nikiforos et al.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output            beta_001, beta_005
               the same + pseudo + pseudo_aux16 + pseudo_aux32           ssl
inputs       = fda(source, target, beta), target                         0.01, 0.05; ssl: 0.01
labels       = classes of the mean softmax of both networks: the most confident third of each class
               over the whole set, and every pixel above 0.9

The last stage starts from the networks of beta_001, including the discriminator, with half the
learning rates. Nikiforos et al. do not halve the discriminator's loss; to do the same, set
--config.adversary.d_factor=1.0.

Papers: Nikiforos, Cappello & Macaluso, Real-time domain adaptation in semantic segmentation;
Yang & Soatto, FDA: Fourier domain adaptation for semantic segmentation, CVPR 2020.

    python main.py --config fda_ssl
    python main.py --config fda_ssl:control=yes

Expected with pretrained=bisenet_lite0 on `synth_to_camvid` at 160x224: 37.3 ± 0.7 mIoU, both bands
fused 35.2 ± 0.9; on `synth_to_idd`: 41.9 ± 0.1 and 40.4 ± 0.1, seeds 0 to 2; from random weights on
`synth_to_camvid` at 128x160: 25.1 and 21.1, seed 0 (docs/results.md).
"""

from typing import Literal

from ml_collections import ConfigDict

from configs import arguments, fda_mbt, ssl


def make(benchmark: str, *, control: Literal["no", "yes"] = "no") -> ConfigDict:
    """Returns multi-band transfer and self-training on a benchmark.

    Args:
      benchmark: a key of `BENCHMARKS`.
      control: "yes" adds a stage that trains like `ssl` but without the labels.
    """
    config = fda_mbt.make(benchmark)

    def continued() -> dict:
        half = {name: 0.5 * config.optim.get_oneway_ref(name) for name in ("g_lr", "d_lr")}
        return {"kind": "train", "init": "beta_001", "fda_beta": 0.01, "optim": half}

    third = {"fusion": "mean", "scope": "dataset", "cut": 0.66, "index": "floor"}
    both = ("beta_001", "beta_005")
    config.stage.update(
        {
            "label": {"kind": "pseudo_label", "models": both, "pseudo": third},
            "ssl": {**continued(), **ssl.learn("label")},
            "eval_ssl": {"kind": "evaluate", "models": ("ssl",)},
            "control": continued(),
            "eval_control": {"kind": "evaluate", "models": ("control",)},
        }
    )
    config.stages = (*config.stages, "label", "ssl", "eval_ssl")
    if control == "yes":
        config.stages = (*config.stages, "control", "eval_control")
    return config


get_config = arguments.parsed(make)
