"""The report as one HTML page that asks for nothing else: style, drawings and images inside."""

import base64
import re
from collections.abc import Sequence
from html import escape

from rtda_jax.report import document as d
from rtda_jax.report.drawing import STYLE
from rtda_jax.report.figures import slug
from rtda_jax.report.gallery import png


def html(report: d.Document) -> str:
    """The page."""
    title = escape(report.title)
    links = "".join(f'<a href="#{slug(s.title)}">{escape(s.title)}</a>' for s in report.sections)
    facts = "".join(
        f"<div><b>{escape(f.value)}</b><span>{escape(f.says)}</span></div>" for f in report.facts
    )
    sections = "\n".join(_section(section) for section in report.sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title} · rtda_jax</title>
<link rel="icon" href="data:,">
<style>
{STYLE.read_text()}</style>
</head>
<body>
<header>
<p class="kicker">Unsupervised domain adaptation · report</p>
<h1>{title}</h1>
<p class="lead">{_inline(report.lead)}</p>
{f'<div class="facts">{facts}</div>' if facts else ""}
</header>
<nav aria-label="Sections">{links}</nav>
<main>
{sections}
</main>
</body>
</html>
"""


def _section(section: d.Section) -> str:
    body = "\n".join(_block(block) for block in section.blocks)
    title = f"<h2>{escape(section.title)}</h2>"
    return f'<section id="{slug(section.title)}">\n{title}\n{body}\n</section>'


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _block(block: d.Block) -> str:
    match block:
        case d.Text(text):
            return f"<p>{_inline(text)}</p>"
        case d.Table():
            return _table(block)
        case d.Panels(panels, legend):
            return _panels(panels, legend)
        case d.Gallery():
            return _gallery(block)
        case d.Picture(_, data, title):
            return (
                f'<figure class="sheet"><figcaption>{escape(title)}</figcaption>'
                f'<div class="scroll">{_image(data, title)}</div></figure>'
            )
        case d.Commands(lines):
            return f"<pre><code>{escape(chr(10).join(lines))}</code></pre>"
        case d.Details(title, blocks):
            body = "\n".join(_block(one) for one in blocks)
            return f"<details><summary>{escape(title)}</summary>\n{body}\n</details>"


def _table(table: d.Table) -> str:
    head = "".join(
        f'<th scope="col"{_kind(i, table)}>{_inline(cell)}</th>'
        for i, cell in enumerate(table.head)
    )
    rows = "\n".join(
        "<tr>" + "".join(_cell(i, cell, table) for i, cell in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _cell(i: int, cell: d.Cell, table: d.Table) -> str:
    text = f"<b>{_inline(cell.text)}</b>" if isinstance(cell, d.Strong) else _inline(cell)
    return f'<th scope="row">{text}</th>' if i == 0 else f"<td{_kind(i, table)}>{text}</td>"


def _kind(i: int, table: d.Table) -> str:
    return ' class="l"' if i < table.left else ""


def _panels(panels: Sequence[d.Panel], legend: Sequence[tuple[str, str]]) -> str:
    drawn = "\n".join(
        f"<figure><figcaption>{escape(p.title)}</figcaption>{p.svg}</figure>" for p in panels
    )
    keys = "".join(
        f'<li><i style="background:{colour}"></i>{escape(says)}</li>' for colour, says in legend
    )
    shown = f'<ul class="legend">{keys}</ul>\n' if keys else ""
    return f'{shown}<div class="panels">\n{drawn}\n</div>'


def _gallery(block: d.Gallery) -> str:
    rows = []
    for number, images in enumerate(block.rows, 1):
        cells = "".join(
            f"<figure>{_image(png(image), f'{title}, image {number}')}"
            f"<figcaption>{escape(title)}</figcaption></figure>"
            for title, image in zip(block.titles, images, strict=True)
        )
        rows.append(f'<div class="strip">{cells}</div>')
    keys = "".join(
        f'<li><i style="background:rgb({r},{g},{b})"></i>{escape(name)}</li>'
        for name, (r, g, b) in zip(block.names, block.colours, strict=True)
    )
    return f'<ul class="legend">{keys}</ul>\n' + "\n".join(rows)


def _image(data: bytes, title: str) -> str:
    encoded = base64.b64encode(data).decode()
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{encoded}">'
