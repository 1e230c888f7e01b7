"""The table of Nikiforos et al. with their recipe: adversarial, FDA and MBT on BiSeNet-STDC1.

objective(G) = seg + seg_aux16 + seg_aux32 [+ 0.001 adv_output]
objective(D) = BCE(D(softmax source), 0) + BCE(D(softmax target), 1)

    preset=code      the rows augmented and adversarial change the colours of half of the source
                     images and mirror half of them, other rows do not; images of GTA5 have 720x1280
                     pixels where they are not stylised; FDA exchanges a square
    preset=paper     the row adversarial does not change images; all have 512x1024 pixels; FDA
                     exchanges beta H by beta W, as in its formula; objective(D) is halved, as in
                     AdaptSegNet, which the text follows

The recipe: SGD with a learning rate of 0.01 and a decay of 1e-4, Adam with 1e-4, a poly schedule
that changes once per epoch, 50 epochs of 2,000 images, and ImageNet weights from
--config.model.pretrained. The authors differ in some points. They draw from 2,000 images of GTA5
(list them in a file and pass it with --config.benchmark.source.list). They crop 512x1024 from
images of native size, whereas here images are resized to the size of the crop. MBT fuses their
checkpoints of epoch 25. They mirror the image but not its label; here both are mirrored. Their
oracle is configs/target_only.py, and their self-training is configs/fda_ssl.py.

Paper (Nikiforos): Nikiforos, Cappello & Macaluso, Real-time domain adaptation in semantic
segmentation, Politecnico di Torino.

    python main.py --config nikiforos:gta5_to_cityscapes,row=fda,beta=0.05

Published for GTA5 to Cityscapes: 16.2 mIoU source, 22.6 augmented, 26.4 adversarial, 26.9 fda at
0.01, 25.3 fda at 0.05, 27.5 mbt.
"""

from typing import Literal

from ml_collections import ConfigDict

from configs import adaptsegnet, adversarial, arguments, fda, fda_mbt, source_only

IMAGES, EPOCHS = 2000, 50


def make(
    benchmark: str,
    *,
    row: Literal["adversarial", "source", "augmented", "fda", "mbt"] = "adversarial",
    beta: float = 0.01,
    preset: Literal["code", "paper"] = "code",
) -> ConfigDict:
    """Returns a row of the table on a benchmark.

    Args:
      benchmark: a key of `BENCHMARKS`.
      row: the method.
      beta: the band of the row fda.
      preset: whether to follow the authors' code or their text where the two differ.
    """
    rows = {
        "source": lambda: source_only.make(benchmark),
        "augmented": lambda: source_only.make(benchmark, colour=0.5),
        "adversarial": lambda: adversarial.make(benchmark),
        "fda": lambda: fda.make(benchmark, beta=beta),
        "mbt": lambda: fda_mbt.make(benchmark),
    }
    config = rows[row]()
    code, augmented = preset == "code", row == "augmented"
    if row == "adversarial" and code:
        config.augment.colour, augmented = 0.5, True
    config.augment.flip = augmented
    if code and row not in ("fda", "mbt"):
        adaptsegnet.use_source_size(config)
    config.fda_window = "square" if code else "rectangle"
    config.model.name = "bisenet_stdc1"
    config.model.statistics = "both"
    config.batch_size = 8 if row in ("source", "augmented") else 2
    epoch = IMAGES // config.batch_size
    config.steps = epoch * EPOCHS
    config.optim.update({"g_lr": 1e-2, "d_lr": 1e-4, "schedule_every_steps": epoch})
    config.adversary.d_factor = 1.0 if code else 0.5
    return config


get_config = arguments.parsed(make)
