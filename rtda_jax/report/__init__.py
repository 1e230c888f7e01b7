"""One page about any number of runs, from what they wrote and nothing else."""

from rtda_jax.report.write import write

__all__ = ["write"]
