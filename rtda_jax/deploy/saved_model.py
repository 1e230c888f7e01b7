"""The exported function as a TensorFlow SavedModel, by jax2tf."""

import pathlib
import shutil
from collections.abc import Callable, Sequence

import jax

from rtda_jax.data.lazy_tf import tensorflow


def write(
    segment: Callable[[jax.Array], jax.Array],
    path: pathlib.Path,
    *,
    size: tuple[int, int],
    platforms: Sequence[str],
) -> None:
    """Write the function uint8 [b,H,W,3] -> uint8 [b,H,W], any b, as a folder; replaces it.

    Its signature serving_default takes `images` and gives `classes`.
    """
    tf = tensorflow()
    from jax.experimental import jax2tf

    converted = jax2tf.convert(
        segment,
        polymorphic_shapes=["(b, _, _, _)"],
        native_serialization_platforms=tuple(platforms),
        with_gradient=False,
    )
    module = tf.Module()
    images = tf.TensorSpec([None, *size, 3], tf.uint8, name="images")
    module.segment = tf.function(
        lambda images: {"classes": converted(images)}, autograph=False, input_signature=[images]
    )
    partial = path.with_name(path.name + ".partial")
    for old in (partial, path):
        if old.exists():
            shutil.rmtree(old)
    signatures = {"serving_default": module.segment.get_concrete_function()}
    tf.saved_model.save(module, str(partial), signatures=signatures)
    partial.replace(path)
