"""The loss study of Brunstein & De Souza Coelho: losses, trunks and discriminators compared.

objective(G) = seg + seg_aux16 + seg_aux32 + 0.001 adv_output            loss= selects seg
objective(D) = 1/2 [BCE(D(softmax source), 0) + BCE(D(softmax target), 1)]

    loss=ce          cross-entropy
    loss=wce         cross-entropy with ENet's class weights
    loss=focal       preset=code: ENet's class weights, gamma 2, the mean over all pixels
                     preset=paper: no weights and gamma 1, as in the text

The poly schedule changes once per epoch, both learning rates are 2.5e-4, and Caffe's mean is
subtracted from BGR. The paper writes its formulas with log2; its code and this one use the natural
logarithm. Its code also resizes images to a width of 512 and a height of 1024; here they keep their
shape.

Paper (Brunstein): Brunstein & De Souza Coelho, Analysis of loss function impact on real-time domain
adaptation in semantic segmentation, Politecnico di Torino.

    python main.py --config loss_study:gta5_to_cityscapes,loss=focal,backbone=101

Published for GTA5 to Cityscapes, 50 epochs, FCD, with ce, wce and focal: 16.4, 19.0, 21.0 mIoU with
backbone=18 and 22.2, 23.4, 25.9 with backbone=101.
"""

from typing import Literal

from ml_collections import ConfigDict

from configs import adversarial, arguments

IMAGES = 500  # the size of the authors' subset of GTA5


def make(
    benchmark: str,
    *,
    loss: Literal["ce", "wce", "focal"] = "ce",
    backbone: Literal[18, 101] = 18,
    epochs: int = 50,
    discriminator: adversarial.Discriminator = "fcd",
    preset: Literal["code", "paper"] = "code",
) -> ConfigDict:
    """Returns a row of the loss study on a benchmark.

    Args:
      benchmark: a key of `BENCHMARKS`.
      loss: the loss of the supervised terms.
      backbone: the depth of BiSeNet's ResNet; batches have 8 images with 18 layers and 4 with 101.
      epochs: length of the training in epochs of 500 images; to train on a subset of 500 images,
        list them in a file and pass it with --config.benchmark.source.list.
      discriminator: the network that judges the main output.
      preset: whether the focal loss is that of the authors' code or of their text.
    """
    config = adversarial.make(benchmark, network=discriminator)
    config.model.name = f"bisenet_resnet{backbone}"
    config.batch_size = {18: 8, 101: 4}[backbone]
    epoch = IMAGES // config.batch_size
    config.steps = epoch * epochs
    config.optim.update({"g_lr": 2.5e-4, "d_lr": 2.5e-4, "schedule_every_steps": epoch})
    config.normalisation = "caffe_bgr"
    config.model.pretrained_input = "any"  # the code reads torchvision's weights so
    config.model.statistics = "both"
    if loss == "wce":
        config.loss.weighting = "enet"
    if loss == "focal":
        config.pixel_loss = "focal"
        if preset == "code":
            config.loss.update({"weighting": "enet", "gamma": 2.0, "reduction": "pixels"})
        else:
            config.loss.gamma = 1.0
    return config


get_config = arguments.parsed(make)
