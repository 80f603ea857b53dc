"""Panels as plotly figures, for the page's script."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ctwa.report.curves import Curve, thinned
from ctwa.report.html.panels import (
    COLORS,
    DARK_COLORS,
    DARK_GREY,
    GREY,
    Bars,
    Figure,
    Line,
    Mark,
    Panel,
    color_of,
    dash_of,
    symbol_of,
)

_BUDGET = 7_000_000  # bytes of all curves on a page
_BYTES = 11  # of a point: two numbers of 4 bytes, in base64
_FEWEST, _MOST = 60, 2000  # points of a curve
_NO_GROUP: dict[str, Any] = {"group": -1}


def palette() -> dict[str, str]:
    """Each colour of a light page, and what a dark page has in its place."""
    pairs = {**dict(zip(COLORS, DARK_COLORS, strict=True)), GREY: DARK_GREY}
    return pairs | {_tint(light): _tint(dark) for light, dark in pairs.items()}


def points_of_a_curve(figures: Iterable[Figure]) -> int:
    """How many points a curve may have, so that all of them stay within a few megabytes."""
    lines = [line for figure in figures if isinstance(figure, Panel) for line in figure.lines]
    num_series = sum(1 + 2 * (line.curve.low is not None) for line in lines)
    return min(max(_BUDGET // (_BYTES * max(num_series, 1)), _FEWEST), _MOST)


def chart(figure: Figure, most_points: int) -> dict[str, Any]:
    """A plotly figure: `data` and `layout`, colours for a light page. Whatever the user named is escaped."""
    found = (_bars(figure) if isinstance(figure, Bars) else _panel(figure, most_points)).to_dict()
    del found["layout"]["template"]  # the page has its own
    return found


def escape(text: str) -> str:
    """A text for plotly, which reads a few tags and entities in every text it draws."""
    return html.escape(text, quote=False)


def _panel(panel: Panel, most_points: int) -> go.Figure:
    found = go.Figure()
    for line in panel.lines:
        if len(line.curve):
            found.add_traces(_line(line, thinned(line.curve, most_points)))
    if panel.front is not None:
        style: dict[str, Any] = {"color": GREY, "dash": "dash", "width": 1.5, "shape": "hv"}
        x, y = panel.front.T
        found.add_scatter(x=x, y=y, mode="lines", name="front", hoverinfo="skip", meta=_NO_GROUP, line=style)
    for mark in panel.marks:
        found.add_trace(_mark(mark))
    for value, text in panel.levels:
        note: dict[str, Any] = {"annotation_text": escape(text), "annotation_position": "top right"} if text else {}
        note |= {"annotation_font": {"size": 11, "color": GREY}} if text else {}
        found.add_hline(value, line={"color": GREY, "width": 1.5, "dash": "dash"}, **note)
    return found.update_layout(
        xaxis={"title": {"text": escape(panel.x_label)}},
        yaxis={"title": {"text": escape(panel.y_label)}, "range": panel.y_range},
        hovermode="closest" if panel.marks else "x unified",
        showlegend=any(not line.grouped for line in panel.lines),
    )


def _line(line: Line, curve: Curve) -> list[go.Scatter]:
    """The line, and the band behind it where it has one."""
    color, thin = color_of(line.color), line.kind == "thin"
    shared: dict[str, Any] = {"name": escape(line.label), "meta": {"group": line.color} if line.grouped else _NO_GROUP}
    steps, values = curve.steps.astype(np.int32), curve.values.astype(np.float32)
    drawn = go.Scatter(
        **shared,
        x=steps,
        y=values,
        mode="lines+markers" if line.kind == "marked" else "lines",
        line={"color": color, "width": 1 if thin else 2, "dash": "solid" if thin else dash_of(line.color)},
        marker={"symbol": symbol_of(line.color), "size": 7, "color": color} if line.kind == "marked" else None,
        **({"opacity": 0.35, "hoverinfo": "skip"} if thin else {"hovertemplate": "%{y:.4g}"}),
    )
    if curve.low is None or curve.high is None:
        return [drawn]
    band = go.Scatter(
        **shared,
        x=np.concatenate([steps, steps[::-1]]),
        y=np.concatenate([curve.high, curve.low[::-1]]).astype(np.float32),
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=_tint(color),
        hoverinfo="skip",
        showlegend=False,
    )
    return [band, drawn]


def _mark(mark: Mark) -> go.Scatter:
    color = color_of(mark.color)
    errors = {
        f"error_{axis}": {
            "type": "data",
            "symmetric": False,
            "array": [side[1] - value],
            "arrayminus": [value - side[0]],
            "color": color,
            "thickness": 1.2,
        }
        for axis, value, side in (("x", mark.x, mark.x_range), ("y", mark.y, mark.y_range))
        if side
    }
    size: dict[str, Any] = {"size": 12} if mark.large else {"size": 6, "opacity": 0.5}
    return go.Scatter(
        x=[mark.x],
        y=[mark.y],
        mode="markers",
        name=escape(mark.label),
        meta={"group": mark.color},
        marker={"symbol": symbol_of(mark.color), "color": color, **size},
        hovertemplate="%{x:.4g}, %{y:.4g}",
        **errors,
    )


def _bars(bars: Bars) -> go.Figure:
    found = go.Figure()
    for index, (part, values) in enumerate(bars.parts.items()):
        found.add_bar(
            orientation="h",
            name=escape(part),
            y=[escape(label) for label in bars.labels],
            x=values,
            marker={"color": color_of(index), "pattern": {"shape": "/" if index >= len(COLORS) else ""}},
            hovertemplate="%{x:.3g} s",
            meta=_NO_GROUP,
        )
    return found.update_layout(
        barmode="stack",
        xaxis={"title": {"text": escape(bars.x_label)}},
        yaxis={"autorange": "reversed", "type": "category", "automargin": True},
        hovermode="closest",
        showlegend=True,
        height=170 + 30 * len(bars.labels),
    )


def _tint(color: str) -> str:
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
