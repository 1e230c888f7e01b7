"""Real-time unsupervised domain adaptation of semantic segmentation, in JAX."""

__version__ = "0.2.0.dev0"
