"""DAFormer on a real-time network: online self-training, rare classes, feature distance.

objective(G) = seg + mix, on the main and both auxiliary heads, + 0.005 feature_distance
mix          = cross-entropy of target images with half of the source batch's classes on them
labels       = the source's on pasted pixels and the teacher's elsewhere; the weight of the
               teacher's labels is the share of the batch where its confidence exceeds 0.968
teacher      = average of the parameters, updated before it labels, normalising by its batch
feature_distance = L2 distance of the last trunk stage from the ImageNet trunk's, on things
source       = images drawn by their rare classes; fda=BETA gives them the target's low frequencies

The method follows the paper's code. Two of its rules come from its libraries, and only long runs
(recipe=long, from 10,000 steps) follow them: mmseg averages the cross-entropy over all pixels,
ignored ones included (loss.reduction=pixels), and mmcv's warm-up multiplies a decay that begins at
step 0 (optim.warmup=linear_factor). Shorter runs average over labelled pixels and decay after the
warm-up.

The network is BiSeNet on EfficientNet-Lite instead of a transformer with 85 million parameters;
because BiSeNet has auxiliary heads, they are trained too.

Paper: Hoyer, Dai & Van Gool, DAFormer: Improving network architectures and training strategies
for domain-adaptive semantic segmentation, CVPR 2022.

    pip install -e '.[pretrained]'
    python main.py --config daformer

Published with DAFormer's own network, GTA5 to Cityscapes: 68.3 mIoU. Expected on `synth_to_camvid`
at 160x224 with distance=0,fda=0.01: 36.9 ± 0.5 mIoU, and on `synth_to_idd` 41.6 ± 0.3, seeds 0 to 2
(docs/results.md).
"""

from ml_collections import ConfigDict

from configs import arguments, dacs, recipes

NETWORK: recipes.Network = "bisenet_lite0"
DISTANCE = 0.005  # weight of the feature distance


def make(
    benchmark: str,
    *,
    pretrained: recipes.Network = NETWORK,
    distance: float = DISTANCE,
    fda: float | None = None,
    recipe: recipes.Name | None = None,
) -> ConfigDict:
    """Returns DAFormer's training on a benchmark.

    Args:
      benchmark: a key of `benchmarks.BENCHMARKS`.
      pretrained: the network, whose trunk has ImageNet weights.
      distance: weight of the feature distance.
      fda: beta of the band that the source takes from the target; None leaves the source as it is.
      recipe: the hyperparameters of short or long runs, see `recipes.py`; None means those that
        suit the benchmark's number of steps. --config.steps is read later and does not change them.
    """
    config = dacs.make(benchmark)
    chosen = recipes.choose(config, recipe)
    recipes.use_pretrained(config, pretrained, recipe=recipe)
    config.objective.feature_distance = distance
    config.fda_beta = fda
    config.rare_class = chosen.rare_temperature
    if chosen is recipes.LONG:
        config.loss.reduction = "pixels"  # as mmseg, which counts ignored pixels
        config.rare_min_pixels = 3000
        config.rare_crops = 11  # up to ten more crops, until one shows half of these pixels
        if config.benchmark.target.name == "cityscapes":
            config.target_margins = (15, 120, 0, 0)  # of 512 rows: rectified edge and bonnet
    config.teacher.update(
        {
            "decay": chosen.teacher_decay,
            "average": "parameters",
            "follows": "before",
            "statistics": "batch",
            "share": "batch",
        }
    )
    config.mix.update({"among": "batch", "ignore": "class", "colour": "daformer"})
    config.augment.draw = "batch"
    return config


get_config = arguments.parsed(make)
