"""What a report consists of, apart from how it is written down."""

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph; `backticks` set code."""

    text: str


@dataclasses.dataclass(frozen=True)
class Strong:
    """A cell that stands out."""

    text: str


Cell: TypeAlias = str | Strong


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows under a head; all columns but the first `left` are numbers and flush right."""

    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    left: int = 1


@dataclasses.dataclass(frozen=True)
class Panel:
    """One drawing: SVG text, and the file name that Markdown refers to."""

    name: str
    svg: str
    title: str


@dataclasses.dataclass(frozen=True)
class Panels:
    """Drawings side by side, as many as the page is wide enough for, and what colours mean."""

    panels: Sequence[Panel]
    legend: Sequence[tuple[str, str]] = ()  # colour as CSS takes it, meaning


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Rows of images uint8 [H,W,3] under common titles, and the classes' colours."""

    name: str
    titles: Sequence[str]
    rows: Sequence[Sequence[np.ndarray]]
    names: Sequence[str]
    colours: Sequence[tuple[int, int, int]]


@dataclasses.dataclass(frozen=True)
class Picture:
    """A PNG file as it is."""

    name: str
    png: bytes
    title: str


@dataclasses.dataclass(frozen=True)
class Commands:
    """Lines of a shell."""

    lines: Sequence[str]


Plain: TypeAlias = Text | Table | Panels | Gallery | Picture | Commands


@dataclasses.dataclass(frozen=True)
class Details:
    """Blocks that are folded away."""

    title: str
    blocks: Sequence[Plain]


Block: TypeAlias = Plain | Details


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


@dataclasses.dataclass(frozen=True)
class Fact:
    """A number to be seen first."""

    value: str
    says: str


@dataclasses.dataclass(frozen=True)
class Document:
    """The whole report."""

    title: str
    lead: str
    facts: Sequence[Fact]
    sections: Sequence[Section]
