"""What a report consists of, and its two forms: one HTML page, and Markdown with files beside it.

The templates escape everything that comes from a run: HTML by Jinja, Markdown by `plain`.
"""

import base64
import dataclasses
import hashlib
import io
import pathlib
import re
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, TypeAlias

import jinja2
import markupsafe
import numpy as np
from PIL import Image

from rtda_jax.report.compare import COLOURS
from rtda_jax.report.figures import DASHES, STYLESHEET, Key, Panel, legend, standalone
from rtda_jax.tools.drawing import legend as class_legend

FOLDER = "figures"
LONGEST = 60  # characters of a file's name before its ending


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
      href: the id of what it leads to.
      strong: whether it stands out.
      shade: how strongly its ground is coloured, 0 to 1.
      order: what the column is sorted by, where the number that the text begins with will not do.
    """

    text: str
    href: str = ""
    strong: bool = False
    shade: float = 0.0
    order: float | None = None


class Row(NamedTuple):
    """A line of a table, the method that it is about, and whether a rule stands above it."""

    cells: Sequence[Cell]
    method: str = ""
    rule: bool = False


def row(*cells: str | Cell, method: str = "", rule: bool = False) -> Row:
    """Returns a row whose cells may be plain texts."""
    return Row([Cell(c) if isinstance(c, str) else c for c in cells], method, rule)


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph; `backticks` set code."""

    kind: ClassVar[str] = "text"
    text: str


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under a head; all columns but the first `left` are numbers and flush right."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Row]
    left: int = 1


@dataclasses.dataclass(frozen=True)
class Figures:
    """Drawings side by side, as many as the page is wide enough for, and what colours mean."""

    kind: ClassVar[str] = "figures"
    panels: Sequence[Panel]
    keys: Sequence[Key] = ()


@dataclasses.dataclass(frozen=True)
class Gallery:
    """The same images uint8 [H,W,3] under each title, and the classes' colours."""

    kind: ClassVar[str] = "gallery"
    columns: Sequence[tuple[str, Sequence[np.ndarray]]]
    names: Sequence[str] = ()
    colours: Sequence[tuple[int, int, int]] = ()


@dataclasses.dataclass(frozen=True)
class Commands:
    """Lines of a shell."""

    kind: ClassVar[str] = "commands"
    lines: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Details:
    """Blocks that are folded away; links lead to their `id`."""

    kind: ClassVar[str] = "details"
    title: str
    blocks: "Sequence[Block]"
    id: str = ""
    method: str = ""
    open: bool = False


Block: TypeAlias = Text | Table | Figures | Gallery | Commands | Details


class Document(NamedTuple):
    """A whole report: numbers to be seen first as (value, meaning), and titled sections."""

    title: str
    lead: str
    facts: Sequence[tuple[str, str]]
    sections: Sequence[tuple[str, Sequence[Block]]]


def slug(words: str) -> str:
    """Returns words as part of a file's name or of a link; long ones end with their hash."""
    name = "-".join(re.findall(r"\w+", words.lower().replace("_", " ")))
    if len(name.encode()) <= LONGEST:
        return name
    digest = hashlib.sha256(words.encode()).hexdigest()[:8]
    return f"{name.encode()[: LONGEST - 9].decode(errors='ignore')}-{digest}"


def anchor(kind: str, words: str) -> str:
    """Returns the id of something of a kind that words name; different words have different ids."""
    coded = re.sub(r"[^\w-]", lambda c: f".{ord(c[0]):x}", words.replace(" · ", "\0"))
    return f"{kind}-{coded.replace('.0', ':')}"


def html(report: Document) -> str:
    """Returns the report as one page that loads nothing: style, script and images are inside."""
    script = STYLESHEET.with_suffix(".js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = _environment(escapes=True)
    environment.filters |= {"prose": _code, "uri": _uri}
    return environment.get_template("page.html.jinja").render(
        report=report,
        style=markupsafe.Markup(STYLESHEET.read_text(encoding="utf-8")),
        script=markupsafe.Markup(script),
        digest=digest,
    )


def markdown(report: Document) -> tuple[str, dict[str, bytes]]:
    """Returns the text, and the files that it refers to by their paths."""
    files: dict[str, bytes] = {}

    def save(data: bytes, name: str, ending: str) -> str:
        path, number = f"{FOLDER}/{slug(name)}.{ending}", 1
        while files.get(path, data) != data:  # the same method on another benchmark
            number += 1
            path = f"{FOLDER}/{slug(name)}-{number}.{ending}"
        files[path] = data
        return path

    def drawing(panel: Panel) -> str:
        return save(standalone(panel.svg, panel.title).encode(), panel.name, "svg")

    def strip(images: Sequence[np.ndarray], title: str) -> str:
        height = max(image.shape[0] for image in images)
        padded = [
            np.pad(i, ((0, height - i.shape[0]), (0, 4), (0, 0)), constant_values=255)
            for i in images
        ]
        data, ending = encode(np.concatenate(padded, axis=1))
        return save(data, f"gallery {title}", ending)

    def swatches(gallery: Gallery) -> str:
        colours = np.asarray(gallery.colours, np.uint8)
        sheet = class_legend(names=gallery.names, colours=colours, width=640)
        return save(_saved(sheet, "PNG"), "legend classes", "png")

    def keys(figures: Figures) -> str:
        name = f"legend {figures.panels[0].name}"
        return save(standalone(legend(figures.keys)).encode(), name, "svg")

    environment = _environment(escapes=False)
    environment.filters |= {"plain": plain, "prose": _plain_code, "fence": _fence}
    environment.globals |= {"drawing": drawing, "strip": strip, "swatches": swatches, "keys": keys}
    text = environment.get_template("page.md.jinja").render(report=report)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", files


def _environment(*, escapes: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=escapes,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["slug"] = slug
    environment.globals["ink"] = lambda colour: f"var(--c{colour % COLOURS})"
    environment.globals["dashes"] = [
        "" if dash == "-" else " ".join(map(str, dash[1])) for dash in DASHES
    ]
    return environment


def _code(text: str) -> markupsafe.Markup:
    return markupsafe.Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(markupsafe.escape(text))))


def plain(text: str) -> str:
    """Returns a text as Markdown that shows it as it is: no HTML, no emphasis, no links."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"[\\`*|\[\]$~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def _plain_code(text: str) -> str:
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if i % 2 else plain(part) for i, part in enumerate(parts))


def _fence(lines: Sequence[str]) -> str:
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    mark = "`" * max(3, longest + 1)
    return "\n".join((mark, *lines, mark))


def _uri(image: np.ndarray) -> str:
    data, ending = encode(image)
    kind = {"jpg": "jpeg"}.get(ending, ending)
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def encode(image: np.ndarray) -> tuple[bytes, str]:
    """Returns an image uint8 [H,W,3] as a small file and its ending: few colours as PNG."""
    packed = image.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colours, indices = np.unique(packed, return_inverse=True)
    if len(colours) > 256:
        return _saved(Image.fromarray(image), "JPEG", quality=85), "jpg"
    table = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1)
    drawn = Image.fromarray(indices.reshape(packed.shape).astype(np.uint8))
    drawn.putpalette(table.astype(np.uint8).tobytes())
    return _saved(drawn, "PNG", optimize=True), "png"


def _saved(image: Image.Image, kind: str, **options: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()
