"""Data sets, their labels, and the streams of batches made of them; the only home of TensorFlow.

Importing this package does not import TensorFlow; the first stream does.
"""

from rtda_jax.data.candidates import Candidates
from rtda_jax.data.catalogue import load
from rtda_jax.data.dataset import Dataset
from rtda_jax.data.errors import DataError
from rtda_jax.data.pseudo import PseudoLabels, load_pseudo
from rtda_jax.data.sampling import RareClass
from rtda_jax.data.statistics import class_counts, counted, enet_weights, frequencies
from rtda_jax.data.stream import eval_stream, train_stream

__all__ = [
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
