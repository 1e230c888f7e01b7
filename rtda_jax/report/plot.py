"""Small drawings as SVG text: colours are names that the page's style gives values to."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

WIDTH = 340  # of every drawing, in its own units: about a phone's width, so text stays readable
COLOURS = 8
DASHES = ("", "5 3", "1.5 3")


class Series(NamedTuple):
    """A line: points (x, y) in the order of x; `faint` ones stand behind."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int
    dash: int = 0
    faint: bool = False


class Bar(NamedTuple):
    """A bar from 0 to `value`, with its spread, the single values, and a mark to compare with."""

    name: str
    value: float | None
    spread: float | None = None
    values: Sequence[float] = ()
    mark: float | None = None
    swatch: str = ""


class Dot(NamedTuple):
    """A point with its spread along y and a label."""

    name: str
    x: float
    y: float
    spread: float | None
    colour: int


def colour(index: int) -> str:
    """The name of a series' colour."""
    return f"var(--c{index % COLOURS})"


def number(value: float) -> str:
    """A coordinate: two decimals, no trailing zeros."""
    return f"{value:.2f}".rstrip("0").rstrip(".").replace("-0", "0", value > -0.005)


def svg(height: float, title: str, body: Sequence[str]) -> str:
    """A drawing `WIDTH` wide."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {number(height)}" role="img" aria-label={quoteattr(title)} '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(body)}</svg>'
    )


def text(x: float, y: float, words: str, kind: str, *, anchor: str = "start") -> str:
    """Words at a place; `kind` is a class of the style."""
    where = f'x="{number(x)}" y="{number(y)}"'
    return f'<text {where} class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line; `kind` is a class of the style."""
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    places = " ".join(f'{name}="{number(value)}"' for name, value in ends.items())
    return f'<line {places} class="{kind}"/>'


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers within [low, high], about `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def label(value: float) -> str:
    """A tick's number."""
    if value and abs(value) >= 1e4:
        return f"{value / 1000:g}k"
    return f"{value:.6g}"


class Frame(NamedTuple):
    """Axes: where a value lies, and the drawing of grid and labels."""

    x: Callable[[float], float]
    y: Callable[[float], float]
    body: list[str]


def frame(
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    *,
    x_label: str,
    height: float = 190,
) -> Frame:
    """Axes over the given ranges; the y labels stand left, the x label right below."""
    left, right, top, bottom = 38, 8, 10, 30
    (x0, x1), (y0, y1) = _opened(x_range), _opened(y_range)

    def x(value: float) -> float:
        return left + (value - x0) / (x1 - x0) * (WIDTH - left - right)

    def y(value: float) -> float:
        return height - bottom - (value - y0) / (y1 - y0) * (height - top - bottom)

    body = []
    for value in ticks(y0, y1):
        body.append(line(left, y(value), WIDTH - right, y(value), "grid"))
        body.append(text(left - 6, y(value) + 3.5, label(value), "tick", anchor="end"))
    body.append(line(left, height - bottom, WIDTH - right, height - bottom, "axis"))
    for value in ticks(x0, x1):
        anchor = "end" if x(value) > WIDTH - right - 8 else "middle"
        body.append(text(x(value), height - bottom + 14, label(value), "tick", anchor=anchor))
    body.append(text(WIDTH - right, height - 3, x_label, "note", anchor="end"))
    return Frame(x, y, body)


def _opened(limits: tuple[float, float]) -> tuple[float, float]:
    low, high = limits
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def curves(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str = "step",
    y_range: tuple[float, float] | None = None,
    reference: tuple[float, str] | None = None,
) -> str:
    """Lines over a common x, with a labelled reference line if there is one."""
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    low, high = y_range or (min([0.0, *ys]), max(ys) * 1.05)
    axes = frame((min(xs), max(xs)), (low, high), x_label=x_label)
    body = axes.body
    if reference is not None:
        value, says = reference
        body.append(line(38, axes.y(value), WIDTH - 8, axes.y(value), "reference"))
        body.append(text(WIDTH - 10, axes.y(value) - 4, says, "note", anchor="end"))
    for one in sorted(series, key=lambda s: not s.faint):
        points = " ".join(f"{number(axes.x(x))},{number(axes.y(y))}" for x, y in one.points)
        dash = f' stroke-dasharray="{DASHES[one.dash]}"' if one.dash else ""
        kind = "seed" if one.faint else "curve"
        body.append(
            f'<polyline points="{points}" class="{kind}" stroke="{colour(one.colour)}"{dash}/>'
        )
    return svg(190, title, body)


def bars(rows: Sequence[Bar], *, title: str, of: int) -> str:
    """Horizontal bars of fractions 0 to 1, in percent, in colour `of`."""
    left, right, step, top = 104, 40, 17, 4
    height = top + step * len(rows) + 20

    def x(value: float) -> float:
        return left + value * (WIDTH - left - right)

    body = []
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        body.append(line(x(value), top, x(value), height - 18, "grid"))
        body.append(text(x(value), height - 6, f"{100 * value:.0f}", "tick", anchor="middle"))
    for i, bar in enumerate(rows):
        middle = top + step * (i + 0.5)
        if bar.swatch:
            body.append(
                f'<rect x="2" y="{number(middle - 4.5)}" width="9" height="9" rx="2" '
                f'fill="{bar.swatch}" class="swatch"/>'
            )
        body.append(text(16, middle + 4, bar.name, "name"))
        if bar.value is None:
            body.append(text(left + 4, middle + 4, "n/a", "tick"))
            continue
        width = number(max(x(bar.value) - left, 0.5))
        body.append(
            f'<rect x="{left}" y="{number(middle - 5)}" width="{width}" height="10" rx="1.5" '
            f'fill="{colour(of)}" class="bar"/>'
        )
        for value in bar.values if len(bar.values) > 1 else ():
            body.append(
                f'<circle cx="{number(x(value))}" cy="{number(middle)}" r="1.9" class="dot"/>'
            )
        if bar.mark is not None:
            body.append(line(x(bar.mark), middle - 7, x(bar.mark), middle + 7, "mark"))
        body.append(text(WIDTH - 2, middle + 4, f"{100 * bar.value:.1f}", "value", anchor="end"))
    return svg(height, title, body)


def heatmap(
    shares: Sequence[Sequence[float | None]], names: Sequence[str], *, title: str, of: int
) -> str:
    """A square of fractions, rows the truth and columns the prediction; None leaves out a row."""
    left, top = 84, 70
    cell = (WIDTH - left - 2) / len(names)
    height = top + cell * len(names) + 4
    body = []
    for i, name in enumerate(names):
        at = left + cell * (i + 0.5) + 3
        body.append(text(left - 5, top + cell * (i + 0.5) + 3, name, "small", anchor="end"))
        body.append(
            f'<text transform="translate({number(at)} {top - 5}) rotate(-60)" '
            f'class="small">{escape(name)}</text>'
        )
    body.append(
        f'<rect x="{left}" y="{top}" width="{number(cell * len(names))}" '
        f'height="{number(cell * len(names))}" class="ground"/>'
    )
    for i, row in enumerate(shares):
        for j, share in enumerate(row):
            if share is None or share < 0.005:
                continue
            says = f"{names[i]} taken for {names[j]}: {100 * share:.0f}%"
            if i == j:
                says = f"{names[i]}: {100 * share:.0f}% right"
            body.append(
                f'<rect x="{number(left + cell * j + 0.5)}" y="{number(top + cell * i + 0.5)}" '
                f'width="{number(cell - 1)}" height="{number(cell - 1)}" fill="{colour(of)}" '
                f'fill-opacity="{share:.2f}"><title>{escape(says)}</title></rect>'
            )
    return svg(height, title, body)


def scatter(dots: Sequence[Dot], *, title: str, x_label: str, y_label: str) -> str:
    """Points with whiskers; both axes hold what there is, with room."""
    xs, ys = [d.x for d in dots], [d.y for d in dots]
    reach = [d.spread or 0 for d in dots]
    margin = (max(xs) - min(xs)) * 0.12 or abs(xs[0]) * 0.2 or 0.5
    low = min(y - s for y, s in zip(ys, reach, strict=True))
    high = max(y + s for y, s in zip(ys, reach, strict=True))
    room = (high - low) * 0.12 or 0.5
    axes = frame((min(xs) - margin, max(xs) + margin), (low - room, high + room), x_label=x_label)
    body = [*axes.body, text(42, 9, y_label, "note")]
    for dot in dots:
        x, y, ink = axes.x(dot.x), axes.y(dot.y), colour(dot.colour)
        if dot.spread:
            top, bottom = axes.y(dot.y + dot.spread), axes.y(dot.y - dot.spread)
            body.append(line(x, top, x, bottom, "whisker"))
        body.append(
            f'<circle cx="{number(x)}" cy="{number(y)}" r="4" fill="{ink}" class="point">'
            f"<title>{escape(dot.name)}</title></circle>"
        )
    return svg(190, title, body)


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Colours and what they mean, a line each."""
    body = []
    for i, (ink, says) in enumerate(entries):
        body.append(f'<rect x="2" y="{18 * i + 4}" width="10" height="10" rx="2" fill="{ink}"/>')
        body.append(text(18, 18 * i + 13, says, "name"))
    return svg(18 * len(entries) + 4, "legend", body)
