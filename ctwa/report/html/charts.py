"""Panels as plotly figures, in plain JSON values for the page's script."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctwa.report.html.curves import Curve, thinned
from ctwa.report.html.panels import COLORS, DARK_COLORS, DASHES, SYMBOLS, Bars, Figure, Panel

GREY, DARK_GREY = "#707070", "#9A9A9A"
_BUDGET = 7_000_000  # bytes of all curves on a page
_BYTES = 11  # of a point: two numbers of 4 bytes, in base64
_FEWEST, _MOST = 60, 2000  # points of a curve


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
    return _bars(figure) if isinstance(figure, Bars) else _panel(figure, most_points)


def _panel(panel: Panel, most_points: int) -> dict[str, Any]:
    data: list[dict[str, Any]] = []
    for line in panel.lines:
        if not len(line.curve):
            continue
        found = thinned(line.curve, most_points)
        color = COLORS[line.color % len(COLORS)]
        shared = {"type": "scatter", "name": escape(line.label), "meta": {"group": line.color if line.grouped else -1}}
        if found.low is not None and found.high is not None:
            data.append({**shared, **_band(found), "fillcolor": _tint(color)})
        style: dict[str, Any] = {"color": color, "width": 1 if line.kind == "thin" else 2}
        if line.kind != "thin":
            style["dash"] = DASHES[line.color // len(COLORS) % len(DASHES)]
        trace: dict[str, Any] = {
            **shared,
            "x": _numbers(found.steps, "i4"),
            "y": _numbers(found.values, "f4"),
            "mode": "lines+markers" if line.kind == "marked" else "lines",
            "line": style,
            "hovertemplate": "%{y:.4g}",
        }
        if line.kind == "thin":
            trace |= {"opacity": 0.35, "hoverinfo": "skip", "hovertemplate": None}
        if line.kind == "marked":
            trace["marker"] = {"symbol": SYMBOLS[line.color % len(SYMBOLS)], "size": 7, "color": color}
        data.append(trace)
    if panel.front is not None:
        front = {"type": "scatter", "mode": "lines", "name": "front", "hoverinfo": "skip", "meta": {"group": -1}}
        style = {"color": GREY, "dash": "dash", "width": 1.5, "shape": "hv"}
        data.append({**front, "x": panel.front[:, 0].tolist(), "y": panel.front[:, 1].tolist(), "line": style})
    for mark in panel.marks:
        color = COLORS[mark.color % len(COLORS)]
        marker: dict[str, Any] = {"symbol": SYMBOLS[mark.color % len(SYMBOLS)], "color": color}
        marker |= {"size": 12} if mark.large else {"size": 6, "opacity": 0.5}
        trace = {
            "type": "scatter",
            "mode": "markers",
            "name": escape(mark.label),
            "meta": {"group": mark.color},
            "x": [mark.x],
            "y": [mark.y],
            "marker": marker,
            "hovertemplate": "%{x:.4g}, %{y:.4g}",
        }
        for axis, value, side in (("x", mark.x, mark.x_range), ("y", mark.y, mark.y_range)):
            if side:
                trace[f"error_{axis}"] = {
                    "type": "data",
                    "symmetric": False,
                    "array": [side[1] - value],
                    "arrayminus": [value - side[0]],
                    "color": color,
                    "thickness": 1.2,
                }
        data.append(trace)
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": escape(panel.x_label)}},
        "yaxis": {"title": {"text": escape(panel.y_label)}},
        "hovermode": "closest" if panel.marks else "x unified",
        "showlegend": any(not line.grouped for line in panel.lines),
    }
    if panel.y_range:
        layout["yaxis"]["range"] = list(panel.y_range)
    layout["shapes"] = [
        {
            "type": "line",
            "xref": "paper",
            "x0": 0,
            "x1": 1,
            "y0": value,
            "y1": value,
            "line": {"color": GREY, "width": 1.5, "dash": "dash"},
        }
        for value, _ in panel.levels
    ]
    layout["annotations"] = [
        {
            "text": escape(text),
            "xref": "paper",
            "x": 1,
            "y": value,
            "xanchor": "right",
            "yanchor": "bottom",
            "showarrow": False,
            "font": {"size": 11, "color": GREY},
        }
        for value, text in panel.levels
    ]
    return {"data": data, "layout": layout}


def _bars(bars: Bars) -> dict[str, Any]:
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "name": escape(part),
            "y": [escape(label) for label in bars.labels],
            "x": values,
            "marker": {"color": COLORS[index % len(COLORS)], "pattern": {"shape": "/" if index >= len(COLORS) else ""}},
            "hovertemplate": "%{x:.3g} s",
            "meta": {"group": -1},
        }
        for index, (part, values) in enumerate(bars.parts.items())
    ]
    layout = {
        "barmode": "stack",
        "xaxis": {"title": {"text": escape(bars.x_label)}},
        "yaxis": {"autorange": "reversed", "type": "category", "automargin": True},
        "hovermode": "closest",
        "showlegend": True,
        "height": 170 + 30 * len(bars.labels),
    }
    return {"data": data, "layout": layout}


def escape(text: str) -> str:
    """A text for plotly, which reads a few tags and entities in every text it draws."""
    return html.escape(text, quote=False)


def _band(found: Curve) -> dict[str, Any]:
    assert found.low is not None
    assert found.high is not None
    around = np.concatenate([found.steps, found.steps[::-1]])
    return {
        "x": _numbers(around, "i4"),
        "y": _numbers(np.concatenate([found.high, found.low[::-1]]), "f4"),
        "mode": "lines",
        "line": {"width": 0},
        "fill": "toself",
        "hoverinfo": "skip",
    }


def _numbers(values: NDArray[Any], kind: str) -> dict[str, str]:
    """Numbers as plotly reads them fastest and smallest: typed and in base64."""
    return {"dtype": kind, "bdata": base64.b64encode(values.astype(f"<{kind}").tobytes()).decode()}


def _tint(color: str) -> str:
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
