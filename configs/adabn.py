"""AdaBN: the source-only network with the batch statistics of the target.

objective(G) = seg + seg_aux16 + seg_aux32          inputs = source
statistics   = mean and variance of every batch normalisation, averaged over one epoch of target
               batches; nothing else in the network changes

Paper: Li, Wang, Shi, Liu & Hou, Revisiting batch normalization for practical domain adaptation,
arXiv 1603.04779, 2016.

    python main.py --config adabn

Expected on `streets`: 22.4 ± 0.8 mIoU, seeds 0 to 2 (docs/results.md).
"""

from ml_collections import ConfigDict

from configs import arguments, base


def make(benchmark: str) -> ConfigDict:
    """Returns AdaBN on a benchmark."""
    config = base.make(benchmark)
    base.set_stages(
        config,
        {
            "source_only": {"kind": "train"},
            "adabn": {"kind": "statistics", "models": ("source_only",)},
            **base.evaluated("source_only", "adabn"),
        },
    )
    return config


get_config = arguments.parsed(make)
