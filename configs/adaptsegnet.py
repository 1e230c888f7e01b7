"""AdaptSegNet on DeepLabV2 by its own recipe (Tsai et al. 2018; S3), and S3's sweep of lambda.

objective(G) = seg + lambda_seg seg_aux16 + adv(preset)                   seg_aux16: head on layer3
objective(D) = 1/2 [BCE(D(softmax source), 0) + BCE(D(softmax target), 1)]     for each level

    preset=multi     lambda_seg 0.1, lambda adv_output + lambda/5 adv_aux16       lambda 0.001
    preset=multi04   the same for PyTorch 0.4: 0.0005 adv_output + 0.00005 adv_aux16
    preset=single    lambda adv_output, one head                                  lambda 0.001
    preset=ls        least squares in place of BCE, lambda adv_output             lambda 0.01
    preset=feature   lambda adv_feature                                           lambda 0.001
    lambda=0.004     instead of the preset's (S3: .0005, .001, .004)
    network=vgg16    DeepLab on VGG-16 for ResNet-101: one head, and preset=single by default

The classifier adds up dilations 6 and 12 only, as the released code does. SGD 2.5e-4, heads ten
times faster, decay 5e-4; Adam 1e-4; poly of 250,000 iterations stopped at 150,000; one image of
each domain, not mirrored; Caffe's mean on BGR. Both domains have the benchmark's size; the
authors read GTA5 at 720x1280 and Cityscapes at 512x1024.

    python main.py --config configs/adaptsegnet.py:gta5_to_cityscapes,preset=multi

Published for GTA5 to Cityscapes, ResNet-101: 42.4 mIoU multi, 41.4 single.
"""

from configs import base
from rtda_jax.errors import ConfigError

LAMBDA = {"multi": 1e-3, "multi04": 5e-4, "single": 1e-3, "ls": 1e-2, "feature": 1e-3}
DEFAULT = {"resnet101": "multi", "vgg16": "single"}


def get_config(arg: str = ""):
    benchmark, options = base.parse(
        arg, preset=("default", *LAMBDA), network=tuple(DEFAULT), **{"lambda": 0.0}
    )
    preset, network = options["preset"], options["network"]
    if preset == "default":
        preset = DEFAULT[network]
    weight = options["lambda"] or LAMBDA[preset]
    several = preset.startswith("multi")
    if several and network == "vgg16":
        raise ConfigError(f"preset={preset} needs two heads; deeplab_vgg16 has one")
    config = base.get_config(benchmark)
    config.model.name = f"deeplab_{network}" + ("_multi" if several else "")
    config.augment.flip = False
    config.eval.align = "corners"
    if network == "resnet101":
        config.model.options.aspp = "first_two"
    config.normalisation = "caffe_bgr"
    config.model.statistics = "both"
    config.batch_size, config.steps = 1, 150_000
    config.optim.update(
        {"g_lr": 2.5e-4, "g_groups": "heads", "g_decay": 5e-4, "schedule_steps": 250_000}
    )
    config.objective.update({"seg_aux16": 0.1 if several else 0.0, "seg_aux32": 0.0})
    config.objective["adv_feature" if preset == "feature" else "adv_output"] = weight
    if several:
        config.objective.adv_aux16 = weight / (10 if preset == "multi04" else 5)
    if preset == "ls":
        config.adversary.gan_loss = "least_squares"
    return config
