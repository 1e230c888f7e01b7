"""Draws what each ingredient of self-training is worth, from the runs of `methods.py`.

    python benchmarks/ingredients.py runs/methods docs/ingredients.svg

A line for each row that was run: the mIoU of each seed, the mean and the standard deviation.
"""

import argparse
import json
import pathlib
from typing import NamedTuple

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

# What the figure shows: words, row, evaluation. A line with a plus has what the lines above it
# have, back to the teacher's.
LINES = (
    ("source only", "adabn", "eval_source_only"),
    ("the target's statistics (AdaBN)", "adabn", "eval_adabn"),
    ("a discriminator of the output", "adversarial", "evaluate"),
    ("teacher, mixing, rare classes", "teacher", "eval_student"),
    ("+ FDA", "teacher_fda", "eval_student"),
    ("+ masked images", "masked_fda", "eval_student"),
    ("+ feature distance (MIC + FDA)", "mic_fda", "eval_student"),
    ("target only (oracle)", "target_only", "evaluate"),
)


class Line(NamedTuple):
    """A line of the figure: its words, the mIoU in % of each seed, their mean and deviation."""

    words: str
    values: list[float]
    mean: float
    std: float


def read(folder: pathlib.Path) -> list[Line]:
    """Returns the lines whose rows were run in a folder of `methods.py`."""
    lines = []
    for words, row, evaluation in LINES:
        path = folder / row / "summary.json"
        if path.is_file():
            miou = json.loads(path.read_text())["stages"][evaluation]["miou"]
            values = [100 * value for value in miou["values"]]
            std = miou["std"] or 0.0  # one seed has none
            lines.append(Line(words, values, 100 * miou["mean"], 100 * std))
    return lines


def draw(lines: list[Line], path: pathlib.Path) -> None:
    """Writes the figure as SVG."""
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "rtda_jax", "font.size": 10})
    figure, axes = plt.subplots(figsize=(6.5, 0.42 * len(lines) + 0.8))
    for place, line in enumerate(reversed(lines)):
        axes.errorbar(line.mean, place, xerr=line.std, fmt="o", color="#1f5fa8", capsize=3)
        axes.scatter(line.values, [place] * len(line.values), s=9, color="#9aa5b1", zorder=3)
        words = f"{line.mean:.1f} ± {line.std:.1f}"
        where = ("axes fraction", "data")
        axes.annotate(words, (1.02, place), xycoords=where, va="center", fontsize=9)
    axes.set_yticks(range(len(lines)), [line.words for line in reversed(lines)])
    axes.set_xlabel("mIoU, %: each seed, mean and standard deviation")
    axes.grid(axis="x", color="#e3e6ea")
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    figure.patch.set_facecolor("white")
    figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=pathlib.Path, help="the workdir of benchmarks/methods.py")
    parser.add_argument("figure", type=pathlib.Path, help="the SVG file that is written")
    flags = parser.parse_args()
    draw(read(flags.runs), flags.figure)
