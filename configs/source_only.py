"""Source only: what the labelled domain teaches, with no look at the target. The lower bound.

objective(G) = seg + seg_aux16 + seg_aux32          inputs = source, [colour(p)]

The three cross-entropies have weight 1 as in S0's BiSeNet. Only source images update the batch
statistics, so the gain of the other configs is not mere re-normalisation. `colour=0.5` is S1's
augmentation of the source, strong contrast and saturation of half of its images.

    python main.py --config configs/source_only.py
    python main.py --config configs/source_only.py:colour=0.5

Expected on `streets`: 10.0 ± 1.8 mIoU, 14.0 ± 1.1 with colour=0.5, seeds 0 to 2 (README).
"""

from configs import base


def get_config(arg: str = ""):
    benchmark, options = base.parse(arg, colour=0.0)
    config = base.get_config(benchmark)
    config.augment.colour = options["colour"]
    return config
