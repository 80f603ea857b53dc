"""What a figure shows, apart from how it is drawn: the page draws it with plotly, papers get it from matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ctwa.report.curves import Curve, Floats

# Okabe and Ito's palette with its two lightest colours darkened, so that each has a contrast of 3 to white; and the
# same hues for a dark page.
COLORS = ("#0072B2", "#D55E00", "#008A64", "#B75A93", "#A67500", "#3587BA", "#3A3A3A")
DARK_COLORS = ("#4FA8E0", "#FF8A3D", "#2CC79A", "#E3A0C8", "#F0B429", "#9BD4F7", "#E4E4E4")
GREY, DARK_GREY = "#707070", "#9A9A9A"
DASHES = ("solid", "dash", "dot", "dashdot")  # tell apart what has the same colour, beyond as many groups as colours
SYMBOLS = ("circle", "square", "triangle-up", "diamond", "cross", "x", "star")

Kind = Literal["line", "thin", "marked"]


@dataclass(frozen=True)
class Line:
    """A curve in a panel."""

    label: str
    curve: Curve
    color: int  # index of the group, or of the line where `grouped` is False
    kind: Kind = "line"  # "thin": as measured, behind its average; "marked": with a mark at each point
    grouped: bool = True  # whether it belongs to a group that the reader can hide; the others stand in a legend


@dataclass(frozen=True)
class Mark:
    """A point in a plane of two objectives, with its range."""

    label: str
    color: int
    x: float
    y: float
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    large: bool = True


@dataclass(frozen=True)
class Panel:
    """Curves over the steps, or marks in a plane."""

    name: str  # of its file
    title: str
    y_label: str
    lines: Sequence[Line] = ()
    marks: Sequence[Mark] = ()
    front: Floats | None = None  # (points, 2): a staircase behind the marks
    levels: Sequence[tuple[float, str]] = ()  # dashed horizontal lines: where, and what they are
    x_label: str = "step"
    y_range: tuple[float, float] | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(len(line.curve) for line in self.lines) and not self.marks


@dataclass(frozen=True)
class Bars:
    """Stacked horizontal bars: a bar for each label, its parts by name."""

    name: str
    title: str
    x_label: str
    labels: Sequence[str]
    parts: dict[str, list[float]] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not self.parts


Figure = Panel | Bars


def color_of(index: int) -> str:
    """The colour of a group or line, on a light page."""
    return COLORS[index % len(COLORS)]


def dash_of(index: int) -> str:
    """How its line is dashed."""
    return DASHES[index // len(COLORS) % len(DASHES)]


def symbol_of(index: int) -> str:
    """Its mark."""
    return SYMBOLS[index % len(SYMBOLS)]


@dataclass(frozen=True)
class Section:
    """A part of the page: a heading, what to see in it, figures."""

    name: str
    title: str
    text: str
    figures: tuple[Figure, ...] = ()


def drawn(figures: Iterable[Figure]) -> tuple[Figure, ...]:
    """Those that have something to show."""
    return tuple(figure for figure in figures if not figure.empty)
