"""Times the twin's training step or inference pass in one process of PyTorch."""

from typing import Any

import torch

from benchmarks import measure
from benchmarks.torch_twins.step import FORMS, Twin
from rtda_jax.tools import environment


class NotRun(Exception):
    """PyTorch cannot run the comparison here; the message says why."""


def _twin(spec: dict[str, Any]) -> Twin:
    if spec["platform"] == "gpu" and not torch.cuda.is_available():
        raise NotRun("JAX runs on a GPU, this PyTorch sees none")
    if spec["platform"] not in ("cpu", "gpu"):
        raise NotRun(f"no PyTorch twin for the platform {spec['platform']!r}")
    torch.set_num_threads(environment.cores())
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(0)
    device = {"cpu": "cpu", "gpu": "cuda"}[spec["platform"]]
    return Twin(spec["recipe"], device=device, form=spec["form"])


def _about(twin: Twin, spec: dict[str, Any]) -> dict[str, Any]:
    cuda = twin.device == "cuda"
    return {
        "platform": spec["platform"],
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "precision": "bfloat16 (AMP)" if FORMS[spec["form"]].autocast else "float32",
        "form": spec["form"],
        "version": f"torch {torch.__version__}",
    }


def _wait(twin: Twin) -> None:
    if twin.device == "cuda":
        torch.cuda.synchronize()


def _peak(twin: Twin) -> dict[str, Any]:
    if twin.device == "cuda":
        return {"peak": torch.cuda.max_memory_allocated(), "peak_of": "device"}
    return {"peak": measure.peak_rss(), "peak_of": "process"}


def _ceiling(twin: Twin) -> float:
    """Measures the FLOP/s of a large matrix product in the twin's precision."""
    n = 2048 if twin.device == "cpu" else 8192
    dtype = torch.bfloat16 if twin.form.autocast else torch.float32
    a = torch.ones(n, n, device=twin.device, dtype=dtype)

    def product() -> None:
        torch.mm(a, a)
        _wait(twin)

    return 2 * n**3 / measure.best(product)


def train(spec: dict[str, Any]) -> dict[str, Any]:
    """Times the training step, from the host's batch to the losses."""
    twin, batch = _twin(spec), measure.batch(**spec["batch"])
    times = measure.timed(lambda: twin.step(batch), steps=spec["steps"])
    return _about(twin, spec) | times | _peak(twin) | {"ceiling": _ceiling(twin)}


def infer(spec: dict[str, Any]) -> dict[str, Any]:
    """Times the segmentation of one image of each size, uint8 to uint8."""
    twin = _twin(spec)
    sizes: dict[str, Any] = {}
    for size in map(tuple, spec["sizes"]):
        image = measure.images(1, size, seed=3)[0]
        pixels = torch.as_tensor(image, device=twin.device)

        def synchronised(call: Any, image: Any) -> Any:
            def run() -> None:
                call(image)
                _wait(twin)

            return run

        calls = {"host": lambda image=image: twin.classes(image).cpu().numpy()}
        if spec["parts"]:
            calls["logits"] = synchronised(twin.logits, pixels)
            calls["classes"] = synchronised(twin.classes, pixels)
        rows = {name: measure.timed(call, steps=spec["steps"]) for name, call in calls.items()}
        sizes[f"{size[0]}x{size[1]}"] = {"rows": rows, **_peak(twin)}
    return _about(twin, spec) | {"sizes": sizes, "ceiling": _ceiling(twin)}


JOBS = {"train": train, "infer": infer}
