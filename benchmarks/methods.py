"""Runs every method on one benchmark with several seeds, and writes one report about them.

    python benchmarks/methods.py                          # streets, three seeds, runs/methods
    python benchmarks/methods.py --rows source_only,fda_mbt,target_only --seeds 1
    python benchmarks/methods.py --benchmark synth_to_camvid --data_dir DIR --seeds 1
    python benchmarks/methods.py --pretrained bisenet_lite0 -- --config.steps=400

What follows `--` goes to every run. Runs follow each other seed by seed, all rows of the first seed
first; what is finished is skipped, so that the same command goes on after an interruption. Ends
with the exit code of the run that failed, if one does.
"""

import pathlib
import subprocess
import sys

from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[1]

# Name of a row -> configuration file of `configs/` and its options.
ROWS = {
    "source_only": ("source_only", ""),
    "colour": ("source_only", "colour=0.5"),
    "adabn": ("adabn", ""),
    "adversarial": ("adversarial", ""),
    "fcd_light": ("adversarial", "network=fcd_light"),
    "multi": ("adversarial", "level=multi"),
    "three": ("adversarial", "level=three"),
    "feature": ("adversarial", "level=feature"),
    "minent": ("minent", ""),
    "advent": ("advent", ""),
    "fda_mbt": ("fda_mbt", ""),
    # The same two bands and their fusion, then self-training and its control.
    "fda_ssl": ("fda_ssl", "control=yes"),
    "ssl_study": ("ssl_study", ""),
    "dacs": ("dacs", ""),
    "tufl_parts": ("tufl_parts", ""),
    "target_only": ("target_only", ""),
    "fda": ("fda", ""),  # one band of fda_mbt
    # Modern self-training, one more ingredient in each row. These networks have ImageNet trunks.
    "rare": ("source_only", "rare=0.1"),
    "teacher": ("daformer", "distance=0"),
    "teacher_fda": ("daformer", "distance=0,fda=0.01"),
    "daformer": ("daformer", ""),
    "daformer_fda": ("daformer", "fda=0.01"),
    "masked_fda": ("mic", "distance=0,fda=0.01"),  # teacher_fda and masked images
    "mic": ("mic", ""),
    "mic_fda": ("mic", "fda=0.01"),
    "distill": ("distill", "fda=0.01"),
    "distill_online": ("distill", "labels=online,fda=0.01"),
}
DOCUMENTS = list(ROWS)[: list(ROWS).index("target_only") + 1]

_ROWS = flags.DEFINE_list("rows", DOCUMENTS, f"Which of {', '.join(ROWS)}.")
_BENCHMARK = flags.DEFINE_string("benchmark", "streets", "A pair of configs/benchmarks.py.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds 0..N-1 of every row.", lower_bound=1)
_PRETRAINED = flags.DEFINE_string("pretrained", "", "A network with ImageNet weights for all rows.")
_WORKDIR = flags.DEFINE_string("workdir", "", "Where all runs go; default runs/methods.")
_DATA_DIR = flags.DEFINE_string("data_dir", "", "Where data sets lie; default the cache.")


def command(
    row: str, *, benchmark: str, seeds: int, folder: pathlib.Path, pretrained: str = ""
) -> list[str]:
    """Returns the command line of the first seeds of a row, as a user would type it."""
    name, options = ROWS[row]
    network = f"pretrained={pretrained}" if pretrained else ""
    argument = ",".join(part for part in (benchmark, options, network) if part)
    return [
        *(sys.executable, "main.py", "--config", f"configs/{name}.py:{argument}"),
        *(f"--seeds={seeds}", "--workdir", str(folder / row)),
    ]


def main(argv: list[str]) -> int:
    """Runs the rows, then the report."""
    if unknown := [row for row in _ROWS.value if row not in ROWS]:
        raise app.UsageError(f"no row {', '.join(unknown)}; known: {', '.join(ROWS)}")
    folder = pathlib.Path(_WORKDIR.value or ROOT / "runs" / "methods").expanduser().resolve()
    data = []
    if _DATA_DIR.value:
        data = ["--data_dir", str(pathlib.Path(_DATA_DIR.value).expanduser().resolve())]
    for seeds in range(1, _SEEDS.value + 1):
        for row in _ROWS.value:
            line = command(
                row,
                benchmark=_BENCHMARK.value,
                seeds=seeds,
                folder=folder,
                pretrained=_PRETRAINED.value,
            )
            line += data + argv[1:]
            print(f"\n##### {row}, {seeds} of {_SEEDS.value}: {' '.join(line[1:])}", flush=True)
            if code := subprocess.run(line, cwd=ROOT).returncode:
                return code
    runs = [str(folder / row) for row in _ROWS.value]
    report = [sys.executable, "main.py", "--job=report", "--output", str(folder / "report")]
    return subprocess.run([*report, *runs], cwd=ROOT).returncode


if __name__ == "__main__":
    app.run(main)
