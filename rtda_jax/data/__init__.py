"""Data sets, their labels, and the streams of batches made of them.

TensorFlow is used in this package only, and importing the package does not import it: the first
stream or prepared data set does.
"""

import os

from rtda_jax.data.batch import VIEW_IMAGES, Batch
from rtda_jax.data.catalogue import load
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.pseudo import PseudoLabels, load_pseudo
from rtda_jax.data.sampling import (
    Candidates,
    RareClass,
    class_counts,
    counted,
    enet_weights,
    frequencies,
)
from rtda_jax.data.stream import eval_stream, train_stream
from rtda_jax.errors import DataError

__all__ = [
    "VIEW_IMAGES",
    "Batch",
    "Candidates",
    "DataError",
    "Dataset",
    "PseudoLabels",
    "RareClass",
    "class_counts",
    "counted",
    "enet_weights",
    "eval_stream",
    "frequencies",
    "load",
    "load_pseudo",
    "train_stream",
]

# TensorFlow reads these when it is loaded. Without them it logs to stderr before logging can be
# configured; no operation that is used here has a oneDNN variant.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
