"""Runs the accelerator benchmark section by section within a time budget; see benchmarks/gpu.sh."""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks.gpu import plan, table
from benchmarks.gpu.record import write_json

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARE = 0.5  # the share of the budget for sections that run at once
TOY_FLAGS = "--xla_backend_optimization_level=0"  # it compiles in half the time
LIMIT = 150.0  # seconds of one section, so that one that hangs leaves time to the others
POLL = 0.1  # seconds between looks at a child
GRACE = 4.0  # seconds that a child has beyond its own deadline before it is ended


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=pathlib.Path, help="folder of gpu.json and gpu.md")
    parser.add_argument("--toy", action="store_true", help="toy sizes")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds for everything")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for one section")
    parser.add_argument("--models", default="", help=f"comma-separated; of {plan.MODELS}")
    parser.add_argument("--only", default="", help="comma-separated functions of sections")
    parser.add_argument("--cache", default="", help="compilation caches to keep; default fresh")
    return parser.parse_args()


def line_of(command: list[str]) -> str | None:
    """Returns what a command prints, or None if it cannot run."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def machine() -> dict[str, Any]:
    """Describes the GPU and its driver, the commit and the cores."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return {
        "gpu": line_of(query),
        "commit": line_of(["git", "rev-parse", "--short=12", "HEAD"]),
        "cores": len(os.sched_getaffinity(0)),
        "python": sys.version.split()[0],
    }


class Child:
    """A section that runs in its own process.

    Args:
      section: the section to run.
      spec: the settings that all sections share.
      deadline: time.time() after which it begins no part; it is ended a little later.
    """

    def __init__(self, section: plan.Section, spec: dict[str, Any], *, deadline: float) -> None:
        self.section, self.deadline, self.begin = section, deadline, time.time()
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=spec["folder"]))
        given = self.folder / "spec.json"
        known = spec["recipes"].get(section.model, {})
        mine = {"model": section.model, "recipes": known, "deadline": deadline}
        given.write_text(json.dumps({**spec, **mine}))
        self.log = (self.folder / "log").open("w")
        words = ("-m", "benchmarks.gpu.child", section.function)
        self.process = subprocess.Popen(
            [sys.executable, *words, str(given), str(self.folder / "result.json")],
            cwd=ROOT,
            env=environment(pathlib.Path(spec["cache"]), toy=spec["sizes"] == "toy"),
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def ended(self) -> bool:
        """Tells whether it has ended, or has to be."""
        return self.process.poll() is not None or time.time() > self.deadline + GRACE

    def result(self) -> dict[str, Any]:
        """Ends it if it has not, and returns what it measured."""
        codes = {None: "ended at its time limit", 0: "ok"}
        status = codes.get(self.process.poll(), "failed")
        # Compiler workers of a dead child would go on and disturb the sections after it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()
        result = self.folder / "result.json"
        text = (self.folder / "log").read_text(errors="replace")
        parts = json.loads(result.read_text()) if result.exists() else {}
        broken = [name for name, part in parts.items() if "error" in part]
        return {
            "status": "parts failed" if status == "ok" and broken else status,
            "failed_parts": broken,
            "seconds": time.time() - self.begin,
            "parts": parts,
            "log": text[-3000:],
        }


def environment(cache: pathlib.Path, *, toy: bool) -> dict[str, str]:
    """Returns the environment of a child: compilation caches, and memory taken as it is needed."""
    return {
        **os.environ,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_COMPILATION_CACHE_DIR": str(cache / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **({"XLA_FLAGS": TOY_FLAGS} if toy else {}),
    }


def recipes(models: list[str]) -> dict[str, Any]:
    """Makes the recipe of each PyTorch twin, by network and method, in another process."""
    code = (
        "import json, sys; from benchmarks.gpu import recipes;"
        "print(json.dumps(recipes.of(sys.argv[1:])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *models],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"no recipes for {models}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run(flags: argparse.Namespace, spec: dict[str, Any]) -> dict[str, Any]:
    """Runs all sections; the files are written after each of them."""
    end = time.time() + flags.budget
    report: dict[str, Any] = {"machine": machine(), "sizes": spec["sizes"], "sections": {}}
    out, only = flags.out, [name for name in flags.only.split(",") if name]

    def store(section: plan.Section, result: dict[str, Any]) -> None:
        report["sections"][section.name] = result
        report["seconds"] = flags.budget - (end - time.time())
        write_json(out / "gpu.json", report)
        (out / "gpu.md").write_text(table.markdown(report))
        words = ", ".join(result.get("failed_parts", []))
        seconds = result.get("seconds", 0.0)
        print(f"{section.name}: {result['status']}, {seconds:.0f} s {words}", flush=True)
        if result["status"] != "ok" and "log" in result:
            print("    " + "\n    ".join(result["log"].splitlines()[-6:]), flush=True)

    def wanted(sections: list[plan.Section]) -> list[plan.Section]:
        return [s for s in sections if not only or s.function in only]

    try:
        spec["recipes"] = recipes(spec["models"])
    except RuntimeError as error:  # ours can still be measured
        spec["recipes"] = {}
        report["recipes_failed"] = str(error)[-2000:]
        print(f"no PyTorch twins: {error}", flush=True)
    middle = time.time() + SHARE * flags.budget
    children = [Child(s, spec, deadline=middle) for s in wanted(plan.first(spec["models"]))]
    while children:
        time.sleep(POLL)
        for child in [c for c in children if c.ended()]:
            children.remove(child)
            store(child.section, child.result())
    for section in wanted(plan.then(spec["models"])):
        if time.time() > end - 10:
            store(section, {"status": "skipped: the time budget is spent"})
            continue
        child = Child(section, spec, deadline=min(end - GRACE, time.time() + flags.limit))
        while not child.ended():
            time.sleep(POLL)
        store(section, child.result())
    return report


def main() -> None:
    """Runs the benchmark; exits with 1 where any section failed."""
    flags = arguments()
    flags.out = flags.out.resolve()
    flags.out.mkdir(parents=True, exist_ok=True)
    models = [name for name in flags.models.split(",") if name] or [plan.MAIN]
    with tempfile.TemporaryDirectory(prefix="rtda_jax_gpu") as folder:
        spec = {
            "sizes": "toy" if flags.toy else "full",
            "models": models,
            "train_methods": ["fda", "source_only"],
            "threads": min(max(len(os.sched_getaffinity(0)) - 2, 1), 10),
            "folder": folder,
            "cache": flags.cache or folder,
            "out": str(flags.out),
        }
        report = run(flags, spec)
    print((flags.out / "gpu.md").read_text())
    bad = [n for n, s in report["sections"].items() if s["status"] in ("failed", "parts failed")]
    if bad:
        raise SystemExit(f"failed: {', '.join(bad)}")


if __name__ == "__main__":
    main()
