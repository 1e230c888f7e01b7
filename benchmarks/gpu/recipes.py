"""The recipes of the PyTorch twins, as plain JSON."""

from typing import Any

from benchmarks import training
from benchmarks.recipe import recipe


def of(models: list[str]) -> dict[str, Any]:
    """Returns recipes by network and method; the sizes of their batches are the sections' own."""
    return {
        model: {
            method: recipe(
                training.configuration(
                    method, model=model, dtype="float32", crop=(64, 128), batch_size=2
                )
            )
            for method in ("fda", "source_only")
        }
        for model in models
    }
