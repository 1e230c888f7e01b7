"""AdvEnt: adversarial entropy minimisation, with discriminators that see self-information.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output + 0.0002 adv_aux16
             = seg + 0.1 seg_aux16 + 0.001 adv_output + 0.0002 adv_aux16            preset=...
objective(D) = 1/2 [BCE(D(I source), 0) + BCE(D(I target), 1)]           I_k = -p_k log_K p_k

    preset=released   the authors' recipe on DeepLabV2 with ResNet-101, see configs/adaptsegnet.py;
                      all four dilations, stopped at 120,000 of 250,000 iterations
    preset=ensemble   the same and the authors' MinEnt, fused by the mean of their logits

The authors evaluate on the validation set every 2,000 iterations and report the best checkpoint;
here it is the last one. The MinEnt network of their ensemble was trained with entropy ranges, for
which no code was released.

Paper: Vu, Jain, Bucher, Cord & Pérez, ADVENT: Adversarial entropy minimization for domain
adaptation in semantic segmentation, CVPR 2019.

    python main.py --config advent
    python main.py --config advent:gta5_to_cityscapes,preset=ensemble \\
        --config.model.pretrained=DeepLab_resnet_pretrained_imagenet.pth

Expected on `streets`: 19.9 ± 0.5 mIoU, seeds 0 to 2 (docs/results.md). The presets need GTA5,
Cityscapes and the authors' file of initial weights. Published for GTA5 to Cityscapes: 43.8 mIoU
AdvEnt, 45.5 the ensemble. We have not trained them to the end; see docs/faithful.md.
"""

from typing import Literal

from ml_collections import ConfigDict

from configs import adaptsegnet, adversarial, arguments, base, minent


def make(
    benchmark: str,
    *,
    preset: Literal["released", "ensemble"] | None = None,
    network: adversarial.Discriminator = "fcd",
) -> ConfigDict:
    """Returns AdvEnt on a benchmark.

    Args:
      benchmark: a key of `BENCHMARKS`.
      preset: the authors' recipe, alone or fused with MinEnt; None trains a real-time network.
      network: the discriminators.
    """
    config = adversarial.make(benchmark, level="multi", network=network)
    config.adversary.view = "self_information"
    if preset is None:
        return config
    adaptsegnet.deeplab(config, heads=2, aspp="all", steps=120_000)
    config.eval.fusion = "logits"
    if preset == "ensemble":
        alone = {**dict.fromkeys(adversarial.LEVELS["multi"], 0.0), **minent.WEIGHTS}
        base.set_stages(
            config,
            {
                "advent": {"kind": "train"},
                "minent": {"kind": "train", "objective": alone},
                **base.evaluated("advent", "minent"),
                "eval_both": {"kind": "evaluate", "models": ("advent", "minent")},
            },
        )
    return config


get_config = arguments.parsed(make)
