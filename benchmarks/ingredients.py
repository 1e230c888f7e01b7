"""Draws what each method and each ingredient is worth, from the scores of `methods.py`'s runs.

    python benchmarks/ingredients.py docs/ingredients.json                       # draws it again
    python benchmarks/ingredients.py docs/ingredients.json runs/camvid runs/idd

Folders of runs replace the scores of their rows in the file, whose figure has the same name and
ends in `.svg`. It has a panel for each benchmark, and in it a line for each row that was run: the
mIoU of each seed, the mean and the standard deviation.
"""

import argparse
import json
import pathlib
import statistics
from typing import NamedTuple

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

Scores = dict[str, dict[str, list[float]]]  # benchmark -> ROW/EVALUATION -> mIoU in % of each seed

# What the figure shows: words, row, evaluation. A line with a plus has what the lines above it
# have, back to the one without.
LINES = (
    ("source only, ResNet-18, random weights", "random_weights", "eval_source_only"),
    ("source only, without colour jitter", "no_jitter", "eval_source_only"),
    ("source only", "adabn", "eval_source_only"),
    ("source only, rare classes", "rare", "evaluate"),
    ("the target's statistics (AdaBN)", "adabn", "eval_adabn"),
    ("a discriminator of the output", "adversarial", "evaluate"),
    ("+ FDA, two bands fused (MBT)", "fda_ssl", "eval_mbt"),
    ("+ training on MBT's labels", "fda_ssl", "eval_ssl"),
    ("as many steps without them", "fda_ssl", "eval_control"),
    ("class mixing, averaged teacher (DACS)", "dacs", "eval_student"),
    ("teacher of target statistics, mixing", "teacher", "eval_student"),
    ("+ FDA, one band", "teacher_fda", "eval_student"),
    ("+ masked images", "masked_fda", "eval_student"),
    ("+ feature distance (MIC + FDA)", "mic_fda", "eval_student"),
    ("teacher, mixing, FDA, twice the steps", "teacher_fda_longer", "eval_student"),
    ("distilled from Lite2, its stored labels", "distill", "eval_small"),
    ("its probabilities, mixing, masks", "distill_soft", "eval_small"),
    ("the same of a Lite2 without masks", "distill_daformer", "eval_small"),
    ("target only (oracle)", "target_only", "evaluate"),
)


class Line(NamedTuple):
    """A line of a panel: its words, the mIoU in % of each seed, their mean and deviation."""

    words: str
    values: list[float]
    mean: float
    std: float


class Panel(NamedTuple):
    """The runs of one benchmark: its name and the lines that were run."""

    benchmark: str
    lines: list[Line]


def read(folder: pathlib.Path) -> Scores:
    """Returns the scores of the rows that were run in a folder of `methods.py`."""
    scores: Scores = {}
    for _, row, evaluation in LINES:
        path = folder / row / "summary.json"
        if path.is_file():
            summary = json.loads(path.read_text())
            values = [round(100 * v, 3) for v in summary["stages"][evaluation]["miou"]["values"]]
            scores.setdefault(summary["benchmark"], {})[f"{row}/{evaluation}"] = values
    if not scores:
        raise SystemExit(f"{folder} holds no finished row of benchmarks/methods.py")
    return scores


def panels(scores: Scores) -> list[Panel]:
    """Returns what is drawn of the scores; the deviation of one seed is 0."""
    drawn = []
    for benchmark, rows in scores.items():
        lines = []
        for words, row, evaluation in LINES:
            values = rows.get(f"{row}/{evaluation}")
            if values:
                std = statistics.stdev(values) if len(values) > 1 else 0.0
                lines.append(Line(words, values, statistics.fmean(values), std))
        drawn.append(Panel(benchmark, lines))
    return drawn


def draw(scores: Scores, path: pathlib.Path) -> None:
    """Writes the figure of all scores as SVG."""
    shown = panels(scores)
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "rtda_jax", "font.size": 10})
    run = {line.words for panel in shown for line in panel.lines}
    words = [words for words, _, _ in reversed(LINES) if words in run]
    size = (3.4 * len(shown) + 2.2, 0.36 * len(words) + 0.9)
    figure, row = plt.subplots(1, len(shown), figsize=size, sharey=True, squeeze=False)
    for axes, panel in zip(row[0], shown, strict=True):
        for line in panel.lines:
            place = words.index(line.words)
            axes.errorbar(line.mean, place, xerr=line.std, fmt="o", color="#1f5fa8", capsize=3)
            axes.scatter(line.values, [place] * len(line.values), s=9, color="#9aa5b1", zorder=3)
            number = f"{line.mean:.1f} ± {line.std:.1f}" if line.std else f"{line.mean:.1f}"
            where = ("axes fraction", "data")
            axes.annotate(number, (1.02, place), xycoords=where, va="center", fontsize=9)
        axes.set_yticks(range(len(words)), words)
        axes.set_title(panel.benchmark, fontsize=10, loc="left")
        axes.set_xlabel("mIoU, %")
        axes.grid(axis="x", color="#e3e6ea")
        axes.set_axisbelow(True)
        axes.tick_params(left=False)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    figure.subplots_adjust(wspace=0.32)
    figure.patch.set_facecolor("white")
    figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scores", type=pathlib.Path, help="the JSON file of all scores")
    parser.add_argument("runs", type=pathlib.Path, nargs="*", help="workdirs of methods.py")
    flags = parser.parse_args()
    known: Scores = json.loads(flags.scores.read_text()) if flags.scores.exists() else {}
    for folder in flags.runs:
        for name, rows in read(folder).items():
            known.setdefault(name, {}).update(rows)
    flags.scores.write_text(json.dumps(known, indent=1) + "\n")
    draw(known, flags.scores.with_suffix(".svg"))
