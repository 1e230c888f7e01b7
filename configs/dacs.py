"""DACS: class mixing with an averaged teacher, on a real-time network or with the authors' recipe.

objective(G) = seg + seg_aux16 + seg_aux32 + mix + mix_aux16 + mix_aux32
             = seg + mix                                                         preset=released
mix          = cross-entropy of target images with half of the source's classes pasted onto them
labels       = the source's on pasted pixels and the teacher's elsewhere; the weight of the
               teacher's labels is the share of target pixels where its confidence exceeds 0.968
teacher      = average of parameters and running statistics, decay min(1 - 1/(t+1), 0.99)

The student and the teacher are both evaluated. The auxiliary mix terms are our addition, because
the network of the paper has a single head.

preset=released follows the authors' code on DeepLabV2 with ResNet-101, which differs from their
text. Unlabelled pixels count as a class that can be cut out. The teacher averages only the
parameters and normalises by the target's batch. The share of confident pixels is taken over the
batch. Colours, including the hue, are jittered by kornia's operations, for a whole batch or not at
all. The preset has two crops of 512x512 of each domain, GTA5 resized to 720x1280 (bicubic) and
Cityscapes to 512x1024 (bilinear), and 250,000 iterations; everything else is as in
configs/adaptsegnet.py. The authors score the student on labels resized to 512x1024; ours keep their
own size.

Paper: Tranheden, Olsson, Pinto & Svensson, DACS: Domain adaptation via cross-domain mixed
sampling, WACV 2021.

    python main.py --config dacs
    python main.py --config dacs:gta5_to_cityscapes,preset=released \\
        --config.model.pretrained=resnet101COCO-41f33a49.pth

Expected on `streets`: 17.0 ± 0.9 mIoU, the teacher 17.3 ± 0.2, seeds 0 to 2 (docs/results.md). The
preset needs GTA5, Cityscapes and these weights (MS COCO). Published for GTA5 to Cityscapes: 52.1
mIoU, the mean of three runs; the released network had 53.66 at its best and 53.04 at its end. We
have not trained it to the end; see docs/faithful.md.
"""

from typing import Literal

from ml_collections import ConfigDict

from configs import adaptsegnet, arguments, base


def make(benchmark: str, *, preset: Literal["released"] | None = None) -> ConfigDict:
    """Returns DACS on a benchmark.

    Args:
      benchmark: a key of `BENCHMARKS`.
      preset: the authors' recipe; None trains a real-time network.
    """
    config = base.make(benchmark)
    config.objective.update({f"mix{head}": 1.0 for head in base.HEADS})
    config.teacher.kind = "ema"
    base.set_stages(
        config,
        {
            "train": {"kind": "train"},
            "eval_student": {"kind": "evaluate", "models": ("train",)},
            "eval_teacher": {"kind": "evaluate", "models": ("train:teacher",)},
        },
    )
    if preset == "released":
        _released(config)
    return config


def _released(config: ConfigDict) -> None:
    adaptsegnet.deeplab(config, heads=1, aspp="first_two", steps=250_000, crop=(512, 512))
    if config.benchmark.name in adaptsegnet.SOURCE_SIZES:
        config.benchmark.update({"resize": "bilinear", "source_resize": "bicubic"})
    config.batch_size = 2
    config.optim.g_repeats = "released"  # the authors used PyTorch 1.5 or later
    config.objective.update({"mix_aux16": 0.0, "mix_aux32": 0.0})
    config.teacher.update({"average": "parameters", "statistics": "batch", "share": "batch"})
    config.mix.update({"ignore": "class", "colour": "dacs_released"})
    config.augment.draw = "batch"


get_config = arguments.parsed(make)
