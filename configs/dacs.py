"""DACS: class mixing with an averaged teacher, on a real-time network or as the authors have it.

objective(G) = seg + seg_aux16 + seg_aux32 + mix + mix_aux16 + mix_aux32
             = seg + mix                                                         preset=released
mix          = cross-entropy of target images with half of the source's classes pasted on them
labels       = the source's on pasted pixels and the teacher's elsewhere; the teacher's weigh as
               much as the share of the target's pixels where it is surer than 0.968
teacher      = average of parameters and running statistics, decay min(1 - 1/(t+1), 0.99)

The student and the teacher are both evaluated. The auxiliary mix terms are our addition: the
network of the paper has one head. preset=released is the authors' code on DeepLabV2 with
ResNet-101, which differs from their text: the unlabelled pixels are a class that can be cut out;
the teacher averages the parameters alone and normalises by the target's batch; the share of sure
pixels is that of the batch; colours are jittered by kornia's operations, among them the hue, for a
whole batch or not at all. Two crops of 512x512 of each domain, GTA5 at 720x1280 by bicubic and
Cityscapes at 512x1024 by bilinear resizing, 250,000 iterations, all else as in
configs/adaptsegnet.py. The authors score the student on labels of 512x1024, where ours have their
own size.

Paper: Tranheden, Olsson, Pinto & Svensson, DACS: Domain adaptation via cross-domain mixed
sampling, WACV 2021.

    python main.py --config configs/dacs.py
    python main.py --config configs/dacs.py:gta5_to_cityscapes,preset=released \\
        --config.model.pretrained=resnet101COCO-41f33a49.pth

Expected on `streets`: 17.0 ± 0.9 mIoU, the teacher 17.3 ± 0.2, seeds 0 to 2 (docs/results.md). The
preset needs GTA5, Cityscapes and these weights (MS COCO). Published for GTA5 to Cityscapes: 52.1
mIoU, the mean of three runs; the released network had 53.66 at its best and 53.04 at its end. We
have not run it at this length; see docs/faithful.md.
"""

from typing import Literal

from ml_collections import ConfigDict

from configs import adaptsegnet, arguments, base


def make(benchmark: str, *, preset: Literal["released"] | None = None) -> ConfigDict:
    """Returns DACS on a benchmark.

    Args:
      benchmark: a key of `BENCHMARKS`.
      preset: the authors' recipe; None is a real-time network.
    """
    config = base.make(benchmark)
    config.objective.update({f"mix{head}": 1.0 for head in base.HEADS})
    config.teacher.kind = "ema"
    config.stages = ("train", "eval_student", "eval_teacher")
    config.stage = ConfigDict(
        {
            "train": {"kind": "train"},
            "eval_student": {"kind": "evaluate", "models": ("train",)},
            "eval_teacher": {"kind": "evaluate", "models": ("train:teacher",)},
        }
    )
    if preset == "released":
        _released(config)
    return config


def _released(config: ConfigDict) -> None:
    adaptsegnet.deeplab(config, heads=1, aspp="first_two", steps=250_000, crop=(512, 512))
    if config.benchmark.name in adaptsegnet.SOURCE_SIZES:
        config.benchmark.update({"resize": "bilinear", "source_resize": "bicubic"})
    config.batch_size = 2
    config.optim.g_repeats = "released"  # of the PyTorch of its day, 1.5 and later
    config.objective.update({"mix_aux16": 0.0, "mix_aux32": 0.0})
    config.teacher.update({"average": "parameters", "statistics": "batch", "share": "batch"})
    config.mix.update({"ignore": "class", "colour": "dacs_released"})
    config.augment.draw = "batch"


get_config = arguments.parsed(make)
