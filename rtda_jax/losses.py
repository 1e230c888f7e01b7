"""Per-pixel losses, and the sums of them that a training step averages.

The functions up to `least_squares` are unreduced and use natural logarithms. The loss of an ignored
pixel is 0, without gradient. `pixel_loss` selects a loss by name, with the divisor of its sum.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from rtda_jax.errors import lookup, one_of, require

IGNORE = 255


class Sum(NamedTuple):
    """A sum over pixels and what divides it: their number, or the sum of their class weights.

    The step adds up both over all devices before it divides. A mean of the devices' own means would
    be wrong where they ignore different numbers of pixels.
    """

    total: jax.Array
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count


def valid(labels: jax.Array) -> jax.Array:
    """Returns which pixels of labels [B,H,W] count, bool; 255 does not."""
    return labels != IGNORE


def _as_classes(labels: jax.Array, num_classes: int) -> jax.Array:
    """Returns labels int32 with class 0 for ignored pixels, so that they index logits safely.

    A label that is no class raises ValueError, and under jit its loss is nan.
    """
    if not isinstance(labels, jax.core.Tracer):
        values = np.setdiff1d(labels, [*range(num_classes), IGNORE])
        if values.size:
            found = ", ".join(map(str, values[:8]))
            raise ValueError(
                f"labels have the values {found}; expected 0..{num_classes - 1}, or 255"
            )
    classes = jnp.where(valid(labels), labels, 0).astype(jnp.int32)
    if jnp.issubdtype(labels.dtype, jnp.signedinteger):
        classes = jnp.where(classes < 0, num_classes, classes)  # -1 would be the last class
    return classes


def label_weights(labels: jax.Array, class_weights: jax.Array) -> jax.Array:
    """Returns the weight of each pixel's class, float32 [B,H,W], 0 where ignored.

    Args:
      labels: integer [B,H,W] in 0..K-1, or 255 where the pixel is ignored.
      class_weights: float [K].
    """
    weights = jnp.take(jnp.float32(class_weights), _as_classes(labels, len(class_weights)))
    return jnp.where(valid(labels), weights, 0.0)


def _check_shapes(values: tuple[int, ...], labels: jax.Array) -> None:
    """Raises ValueError unless there is one value per label: broadcasting would reuse labels."""
    if values != labels.shape:
        raise ValueError(f"labels {labels.shape} do not fit pixels {values}")


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, class_weights: jax.Array | None = None
) -> jax.Array:
    """Computes the cross-entropy w_y * -ln p_y of each pixel.

    Args:
      logits: float [B,H,W,K].
      labels: integer [B,H,W] in 0..K-1, or 255 where the pixel is ignored.
      class_weights: w, float [K], or None for 1.

    Returns:
      float32 [B,H,W], 0 where ignored.

    Raises:
      ValueError: logits and labels are not of the same pixels, or a label is no class and not 255.
    """
    _check_shapes(logits.shape[:-1], labels)
    # The label is replaced before the loss, since a mask after it would keep the NaN of class 255.
    classes = _as_classes(labels, logits.shape[-1])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), classes)
    loss = jnp.where(valid(labels), loss, 0.0)
    return loss if class_weights is None else loss * label_weights(labels, class_weights)


def focal(
    logits: jax.Array,
    labels: jax.Array,
    *,
    gamma: float = 2.0,
    class_weights: jax.Array | None = None,
) -> jax.Array:
    """Computes the focal loss (1 - p_y)^gamma * w_y * -ln p_y of each pixel.

    Args:
      logits: float [B,H,W,K].
      labels: integer [B,H,W] in 0..K-1, or 255 where the pixel is ignored.
      gamma: focusing exponent, at least 0; 0 gives the weighted cross-entropy. Brunstein's text
        has 1, his code 2.
      class_weights: w, float [K], or None for 1.

    Returns:
      float32 [B,H,W], 0 where ignored.
    """
    loss = cross_entropy(logits, labels)
    # expm1 keeps 1 - p exact near p = 1; the floor keeps the gradient of x^gamma finite at 0.
    miss = jnp.maximum(-jnp.expm1(-loss), 1e-12)
    loss = miss**gamma * loss
    return loss if class_weights is None else loss * label_weights(labels, class_weights)


def hardest(
    loss: jax.Array, labels: jax.Array, *, probability: float = 0.7, rule: str = "pixels"
) -> Sum:
    """Sums the loss of the hardest pixels (online hard example mining).

    It keeps every pixel with p_y < probability, and at least the n_min hardest. Only the given
    arrays are ranked, so that each of several devices keeps its own hardest pixels, as in the
    distributed originals. Pixels that tie at the boundary share the rest of n_min equally, so that
    the value is exact and the gradient does not depend on their order.

    Args:
      loss: float [B,H,W], 0 where ignored.
      labels: integer [B,H,W].
      probability: a pixel is easy if the probability of its true class is at least this, in (0, 1).
      rule: the rule that gives n_min, a key of `N_MIN_RULES`.
    """
    _check_shapes(loss.shape, labels)
    flat = lax.stop_gradient(loss).ravel()
    descending = jnp.sort(flat, descending=True)
    n_min = N_MIN_RULES[rule].n_min(labels)
    boundary = descending[n_min]
    loss_bound = -jnp.log(jnp.float32(probability))
    beyond = flat > loss_bound
    bound_is_enough = beyond.sum(dtype=jnp.int32) >= n_min + N_MIN_RULES[rule].surplus
    above, tied = flat > boundary, flat == boundary
    remaining = (n_min - above.sum(dtype=jnp.int32)).astype(jnp.float32)
    share_of_ties = remaining / jnp.maximum(tied.sum(dtype=jnp.float32), 1.0)
    top = jnp.where(above, 1.0, jnp.where(tied, share_of_ties, 0.0))
    weight = jnp.where(bound_is_enough, beyond.astype(jnp.float32), top)
    return Sum((weight * loss.ravel()).sum(), weight.sum())


class MiningRule(NamedTuple):
    """The least number of pixels that hard example mining keeps.

    Attributes:
      n_min: a function from labels [B,H,W] to this number.
      surplus: how many pixels beyond n_min must be hard for the others to be left out. It is 1
        where the original compares the loss of rank n_min, counted from 0.
    """

    n_min: Callable[[jax.Array], jax.Array]
    surplus: int


N_MIN_RULES = {
    # Ignored pixels are ranked with a loss of 0: STDC, TUFL, older code of CoinCheung's BiSeNet.
    "pixels": MiningRule(lambda labels: jnp.int32(labels.size // 16), surplus=1),
    # Today's code of CoinCheung's BiSeNet.
    "valid": MiningRule(lambda labels: valid(labels).sum(dtype=jnp.int32) // 16, surplus=0),
}


def self_information(logits: jax.Array) -> jax.Array:
    """Computes -p_k log_K p_k of each class, float32 [..,K] (ADVENT, Vu et al. 2019).

    The sum over the classes is the entropy in [0,1]; 1 is the uniform prediction.
    """
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.exp(log_p) * log_p / math.log(logits.shape[-1])


def entropy(logits: jax.Array) -> jax.Array:
    """Computes the entropy of each pixel's prediction in [0,1], float32 [B,H,W], of [B,H,W,K]."""
    return self_information(logits).sum(axis=-1)


def robust_entropy(logits: jax.Array, *, eta: float = 2.0) -> jax.Array:
    """Computes (e^2 + 1e-8)^eta of the entropy e (FDA, Yang & Soatto 2020, eq. 5).

    ln K replaces the ln 19 of the paper.
    """
    return (entropy(logits) ** 2 + 1e-8) ** eta


# Detail aggregation (STDC-Seg, Fan et al. 2021): strides of the Laplacian, the weight of each scale
# and the threshold of every cut. The authors declare the weights as a 1x1 convolution with
# trainable parameters, but the cut after it has no gradient, so that they keep their initial
# values.
DETAIL_SCALES, DETAIL_CUT = {1: 0.6, 2: 0.3, 4: 0.1}, 0.1


def detail_targets(labels: jax.Array) -> jax.Array:
    """Returns 1 on the class boundaries of labels [B,H,W] and 0 elsewhere, float32 [B,H,W].

    The labels are convolved with a Laplacian of eight neighbours (zeros outside the image) at
    strides 1, 2 and 4. Each scale is enlarged to full size by repetition and cut to 0 or 1, and so
    is the weighted sum of the scales. As in the released code, 255 is a label like any other, only
    the side with the larger number is marked as boundary, and the third scale alone does not reach
    the cut.
    """
    height, width = labels.shape[1:]
    kernel = jnp.full((3, 3, 1, 1), -1.0).at[1, 1].set(8.0)
    maps = labels.astype(jnp.float32)[..., None]
    summed = jnp.zeros(labels.shape, jnp.float32)
    for stride, weight in DETAIL_SCALES.items():
        edges = lax.conv_general_dilated(
            maps,
            kernel,
            (stride, stride),
            ((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=lax.Precision.HIGHEST,
        )[..., 0]
        # Nearest neighbour as in PyTorch: floor(i h / H).
        rows = jnp.arange(height) * edges.shape[1] // height
        columns = jnp.arange(width) * edges.shape[2] // width
        full = jnp.take(jnp.take(edges, rows, axis=1), columns, axis=2)
        summed += weight * (full > DETAIL_CUT)
    return (summed > DETAIL_CUT).astype(jnp.float32)


def detail(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes the detail aggregation loss, spread evenly over the pixels, float32 [B,H,W].

    Its mean is the mean binary cross-entropy against `detail_targets` plus the Dice loss of each
    image with a smoothing of 1.

    Args:
      logits: float [B,H,W,1], positive where the network sees a boundary.
      labels: integer [B,H,W].
    """
    _check_shapes(logits.shape[:-1], labels)
    z, target = logits[..., 0].astype(jnp.float32), detail_targets(labels)
    p, pixels = jax.nn.sigmoid(z), (1, 2)
    overlap = 2 * (p * target).sum(pixels) + 1
    dice = 1 - overlap / (p.sum(pixels) + target.sum(pixels) + 1)
    return optax.sigmoid_binary_cross_entropy(z, target) + dice[:, None, None]


def binary_cross_entropy(logits: jax.Array, *, domain: float) -> jax.Array:
    """Computes the cross-entropy of discriminator logits against a domain: source 0, target 1."""
    logits = logits.astype(jnp.float32)
    return optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, domain))


def least_squares(logits: jax.Array, *, domain: float) -> jax.Array:
    """Computes the squared distance of discriminator outputs to a domain, 0 or 1 (LSGAN)."""
    return (logits.astype(jnp.float32) - domain) ** 2


WEIGHTINGS = ("none", "given", "enet")


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """The fields of `config.loss`: what a labelled pixel costs.

    Attributes:
      weighting: the origin of class weights: "none", "given" in `weights`, or "enet", for which
        training counts the labelled set and then sets `weights` and "given". They multiply seg,
        mix, masked and consistency, and no other term.
      weights: the weight of each class.
      enet_c: the constant c of the weights 1 / ln(c + frequency) (ENet, Paszke et al. 2016).
      reduction: the divisor of the summed loss of seg terms, a key of `REDUCTIONS`; "ohem" never
        reads it and divides by the number of hardest pixels. With class weights and "weights", mix,
        masked and consistency are divided by the weights too, and otherwise by their pixels.
      gamma: the focusing exponent of the focal loss.
      ohem_probability, ohem_rule: the arguments `probability` and `rule` of `hardest`.
      eta: the exponent of `robust_entropy`.
    """

    weighting: str = "none"
    weights: Sequence[float] = ()
    enet_c: float = 1.02
    reduction: str = "weights"
    gamma: float = 2.0
    ohem_probability: float = 0.7
    ohem_rule: str = "pixels"
    eta: float = 2.0

    def __post_init__(self) -> None:
        one_of(self.weighting, WEIGHTINGS, "loss.weighting")
        one_of(self.reduction, REDUCTIONS, "loss.reduction")
        one_of(self.ohem_rule, N_MIN_RULES, "loss.ohem_rule")
        require(
            not self.weights or self.weighting == "given",
            "loss.weights is read by loss.weighting='given' only",
        )
        require(self.enet_c > 1, f"loss.enet_c must be above 1, got {self.enet_c:g}")
        require(self.gamma >= 0, f"loss.gamma must be at least 0, got {self.gamma:g}")
        require(
            0 < self.ohem_probability < 1,
            f"loss.ohem_probability must lie in (0, 1), got {self.ohem_probability:g}",
        )
        require(self.eta > 0, f"loss.eta must be above 0, got {self.eta:g}")


def class_weights(options: LossOptions, *, num_classes: int) -> jax.Array | None:
    """Returns the class weights, float32 [K], or None for 1.

    Raises:
      ConfigError: the weights are not computed yet, or their number is not K.
    """
    check_weights(options, num_classes=num_classes)
    require(
        options.weighting != "enet",
        "the class weights of loss.weighting='enet' are not computed yet; training computes them "
        "from the labelled set; or give loss.weights",
    )
    return jnp.array(options.weights, jnp.float32) if options.weighting == "given" else None


def check_weights(options: LossOptions, *, num_classes: int) -> None:
    """Raises ConfigError unless there is one given weight for each class, and one above 0."""
    valid = not options.weights or min(options.weights) >= 0 < max(options.weights)
    require(valid, "loss.weights must be at least 0, and one of them above 0")
    require(
        options.weighting != "given" or len(options.weights) == num_classes,
        f"loss.weights has {len(options.weights)} numbers, the class set has {num_classes} "
        "classes: give a weight for each, or loss.weighting='enet' to compute them from the labels",
    )


def _sum_of_weights(labels: jax.Array, weights: jax.Array | None) -> jax.Array:
    counted = valid(labels) if weights is None else label_weights(labels, weights)
    return counted.sum(dtype=jnp.float32)


# What a summed loss is divided by: functions (labels [B,H,W], class weights [K] or None).
REDUCTIONS: dict[str, Callable[[jax.Array, jax.Array | None], jax.Array]] = {
    "weights": _sum_of_weights,  # those of the valid pixels, as in PyTorch's cross-entropy
    "valid": lambda labels, _: valid(labels).sum(dtype=jnp.float32),
    "pixels": lambda labels, _: jnp.float32(labels.size),  # Brunstein's focal loss, TUFL
}


def _cross_entropy(
    logits: jax.Array, labels: jax.Array, weights: jax.Array | None, options: LossOptions
) -> Sum:
    loss = cross_entropy(logits, labels, class_weights=weights)
    return Sum(loss.sum(), REDUCTIONS[options.reduction](labels, weights))


def _focal(
    logits: jax.Array, labels: jax.Array, weights: jax.Array | None, options: LossOptions
) -> Sum:
    loss = focal(logits, labels, gamma=options.gamma, class_weights=weights)
    return Sum(loss.sum(), REDUCTIONS[options.reduction](labels, weights))


def _ohem(
    logits: jax.Array, labels: jax.Array, weights: jax.Array | None, options: LossOptions
) -> Sum:
    # The class weights multiply before the hardest pixels are chosen, as in TUFL's code.
    loss = cross_entropy(logits, labels, class_weights=weights)
    return hardest(loss, labels, probability=options.ohem_probability, rule=options.ohem_rule)


PIXEL_LOSSES: dict[str, Callable[[jax.Array, jax.Array, jax.Array | None, LossOptions], Sum]] = {
    "cross_entropy": _cross_entropy,
    "focal": _focal,
    "ohem": _ohem,
}


def pixel_loss(
    name: str, options: LossOptions, *, num_classes: int
) -> Callable[[jax.Array, jax.Array], Sum]:
    """Returns the loss of that name, a function (logits [B,H,W,K], labels [B,H,W]) -> Sum.

    The class weights are read when the function is called, so that a configuration can be checked
    before its weights are counted. `rtda_jax.train` counts them and builds the function again.

    Args:
      name: a key of `PIXEL_LOSSES`.
      options: the options of the loss.
      num_classes: K.
    """
    chosen = lookup(PIXEL_LOSSES, name, "pixel_loss")
    check_weights(options, num_classes=num_classes)

    def loss(logits: jax.Array, labels: jax.Array) -> Sum:
        weights = class_weights(options, num_classes=num_classes)
        return chosen(logits, labels, weights, options)

    return loss
