"""The report as Markdown, with its drawings and images as files beside it."""

import io
from collections.abc import Iterator, Sequence

import numpy as np

from rtda_jax.report import bars
from rtda_jax.report import document as d
from rtda_jax.report.drawing import standalone
from rtda_jax.report.figures import slug
from rtda_jax.tools import pictures

FOLDER = "figures"


def markdown(report: d.Document) -> tuple[str, dict[str, bytes]]:
    """The text, and the files it refers to by their paths."""
    files: dict[str, bytes] = {}
    lines = [f"# {report.title}", "", report.lead, ""]
    if report.facts:
        lines += [*(f"- {f.says}: **{f.value}**" for f in report.facts), ""]
    for section in report.sections:
        lines += [f"## {section.title}", ""]
        for block in section.blocks:
            lines += [*_block(block, files), ""]
    return "\n".join(lines).rstrip() + "\n", files


def _block(block: d.Block, files: dict[str, bytes]) -> Iterator[str]:
    match block:
        case d.Text(text):
            yield text
        case d.Table():
            yield from _table(block)
        case d.Panels(panels, legend):
            if legend:
                name = f"legend-{slug(panels[0].name)}"
                yield _file(name, standalone(bars.legend(legend)).encode(), "svg", "legend", files)
            for panel in panels:
                data = standalone(panel.svg, panel.title).encode()
                yield _file(panel.name, data, "svg", panel.title, files)
        case d.Gallery():
            yield _file(block.name, _sheet(block), "png", ", ".join(block.titles), files)
        case d.Picture(name, data, title):
            yield _file(name, data, "png", title, files)
        case d.Commands(lines):
            yield from ("```", *lines, "```")
        case d.Details(title, blocks):
            yield f"<details><summary>{title}</summary>"
            yield ""
            for one in blocks:
                yield from _block(one, files)
                yield ""
            yield "</details>"


def _table(table: d.Table) -> Iterator[str]:
    def row(cells: Sequence[d.Cell]) -> str:
        shown = (f"**{c.text}**" if isinstance(c, d.Strong) else c for c in cells)
        return "| " + " | ".join(c.replace("|", "\\|") for c in shown) + " |"

    yield row(table.head)
    yield row(["---" if i < table.left else "--:" for i in range(len(table.head))])
    yield from (row(cells) for cells in table.rows)


def _file(name: str, data: bytes, kind: str, title: str, files: dict[str, bytes]) -> str:
    path, number = f"{FOLDER}/{name}.{kind}", 1
    while files.get(path, data) != data:  # the same method on another benchmark
        number += 1
        path = f"{FOLDER}/{name}-{number}.{kind}"
    files[path] = data
    return f"![{title}]({path})"


def _sheet(block: d.Gallery) -> bytes:
    width = block.rows[0][0].shape[1]
    sheet = pictures.grid(
        block.rows,
        titles=block.titles,
        names=block.names,
        colours=np.asarray(block.colours, np.uint8),
        width=width,
    )
    held = io.BytesIO()
    sheet.save(held, format="PNG", optimize=True)
    return held.getvalue()
