"""A process of the accelerator benchmark: `python -m benchmarks.gpu.child FUNCTION SPEC RESULT`."""

import importlib
import json
import pathlib
import sys

from benchmarks.gpu.record import Record

# The module and the function of each section; a process imports the one it runs.
SECTIONS = {
    "correctness": ("correctness", "run"),
    "ours_compile": ("ours", "compile_all"),
    "theirs_compile": ("theirs", "compile_all"),
    "deterministic_compile": ("deterministic", "compile_all"),
    "ours": ("ours", "run"),
    "theirs": ("theirs", "run"),
    "taught": ("ours", "run_taught"),
    "trace": ("trace", "run"),
    "parts": ("parts", "run"),
    "feed": ("feed", "run"),
    "deterministic": ("deterministic", "run"),
}


def main() -> None:
    """Runs one section; what it measured is in the result file, part by part."""
    function, given, result = sys.argv[1:]
    spec = json.loads(pathlib.Path(given).read_text())
    record = Record(pathlib.Path(result), deadline=spec["deadline"])
    module, name = SECTIONS[function]
    getattr(importlib.import_module(f"benchmarks.gpu.{module}"), name)(spec, record)


if __name__ == "__main__":
    main()
