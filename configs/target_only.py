"""Target only: trained on the target's own training labels. The upper bound (oracle), no method.

objective(G) = seg + seg_aux16 + seg_aux32          inputs = target, with its labels

    python main.py --config configs/target_only.py

Expected on `streets`: 27.5 ± 0.5 mIoU, seeds 0 to 2 (README).
"""

from configs import base


def get_config(arg: str = ""):
    config = base.get_config(arg)
    config.labelled = "target"
    return config
