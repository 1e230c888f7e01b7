"""BDL's self-training, with its authors' recipe: adapt, label the target, train again on both.

objective(G) = seg + 0.001 adv_output                                                adversarial
               the same + pseudo                                                     ssl
objective(D) = 1/2 [BCE(D(softmax source), 0) + BCE(D(softmax target), 1)]
labels       = the more confident half of the pixels of each class over the whole set, and every
               pixel above 0.9; confidence is the softmax of the logits at 1/8

This is only the self-training of BDL. The other half of the method translates the source images
with a CycleGAN that is trained together with the segmentation network. You can use the authors'
translated images in place of GTA5's (benchmark.source). The network is DeepLabV2 on ResNet-101 with
all four dilations. The first stage stops at 80,000 of 250,000 iterations, the stage with labels at
120,000. Everything else is as in configs/adaptsegnet.py.

Paper: Li, Yuan & Vasconcelos, Bidirectional learning for domain adaptation of semantic
segmentation, CVPR 2019.

    python main.py --config bdl:gta5_to_cityscapes --config.model.pretrained=FILE.pth

Needs GTA5, Cityscapes and the authors' file of initial weights. Published for GTA5 to Cityscapes:
48.5 mIoU, with translated images and two rounds of labels. We have not trained it to the end; see
docs/faithful.md.
"""

from ml_collections import ConfigDict

from configs import adaptsegnet, adversarial, arguments, base


def make(benchmark: str) -> ConfigDict:
    """Returns BDL's self-training on a benchmark."""
    config = adversarial.make(benchmark)
    adaptsegnet.deeplab(config, heads=1, aspp="all", steps=120_000)
    rule = {"heads": ("coarse",), "scope": "dataset", "cut": 0.5}
    base.set_stages(
        config,
        {
            "adversarial": {"kind": "train", "steps": 80_000},
            "label": {"kind": "pseudo_label", "models": ("adversarial",), "pseudo": rule},
            "ssl": {"kind": "train", "pseudo_labels": "label", "objective": {"pseudo": 1.0}},
            **base.evaluated("adversarial", "ssl"),
        },
    )
    return config


get_config = arguments.parsed(make)
