"""AdaptSegNet on DeepLabV2 with its authors' recipe, and the sweep of lambda of Thukral et al.

objective(G) = seg + lambda_seg seg_aux16 + adv(preset)           seg_aux16 is the head on layer3
objective(D) = 1/2 [BCE(D(softmax source), 0) + BCE(D(softmax target), 1)]     for each level

    preset=multi     lambda_seg 0.1, lambda adv_output + lambda/5 adv_aux16       lambda 0.001
    preset=multi04   the same for PyTorch 0.4: 0.0005 adv_output + 0.00005 adv_aux16
    preset=single    lambda adv_output, one head                                  lambda 0.001
    preset=ls        lambda adv_output, least squares instead of BCE              lambda 0.01
    preset=feature   lambda adv_feature                                           lambda 0.001

Two details follow the released code and are in no paper. The classifier adds up only dilations 6
and 12. The optimizer lists a convolution of the trunk once for every module that contains it, so
that each step updates it three or four times; --config.optim.g_repeats=none updates it once.

The recipe: SGD with a learning rate of 2.5e-4, ten times that for the heads (VGG-16 has one rate),
and a decay of 5e-4; Adam with 1e-4; a poly schedule of 250,000 iterations that stops at 150,000;
one image of each domain, without mirroring; Caffe's mean subtracted from BGR; GTA5 at 720x1280 and
Cityscapes at 512x1024, both bicubic. For evaluation, the logits at 1/8 are resized once to the size
of the labels.

Papers: Tsai, Hung, Schulter, Sohn, Yang & Chandraker, Learning to adapt structured output space
for semantic segmentation, CVPR 2018; Thukral, Khantwal & Agarwal, Domain adaptation for image
segmentation, which tries lambda = 0.0005, 0.001 and 0.004.

    python main.py --config adaptsegnet:gta5_to_cityscapes,preset=multi \\
        --config.model.pretrained=DeepLab_resnet_pretrained_init-f81d91e8.pth

Needs GTA5, Cityscapes and the authors' file of initial weights. Published for GTA5 to Cityscapes
with ResNet-101: 42.4 mIoU multi, 41.4 single. We have not trained it to the end; docs/faithful.md
says what we compared with the authors' code.
"""

from typing import Literal

from ml_collections import ConfigDict

from configs import arguments, base
from rtda_jax.errors import require

Preset = Literal["multi", "multi04", "single", "ls", "feature"]
LAMBDA: dict[Preset, float] = {
    "multi": 1e-3,
    "multi04": 5e-4,
    "single": 1e-3,
    "ls": 1e-2,
    "feature": 1e-3,
}


# (H, W) to which the authors resize the source when the target is Cityscapes at 512x1024. Other
# benchmarks keep their own sizes.
SOURCE_SIZES = {
    "gta5_to_cityscapes": (720, 1280),
    "synthia_to_cityscapes": (760, 1280),
    "synthia_to_cityscapes_13": (760, 1280),
}


def use_source_size(config: ConfigDict, *, crop: tuple[int, int] | None = None) -> None:
    """Resizes source images as AdaptSegNet does, on the benchmarks in `SOURCE_SIZES`.

    Args:
      config: the configuration of any method.
      crop: (H, W) of the crops from the source; None trains on whole images.
    """
    if source_size := SOURCE_SIZES.get(config.benchmark.name):
        config.benchmark.update({"source_size": source_size, "source_crop": crop or source_size})


def deeplab(
    config: ConfigDict,
    *,
    heads: Literal[1, 2],
    aspp: Literal["first_two", "all"],
    steps: int,
    schedule_steps: int = 250_000,
    crop: tuple[int, int] | None = None,
) -> None:
    """Gives a configuration DeepLabV2 and the training recipe of AdaptSegNet and its successors.

    Args:
      config: the configuration of any method.
      heads: 2 adds the head on layer3, whose supervised loss has a weight of 0.1.
      aspp: the dilations that the classifier adds up. In the code of AdaptSegNet and DACS, an
        early return leaves only the "first_two".
      steps: the steps of a train stage.
      schedule_steps: the step at which the poly schedule would reach 0.
      crop: (H, W) of the crops from both domains on the benchmarks in `SOURCE_SIZES`; None trains
        on whole images.
    """
    benchmark = config.benchmark
    if benchmark.name in SOURCE_SIZES:
        benchmark.update({"crop": crop or benchmark.size, "resize": "bicubic"})
    use_source_size(config, crop=crop)
    config.model.name = "deeplab_resnet101" + ("_multi" if heads == 2 else "")
    config.model.options.aspp = aspp
    config.model.statistics = "both"
    config.normalisation = "caffe_bgr"
    config.augment.flip = False
    config.batch_size, config.steps = 1, steps
    config.optim.update(
        {
            "g_lr": 2.5e-4,
            "g_groups": "heads",
            "g_decay": 5e-4,
            "g_repeats": "released_04",
            "schedule_steps": schedule_steps,
        }
    )
    config.objective.update({"seg_aux16": 0.1 if heads == 2 else 0.0, "seg_aux32": 0.0})
    config.eval.update({"align": "corners", "output": "coarse"})


def make(
    benchmark: str,
    *,
    preset: Preset | None = None,
    network: Literal["resnet101", "vgg16"] = "resnet101",
    lambda_: float | None = None,
) -> ConfigDict:
    """Returns AdaptSegNet on a benchmark.

    Args:
      benchmark: a key of `BENCHMARKS`.
      preset: the adversarial terms; None is multi, or single for VGG-16, which has one head.
      network: the trunk of DeepLabV2.
      lambda_: weight of the main adversarial term; None uses the preset's weight.
    """
    preset = preset or ("multi" if network == "resnet101" else "single")
    weight = LAMBDA[preset] if lambda_ is None else lambda_
    several = preset.startswith("multi")
    if several:
        require(network != "vgg16", f"preset={preset} needs two heads; deeplab_vgg16 has one")
    config = base.make(benchmark)
    deeplab(config, heads=2 if several else 1, aspp="first_two", steps=150_000)
    if network == "vgg16":
        config.model.name = "deeplab_vgg16"
        config.optim.update({"g_groups": "one", "g_repeats": "none"})
    config.objective["adv_feature" if preset == "feature" else "adv_output"] = weight
    if several:
        config.objective.adv_aux16 = weight / (10 if preset == "multi04" else 5)
    if preset == "ls":
        config.adversary.gan_loss = "least_squares"
    return config


get_config = arguments.parsed(make)
