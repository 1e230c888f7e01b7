"""The two optimizers: SGD or AdamW for the segmentation network, Adam for the discriminators.

Both learning rates decay by one of `SCHEDULES`. Parameter groups of the segmentation network may
have different learning rates, and some parameters of some networks are not trained at all.
`REPEATS` selects how often the trunk of DeepLab is updated in a step; the released code of
AdaptSegNet and its successors does so several times.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rtda_jax.errors import one_of, require
from rtda_jax.models import group_of, trainable
from rtda_jax.models.deeplab import DeepLab

# The parameters that weight decay applies to, as a mask of optax.
DECAYED: dict[str, Callable[[Any], Any] | None] = {
    "all": None,
    "kernels": lambda params: jax.tree_util.tree_map_with_path(  # neither biases nor BatchNorm
        lambda path, _: path[-1].key == "kernel", params
    ),
}

# The groups, among "trunk" and "heads", whose learning rate is multiplied by `g_factor`.
GROUPS: dict[str, tuple[str, ...]] = {
    "one": (),  # one learning rate: Brunstein, Nikiforos, Bartoletti
    "heads": ("heads",),  # AdaptSegNet, STDC-Seg, CoinCheung, DAFormer; TUFL's text
    "all": ("trunk", "heads"),  # TUFL's released code
}

# The gradient of a parameter when it is updated again in the same step: functions of the gradient
# before and after weight decay was added. `get_1x_lr_params_NOscale` of AdaptSegNet, ADVENT, BDL,
# FDA and DACS lists a convolution once for every module that contains it, and PyTorch updates it
# that often in every step, see `visits`.
REPEATS: dict[str, Callable[[jax.Array, jax.Array], jax.Array] | None] = {
    "none": None,  # every parameter is updated once, as the papers say
    "released": lambda gradient, decayed: gradient,  # PyTorch 1.5 and later: DACS
    # PyTorch up to 1.4 adds the decay to the gradient in place, so that the next update of the
    # same step adds it once more: AdaptSegNet, ADVENT, BDL, FDA.
    "released_04": lambda gradient, decayed: decayed,
}


@dataclasses.dataclass(frozen=True)
class OptimOptions:
    """The section `optim` of a configuration.

    Fields with `g_` are the segmentation network's, those with `d_` the discriminators'.

    Attributes:
      accumulate: the number of micro-batches that each device cuts its share of a batch into; it
        learns from one after the other, and one update follows with the sum of their gradients. A
        step then needs the memory of a micro-batch. Losses are means over the whole batch all the
        same. Only what looks at all images of a forward pass together sees a micro-batch (of all
        devices): BatchNorm's statistics, and OHEM's choice of pixels. The running statistics move
        once a step, by the mean over the micro-batches.
      g_optimizer: the optimizer of the segmentation network, a key of `OPTIMIZERS`.
      g_lr: the learning rate without warm-up and decay.
      g_momentum: the momentum of SGD.
      g_betas: the betas of AdamW.
      g_decay: the weight decay, coupled in SGD and decoupled in AdamW.
      g_decayed: the parameters that decay, a key of `DECAYED`.
      g_groups: the groups of parameters that learn faster, a key of `GROUPS`.
      g_factor: how many times faster these groups learn.
      g_repeats: whether SGD updates the trunk of DeepLab several times in a step, a key of
        `REPEATS`.
      warmup: how g_lr is warmed up, a key of `WARMUPS`. "exponential" and "linear" rise to g_lr
        before the decay begins; "linear_factor" multiplies the decay, which then begins at step 0.
      warmup_steps: the steps of the warm-up; 0 means none, whatever `warmup` is.
      warmup_start: the learning rate at the beginning of the warm-up; the factor if it is one.
      d_lr: the learning rate of the discriminators.
      d_betas: the betas of the discriminators' Adam.
      schedule: how both learning rates decay, a key of `SCHEDULES`.
      power: the exponent of poly; 1 is linear.
      schedule_steps: the step at which the decay ends; 0 means the last step of the stage.
      schedule_every_steps: the steps between two changes of the decay. Brunstein, Nikiforos and
        Bartoletti change it once an epoch, the others at every step.
    """

    accumulate: int = 1
    g_optimizer: str = "sgd"
    g_lr: float = 0.01
    g_momentum: float = 0.9
    g_betas: tuple[float, float] = (0.9, 0.999)
    g_decay: float = 1e-4
    g_decayed: str = "all"
    g_groups: str = "one"
    g_factor: float = 10.0
    g_repeats: str = "none"
    warmup: str = "exponential"
    warmup_steps: int = 0
    warmup_start: float = 1e-5
    d_lr: float = 1e-4
    d_betas: tuple[float, float] = (0.9, 0.99)
    schedule: str = "poly"
    power: float = 0.9
    schedule_steps: int = 0
    schedule_every_steps: int = 1

    def __post_init__(self) -> None:
        one_of(self.g_optimizer, OPTIMIZERS, "optim.g_optimizer")
        one_of(self.g_decayed, DECAYED, "optim.g_decayed")
        one_of(self.g_groups, GROUPS, "optim.g_groups")
        one_of(self.g_repeats, REPEATS, "optim.g_repeats")
        one_of(self.warmup, WARMUPS, "optim.warmup")
        one_of(self.schedule, SCHEDULES, "optim.schedule")
        require(
            self.g_repeats == "none"
            or (self.g_optimizer == "sgd" and self.g_decayed == "all" and self.g_groups != "all"),
            f"optim.g_repeats={self.g_repeats!r} is the released SGD of DeepLab: it needs "
            "g_optimizer='sgd', g_decayed='all' and g_groups='one' or 'heads'",
        )
        for name, least in (
            ("accumulate", 1),
            ("g_lr", 0),
            ("g_decay", 0),
            ("g_factor", 0),
            ("d_lr", 0),
            ("power", 0),
            ("warmup_steps", 0),
            ("schedule_steps", 0),
            ("schedule_every_steps", 1),
        ):
            value = getattr(self, name)
            require(value >= least, f"optim.{name} must be at least {least}, got {value:g}")
        require(
            0 <= self.g_momentum < 1,
            f"optim.g_momentum must lie in [0, 1), got {self.g_momentum:g}",
        )
        for name in ("g_betas", "d_betas"):
            betas = getattr(self, name)
            valid = len(betas) == 2 and all(0 <= beta < 1 for beta in betas)
            require(valid, f"optim.{name} must be two numbers in [0, 1), got {betas}")
        if self.warmup == "exponential" and self.warmup_steps:
            require(
                self.warmup_start > 0,
                f"optim.warmup_start of an exponential warm-up must be above 0, got "
                f"{self.warmup_start:g}",
            )
        require(
            self.warmup != "linear_factor" or 0 <= self.warmup_start <= 1,
            f"optim.warmup_start is a factor in [0, 1] of a linear_factor warm-up, got "
            f"{self.warmup_start:g}",
        )


def _poly(progress: jax.Array, options: OptimOptions) -> jax.Array:
    """Returns (1 - t/steps)^power, which is 0 from the end on."""
    # At the end, a compiled t/steps may exceed 1 by a rounding error. optax's polynomial schedule
    # would then return nan, the power of a negative base.
    return jnp.maximum(1.0 - progress, 0.0) ** options.power


def _cosine(progress: jax.Array, options: OptimOptions) -> jax.Array:
    """Returns (1 + cos(pi t/steps)) / 2, which is 0 from the end on (SGDR, without restarts)."""
    del options
    return (1 + jnp.cos(jnp.pi * jnp.minimum(progress, 1.0))) / 2


def _constant(progress: jax.Array, options: OptimOptions) -> jax.Array:
    """Returns 1."""
    del options
    return jnp.ones_like(progress)


# The factor of a learning rate: functions of the share t/steps of the decay that is over.
SCHEDULES: dict[str, Callable[[jax.Array, OptimOptions], jax.Array]] = {
    "poly": _poly,
    "cosine": _cosine,
    "constant": _constant,
}


def _exponential(step: jax.Array, *, start: float, end: float, steps: int) -> jax.Array:
    """Returns start (end/start)^(t/steps), as in TUFL, STDC-Seg and CoinCheung."""
    return start * (end / start) ** (step / steps)


def _linear(step: jax.Array, *, start: float, end: float, steps: int) -> jax.Array:
    """Returns start + (end - start) t/steps."""
    return start + (end - start) * (step / steps)


def decay(learning_rate: float, options: OptimOptions, *, steps: int) -> optax.Schedule:
    """Returns the learning rate times the decay, which ends after `steps`."""
    factor, every = SCHEDULES[options.schedule], options.schedule_every_steps

    def schedule(step: jax.Array) -> jax.Array:
        return learning_rate * factor(step // every * every / steps, options)

    return schedule


def _before_decay(
    options: OptimOptions, end: int, *, curve: Callable[..., jax.Array]
) -> optax.Schedule:
    """Returns a curve that rises from warmup_start to g_lr, and then the decay from there."""
    rise = options.warmup_steps
    falling = decay(options.g_lr, options, steps=max(end - rise, 1))

    def schedule(step: jax.Array) -> jax.Array:
        rising = curve(
            jnp.minimum(step, rise), start=options.warmup_start, end=options.g_lr, steps=rise
        )
        return jnp.where(step <= rise, rising, falling(jnp.maximum(step - rise, 0)))

    return schedule


def _times_decay(options: OptimOptions, end: int) -> optax.Schedule:
    """Returns the decay, which begins at step 0, times a factor from warmup_start to 1."""
    rise = options.warmup_steps
    falling = decay(options.g_lr, options, steps=end)

    def schedule(step: jax.Array) -> jax.Array:
        factor = _linear(jnp.minimum(step, rise), start=options.warmup_start, end=1.0, steps=rise)
        return factor * falling(step)

    return schedule


# The learning rate with a warm-up: functions (options, step at which the decay ends) -> schedule.
WARMUPS: dict[str, Callable[[OptimOptions, int], optax.Schedule]] = {
    "exponential": functools.partial(_before_decay, curve=_exponential),
    "linear": functools.partial(_before_decay, curve=_linear),
    "linear_factor": _times_decay,  # mmcv, and so the code of DAFormer and MIC
}


def schedules(options: OptimOptions, *, steps: int) -> tuple[optax.Schedule, optax.Schedule]:
    """Returns the learning rates of the segmentation network and of the discriminators by step.

    A stage that is shorter than its warm-up, such as a trial of a few steps, ends within it.
    """
    end = options.schedule_steps or steps
    if options.warmup_steps:
        generator = WARMUPS[options.warmup](options, end)
    else:
        generator = decay(options.g_lr, options, steps=end)
    return generator, decay(options.d_lr, options, steps=end)


def sgd(schedule: optax.Schedule, options: OptimOptions) -> optax.GradientTransformation:
    """Returns SGD as in PyTorch: decay before the momentum, the learning rate last."""
    return optax.chain(
        optax.add_decayed_weights(options.g_decay, mask=DECAYED[options.g_decayed]),
        optax.sgd(schedule, momentum=options.g_momentum),
    )


class RepeatedState(NamedTuple):
    """The state of `repeated_sgd`: the number of steps, and the momentum of every parameter."""

    step: jax.Array
    momentum: Any


def repeated_sgd(schedule: optax.Schedule, options: OptimOptions) -> optax.GradientTransformation:
    """Returns SGD that updates a parameter as often in a step as `visits` says.

    All updates of a step use the gradient and the learning rate of that step. Each of them decays
    the momentum, adds the weight decay of the parameter's current value, and moves the parameter.
    PyTorch up to 1.8 does so from the first step on; 1.9 and later reset the momentum in each
    update of the very first step.
    """
    again = REPEATS[options.g_repeats]
    assert again is not None

    def init(params: Any) -> RepeatedState:
        return RepeatedState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(gradients: Any, state: RepeatedState, params: Any) -> tuple[Any, RepeatedState]:
        rate = schedule(state.step)

        def visited(path: tuple[Any, ...], gradient: Any, momentum: Any, param: Any) -> Any:
            moved = jnp.zeros_like(param)
            for _ in range(visits(tuple(p.key for p in path))):
                decayed = gradient + options.g_decay * (param + moved)
                momentum = options.g_momentum * momentum + decayed
                moved -= rate * momentum
                gradient = again(gradient, decayed)
            return moved, momentum

        pairs = jax.tree_util.tree_map_with_path(visited, gradients, state.momentum, params)
        updates, momentum = jax.tree.transpose(
            jax.tree.structure(gradients), jax.tree.structure((0, 0)), pairs
        )
        return updates, RepeatedState(state.step + 1, momentum)

    return optax.GradientTransformation(init, update)


def visits(path: tuple[str, ...]) -> int:
    """Returns how often the released optimizers list the parameter at this path of a DeepLab.

    A convolution of a block is listed three times: for itself, for its block and for its layer. A
    convolution of a shortcut is listed four times, because a sequence contains it as well. The
    first convolution and the heads are listed once.
    """
    if path[0] != "backbone" or not path[1].startswith("layer"):
        return 1
    return 4 if path[2].startswith("downsample") else 3


def adamw(schedule: optax.Schedule, options: OptimOptions) -> optax.GradientTransformation:
    """Returns AdamW (Loshchilov and Hutter 2019), as PyTorch has it."""
    b1, b2 = options.g_betas
    return optax.adamw(
        schedule, b1=b1, b2=b2, weight_decay=options.g_decay, mask=DECAYED[options.g_decayed]
    )


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {"sgd": sgd, "adamw": adamw}


def generator_optimizer(
    options: OptimOptions, network: nn.Module, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Returns the optimizer of the segmentation network, for the parameters that it trains.

    Raises:
      ConfigError: the options repeat updates, and the network is not the one that was released
        with this optimizer.
    """
    require(
        options.g_repeats == "none" or isinstance(network, DeepLab),
        f"optim.g_repeats={options.g_repeats!r} is the released optimizer of deeplab_resnet101; it "
        "is not defined for other networks",
    )
    make = OPTIMIZERS[options.g_optimizer] if options.g_repeats == "none" else repeated_sgd
    transform = make(schedule, options)
    factors = dict.fromkeys(GROUPS[options.g_groups], options.g_factor)
    return restricted_to(
        with_factors(transform, group_of=functools.partial(group_of, network), factors=factors),
        trained=functools.partial(trainable, network),
    )


def discriminator_optimizer(
    options: OptimOptions, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Returns the one optimizer of all discriminators."""
    b1, b2 = options.d_betas
    return optax.adam(schedule, b1=b1, b2=b2)


def with_factors(
    transform: optax.GradientTransformation,
    *,
    group_of: Callable[[tuple[str, ...]], str],
    factors: Mapping[str, float],
) -> optax.GradientTransformation:
    """Returns the transform with its updates multiplied by the factor of each parameter's group.

    Args:
      transform: the transform, learning rate included, so that the factor multiplies it.
      group_of: the function path of a parameter -> its group.
      factors: the factors by group; other groups have the factor 1.
    """
    if all(factor == 1 for factor in factors.values()):
        return transform

    def scale(updates: Any, _: Any) -> Any:
        def scaled(path: tuple[Any, ...], update: jax.Array) -> jax.Array:
            return factors.get(group_of(tuple(p.key for p in path)), 1.0) * update

        return jax.tree_util.tree_map_with_path(scaled, updates)

    return optax.chain(transform, optax.stateless(scale))


def restricted_to(
    transform: optax.GradientTransformation, *, trained: Callable[[Any], Any]
) -> optax.GradientTransformation:
    """Returns the transform restricted to the parameters where `trained` is True.

    `trained` maps the parameters to a tree of bool. The other parameters are neither updated nor
    decayed, and they take no memory in the optimizer's state.
    """

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda train: "trained" if train else "kept", trained(params))

    return optax.partition({"trained": transform, "kept": optax.set_to_zero()}, labels)
