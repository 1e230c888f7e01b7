"""S2 by its own recipe: four-scale BiSeNet, FCD or FCD-Light on full-size logits, self-training.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output                            adversarial
               the same + pseudo + pseudo_aux16 + pseudo_aux32                           ssl
objective(D) = 1/2 [BCE(D(softmax source), 0) + BCE(D(softmax target), 1)]  upsampled to the image

    backbone=101, 18           ResNet of the network
    layers=0, 1, 2, 3          self-training by so many layers; 0: adversarial alone
    discriminator=fcd, fcd_light       the latter without biases: 189,424 parameters

SGD 0.025, decay 1e-4, poly once an epoch, 100 epochs of 500 images, S2's subset
(benchmark.source.list=FILE draws from one), batches of 4, the RGB mean of Cityscapes subtracted
from BGR (sic), ImageNet weights by --config.model.pretrained. S2 reports the best epoch on the
validation set; here it is the last one. Its report takes BiSeNet for the network; its code has
this one.

    python main.py --config configs/s2.py:gta5_to_cityscapes,layers=2

Published for GTA5 to Cityscapes, best epoch: FCD 30.8 mIoU, FCD-Light 30.4, self-training by one,
two, three layers 31.5, 31.0, 31.3.
"""

from configs import adversarial, base, ssl

IMAGES, EPOCHS = 500, 100
LAYERS = {"1": ssl.ONE, "2": ssl.TWO, "3": ssl.THREE}


def get_config(arg: str = ""):
    benchmark, options = base.parse(
        arg, backbone=("101", "18"), layers=("0", *LAYERS), discriminator=("fcd", "fcd_light")
    )
    if options["layers"] == "0":
        config = adversarial.get_config(benchmark)
    else:
        config = ssl.get_config(benchmark, heads=LAYERS[options["layers"]])
    config.model.name = f"bisenet_mpg_resnet{options['backbone']}"
    config.model.statistics = "both"
    config.normalisation = "cityscapes_bgr"
    config.augment.flip = False
    config.adversary.network = options["discriminator"]
    config.adversary.options.output_stride = 1
    if options["discriminator"] == "fcd_light":
        config.adversary.options.use_bias = False
    config.batch_size = 4
    epoch = IMAGES // config.batch_size
    config.steps = epoch * EPOCHS
    config.optim.update({"g_lr": 2.5e-2, "schedule_every_steps": epoch})
    return config
