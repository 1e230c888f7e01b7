"""Drawings made of rectangles: bars, a matrix, a legend."""

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from rtda_jax.report.plot import WIDTH, colour, line, number, svg, text


class Bar(NamedTuple):
    """A bar from 0 to `value`, with the single values and a mark to compare with."""

    name: str
    value: float | None
    values: Sequence[float] = ()
    mark: float | None = None
    swatch: str = ""


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
        if bar.mark:
            body.append(line(x(bar.mark), middle - 7, x(bar.mark), middle + 7, "mark"))
        body.append(text(WIDTH - 2, middle + 4, f"{100 * bar.value:.1f}", "value", anchor="end"))
    return svg(height, title, body)


def heatmap(
    shares: Sequence[Sequence[float | None]], names: Sequence[str], *, title: str, of: int
) -> str:
    """A square of fractions, rows the truth and columns the prediction; None leaves out a row."""
    left, top, right = 80, 62, 26
    cell = (WIDTH - left - right) / len(names)
    height = top + cell * len(names) + 4
    body = []
    for i, name in enumerate(names):
        at = left + cell * (i + 0.5) + 3
        body.append(text(left - 5, top + cell * (i + 0.5) + 3, name, "small", anchor="end"))
        body.append(
            f'<text transform="translate({number(at)} {top - 5}) rotate(-55)" '
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


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Colours and what they mean, a line each."""
    body = []
    for i, (ink, says) in enumerate(entries):
        body.append(f'<rect x="2" y="{18 * i + 4}" width="10" height="10" rx="2" fill="{ink}"/>')
        body.append(text(18, 18 * i + 13, says, "name"))
    return svg(18 * len(entries) + 4, "legend", body)
