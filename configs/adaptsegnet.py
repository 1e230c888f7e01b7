"""AdaptSegNet on DeepLabV2 by its own recipe (Tsai et al. 2018; S3), and S3's sweep of lambda.

objective(G) = seg + lambda_seg seg_aux16 + adv(preset)                   seg_aux16: head on layer3
objective(D) = 1/2 [BCE(D(softmax source), 0) + BCE(D(softmax target), 1)]     for each level

    preset=multi     lambda_seg 0.1, lambda adv_output + lambda/5 adv_aux16       lambda 0.001
    preset=multi04   the same for PyTorch 0.4: 0.0005 adv_output + 0.00005 adv_aux16
    preset=single    lambda adv_output, one head                                  lambda 0.001
    preset=ls        least squares in place of BCE, lambda adv_output             lambda 0.01
    preset=feature   lambda adv_feature                                           lambda 0.001
    lambda=0.004     instead of the preset's (S3: .0005, .001, .004)
    network=vgg16    DeepLab on VGG-16 (one head) for ResNet-101

SGD 2.5e-4, heads ten times faster, decay 5e-4; Adam 1e-4; poly of 250,000 iterations stopped at
150,000; one image of each domain; Caffe's mean on BGR.

    python main.py --config configs/adaptsegnet.py:gta5_to_cityscapes,preset=multi

Published for GTA5 to Cityscapes, ResNet-101: 42.4 mIoU multi, 41.4 single.
"""

from configs import base

NETWORKS = ("resnet101", "vgg16")
LAMBDA = {"multi": 1e-3, "multi04": 5e-4, "single": 1e-3, "ls": 1e-2, "feature": 1e-3}


def get_config(arg: str = ""):
    benchmark, options = base.parse(arg, preset=tuple(LAMBDA), network=NETWORKS, **{"lambda": 0.0})
    preset = options["preset"]
    weight = options["lambda"] or LAMBDA[preset]
    several = preset.startswith("multi") and options["network"] == "resnet101"
    config = base.get_config(benchmark)
    config.model.name = f"deeplab_{options['network']}" + ("_multi" if several else "")
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
