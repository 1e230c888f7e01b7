"""Loads our weights into PyTorch's twins."""

from typing import Any

import numpy as np
import torch

from benchmarks.torch_twins.step import Twin
from rtda_jax.adapt.state import TrainState
from rtda_jax.weights import torch_arrays

_D_NAMES = {"kernel": "weight", "bias": "bias"}


def d_arrays(params: dict[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    """Returns a discriminator's parameters by the names and in the layout of its twin."""
    return {
        f"{module}.{_D_NAMES[leaf]}": np.asarray(
            value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
        )
        for module, leaves in params.items()
        for leaf, value in leaves.items()
    }


def give(module: torch.nn.Module, arrays: dict[str, Any]) -> None:
    """Loads every array into a twin; raises ValueError where one side lacks a name of the other."""
    given = {name: torch.tensor(np.asarray(value)) for name, value in arrays.items()}
    report = module.load_state_dict(given, strict=False)
    left = [name for name in report.missing_keys if not name.endswith("num_batches_tracked")]
    if left or report.unexpected_keys:
        raise ValueError(f"the twin lacks {report.unexpected_keys}, the arrays lack {left}")


def start_as_ours(twin: Twin, state: TrainState, model_name: str) -> None:
    """Gives a twin the weights of a train state, the discriminator's where there is one."""
    weights = state.network
    give(twin.g, torch_arrays(weights, model_name))
    if "output" in state.d_params:
        give(twin.d, d_arrays(state.d_params["output"]))
