"""Source only: what the labelled domain teaches, with no look at the target. The lower bound.

objective(G) = seg + seg_aux16 + seg_aux32          inputs = source

The three cross-entropies have weight 1 as in S0's BiSeNet. Only source images update the batch
statistics, so the gain of the other configs is not mere re-normalisation.

    python main.py --config configs/source_only.py

Expected on `streets`: 11.0 ± 2.9 mIoU, seeds 0 to 2 (README).
"""

from configs import base


def get_config(arg: str = ""):
    return base.get_config(arg)
