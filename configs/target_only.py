"""Target only: the upper bound (oracle), trained on the target's own labels; no adaptation method.

objective(G) = seg + seg_aux16 + seg_aux32          inputs = target, with its labels

    python main.py --config target_only

Expected on `streets`: 27.5 ± 0.5 mIoU, seeds 0 to 2 (docs/results.md).
"""

from ml_collections import ConfigDict

from configs import arguments, base


def make(benchmark: str) -> ConfigDict:
    """Returns training on the labelled target of a benchmark."""
    config = base.make(benchmark)
    config.labelled = "target"
    return config


get_config = arguments.parsed(make)
