"""TensorFlow for the host: it decodes and moves pixels on the CPU and never sees the GPU.

The modules that build tf.data graphs import `tf` from here, so that JAX has the GPU's memory to
itself. No module outside of `rtda_jax.data` needs TensorFlow to be imported.
"""

import tensorflow as tf

tf.config.set_visible_devices([], "GPU")

__all__ = ["tf"]
