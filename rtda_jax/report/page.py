"""The parts of a report, and its two forms: one HTML page, and Markdown with separate files.

The templates escape everything that comes from a run: HTML by Jinja, Markdown by `plain`.
"""

import base64
import hashlib
import io
import pathlib
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import NamedTuple, TypeAlias

import jinja2
import markupsafe
import numpy as np
from PIL import Image

from rtda_jax.report.compare import COLOURS
from rtda_jax.report.figures import DASHES, STYLESHEET, Key, Panel, legend, standalone
from rtda_jax.tools.drawing import legend as class_legend

FOLDER = "figures"
LONGEST = 60  # characters of a file's name before its extension
HERE = pathlib.Path(__file__).parent
WORDS = tomllib.loads((HERE / "words.toml").read_text(encoding="utf-8"))  # paragraphs


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
      href: the id that it links to.
      strong: whether it is shown in bold.
      shade: how strongly its background is coloured, 0 to 1.
      order: the number by which the column is sorted, if not the one at the beginning of the text.
    """

    text: str
    href: str = ""
    strong: bool = False
    shade: float = 0.0
    order: float | None = None


class Table(NamedTuple):
    """Rows under a head.

    Attributes:
      left: how many columns hold words, aligned to the left; the others hold numbers.
      method: the column with the method of a row, which the page's filter searches.
      ruled: the indices of rows with a line above them.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    left: int = 1
    method: int | None = None
    ruled: Collection[int] = ()


class Figures(NamedTuple):
    """Drawings side by side, as many as fit into the page, and the meaning of their colours."""

    panels: Sequence[Panel]
    keys: Sequence[Key] = ()


class Gallery(NamedTuple):
    """The same images uint8 [H,W,3] under each title, and the classes' colours."""

    columns: Sequence[tuple[str, Sequence[np.ndarray]]]
    names: Sequence[str] = ()
    colours: Sequence[tuple[int, int, int]] = ()


class Details(NamedTuple):
    """A command and blocks that can be unfolded; links refer to their `id`."""

    title: str
    blocks: "Sequence[Block]"
    id: str = ""
    method: str = ""
    open: bool = False
    command: str = ""


Block: TypeAlias = str | Table | Figures | Gallery | Details  # a str is a paragraph


class Document(NamedTuple):
    """A whole report: the main numbers as (value, meaning), and titled sections."""

    title: str
    lead: str
    facts: Sequence[tuple[str, str]]
    sections: Mapping[str, Sequence[Block]]


def slug(words: str) -> str:
    """Returns words as part of a file's name or of a link; long words end with their hash."""
    name = "-".join(re.findall(r"\w+", words.lower().replace("_", " ")))
    if len(name.encode()) <= LONGEST:
        return name
    digest = hashlib.sha256(words.encode()).hexdigest()[:8]
    return f"{name.encode()[: LONGEST - 9].decode(errors='ignore')}-{digest}"


def anchor(kind: str, words: str) -> str:
    """Returns an id made of a kind and of words; different words have different ids."""
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
        padded = [np.pad(i, ((0, 0), (0, 4), (0, 0)), constant_values=255) for i in images]
        data, ending = encode(np.hstack(padded))
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
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=escapes,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"slug": slug, "cell": lambda c: Cell(c) if isinstance(c, str) else c}
    blocks = {"table": Table, "figures": Figures, "gallery": Gallery, "details": Details}
    environment.tests |= {name: kind.__instancecheck__ for name, kind in blocks.items()}
    dashes = ["" if dash == "-" else " ".join(map(str, dash[1])) for dash in DASHES]
    environment.globals |= {"ink": lambda colour: f"var(--c{colour % COLOURS})", "dashes": dashes}
    return environment


def _code(text: str) -> markupsafe.Markup:
    return markupsafe.Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(markupsafe.escape(text))))


def plain(text: str) -> str:
    """Returns Markdown that shows a text literally: no HTML, no emphasis, no links."""
    return re.sub(r"[\\`*|\[\]$~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", escape(text, quote=False))


def _plain_code(text: str) -> str:
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if i % 2 else plain(part) for i, part in enumerate(parts))


def _fence(line: str) -> str:
    mark = "`" * max([2, *map(len, re.findall("`+", line))]) + "`"
    return f"{mark}\n{line}\n{mark}"


def _uri(image: np.ndarray) -> str:
    data, ending = encode(image)
    kind = ending.replace("jpg", "jpeg")
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def encode(image: np.ndarray) -> tuple[bytes, str]:
    """Returns an image uint8 [H,W,3] as a small file and its extension; PNG for few colours."""
    picture = Image.fromarray(image)
    colours = picture.getcolors(256)
    if colours is None:
        return _saved(picture, "JPEG", quality=85), "jpg"
    # The palette has every colour of the image, so that no colour is rounded.
    return _saved(picture.quantize(len(colours), dither=Image.Dither.NONE), "PNG"), "png"


def _saved(image: Image.Image, kind: str, **options: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()
