"""Weights in the public PyTorch namings, in and out, and ImageNet weights by name."""

from rtda_jax.weights.files import read_weights, write_weights
from rtda_jax.weights.load import Report, export_pretrained, load_pretrained, torch_arrays

__all__ = [
    "Report",
    "export_pretrained",
    "load_pretrained",
    "read_weights",
    "torch_arrays",
    "write_weights",
]
