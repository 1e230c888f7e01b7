"""Runs rounds of processes, in which both sides take turns."""

import json
import math
import os
import pathlib
import pickle
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any

from benchmarks import report
from benchmarks.recipe import recipe
from rtda_jax.run.log import say

ROOT = pathlib.Path(__file__).resolve().parents[1]

FORMS = {
    ("cpu", "train"): ("channels_last", "contiguous"),
    ("cpu", "infer"): ("channels_last", "contiguous"),
    ("gpu", "train"): ("compile_amp",),
    ("gpu", "infer"): ("compile_amp", "cuda_graphs_amp"),
}


class Bench:
    """What all processes of one benchmark share."""

    def __init__(
        self,
        stage: Any,
        settings: dict[str, Any],
        folder: pathlib.Path,
        *,
        sizes: Iterable[tuple[int, int]],
        target: bool = False,
    ) -> None:
        self.settings, self.folder = settings, folder
        (folder / "config").write_bytes(pickle.dumps(stage))
        chosen, ordered = recipe(stage), sorted(sizes, key=math.prod)
        self.spec = {
            "config": str(folder / "config"),
            "recipe": chosen,
            "sizes": ordered,
            "batch": {
                "count": stage.batch_size,
                "size": tuple(stage.benchmark.crop),
                "num_classes": chosen["num_classes"],
                "target": target,
            },
        }

    def compare(self, job: str, reason: str, *, detail: int = 1) -> dict[str, Any]:
        """Runs rounds of both sides; `reason` says why theirs cannot run, if it cannot.

        The first `detail` rounds of inference also time parts of the pass.
        """
        rounds = self.settings["rounds"]
        runs: dict[str, list] = {"ours": [], "theirs": [], "slower": []}
        form = ""
        for index in range(rounds):
            tag = f"{job}, round {index + 1}/{rounds}"
            mine = self._process(job, "ours", parts=index < detail)
            runs["ours"].append(mine)
            say(f"{tag}: ours {_summary(mine)}")
            if reason:
                continue
            forms = (form,) if form else FORMS.get((mine["platform"], job), ("channels_last",))
            results = []
            for form in forms:
                theirs = self._process(
                    job, "theirs", parts=index < detail, form=form, platform=mine["platform"]
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
        measured = json.loads(result.read_text())
        if job == "train" and "reached" in measured:
            measured["to_first_step"] = measured.pop("reached") - launched
        return measured


def speed_of(result: dict[str, Any]) -> float:
    """Returns the median seconds of a process: its step, or its pass at the largest size."""
    if "seconds" in result:
        return report.step_time(result)
    return report.image_time(result, list(result["sizes"])[-1])


def _summary(result: dict[str, Any]) -> str:
    if "seconds" in result:
        first = f", first step after {result['to_first_step']:.1f} s"
        return f"{1e3 * speed_of(result):.0f} ms a step{first}"
    size = list(result["sizes"])[-1]
    return f"{1e3 * speed_of(result):.1f} ms an image of {size}"
