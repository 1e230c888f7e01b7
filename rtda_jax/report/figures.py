"""Draws the figures of a report with matplotlib, as SVG that takes its colours from the page.

Inks are written as custom properties of CSS (`var(--ink)`), so that a drawing follows light and
dark mode. The `<title>` of a mark describes it, and a browser shows it as a tooltip.
"""

import io
import itertools
import pathlib
import re
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from rtda_jax.data.labels import class_set
from rtda_jax.report.compare import COLOURS, Board, Series, Summary, summarise
from rtda_jax.report.runs import HEALTH
from rtda_jax.run.log import ACCURACY

# Each ink is drawn in a unique colour, which is then replaced by the ink's name.
INKS = {
    name: f"#0bad{i:02x}"
    for i, name in enumerate(
        ("ink", "soft", "faint", "line", "paper", "ground", *(f"c{i}" for i in range(COLOURS)))
    )
}
DASHES = ("-", (0, (4, 2)), (0, (1, 2)))
WIDTH = 340  # pixels of most drawings, about a phone's
DOMAINS = {"source": 5, "target": 4}  # colours of a discriminator's curves
LONGEST, SHORT = 60, 24  # characters of a label inside a drawing, of a class's name
MOST_CELLS = 4000  # of a confusion matrix
STYLESHEET = pathlib.Path(__file__).with_name("page.css")
POINTS = 160  # points of a curve at most; more would not be visible
BESIDE: Any = {"textcoords": "offset points", "va": "center"}
MARK: Any = {"color": INKS["ink"], "clip_on": False}
STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # labels come from names of folders
    "font.family": ["DejaVu Sans"],  # only for measuring: the page's own font is shown
    "font.size": 10,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.edgecolor": INKS["faint"],
    "axes.axisbelow": True,
    "grid.color": INKS["line"],
    "grid.linewidth": 1,
    "text.color": INKS["ink"],
    "axes.labelcolor": INKS["soft"],
    "xtick.color": INKS["faint"],
    "ytick.color": INKS["faint"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "lines.solid_capstyle": "round",
    "lines.linewidth": 1.8,
}
# Parts of matplotlib's SVG that a page does not need, and their replacements.
SLIMMER = (
    (r"^.*?(?=<svg)|<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", ""),
    (r"<svg .*?(viewBox=\S+ \S+ \S+ \S+)[^>]*", r'<svg \1 role="img"'),
    (r' id="[a-zA-Z.\d]+_\d+"| font-family: [^;"]*;| transform="rotate\(-0 [^"]*"', ""),
    (r"xlink:(?=href)", ""),
    (r">\s+<", "><"),
    (r"\s*\n\s*", " "),
    (r"<g></g>|<g/>|<defs></defs>|<defs/>", ""),
    (r"<g></g>", ""),
    ('<g id="tip\x1f([^\x1f]*)\x1f([^\x1f]*)\x1f">', r'<g data-method="\1"><title>\2</title>'),
    (r' data-method=""', ""),
)


class Panel(NamedTuple):
    """One drawing: its name, which is also that of its file, its SVG, its title, and its method."""

    name: str
    svg: str
    title: str
    method: str = ""


class Key(NamedTuple):
    """An entry of a legend: the meaning of a colour and a dash."""

    label: str
    colour: int
    dash: int = 0


def ink(colour: int) -> str:
    """Returns the ink of the colour with a number."""
    return INKS[f"c{colour % COLOURS}"]


def canvas(height: float, margins: Sequence[float], *, width: float = WIDTH) -> Axes:
    """Returns axes of a size in pixels, with margins at the left, right, top and bottom."""
    left, right, top, bottom = margins
    figure = Figure(figsize=(width / 72, height / 72), frameon=False)
    corner = (left / width, bottom / height)
    size = ((width - left - right) / width, (height - top - bottom) / height)
    return figure.add_axes((*corner, *size), facecolor="none")


def tip(artists: Sequence[Artist], words: str, *, method: str = "") -> None:
    """Gives marks a tooltip, and the name of the method for the page's filter."""
    for artist in artists:
        artist.set_gid(f"tip\x1f{method}\x1f{words}\x1f")  # no text of a run contains \x1f


def render(axes: Axes, title: str) -> str:
    """Returns axes as an SVG element with inks and tooltips, without unneeded parts."""
    stream = io.StringIO()
    figure = axes.get_figure(root=True)
    with matplotlib.rc_context({"svg.hashsalt": title}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the measuring font lacks
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(stream, metadata=nothing)
    text = stream.getvalue()
    for pattern, instead in SLIMMER:
        text = re.sub(pattern, instead, text, flags=re.DOTALL)
    text = re.sub(r"<(?!g data-method=)[^>]+>", _shorter, text)
    for name, colour in INKS.items():
        text = text.replace(colour, f"var(--{name})")
    return text.strip().replace('role="img"', f'role="img" aria-label="{escape(title)}"', 1)


def _shorter(tag: re.Match[str]) -> str:
    """Returns a tag with numbers of two decimals and without superfluous spaces."""
    number = re.compile(r"-?\d+\.\d{3,}")
    text = number.sub(lambda n: f"{float(n[0]):.2f}".rstrip("0").rstrip("."), tag[0])
    return re.sub(r"(?<=[:;]) | (?=\"/?>)", "", text)


def standalone(svg: str, title: str = "") -> str:
    """Returns a drawing as a file of its own, with its inks for light and dark, and its title."""
    width, height = (float(v) for v in re.findall(r"[\d.]+", svg.split('"')[1])[2:])
    head = 20 if title else 0
    style = STYLESHEET.read_text(encoding="utf-8").split("/* end of what drawings need */")[0]
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" '
        f'viewBox="0 {-head} {width:g} {height + head:g}"><style>{style}</style>'
        f'<rect y="{-head}" width="100%" height="100%" fill="var(--paper)"/>'
    )
    words = f'<text x="2" y="-6" class="title">{escape(title)}</text>' if title else ""
    return opening + words + svg[svg.index(">") + 1 :] + "\n"


@matplotlib.rc_context(STYLE)
def class_bars(row: Series, board: Board) -> Panel:
    """Draws the IoU of each class in percent, with each seed and a mark at source only."""
    reference, _ = board.ends(row.budget)
    marks = reference.iou if reference and reference is not row else {}
    colours = class_set(board.protocol["classes"]).colours
    classes = row.iou
    axes = canvas(17 * len(classes) + 24, (104, 40, 4, 20))
    swatches: Any = {"transform": axes.get_yaxis_transform(), "marker": "s", "clip_on": False}
    swatches |= {"s": 81, "color": np.divide(colours, 255), "edgecolor": INKS["faint"], "lw": 0.5}
    axes.scatter([-0.5] * len(classes), range(len(classes)), **swatches)
    axes.set(xlim=(0, 100), ylim=(len(classes) - 0.5, -0.5), yticks=[])
    axes.spines["bottom"].set_visible(False)
    axes.grid(axis="x")
    for i, (name, iou) in enumerate(classes.items()):
        axes.annotate(name[:SHORT], (0, i), (-88, 0), fontsize=11, **BESIDE)
        if iou is None:
            axes.text(2, i, "n/a", va="center", color=INKS["faint"])
            continue
        values = [100 * v for v in iou.values]
        words = f"{name}: {100 * iou.mean:.1f}"
        if len(values) > 1:
            axes.plot(values, [i] * len(values), "o", ms=3.6, mew=0, alpha=0.6, **MARK)
            words += f" ({', '.join(f'{v:.1f}' for v in values)})"
        mark = marks.get(name)
        if mark is not None:
            axes.plot([100 * mark.mean] * 2, [i - 0.4, i + 0.4], lw=1.6, **MARK)
            words += f", source only {100 * mark.mean:.1f}"
        bar = axes.barh(i, 100 * iou.mean, 0.6, color=ink(row.colour), alpha=0.82, clip_on=False)
        tip(bar.patches, words)
        axes.annotate(f"{100 * iou.mean:.1f}", (100, i), (38, 0), ha="right", fontsize=11, **BESIDE)
    title = f"IoU per class of {row.label}"
    return Panel(f"iou-{row.label}", render(axes, title), "IoU of each class, %", row.label)


@matplotlib.rc_context(STYLE)
def confusion(row: Series, board: Board) -> Panel:
    """Draws the confusion matrix over all seeds: each row in percent of the true class's pixels."""
    names = [name[:SHORT] for name in class_set(board.protocol["head_classes"]).names]
    total = np.sum([e.confusion for e in row.evaluations.values()], axis=0, dtype=np.float64)
    shares = total / np.maximum(total.sum(1, keepdims=True), 1)
    cell, count = 24, len(names)
    least = max(0.01, count / MOST_CELLS)  # shares of a row sum to 1
    side = cell * count
    axes = canvas(side + 84, (86, 26, 80, 4), width=side + 112)
    axes.set(xlim=(0, count), ylim=(count, 0), facecolor=INKS["ground"])
    axes.spines["bottom"].set_visible(False)
    centres = np.arange(count) + 0.5
    axes.xaxis.tick_top()
    slanted: dict[str, Any] = {"rotation": 50, "ha": "left", "rotation_mode": "anchor"}
    axes.set_xticks(centres, names, color=INKS["soft"], **slanted)
    axes.set_yticks(centres, names, color=INKS["soft"])
    for i, j in itertools.product(range(count), repeat=2):
        share = shares[i, j]
        if share < least:
            continue
        square = Rectangle((j, i), 1, 1, color=ink(row.colour), alpha=share, lw=0, clip_on=False)
        axes.add_artist(square)
        words = f"{names[i]}: right" if i == j else f"{names[i]} taken for {names[j]}"
        tip([square], f"{words}, {100 * share:.1f}% of its pixels")
        if share >= 0.02:
            colour = INKS["paper" if share > 0.6 else "ink"]
            where: dict[str, Any] = {"ha": "center", "va": "center_baseline", "fontsize": 9}
            axes.text(j + 0.5, i + 0.5, f"{100 * share:.0f}", color=colour, **where)
    title = f"confusion matrix of {row.label}"
    return Panel(
        f"confusion-{row.label}", render(axes, title), "Confusion, % of the row", row.label
    )


def terms(trained: Sequence[Series]) -> list[str]:
    """Returns the available training curves: the loss, its terms, signs of collapse."""
    objectives = [t.terms for row in trained for t in row.trainings.values()]
    names = dict.fromkeys(["loss", *itertools.chain(*objectives), *HEALTH])
    drawn = {n for row in trained for t in row.trainings.values() for r in t.rows for n in r}
    return [name for name in names if name in drawn]


@matplotlib.rc_context(STYLE)
def training_curve(name: str, trained: Sequence[Series]) -> Panel:
    """Draws one logged number over steps, a line for each train stage, its seeds faint behind."""
    axes = _over_steps()
    for row in trained:
        _line(axes, row, name, colour=row.colour, dash=row.dash)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0), high)
    return Panel(f"curve-{name}", render(axes, f"{name} over training steps"), name)


def levels(row: Series) -> list[str]:
    """Returns the discriminators in a train stage's records."""
    keys = {key for t in row.trainings.values() for line in t.rows for key in line}
    return sorted({match[1] for key in keys if (match := ACCURACY.fullmatch(key))})


@matplotlib.rc_context(STYLE)
def discriminator(row: Series, level: str) -> Panel:
    """Draws how often a discriminator is right on each domain, against chance."""
    axes = _over_steps()
    axes.axhline(0.5, color=INKS["ink"], lw=1.2, ls=DASHES[1], alpha=0.75)
    for domain, colour in DOMAINS.items():
        _line(axes, row, f"d_{level}_accuracy_{domain}", colour=colour, words=domain)
    axes.set_ylim(0, 1)
    where: Any = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "bottom"}
    axes.text(1, 0.51, "chance", color=INKS["soft"], **where)
    title = row.label if level == "output" else f"{row.label} · {level}"
    svg = render(axes, f"discriminator accuracy of {title}")
    return Panel(f"discriminator-{title}", svg, title, row.label)


def _over_steps() -> Axes:
    axes = canvas(190, (40, 14, 10, 30))
    axes.grid(axis="y")
    axes.set_xlabel("step", loc="right")
    axes.margins(x=0)
    axes.locator_params(nbins=5)
    return axes


def _line(
    axes: Axes, row: Series, name: str, *, colour: int, dash: int = 0, words: str = ""
) -> None:
    """Draws the mean over seeds, and if there are several, each seed faintly behind it."""
    logged = [
        {int(r["step"]): r[name] for r in training.rows if name in r}
        for training in row.trainings.values()
    ]
    logged = [points for points in logged if points]
    if not logged:
        return
    shared = set(logged[0]).intersection(*logged[1:])
    mean = {step: float(np.mean([points[step] for points in logged])) for step in shared}
    style: dict[str, Any] = {"color": ink(colour), "linestyle": DASHES[dash % len(DASHES)]}
    for points in logged if len(logged) > 1 else ():
        lines = axes.plot(*_thin(points), lw=1, alpha=0.28, zorder=1, **style)
        tip(lines, words or row.label, method=row.label)
    if mean:
        tip(axes.plot(*_thin(mean), **style), words or row.label, method=row.label)


def _thin(points: Mapping[int, float]) -> tuple[list[int], list[float]]:
    """Returns at most `POINTS` points in the order of steps, each the mean of its neighbours."""
    steps = sorted(points)
    size = -(-len(steps) // POINTS)
    chunks = [steps[i : i + size] for i in range(0, len(steps), size)]
    return [c[-1] for c in chunks], [sum(points[s] for s in c) / len(c) for c in chunks]


@matplotlib.rc_context(STYLE)
def against_speed(board: Board, speeds: Mapping[str, Mapping[str, Any]]) -> Panel | None:
    """Draws score over time per image, a dot for each row whose network was timed."""
    axes = _scattered(230, x="ms an image, host to host", y="mIoU, %")
    for row in board.rows:
        timed, miou = speeds.get(row.stages[0].run.config["model"]["name"]), row.miou
        if timed is not None and miou is not None:
            # A fused row runs all of its networks.
            x = len(next(iter(row.evaluations.values())).models) * timed["ms"]
            _dot(axes, x, miou, row, words=row.label)
            place, words = (x, 100 * miou.mean), row.label[:LONGEST]
            axes.annotate(words, place, (7, 0), color=INKS["soft"], **BESIDE)
    svg = render(axes, "accuracy against time of an image")
    return Panel("speed", svg, "Accuracy and speed") if axes.lines else None


@matplotlib.rc_context(STYLE)
def validator(name: str, board: Board) -> Panel | None:
    """Draws the target's mIoU over a score without target labels, a dot for each evaluation."""
    axes = _scattered(190, x=name, y="target mIoU, %")
    for row in board.rows:
        for seed, evaluation in row.evaluations.items():
            score, miou = evaluation.validators.get(name), summarise([evaluation.miou])
            if score is not None and miou is not None:
                _dot(axes, score, miou, row, words=f"{row.label}, seed {seed}")
    svg = render(axes, f"target mIoU over {name}")
    return Panel(f"validator-{name}", svg, name) if axes.lines else None


def _scattered(height: float, *, x: str, y: str) -> Axes:
    axes = canvas(height, (40, 14, 18, 32))
    axes.margins(0.12)
    axes.grid(axis="y")
    axes.locator_params(nbins=5)
    axes.set_xlabel(x, loc="right")
    axes.set_title(y, loc="left", fontsize=10, color=INKS["soft"], pad=5)
    return axes


def _dot(axes: Axes, x: float, miou: Summary, row: Series, *, words: str) -> None:
    y, spread = 100 * miou.mean, 100 * (miou.spread or 0)
    if spread:
        axes.plot([x, x], [y - spread, y + spread], color=INKS["soft"], lw=1.3)
    dots = axes.plot(x, y, "o", ms=8, color=ink(row.colour), mec=INKS["paper"], zorder=3)
    tip(dots, f"{words}: {y:.1f}", method=row.label)


@matplotlib.rc_context(STYLE)
def legend(keys: Sequence[Key]) -> str:
    """Draws the meaning of colours and dashes, one line each, for use outside a page."""
    axes = canvas(18 * len(keys) + 4, (0, 0, 2, 2))
    axes.set(xlim=(0, WIDTH), ylim=(len(keys) - 0.5, -0.5), xticks=[], yticks=[])
    axes.spines["bottom"].set_visible(False)
    for i, key in enumerate(keys):
        dash = DASHES[key.dash % len(DASHES)]
        axes.plot([4, 28], [i, i], color=ink(key.colour), linestyle=dash)
        axes.text(36, i, key.label[:LONGEST], va="center", fontsize=11)
    return render(axes, "legend")
