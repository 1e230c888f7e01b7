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


class Dot(NamedTuple):
    """A point with its spread along y; its name is shown when pointed at, its label always."""

    name: str
    x: float
    y: float
    spread: float | None
    colour: int
    label: str = ""


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
    for one in sorted(series, key=lambda s: not s.faint):
        points = " ".join(f"{number(axes.x(x))},{number(axes.y(y))}" for x, y in one.points)
        dash = f' stroke-dasharray="{DASHES[one.dash]}"' if one.dash else ""
        kind = "seed" if one.faint else "curve"
        body.append(
            f'<polyline points="{points}" class="{kind}" stroke="{colour(one.colour)}"{dash}/>'
        )
    if reference is not None:
        body.append(text(WIDTH - 10, axes.y(value) - 4, says, "note", anchor="end"))
    return svg(190, title, body)


def scatter(dots: Sequence[Dot], *, title: str, x_label: str, y_label: str) -> str:
    """Points with whiskers and their labels; both axes hold what there is, with room."""
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
        if dot.label:
            side = 1 if x < WIDTH / 2 else -1
            anchor = "start" if side > 0 else "end"
            body.append(text(x + 7 * side, y + 3.5, dot.label, "note", anchor=anchor))
    return svg(190, title, body)
