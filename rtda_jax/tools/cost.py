"""Parameters and multiply-accumulates of every network, counted from the shapes of its layers.

Nothing is run and nothing is compiled, and the count does not depend on how a convolution or a
resize is lowered. Only convolutions have MACs; resizes, normalisations and activations do not.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from rtda_jax.errors import ConfigError
from rtda_jax.models import DISCRIMINATORS, MODELS, create_discriminator, create_model
from rtda_jax.models.discriminator import LeakyReLU, Upsample
from rtda_jax.models.layers import Conv

# Parameters that the original PyTorch modules carry and never use, so that their totals can be
# compared: the ImageNet classifier, and for STDC2 also the boundary heads of STDC-Seg.
UNUSED_IN_PYTORCH = {
    "bisenet_resnet18": 513_000,
    "bisenet_resnet101": 2_049_000,
    "bisenet_mpg_resnet18": 513_000,
    "bisenet_mpg_resnet101": 2_049_000,
    "bisenet_stdc1": 3_125_248,
    "bisenet_stdc2": 3_623_680,
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer, for one image: its dotted path, output [H,W,C] and operations."""

    path: str
    output: tuple[int, ...]
    macs: int = 0
    bias_adds: int = 0
    leaky_relus: int = 0
    upsampled: int = 0


@dataclasses.dataclass(frozen=True)
class Cost:
    """Parameters of a network, and the operations of its layers on one image at inference.

    modules: parameters in training by the dotted path of the layer that has them.
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
        """Multiply-accumulates of the convolutions at inference."""
        return sum(row.macs for row in self.rows)


def _flops_s0(cost: Cost) -> int:
    return 2 * cost.macs


def _flops_s2(cost: Cost) -> int:
    extra = sum(row.bias_adds + row.leaky_relus + 11 * row.upsampled for row in cost.rows)
    return 2 * (cost.macs + extra)


# "FLOPs" as the two reports print them: S0 (thop 0.1.1) doubles the MACs of the convolutions; S2
# (thop 0.0.5) adds one a bias, one an activation and 11 an upsampled element before it doubles.
CONVENTIONS: dict[str, Callable[[Cost], int]] = {"s0": _flops_s0, "s2": _flops_s2}


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _modules(parameters: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for path, leaf in flax.traverse_util.flatten_dict(parameters).items():
        module = ".".join(path[:-1])
        counts[module] = counts.get(module, 0) + math.prod(leaf.shape)
    return counts


def _row(module: nn.Module, inputs: jax.Array, output: jax.Array) -> Row | None:
    path, shape = ".".join(module.path), output.shape[1:]
    elements = math.prod(shape)
    if isinstance(module, Conv):
        kernel = module.size**2 * inputs.shape[-1] // module.groups
        bias = int(module.use_bias)
        return Row(path, shape, macs=elements * kernel, bias_adds=elements * bias)
    if isinstance(module, LeakyReLU):
        return Row(path, shape, leaky_relus=elements)
    if isinstance(module, Upsample):
        return Row(path, shape, upsampled=elements)
    return None


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
    """Cost of a segmentation network (a key of MODELS) at inference on one image of size (H, W)."""
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
    """Cost of a discriminator (a key of DISCRIMINATORS) on one map of size (H, W)."""
    model = create_discriminator(name, in_channels, **options)
    maps = jax.ShapeDtypeStruct((1, *size, in_channels), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), maps)
    parameters = _size(variables["params"])
    modules, rows = _modules(variables["params"]), _rows(model, variables, maps)
    return Cost(name, size, parameters, parameters, parameters, modules, rows)


def cost_table(*, num_classes: int = 19, size: tuple[int, int] = (512, 1024)) -> str:
    """Markdown table of every network and discriminator: parameters and MACs.

    The discriminators also have the FLOPs of both reports' conventions, which they alone used.
    """
    costs = [model_cost(name, num_classes=num_classes, size=size) for name in MODELS]
    for name in DISCRIMINATORS:
        costs.append(discriminator_cost(name, in_channels=num_classes, size=size))
    cost = discriminator_cost(
        "fcd_light", in_channels=num_classes, size=size, use_bias=False, output_stride=1
    )
    costs.append(dataclasses.replace(cost, name="fcd_light, no bias, x32 (S2)"))
    cost = discriminator_cost("fcd", in_channels=num_classes, size=size, output_stride=1)
    costs.append(dataclasses.replace(cost, name="fcd, x32 (S2)"))
    head = (
        "| network | parameters as PyTorch counts | in training | at inference "
        f"| MACs {size[0]}x{size[1]} | FLOPs as S0 | FLOPs as S2 |\n|---|--:|--:|--:|--:|--:|--:|"
    )
    lines = []
    for c in costs:
        judged = c.name.startswith("fcd")
        flops = [f"{f(c):,}" if judged else "" for f in (_flops_s0, _flops_s2)]
        counts = (c.pytorch_parameters, c.training_parameters, c.inference_parameters, c.macs)
        cells = [c.name, *(f"{n:,}" for n in counts), *flops]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([head, *lines])


def summary(name: str, *, size: tuple[int, int] = (512, 1024), depth: int = 2) -> str:
    """Text table of a network or discriminator by module, down to a depth of the path.

    Each line has the module, the output [H,W,C] of its last convolution, its parameters and its
    MACs on one image; modules of the training network alone have neither output nor MACs. Raises
    ConfigError for an unknown name.
    """
    if name in DISCRIMINATORS:
        cost = discriminator_cost(name, size=size)
    elif name in MODELS:
        cost = model_cost(name, size=size)
    else:
        known = ", ".join([*MODELS, *DISCRIMINATORS])
        raise ConfigError(f"unknown network {name!r}; known: {known}")

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
    lines.append(
        f"{name}: {cost.training_parameters:,} parameters in training, "
        f"{cost.inference_parameters:,} at inference, {cost.macs:,} MACs on {size[0]}x{size[1]}"
    )
    return "\n".join(lines)
