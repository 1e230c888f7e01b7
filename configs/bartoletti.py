"""The recipe of Bartoletti et al.: adversarial adaptation and self-training, four-scale BiSeNet.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output                            adversarial
               the same + pseudo + pseudo_aux16 + pseudo_aux32                           ssl
objective(D) = 1/2 [BCE(D(softmax source), 0) + BCE(D(softmax target), 1)]  upsampled to the image

The recipe: SGD with a learning rate of 0.025 and a decay of 1e-4, a poly schedule that changes once
per epoch, 100 epochs of 500 images (list the authors' subset in a file and pass it with
--config.benchmark.source.list), batches of 4, and ImageNet weights from --config.model.pretrained.
The RGB mean of Cityscapes is subtracted from BGR images, as in the authors' code. On GTA5, whole
images of 720x1280 are read, although the report speaks of crops of 512x1024. The authors
report the best epoch on the validation set; here it is the last one. Their report describes
BiSeNet, and their code has the four-scale variant that is used here.

Paper (Bartoletti): Bartoletti, Bulfamante & Sciortino, Multiple layer self supervised learning for
real-time semantic segmentation, Politecnico di Torino.

    python main.py --config bartoletti:gta5_to_cityscapes,layers=2

Published for GTA5 to Cityscapes, best epoch: FCD 30.8 mIoU, FCD-Light 30.4, self-training by one,
two and three layers 31.5, 31.0 and 31.3.
"""

from typing import Literal

from ml_collections import ConfigDict

from configs import adaptsegnet, adversarial, arguments, ssl

IMAGES, EPOCHS = 500, 100


def make(
    benchmark: str,
    *,
    backbone: Literal[101, 18] = 101,
    layers: Literal[0, 1, 2, 3] = 0,
    discriminator: adversarial.Discriminator = "fcd",
) -> ConfigDict:
    """Returns a row of the table on a benchmark.

    Args:
      benchmark: a key of `BENCHMARKS`.
      backbone: the depth of the ResNet trunk.
      layers: how many layers label the target for self-training; 0 is adversarial adaptation alone.
      discriminator: the network that judges; fcd_light has no biases here, so 189,424 parameters.
    """
    if layers == 0:
        config = adversarial.make(benchmark, network=discriminator)
    else:
        config = ssl.make(benchmark, layers=layers, network=discriminator)
    config.model.name = f"bisenet_mpg_resnet{backbone}"
    config.model.statistics = "both"
    config.normalisation = "cityscapes_bgr"
    config.model.pretrained_input = "any"  # the code reads torchvision's weights so
    config.augment.flip = False
    adaptsegnet.use_source_size(config)
    config.adversary.options.output_stride = 1
    if discriminator == "fcd_light":
        config.adversary.options.use_bias = False
    config.batch_size = 4
    epoch = IMAGES // config.batch_size
    config.steps = epoch * EPOCHS
    config.optim.update({"g_lr": 2.5e-2, "schedule_every_steps": epoch})
    return config


get_config = arguments.parsed(make)
