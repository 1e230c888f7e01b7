"""Source only: the lower bound, a network that never sees the target.

objective(G) = seg + seg_aux16 + seg_aux32          inputs = source, [colour(p)]

The three cross-entropies have equal weights, as in the BiSeNet of Brunstein & De Souza Coelho. Only
source images update the batch statistics. The gain of other methods over this one therefore
includes the effect of target statistics; configs/adabn.py measures that part alone. colour=0.5 is
the augmentation of Nikiforos, Cappello & Macaluso, Real-time domain adaptation in semantic
segmentation: strong contrast and saturation on half of the source images.

    python main.py --config source_only
    python main.py --config source_only:colour=0.5

Expected on `streets`: 10.0 ± 1.8 mIoU, 14.0 ± 1.1 with colour=0.5, seeds 0 to 2 (docs/results.md).
"""

from ml_collections import ConfigDict

from configs import arguments, base


def make(
    benchmark: str,
    *,
    colour: float = 0.0,
    rare: float | None = None,
) -> ConfigDict:
    """Returns training on the source of a benchmark.

    Args:
      benchmark: a key of `BENCHMARKS`.
      colour: probability that contrast and saturation of a source image are strongly changed.
      rare: temperature of rare class sampling, such as 0.1; None draws images uniformly.
    """
    config = base.make(benchmark)
    config.augment.colour = colour
    config.rare_class = rare
    return config


get_config = arguments.parsed(make)
