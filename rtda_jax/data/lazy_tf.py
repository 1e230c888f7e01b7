"""TensorFlow, imported when first needed, silent and away from the GPU."""

import functools
import os
import types

# Read when TensorFlow is loaded, which tensorflow_datasets may do before `tensorflow` is called.
# oneDNN announces itself on stderr before logging can be told otherwise; no op here uses it.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


@functools.cache
def tensorflow() -> types.ModuleType:
    """The tensorflow module; it sees no GPU, so that JAX has all of its memory."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return tf
