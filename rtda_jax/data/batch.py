"""The batch: the one type that passes from the data layer to the training step.

This module imports neither TensorFlow nor JAX, so that both sides can share it.
"""

from typing import TYPE_CHECKING, NotRequired, TypedDict

if TYPE_CHECKING:  # an annotation only: processes that decode images do not load JAX
    from jax import Array


class Batch(TypedDict):
    """One training batch, or one device's share of it: NumPy arrays on the host, JAX arrays in jit.

    B is the number of images per domain, (h, w) the crop, S the number of candidates per image and
    K the number of classes. Labels are classes 0..K-1, and 255 where a pixel is ignored. Which of
    the optional keys are present is fixed for a whole run.

    Keys:
      source_image: uint8 [B,h,w,3] RGB.
      source_label: uint8 [B,h,w].
      source_index: int32 [B], the position of each image in the source data set.
      target_image: uint8 [B,h,w,3] RGB, if the method reads the target.
      target_index: int32 [B], with target_image.
      target_label: uint8 [B,h,w], pseudo-labels, never annotations; if the method reads them.
      candidate_images: uint8 [B,S,h,w,3] RGB, source crops that may be pasted (long-tail pasting).
      candidate_labels: uint8 [B,S,h,w], with candidate_images; 255 everywhere if there is none.
      candidate_classes: uint8 [B,S], the class each candidate was drawn for; 255 if there is none.
    """

    source_image: "Array"
    source_label: "Array"
    source_index: "Array"
    target_image: NotRequired["Array"]
    target_index: NotRequired["Array"]
    target_label: NotRequired["Array"]
    candidate_images: NotRequired["Array"]
    candidate_labels: NotRequired["Array"]
    candidate_classes: NotRequired["Array"]


# The images that become float32 views on the device. Candidates are not among them: they stay
# bytes until the few that are pasted have been chosen.
VIEW_IMAGES = ("source_image", "target_image")
