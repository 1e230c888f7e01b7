"""The loss study of S0: which loss, backbone, length and discriminator under adversarial training.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output            seg by loss=
objective(D) = 1/2 [BCE(D(softmax source), 0) + BCE(D(softmax target), 1)]

    loss=ce, wce, focal    cross-entropy; ENet-weighted cross-entropy; focal loss
    backbone=18, 101       ResNet of BiSeNet; batches of 8 and 4
    epochs=50              of 500 images, S0's subset (benchmark.source.list=FILE draws from one)
    discriminator=fcd, fcd_light
    preset=code            focal is ENet-weighted with gamma 2, its mean over all pixels
    preset=paper           focal is unweighted with gamma 1, as the text has it

Poly once an epoch, both learning rates 2.5e-4, Caffe's mean on BGR. S0 writes its
formulas with log2; its code, and this, use the natural logarithm. Its code also resizes images
to 512 wide and 1024 high; here they keep their shape.

    python main.py --config configs/loss_study.py:gta5_to_cityscapes,loss=focal,backbone=101
"""

from configs import adversarial, base

IMAGES = 500


def get_config(arg: str = ""):
    benchmark, options = base.parse(
        arg,
        loss=("ce", "wce", "focal"),
        backbone=("18", "101"),
        epochs=50,
        discriminator=("fcd", "fcd_light"),
        preset=("code", "paper"),
    )
    config = adversarial.get_config(benchmark)
    config.model.name = f"bisenet_resnet{options['backbone']}"
    config.adversary.network = options["discriminator"]
    config.batch_size = {"18": 8, "101": 4}[options["backbone"]]
    epoch = IMAGES // config.batch_size
    config.steps = epoch * options["epochs"]
    config.optim.update({"g_lr": 2.5e-4, "d_lr": 2.5e-4, "schedule_every_steps": epoch})
    config.normalisation = "caffe_bgr"
    config.model.statistics = "both"
    if options["loss"] == "wce":
        config.loss.weighting = "enet"
    if options["loss"] == "focal":
        config.pixel_loss = "focal"
        if options["preset"] == "code":
            config.loss.update({"weighting": "enet", "gamma": 2.0, "reduction": "pixels"})
        else:
            config.loss.gamma = 1.0
    return config
