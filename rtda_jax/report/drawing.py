"""Drawings that stand alone, as files or in a notebook, outside the page."""

import pathlib

from rtda_jax.report import plot

STYLE = pathlib.Path(__file__).with_name("page.css")


def standalone(svg: str, title: str = "") -> str:
    """A drawing that brings its style, its background and its title along."""
    start = svg.index(">") + 1
    box = svg[svg.index('viewBox="') + 9 : start].split('"')[0]
    width, height = (float(v) for v in box.split()[2:])
    head = 20 if title else 0
    opening = svg[:start].replace(
        box, f"0 {-head} {plot.number(width)} {plot.number(height + head)}"
    )
    opening = opening.replace("<svg ", f'<svg width="{plot.number(width)}" ')
    paper = f'<rect y="{-head}" width="100%" height="100%" class="paper"/>'
    words = plot.text(2, -6, title, "title") if title else ""
    return f"{opening}<style>{_style()}</style>{paper}{words}{svg[start:]}\n"


def _style() -> str:
    """The part of the page's style that drawings need."""
    begin, end = "/* drawings: begin */", "/* drawings: end */"
    return STYLE.read_text().split(begin)[1].split(end)[0].strip()
