"""The command line of a config: `BENCHMARK,name=value,...` becomes a call of its `make`.

Every config is a function `make(benchmark, *, name=default, ...)` whose signature is the only
description of its arguments. A keyword that Python reserves ends in an underscore in the signature
and is written without it: `lambda=0.004` sets `lambda_`.

Every config also takes `pretrained=NETWORK`, which trains that network from ImageNet's weights with
the optimizer of `recipes.py`, and with it `recipe=short` or `recipe=long`. A `make` that has the
first argument itself decides what it means.
"""

import inspect
import math
import typing
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from configs import benchmarks, recipes
from rtda_jax.errors import ConfigError, lookup, require

PRETRAINED, RECIPE = "pretrained", "recipe"


def parsed(make: Callable[..., ConfigDict]) -> Callable[..., ConfigDict]:
    """Returns the `get_config` of a config: a function of what follows the colon of --config."""

    def get_config(arg: str = "") -> ConfigDict:
        benchmark, options = parse(make, arg)
        chosen = {name: options.pop(name, None) for name in _common(make)}
        network, recipe = chosen.get(PRETRAINED), chosen.get(RECIPE)
        require(network or not recipe, f"recipe={recipe} needs pretrained=NETWORK, which it trains")
        config = make(benchmark, **options)
        if network is not None:
            recipes.use_pretrained(config, network, recipe=recipe)
        return config

    return get_config


def _common(make: Callable[..., ConfigDict]) -> dict[str, Any]:
    """Returns the arguments, with their types, that a config has without declaring them."""
    own = PRETRAINED in inspect.signature(make).parameters
    return {} if own else {PRETRAINED: recipes.Network, RECIPE: recipes.Name}


def parse(make: Callable[..., ConfigDict], arg: str) -> tuple[str, dict[str, Any]]:
    """Splits `BENCHMARK,name=value,...` into the benchmark's name and keyword arguments.

    Args:
      make: a function of a benchmark and of keyword-only arguments that are annotated with float,
        int, str or a Literal, or with one of these and None.
      arg: what follows the colon of --config. If it names no benchmark, the default one is used.

    Raises:
      ConfigError: an argument is unknown, is given twice, or has an invalid value.
    """
    hints = {name: (name, hint) for name, hint in _common(make).items()} | {
        name.rstrip("_"): (name, hint)
        for name, hint in typing.get_type_hints(make).items()
        if name in inspect.signature(make).parameters and name != "benchmark"
    }
    benchmark, values = "", {}
    for part in filter(None, arg.split(",")):
        name, equals, text = part.partition("=")
        if not equals:
            require(not benchmark, f"{arg!r} names two benchmarks, {benchmark!r} and {part!r}")
            benchmark = part
            continue
        keyword, hint = lookup(hints, name, f"option in {arg!r}:")
        require(keyword not in values, f"{name} is given twice in {arg!r}")
        values[keyword] = _value(text, hint, f"{name} in {arg!r}")
    return benchmark or benchmarks.DEFAULT, values


def _value(text: str, hint: Any, what: str) -> Any:
    alternatives = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return lookup({str(choice): choice for choice in alternatives}, text, f"{what}:")
    if type(None) in alternatives:
        (hint,) = (kind for kind in alternatives if kind is not type(None))
        return _value(text, hint, what)
    if hint is str:
        return text
    try:
        number = hint(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        kind = "a whole number" if hint is int else "a number"
        raise ConfigError(f"{what} must be {kind}, got {text!r}")
    return number
