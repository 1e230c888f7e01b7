"""Distillation: a larger network is adapted, and a small one learns its labels of the target.

  large    trains the larger network with MIC (configs/mic.py), or without masked images
           (method=daformer, configs/daformer.py)

labels=hard
  label    the averaged teacher of `large` labels the target's images: the more confident pixels of
           every class
  small    objective(G) = seg + pseudo, on the main and both auxiliary heads: the real-time network
           learns from the source and these labels

labels=soft
  small    objective(G) = seg + mix + masked + distil, on the same heads: the averaged teacher of
           `large` sees each target image of the batch. Its labels are those of mix and masked, as
           in `large`, and distil = T^2 KL(teacher || small) of softmax at temperature T

labels=online
  train    trains both networks at once: the larger one as in `large` above, and the small one with
           the same objective + distil, on the same heads. The average of the larger network is the
           teacher of both. A pixel of distil has the weight 1 + INCONSISTENCY (1 - IoU of teacher
           and small network) of the teacher's class

The average of a small network is a weak teacher. The larger network costs only training time: at
inference, only the small one runs.

Papers: DUDA (arXiv 2504.09814) and CLDA (arXiv 2409.02699) distil to small networks while the large
one is still being trained, like labels=online, and DUDA does so once more from the finished large
network, like labels=soft. DUDA also gives more weight to classes on which the large and the small
network are inconsistent; the formula of the weights above is ours, not the paper's. The rule of the
hard labels is that of Li, Yuan & Vasconcelos, BDL, CVPR 2019, and soft labels are those of Hinton,
Vinyals & Dean, arXiv 1503.02531.

    pip install -e '.[pretrained]'
    python main.py --config distill
    python main.py --config distill:labels=soft
    python main.py --config distill:labels=online

Expected on `synth_to_camvid` at 160x224 with labels=soft,fda=0.01: 37.9 ± 0.8 mIoU, seeds 0 to 2,
and with labels=hard 38.3, seed 0. On `synth_to_idd` with method=daformer,labels=soft,fda=0.01:
40.9 ± 0.4 (docs/results.md). labels=online scored 28.7 on `streets` with fda=0.01, seed 0.
"""

from typing import Literal

from ml_collections import ConfigDict

from configs import arguments, base, daformer, mic, recipes, ssl
from rtda_jax.errors import require

Large = Literal["bisenet_lite2", "bisenet_lite1", "bisenet_resnet101", "deeplab_resnet101"]


def make(
    benchmark: str,
    *,
    large: Large = "bisenet_lite2",
    pretrained: recipes.Network = daformer.NETWORK,
    method: Literal["mic", "daformer"] = "mic",
    labels: Literal["hard", "soft", "online"] = "hard",
    temperature: float | None = None,
    inconsistency: float | None = None,
    distance: float = daformer.DISTANCE,
    fda: float | None = None,
    recipe: recipes.Name | None = None,
) -> ConfigDict:
    """Returns the distillation on a benchmark.

    Args:
      benchmark: a key of `benchmarks.BENCHMARKS`.
      large: the network that labels.
      pretrained: the real-time network that learns from it and starts from ImageNet weights.
      method: how the larger network is adapted: "daformer" has no masked images.
      labels: what the small network learns: labels that are stored once, or the labels and
        probabilities of the larger network's teacher for every image it sees, after that network is
        trained or meanwhile.
      temperature: T of labels=soft and labels=online; None means 2.
      inconsistency: by how much labels=online prefers classes on which teacher and small network
        disagree; 0 weighs all classes alike, and None means 1.
      distance: weight of the feature distance, which the small network of labels=hard and
        labels=soft does without.
      fda: beta of the band that the source takes from the target; None leaves the source as it is.
      recipe: the hyperparameters of short or long runs; None means those that suit the steps.
    """
    require(
        temperature is None or labels != "hard",
        "temperature goes with labels=soft and labels=online; labels=hard has none",
    )
    require(inconsistency is None or labels == "online", "inconsistency goes with labels=online")
    temperature = 2.0 if temperature is None else temperature
    inconsistency = 1.0 if inconsistency is None else inconsistency
    adapt = {"mic": mic.make, "daformer": daformer.make}[method]
    config = adapt(benchmark, pretrained=pretrained, distance=distance, fda=fda, recipe=recipe)
    if labels == "online":
        config.model.large = large
        config.teacher.update({"temperature": temperature, "inconsistency": inconsistency})
        config.objective.update({f"distil{head}": 1.0 for head in base.HEADS})
        base.set_stages(
            config,
            {
                "train": {"kind": "train"},
                "eval_large": {"kind": "evaluate", "models": ("train:large",)},
                "eval_small": {"kind": "evaluate", "models": ("train",)},
            },
        )
        return config
    unused = [name for name in config.objective if "_aux" in name] if "deeplab" in large else []
    learn = _hard() if labels == "hard" else _soft(temperature)
    learn["small"]["objective"]["feature_distance"] = 0.0
    base.set_stages(
        config,
        {
            "large": {
                "kind": "train",
                "model": {"name": large},
                "objective": dict.fromkeys(unused, 0.0),  # DeepLab has one head
            },
            **learn,
            **base.evaluated("large", "small"),
        },
    )
    return config


def _hard() -> dict[str, dict]:
    small = {**ssl.learn("label"), "teacher": {"kind": "none"}, "target_margins": (0, 0, 0, 0)}
    taught = [f"{term}{head}" for term in ("mix", "masked") for head in base.HEADS]
    small["objective"] |= dict.fromkeys(taught, 0.0)
    return {"label": {"kind": "pseudo_label", "models": ("large:teacher",)}, "small": small}


def _soft(temperature: float) -> dict[str, dict]:
    frozen = {"kind": "frozen", "average": "all", "statistics": "running"}
    small = {
        "kind": "train",
        "taught_by": "large:teacher",
        "teacher": {**frozen, "temperature": temperature},
        "objective": {f"distil{head}": 1.0 for head in base.HEADS},
    }
    return {"small": small}


get_config = arguments.parsed(make)
