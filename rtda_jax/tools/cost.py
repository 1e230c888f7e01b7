"""Parameters and multiply-accumulates of every network, counted from the shapes of its layers.

Nothing is run or compiled, and the count does not depend on how a convolution or a resize is
lowered. Convolutions and dense layers, ours and Flax's, have MACs; resizes, normalisations and
activations have none.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rtda_jax.errors import one_of, require
from rtda_jax.models import DISCRIMINATORS, MODELS, create_discriminator, create_model
from rtda_jax.models.discriminator import LeakyReLU, Upsample
from rtda_jax.models.layers import Conv

# Parameters that the original PyTorch modules have but never use; their totals include them. These
# are the ImageNet classifier, and for STDC2 also the boundary heads of STDC-Seg.
UNUSED_IN_PYTORCH = {
    "bisenet_resnet18": 513_000,
    "bisenet_resnet101": 2_049_000,
    "bisenet_mpg_resnet18": 513_000,
    "bisenet_mpg_resnet101": 2_049_000,
    "bisenet_stdc1": 3_125_248,
    "bisenet_stdc2": 3_623_680,
}


@dataclasses.dataclass(frozen=True)
class SpeedOptions:
    """How the job `benchmark` measures time, in turns with PyTorch.

    Attributes:
      rounds: the number of processes for each framework.
      train_steps: how many training steps each process times, after two untimed ones.
      infer_steps: the same for inference.
      infer_size: (H, W) of a second size of images, besides that of the training crop.
      networks_size: (H, W) of the images on which every network is timed.
    """

    rounds: int = 3
    train_steps: int = 2
    infer_steps: int = 6
    infer_size: tuple[int, int] = (512, 1024)
    networks_size: tuple[int, int] = (256, 512)

    def __post_init__(self) -> None:
        counts = (self.rounds, self.train_steps, self.infer_steps)
        for number in (*counts, *self.infer_size, *self.networks_size):
            require(number >= 1, f"speed: counts and sizes must be 1 or more, got {number}")


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer on one image: its dotted path, the shape of its output, and its operations."""

    path: str
    output: tuple[int, ...]
    macs: int = 0
    bias_adds: int = 0
    leaky_relus: int = 0
    upsampled: int = 0


@dataclasses.dataclass(frozen=True)
class Cost:
    """The parameters of a network, and the operations of its layers on one image at inference.

    Attributes:
      name: a key of MODELS or DISCRIMINATORS.
      size: (H, W) of the image.
      pytorch_parameters: the number of parameters of the original PyTorch modules.
      training_parameters: the number of parameters with auxiliary heads.
      inference_parameters: the number of parameters without auxiliary heads.
      modules: the number of parameters in training by the dotted path of their layer.
      rows: the layers at inference.
    """

    name: str
    size: tuple[int, int]
    pytorch_parameters: int
    training_parameters: int
    inference_parameters: int
    modules: dict[str, int]
    rows: tuple[Row, ...]

    @property
    def macs(self) -> int:
        """The multiply-accumulates of all layers at inference."""
        return sum(row.macs for row in self.rows)


def _doubled_macs(cost: Cost) -> int:
    return 2 * cost.macs


def _doubled_operations(cost: Cost) -> int:
    more = sum(row.bias_adds + row.leaky_relus + 11 * row.upsampled for row in cost.rows)
    return 2 * (cost.macs + more)


# The "FLOPs" in two reports. Brunstein's (thop 0.1.1) are twice the MACs. Bartoletti's (thop
# 0.0.5) first add one for each bias, one for each activation, and 11 for each upsampled element.
CONVENTIONS: dict[str, Callable[[Cost], int]] = {
    "brunstein": _doubled_macs,
    "bartoletti": _doubled_operations,
}


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _modules(parameters: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for path, leaf in flax.traverse_util.flatten_dict(parameters).items():
        module = ".".join(path[:-1])
        counts[module] = counts.get(module, 0) + math.prod(leaf.shape)
    return counts


def _row(module: nn.Module, inputs: jax.Array, output: jax.Array) -> Row | None:
    """Returns the row of a layer that has operations, or None."""
    path, shape = ".".join(module.path), output.shape[1:]
    elements = math.prod(shape)
    if isinstance(module, Conv):
        taps, groups = module.size**2, module.groups
    elif isinstance(module, nn.Conv):
        taps, groups = int(np.prod(module.kernel_size)), module.feature_group_count
    elif isinstance(module, nn.ConvTranspose):
        macs = math.prod(inputs.shape[1:]) * int(np.prod(module.kernel_size)) * shape[-1]
        return Row(path, shape, macs=macs, bias_adds=elements * int(module.use_bias))
    elif isinstance(module, nn.Dense):
        taps, groups = 1, 1
    elif isinstance(module, LeakyReLU):
        return Row(path, shape, leaky_relus=elements)
    elif isinstance(module, Upsample):
        return Row(path, shape, upsampled=elements)
    else:
        return None
    macs = elements * (taps * inputs.shape[-1] // groups)
    return Row(path, shape, macs=macs, bias_adds=elements * int(module.use_bias))


def _rows(module: nn.Module, variables: Any, images: Any) -> tuple[Row, ...]:
    rows: list[Row] = []

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        output = call(*args, **kwargs)
        if context.method_name == "__call__" and isinstance(context.module, nn.Module) and args:
            row = _row(context.module, args[0], output) if hasattr(output, "shape") else None
            rows.extend([row] if row else [])
        return output

    with nn.intercept_methods(record):
        jax.eval_shape(module.apply, variables, images)
    return tuple(rows)


def model_cost(
    name: str, *, num_classes: int = 19, size: tuple[int, int] = (512, 1024), **options: Any
) -> Cost:
    """Returns the cost of a segmentation network, a key of MODELS, on an image of size (H, W)."""
    model = create_model(name, num_classes, **options)
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)

    def variables(train: bool) -> Any:
        return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=train), images)

    training, inference = variables(True), variables(False)
    parameters = _size(training["params"])
    return Cost(
        name=name,
        size=size,
        pytorch_parameters=parameters + UNUSED_IN_PYTORCH.get(name, 0),
        training_parameters=parameters,
        inference_parameters=_size(inference["params"]),
        modules=_modules(training["params"]),
        rows=_rows(model, inference, images),
    )


def discriminator_cost(
    name: str, *, in_channels: int = 19, size: tuple[int, int] = (512, 1024), **options: Any
) -> Cost:
    """Returns the cost of a discriminator, a key of DISCRIMINATORS, on one map of a size (H, W)."""
    model = create_discriminator(name, in_channels, **options)
    maps = jax.ShapeDtypeStruct((1, *size, in_channels), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), maps)
    parameters = _size(variables["params"])
    modules, rows = _modules(variables["params"]), _rows(model, variables, maps)
    return Cost(name, size, parameters, parameters, parameters, modules, rows)


def network_cost(name: str, **options: Any) -> Cost:
    """Returns the cost of a segmentation network or of a discriminator.

    Args:
      name: a key of MODELS or DISCRIMINATORS.
      options: those of `model_cost` or of `discriminator_cost`.

    Raises:
      ConfigError: the name is unknown.
    """
    one_of(name, [*MODELS, *DISCRIMINATORS], "network")
    return model_cost(name, **options) if name in MODELS else discriminator_cost(name, **options)


def cost_table() -> str:
    """Returns a Markdown table with the parameters and MACs of every network and discriminator.

    They are those for 19 classes and images of 512x1024.

    Discriminators also have the FLOPs as counted in two reports, which give them for discriminators
    only.
    """
    num_classes, size = 19, (512, 1024)
    costs = [model_cost(name, num_classes=num_classes, size=size) for name in MODELS]
    for name in DISCRIMINATORS:
        costs.append(discriminator_cost(name, in_channels=num_classes, size=size))
    cost = discriminator_cost(
        "fcd_light", in_channels=num_classes, size=size, use_bias=False, output_stride=1
    )
    costs.append(dataclasses.replace(cost, name="fcd_light, no bias, x32 (bartoletti)"))
    cost = discriminator_cost("fcd", in_channels=num_classes, size=size, output_stride=1)
    costs.append(dataclasses.replace(cost, name="fcd, x32 (bartoletti)"))
    head = (
        "| network | parameters as PyTorch counts | in training | at inference "
        f"| MACs {size[0]}x{size[1]} | FLOPs as brunstein | FLOPs as bartoletti |\n"
        "|---|--:|--:|--:|--:|--:|--:|"
    )
    lines = []
    for c in costs:
        is_discriminator = c.name.startswith(tuple(DISCRIMINATORS))
        flops = [f"{f(c):,}" if is_discriminator else "" for f in CONVENTIONS.values()]
        counts = (c.pytorch_parameters, c.training_parameters, c.inference_parameters, c.macs)
        cells = [c.name, *(f"{n:,}" for n in counts), *flops]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([head, *lines])


def summary(name: str, *, depth: int = 2, **options: Any) -> str:
    """Returns a table of a network or discriminator in text, by module.

    Each line has a module, the output [H,W,C] of its last layer with operations, its parameters
    and its MACs on one image. Modules that exist only in training have neither output nor MACs.

    Args:
      name: a key of MODELS or DISCRIMINATORS.
      depth: how many parts of a layer's path name its module.
      options: those of `network_cost`.

    Raises:
      ConfigError: the name is unknown.
    """
    cost = network_cost(name, **options)

    def top(path: str) -> str:
        return ".".join(path.split(".")[:depth])

    groups: dict[str, list[Row]] = {}
    for row in cost.rows:
        groups.setdefault(top(row.path), []).append(row)
    parameters: dict[str, int] = {}
    for path, count in cost.modules.items():
        parameters[top(path)] = parameters.get(top(path), 0) + count
    lines = [f"{'module':<32}{'output':>18}{'parameters':>16}{'MACs':>20}"]
    for path in [*groups, *(p for p in parameters if p not in groups)]:
        rows = groups.get(path, [])
        output = "x".join(str(n) for n in rows[-1].output) if rows else ""
        macs = f"{sum(r.macs for r in rows):,}" if rows else ""
        lines.append(f"{path:<32}{output:>18}{parameters.get(path, 0):>16,}{macs:>20}")
    height, width = cost.size
    lines.append(
        f"{name}: {cost.training_parameters:,} parameters in training, "
        f"{cost.inference_parameters:,} at inference, {cost.macs:,} MACs on {height}x{width}"
    )
    return "\n".join(lines)
