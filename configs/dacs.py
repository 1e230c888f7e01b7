"""DACS: class mixing with an averaged teacher, on a real-time network.

objective(G) = seg + seg_aux16 + seg_aux32 + mix + mix_aux16 + mix_aux32
mix          = cross-entropy of target images with half of the source's classes pasted on them
labels       = the source's on pasted pixels and the teacher's elsewhere; the teacher's weigh as
               much as the share of the target's pixels where it is surer than 0.968
teacher      = average of parameters and running statistics, decay min(1 - 1/(t+1), 0.99)

The student and the teacher are both evaluated. The auxiliary mix terms are our addition: the
network of the paper has one head.

Paper: Tranheden, Olsson, Pinto & Svensson, DACS: Domain adaptation via cross-domain mixed
sampling, WACV 2021.

    python main.py --config configs/dacs.py

Expected on `streets`: 17.0 ± 0.9 mIoU, the teacher 17.3 ± 0.2, seeds 0 to 2 (docs/results.md).
"""

from ml_collections import ConfigDict

from configs import arguments, base


def make(benchmark: str) -> ConfigDict:
    """Returns DACS on a benchmark."""
    config = base.make(benchmark)
    config.objective.update({"mix": 1.0, "mix_aux16": 1.0, "mix_aux32": 1.0})
    config.teacher.kind = "ema"
    config.stages = ("train", "eval_student", "eval_teacher")
    config.stage = ConfigDict(
        {
            "train": {"kind": "train"},
            "eval_student": {"kind": "evaluate", "models": ("train",)},
            "eval_teacher": {"kind": "evaluate", "models": ("train:teacher",)},
        }
    )
    return config


get_config = arguments.parsed(make)
