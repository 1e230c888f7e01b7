"""Speed of rtda_jax against PyTorch on this machine: training step and inference of a config.

    python main.py --job=benchmark --config configs/fda.py:folders

Neither data nor TensorFlow is used. The two sides take turns, one process after the other, so that
whatever else the machine does meets both; ratios are of neighbours. PyTorch runs in each of its
forms once and in the fastest from then on.
"""

import json
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from benchmarks import measure, report
from benchmarks.recipe import no_inference_twin, no_training_twin, recipe
from rtda_jax import build, cost, environment, experiment, terms
from rtda_jax.errors import ConfigError
from rtda_jax.records import say

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Fields that `config.speed` may change.
DEFAULTS = {
    "rounds": 3,  # processes of each side
    "train_steps": 2,  # timed in each, after two that are not
    "infer_steps": 6,
    "infer_size": (512, 1024),  # beside the training crop
}

FORMS = {
    ("cpu", "train"): ("channels_last", "contiguous"),
    ("cpu", "infer"): ("channels_last", "contiguous"),
    ("gpu", "train"): ("compile_amp",),
    ("gpu", "infer"): ("compile_amp", "cuda_graphs_amp"),
}


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Time the first train stage of a configuration; `speed.json`, `speed.md` and the table.

    Raises:
      ConfigError: the configuration has no train stage or can not be built.
    """
    # Nothing is computed in this process: a GPU is left to the ones it starts.
    jax.config.update("jax_platforms", "cpu")
    stage = next((s for s in experiment.stages(config).values() if s.kind == "train"), None)
    if stage is None:
        raise ConfigError("job benchmark times a train stage, and the configuration has none")
    settings = {**DEFAULTS, **config.get("speed", {})}
    parts = build.build(stage)
    say(f"{cost.cost_table()}\n")
    found = {
        "settings": {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()},
        "model": stage.model.name,
        "adversary": stage.adversary.network if parts.discriminators else None,
        "crop": list(stage.benchmark.crop),
        "batch_size": stage.batch_size,
        "domains": len(terms.views(parts.objective)),
        "fda_beta": stage.fda_beta,
        "commit": environment.commit(),
        "cores": measure.cores(),
        "load_before": os.getloadavg(),
        "begun": time.time(),
    }
    found["macs"] = _macs(found, recipe(stage)["num_classes"], tuple(settings["infer_size"]))
    with tempfile.TemporaryDirectory(prefix="rtda_jax_speed") as folder:
        bench = _Bench(stage, settings, parts.needs_target, pathlib.Path(folder))
        for job, reason in (
            ("train", no_training_twin(stage)),
            ("infer", no_inference_twin(stage)),
        ):
            found[job] = bench.compare(job, reason)
    found["seconds"] = time.time() - found["begun"]
    found["load_after"] = os.getloadavg()
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "speed.json").write_text(json.dumps(found, indent=1) + "\n")
    table = report.markdown(found)
    (workdir / "speed.md").write_text(table + "\n")
    say(f"\n{table}\n\n{workdir / 'speed.json'}, {workdir / 'speed.md'}")
    return found


def _macs(found: dict[str, Any], num_classes: int, infer_size: tuple[int, int]) -> dict[str, int]:
    """Multiply-accumulates of a training step, and of one image by size.

    A pass forward counts once, the gradients of inputs and of weights once each. The discriminator
    sees both domains and gets three passes for each, and one more for the generator's gradient.
    """
    crop, name = tuple(found["crop"]), found["model"]
    sizes = {crop, infer_size}
    macs = {s: cost.model_cost(name, num_classes=num_classes, size=s).macs for s in sizes}
    step = 3 * found["domains"] * found["batch_size"] * macs[crop]
    if found["adversary"]:
        d = cost.discriminator_cost(found["adversary"], in_channels=num_classes, size=crop)
        step += 7 * found["batch_size"] * d.macs
    return {"step": step, **{f"{h}x{w}": count for (h, w), count in macs.items()}}


class _Bench:
    """What all processes of one benchmark share."""

    def __init__(self, stage: Any, settings: dict, target: bool, folder: pathlib.Path) -> None:
        self.settings, self.folder = settings, folder
        (folder / "config").write_bytes(pickle.dumps(stage))
        crop = tuple(stage.benchmark.crop)
        sizes = sorted({crop, tuple(settings["infer_size"])}, key=lambda s: s[0] * s[1])
        made = recipe(stage)
        self.spec = {
            "config": str(folder / "config"),
            "recipe": made,
            "sizes": sizes,
            "batch": {
                "count": stage.batch_size,
                "size": crop,
                "num_classes": made["num_classes"],
                "target": target,
            },
        }

    def compare(self, job: str, reason: str) -> dict[str, Any]:
        """Rounds of both sides, `reason` being why theirs can not run."""
        rounds = self.settings["rounds"]
        runs: dict[str, list] = {"ours": [], "theirs": [], "slower": []}
        form = ""
        for index in range(rounds):
            tag = f"{job}, round {index + 1}/{rounds}"
            mine = self._process(job, "ours", parts=index == 0)
            runs["ours"].append(mine)
            say(f"{tag}: ours {_summary(mine)}")
            if reason:
                continue
            forms = (form,) if form else FORMS.get((mine["platform"], job), ("channels_last",))
            results = []
            for form in forms:
                theirs = self._process(
                    job, "theirs", parts=index == 0, form=form, platform=mine["platform"]
                )
                if reason := theirs.get("not_run", ""):
                    break
                results.append(theirs)
                say(f"{tag}: PyTorch {form} {_summary(theirs)}")
            if not reason:
                results.sort(key=speed_of)
                runs["theirs"].append(results[0])
                runs["slower"] += results[1:]
                form = results[0]["form"]
        if reason:
            say(f"{job}: PyTorch not run: {reason}")
        return {**runs, "not_run": reason}

    def _process(self, job: str, side: str, **more: Any) -> dict[str, Any]:
        launched = time.time()
        steps = self.settings[f"{job}_steps"]
        spec = {**self.spec, "side": side, "job": job, "steps": steps, **more}
        given, result = self.folder / "spec.json", self.folder / "result.json"
        given.write_text(json.dumps(spec))
        result.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.worker", str(given), str(result)],
            cwd=ROOT,
            env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(self.folder / "compiled")},
            capture_output=True,
            text=True,
        )
        if done.returncode or not result.exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            if side == "theirs":
                return {"not_run": f"the process ended with {done.returncode}: {last}"}
            raise RuntimeError(f"{job} of ours ended with {done.returncode}: {done.stderr[-2000:]}")
        found = json.loads(result.read_text())
        if job == "train" and "reached" in found:
            found["to_first_step"] = found.pop("reached") - launched
        return found


def speed_of(result: dict[str, Any]) -> float:
    """Median seconds of a process: its step, or its pass at the largest size."""
    if "seconds" in result:
        return report.step_time(result)
    return report.image_time(result, list(result["sizes"])[-1])


def _summary(result: dict[str, Any]) -> str:
    if "seconds" in result:
        first = f", first step after {result['to_first_step']:.1f} s"
        return f"{1e3 * speed_of(result):.0f} ms a step{first}"
    size = list(result["sizes"])[-1]
    return f"{1e3 * speed_of(result):.1f} ms an image of {size}"
