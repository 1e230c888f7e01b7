"""FDA: source images in the target's style, with an adversary or with the authors' own recipe.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output           with=adversary
             = seg + seg_aux16 + seg_aux32 + 0.005 robust_entropy       with=entropy
             = seg + 0.005 robust_entropy_coarse                        preset=released, at first
             = seg + pseudo + 0.005 robust_entropy_coarse               then, on its own labels
inputs       = fda(source, target, beta), target

with=adversary is the combination of Nikiforos et al.; with=entropy is FDA's own objective, without
discriminators. preset=released follows the authors' code on DeepLabV2 with ResNet-101. It has all
four dilations and stops at 100,000 of 150,000 iterations; everything else is as in
configs/adaptsegnet.py:

    networks     one for each of beta = 0.01, 0.05, 0.09; fused by their mean softmax at 1/8
    window       the corners of the spectrum, as exchanged by the authors' PyTorch code
    labels       from the fused networks: the most confident 34% of each class over the whole set,
                 and every pixel above 0.9
    then         three new networks trained on the source and these labels, and their fusion

GTA5 is resized to 720x1280, and crops of 512x1024 are taken from it. The authors draw the target
image that lends its style and the one with labels separately; ours are the same image.

Papers: Yang & Soatto, FDA: Fourier domain adaptation for semantic segmentation, CVPR 2020;
Nikiforos, Cappello & Macaluso, Real-time domain adaptation in semantic segmentation.

    python main.py --config fda:beta=0.05
    python main.py --config fda:gta5_to_cityscapes,preset=released \\
        --config.model.pretrained=DeepLab_init.pth

Expected on `streets`: 22.3 ± 0.8 mIoU at 0.01, 21.2 ± 1.0 at 0.05, seeds 0 to 2 (docs/results.md).
The preset needs GTA5, Cityscapes, the authors' file of initial weights, and six trainings.
Published for GTA5 to Cityscapes: 50.45 mIoU by three networks after self-training. We have not
trained it to the end; see docs/faithful.md.
"""

from typing import Literal

from ml_collections import ConfigDict

from configs import adaptsegnet, adversarial, arguments, base
from rtda_jax.errors import require

BANDS = {"001": 0.01, "005": 0.05, "009": 0.09}


def make(
    benchmark: str,
    *,
    beta: float | None = None,
    with_: Literal["adversary", "entropy"] | None = None,
    preset: Literal["released"] | None = None,
) -> ConfigDict:
    """Returns FDA on a benchmark.

    Args:
      benchmark: a key of `BENCHMARKS`.
      beta: half the side of the exchanged band, as a share of the image's side; None means 0.01.
      with_: what is added to the supervised terms; None means the adversary.
      preset: the authors' recipe, which has three bands and its own terms.
    """
    if preset == "released":
        require(beta is None and with_ is None, "preset=released has its own beta and terms")
        return released(benchmark)
    config = adversarial.make(benchmark)
    if with_ == "entropy":
        config.objective.update({"adv_output": 0.0, "robust_entropy": 0.005})
    config.fda_beta = 0.01 if beta is None else beta
    return config


def released(benchmark: str) -> ConfigDict:
    """Returns the authors' recipe: three bands, their fusion, and one round of self-training."""
    config = base.make(benchmark)
    adaptsegnet.deeplab(
        config,
        heads=1,
        aspp="all",
        steps=100_000,
        schedule_steps=150_000,
        crop=(512, 1024),
    )
    config.objective.robust_entropy_coarse = 0.005
    config.fda_window = "corners"
    if config.benchmark.eval.name == "cityscapes":
        config.benchmark.eval_size = (576, 1344)

    def trained(name: str, **overrides: object) -> dict[str, dict]:
        return {
            f"{name}_{band}": {"kind": "train", "fda_beta": beta, **overrides}
            for band, beta in BANDS.items()
        }

    first = trained("beta")
    again = trained("ssl", pseudo_labels="label", objective={"pseudo": 1.0})
    rule = {"heads": ("coarse",), "fusion": "mean", "scope": "dataset", "cut": 0.66}
    base.set_stages(
        config,
        {
            **first,
            "eval_mbt": {"kind": "evaluate", "models": tuple(first)},
            "label": {"kind": "pseudo_label", "models": tuple(first), "pseudo": rule},
            **again,
            "eval_ssl": {"kind": "evaluate", "models": tuple(again)},
        },
    )
    return config


get_config = arguments.parsed(make)
