"""The figures of a report for papers: each as PDF, SVG and PNG, drawn by matplotlib."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from ctwa.errors import CtwaError
from ctwa.report.curves import thinned
from ctwa.report.groups import group_runs
from ctwa.report.html.panels import COLORS, GREY, SYMBOLS, Bars, Figure, Panel, Section, color_of, dash_of, symbol_of
from ctwa.report.html.sections import Sections
from ctwa.report.trace import read_runs

FORMATS = ("pdf", "svg", "png")
_STYLES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_MARKERS = dict(zip(SYMBOLS, ("o", "s", "^", "D", "P", "X", "*"), strict=True))
_MOST_POINTS = 1500
# Type 42 fonts: conferences refuse the default Type 3. Text in SVG stays text, that can be edited and searched.
_STYLE: dict[Any, Any] = {"pdf.fonttype": 42, "svg.fonttype": "none", "font.size": 8, "axes.linewidth": 0.6}


def write_figures(sections: Sequence[Section], folder: Path) -> list[Path]:
    """Writes every figure of a report's sections; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    names: set[str] = set()
    for section in sections:
        for figure in section.figures:
            name = _file_name(figure.name, names)
            with rc_context(_STYLE):
                canvas = draw(figure)
                for kind in FORMATS:
                    files.append(folder / f"{name}.{kind}")
                    canvas.savefig(files[-1], dpi=300)
    return files


def write_overview(paths: Sequence[Path | str], out: Path) -> None:
    """Draws runs into one picture: a row for each objective, with its results, covariance and weight.

    Args:
        paths: the folders of the runs.
        out: the picture: .pdf, .svg or .png.

    Raises:
        CtwaError: a path holds no run or is given twice, or `out` ends in something else.
    """
    if out.suffix.removeprefix(".") not in FORMATS:
        raise CtwaError(f"{out} is no kind of picture ctwa draws: end it in .{', .'.join(FORMATS)}")
    rows = Sections(group_runs(read_runs(paths))).overview()
    canvas = Canvas(figsize=(10.2, 0.4 + 2.3 * len(rows)), layout="constrained")
    with rc_context(_STYLE):
        for axes_row, row in zip(canvas.subplots(len(rows), len(rows[0]), squeeze=False), rows, strict=True):
            for axes, panel in zip(axes_row, row, strict=True):
                _draw(axes, panel)
        out.parent.mkdir(parents=True, exist_ok=True)
        canvas.savefig(out, dpi=150)


def draw(figure: Figure) -> Canvas:
    """One figure, as wide as a column of a paper."""
    canvas = Canvas(figsize=(3.4, 2.3), layout="constrained")
    _draw(canvas.subplots(), figure)
    return canvas


def _draw(axes: Axes, figure: Figure) -> None:
    # Names are the user's: a dollar sign in one is no formula.
    axes.set_title(figure.title, fontsize=8, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e2e2e2", linewidth=0.5)
    axes.set_axisbelow(True)
    if isinstance(figure, Bars):
        _bars(axes, figure)
    else:
        _panel(axes, figure)
    legend = axes.get_legend()
    for text in legend.get_texts() if legend else ():
        text.set_parse_math(False)


def _panel(axes: Axes, panel: Panel) -> None:
    labelled: dict[str, object] = {}
    for line in panel.lines:
        if not len(line.curve):
            continue
        found = thinned(line.curve, _MOST_POINTS)
        color = color_of(line.color)
        if found.low is not None and found.high is not None:
            axes.fill_between(found.steps, found.low, found.high, color=color, alpha=0.18, linewidth=0)
        thin = line.kind == "thin"
        [drawn] = axes.plot(
            found.steps,
            found.values,
            color=color,
            linewidth=0.5 if thin else 1.2,
            alpha=0.4 if thin else 1.0,
            linestyle="-" if thin else _STYLES[dash_of(line.color)],
            marker=_MARKERS[symbol_of(line.color)] if line.kind == "marked" else None,
            markersize=3,
        )
        if not thin:
            labelled[line.label] = drawn
    if panel.front is not None:
        for (x_before, y_before), (x_after, y_after) in pairwise(panel.front):
            axes.plot(
                [x_before, x_after, x_after], [y_before, y_before, y_after], color=GREY, linestyle="--", linewidth=0.8
            )
    for mark in panel.marks:
        color = color_of(mark.color)
        errors = [
            None if side is None else [[value - side[0]], [side[1] - value]]
            for value, side in ((mark.x, mark.x_range), (mark.y, mark.y_range))
        ]
        artist = axes.errorbar(
            mark.x,
            mark.y,
            xerr=errors[0],
            yerr=errors[1],
            color=color,
            marker=_MARKERS[symbol_of(mark.color)],
            markersize=6 if mark.large else 3,
            alpha=1.0 if mark.large else 0.5,
            elinewidth=0.8,
            linestyle="none",
        )
        if mark.large:
            labelled[mark.label] = artist
    for value, text in panel.levels:
        axes.axhline(value, color=GREY, linewidth=0.8, linestyle="--")
        axes.annotate(
            text, (1, value), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=6, color=GREY
        ).set_parse_math(False)
    if panel.y_range:
        axes.set_ylim(panel.y_range)
    axes.set_xlabel(panel.x_label, parse_math=False)
    axes.set_ylabel(panel.y_label, parse_math=False)
    if labelled:
        axes.legend(list(labelled.values()), list(labelled), fontsize=6, frameon=False)  # type: ignore[arg-type]


def _bars(axes: Axes, bars: Bars) -> None:
    left = [0.0] * len(bars.labels)
    places = list(range(len(bars.labels)))
    for index, (part, values) in enumerate(bars.parts.items()):
        hatch = "//" * (index // len(COLORS))
        axes.barh(places, values, left=left, color=color_of(index), hatch=hatch, label=part)
        left = [before + value for before, value in zip(left, values, strict=True)]
    axes.set_yticks(places, list(bars.labels))
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.invert_yaxis()
    axes.set_xlabel(bars.x_label)
    axes.legend(fontsize=5, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.3))


def _file_name(name: str, taken: set[str]) -> str:
    """A name that any file system takes, and that is not taken yet; adds it to those that are."""
    plain = re.sub(r"[^\w.=+-]+", "_", name).strip("._")[:80] or "figure"
    found, number = plain, 1
    while found.lower() in taken:
        number += 1
        found = f"{plain}-{number}"
    taken.add(found.lower())
    return found
