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
from typing import Literal, NamedTuple

from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[1]


class Row(NamedTuple):
    """A row of the table: how one method is run.

    Attributes:
      config: a configuration file of `configs/`.
      options: its options.
      flags: further flags.
      initial: "flag" starts from the weights that --pretrained names, "random" never does.
    """

    config: str
    options: str = ""
    flags: tuple[str, ...] = ()
    initial: Literal["flag", "random"] = "flag"


ROWS = {
    "source_only": Row("source_only"),
    "colour": Row("source_only", "colour=0.5"),
    "adabn": Row("adabn"),
    "adversarial": Row("adversarial"),
    "fcd_light": Row("adversarial", "network=fcd_light"),
    "multi": Row("adversarial", "level=multi"),
    "three": Row("adversarial", "level=three"),
    "feature": Row("adversarial", "level=feature"),
    "minent": Row("minent"),
    "advent": Row("advent"),
    "fda_mbt": Row("fda_mbt"),
    # The same two bands and their fusion, then self-training and its control.
    "fda_ssl": Row("fda_ssl", "control=yes"),
    "ssl_study": Row("ssl_study"),
    "dacs": Row("dacs"),
    "tufl_parts": Row("tufl_parts"),
    "target_only": Row("target_only"),
    "fda": Row("fda"),  # one band of fda_mbt
    # What --pretrained brings along: the weights, and the recipe's jitter of colours.
    "no_jitter": Row("adabn", flags=("--config.augment.texture=none",)),
    "random_weights": Row("adabn", initial="random"),
    # Modern self-training, one more ingredient in each row. These networks have ImageNet trunks.
    "rare": Row("source_only", "rare=0.1"),
    "teacher": Row("daformer", "distance=0"),
    "teacher_fda": Row("daformer", "distance=0,fda=0.01"),
    "teacher_fda_longer": Row("daformer", "distance=0,fda=0.01", ("--config.steps=1600",)),
    "daformer": Row("daformer"),
    "daformer_fda": Row("daformer", "fda=0.01"),
    "masked_fda": Row("mic", "distance=0,fda=0.01"),  # teacher_fda and masked images
    "mic": Row("mic"),
    "mic_fda": Row("mic", "fda=0.01"),
    "distill": Row("distill", "fda=0.01"),
    "distill_soft": Row("distill", "labels=soft,fda=0.01"),
    "distill_daformer": Row("distill", "method=daformer,labels=soft,fda=0.01"),  # without masks
    "distill_online": Row("distill", "labels=online,fda=0.01"),
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
    chosen = ROWS[row]
    network = f"pretrained={pretrained}" if pretrained and chosen.initial == "flag" else ""
    argument = ",".join(part for part in (benchmark, chosen.options, network) if part)
    return [
        *(sys.executable, "main.py", "--config", f"configs/{chosen.config}.py:{argument}"),
        *(f"--seeds={seeds}", "--workdir", str(folder / row), *chosen.flags),
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
    report = [sys.executable, "main.py", "report", "--output", str(folder / "report")]
    return subprocess.run([*report, *runs], cwd=ROOT).returncode


if __name__ == "__main__":
    app.run(main)
