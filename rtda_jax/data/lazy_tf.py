"""TensorFlow, imported when first needed, silent and away from the GPU."""

import functools
import os
import types


@functools.cache
def tensorflow() -> types.ModuleType:
    """The tensorflow module; it sees no GPU, so that JAX has all of its memory."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # oneDNN announces itself on stderr before logging can be told otherwise; no op here uses it.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    return tf
