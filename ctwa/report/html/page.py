"""The report as one HTML file: what stands in its tables, and the figures as JSON for the script in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import count
from statistics import fmean
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ctwa import metrics as key_of
from ctwa.report.compare import Comparison, interval_text
from ctwa.report.curves import averaging_window
from ctwa.report.groups import Group
from ctwa.report.html.charts import chart, palette, points_of_a_curve
from ctwa.report.html.panels import Bars, Section, color_of, dash_of
from ctwa.report.html.samples import Sample, early_and_late, on_the_same_prompts
from ctwa.report.story import Story
from ctwa.report.summary import summarize_trace
from ctwa.report.trace import RunTrace
from ctwa.report.verdict import verdict_rows
from ctwa.run.text import code_parts, duration, number
from ctwa.statistics import CONFIDENCE

_MOST_ALARMS = 100
_DASHARRAYS = {"solid": "", "dash": "7 4", "dot": "2 3", "dashdot": "7 3 2 3"}


@dataclass(frozen=True)
class Report:
    """What a page is made of."""

    groups: Sequence[Group]
    sections: Sequence[Section]
    comparison: Comparison | None
    story: Story

    @property
    def runs(self) -> list[RunTrace]:
        """All runs, in the order of their groups."""
        return [run for group in self.groups for run in group.runs]


def page(report: Report, *, live: tuple[str, float] | None = None) -> str:
    """The page. Everything that the user named is escaped; the scripts are the package's own and plotly's.

    Args:
        report: what is on it.
        live: of a page that a server makes anew: its version, and the seconds between two looks for a newer one.
    """
    figures = [figure for section in report.sections for figure in section.figures]
    most_points = points_of_a_curve(figures)
    index = count()
    sections = [
        {
            **vars(section),
            "panels": [
                {"index": next(index), "title": figure.title, "wide": isinstance(figure, Bars)}
                for figure in section.figures
            ],
            "table": unscored_table(report.runs) if section.name == "update" else [],
        }
        for section in report.sections
    ]
    charts = {"charts": [chart(figure, most_points) for figure in figures], "palette": palette()}
    labels = ", ".join(group.label for group in report.groups)
    steps = max(run.last_step for run in report.runs)
    errors = any(key.startswith(key_of.validation_error("")) for run in report.runs for key in run.keys)
    sources = dict.fromkeys(run.source for run in report.runs)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["with_code"] = with_code
    return environment.from_string(_resource("page.html")).render(
        title=f"Report: {labels}",
        live={"version": live[0], "look": live[1]} if live else None,
        facts=f"{len(report.runs)} {'runs' if len(report.runs) > 1 else 'run'}, up to step {steps}",
        css=Markup(_resource("page.css")),
        js=Markup(_resource("page.js")),
        plotly=Markup(get_plotlyjs()),
        charts=Markup(script_json(charts)),
        groups=[_key(group, at) for at, group in enumerate(report.groups)],
        result=" or ".join(dict.fromkeys(run.result for run in report.runs)),
        averaged=averaging_window(steps) if "training" in sources else 0,
        standard_errors=errors,
        story=report.story,
        verdicts=list(verdict_rows(report.groups)),
        **_alarm_rows(report.runs),
        comparison=_comparison(report.comparison) if report.comparison else None,
        sections=sections,
        samples=_samples(report.groups),
        pairs=_side_by_side(report.groups),
        runs=[_run(run) for run in report.runs],
        thinning=(
            f"A curve is drawn with at most {most_points} points: of each stretch of steps its lowest and highest"
            " value. Tables and alarms are from every step."
        ),
    )


def with_code(text: str) -> Markup:
    """A sentence of ours, escaped, in which commands stand between backticks."""
    parts = code_parts(text)
    return Markup("").join(Markup("<code>{}</code>").format(part) if is_code else part for part, is_code in parts)


def script_json(value: Any) -> str:
    """JSON for a script element: no character in it can end the element or begin a comment."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def unscored_table(runs: Sequence[RunTrace]) -> list[tuple[str, ...]]:
    """What could not be scored, by reason; empty where everything was."""
    rows = []
    for run in runs:
        for name in run.objectives:
            scored = run.curve(key_of.objective(name, "scored_frac")).values
            if not len(scored) or scored.min() == 1:
                continue
            unscored = 1 - float(scored.mean())
            shares = (run.curve(key_of.objective(name, f"{reason}_frac")).values for reason in ("timeout", "error"))
            timeout, error = (float(share.mean()) if len(share) else 0.0 for share in shares)
            rest = max(unscored - timeout - error, 0.0)
            worst = 1 - float(scored.min())
            rows.append((run.label, name, *(f"{share:.2%}" for share in (unscored, timeout, error, rest, worst))))
    header = ("run", "objective", "not scored", "too slow", "failed", "no reward given", "in the worst step")
    return [header, *rows] if rows else []


def _key(group: Group, at: int) -> dict[str, Any]:
    return {
        "label": group.label,
        "num_runs": len(group.runs),
        "color": color_of(at),
        "dasharray": _DASHARRAYS[dash_of(at)],
    }


def _alarm_rows(runs: Sequence[RunTrace]) -> dict[str, Any]:
    rows = [
        {
            "run": run.label,
            "kind": episode.alarm.kind,
            "steps": f"{episode.alarm.since} to {episode.last}",
            "text": episode.alarm.text,
            "advice": episode.alarm.advice,
        }
        for run in runs
        for episode in run.alarms.episodes
    ]
    left = len(rows) - _MOST_ALARMS
    return {
        "alarms": rows[:_MOST_ALARMS],
        "more_alarms": f"{left} more are not shown: report on fewer runs to see them." if left > 0 else "",
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    rows = []
    for method in comparison.methods:
        cells = []
        for name in comparison.objectives:
            gain = method.gains.get(name)
            cells.append(
                {
                    "result": interval_text(method.results.get(name)),
                    "gain": f"{interval_text(gain, sign=True)}" if gain else "",
                }
            )
        known = [seconds for seconds in method.seconds if seconds is not None]
        rows.append(
            {
                "label": method.label,
                "num_runs": len(method.runs),
                "cells": cells,
                "hypervolume": interval_text(method.hypervolume),
                "on_front": {True: "yes", False: "no", None: "-"}[method.on_front],
                "trained": duration(fmean(known)) if known else "-",
            }
        )
    reference = ", ".join(f"{name} {number(value)}" for name, value in comparison.reference.items())
    note = (
        f"At {comparison.at}: {comparison.result}, with {CONFIDENCE:.0%} intervals: Student's over seeds, wide for few"
        " of them; of one seed over its held-out problems, where errors are known. Below it the gain"
        f" over {comparison.baseline}, paired by seed. The hypervolume is measured from {reference}. On the front: no"
        " other method is at least as good in every objective and better in one."
    )
    return {"objectives": comparison.objectives, "rows": rows, "note": note}


def _samples(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Of the first run of each group that has some."""
    found = []
    for group in groups:
        for run in group.runs:
            early, late = early_and_late(run.folder.samples)
            if early:
                parts = [{"step": part[0].step, "samples": [*map(_sample, part)]} for part in (early, late) if part]
                found.append({"label": run.label, "parts": parts})
                break
    return found


def _side_by_side(groups: Sequence[Group]) -> dict[str, Any] | None:
    """What the first run of each group wrote to the same prompts; None where no prompt is shared."""
    runs = [group.runs[0] for group in groups]
    rows = on_the_same_prompts([run.folder.samples for run in runs]) if len(runs) > 1 else []
    if not rows:
        return None
    names = list(dict.fromkeys(name for row in rows for each in row if each is not None for name in each.rewards))
    cards = []
    for row in rows:
        there = [each for each in row if each is not None]
        differing = [name for name in names if len({each.rewards.get(name) for each in there}) > 1]
        columns = [(run.label, _sample(each)) for run, each in zip(runs, row, strict=True) if each is not None]
        cards.append({"prompt": there[0].prompt, "split": there[0].split, "differing": differing, "columns": columns})
    return {"names": names, "cards": cards}


def _sample(sample: Sample) -> dict[str, Any]:
    rewards = [(name, "not scored" if value is None else number(value)) for name, value in sample.rewards.items()]
    return {**vars(sample), "rewards": rewards}


def _run(run: RunTrace) -> dict[str, Any]:
    summary = summarize_trace(run)
    info = run.info
    notes = []
    if info is None:
        notes.append("no run.json: method, seed and targets are not known")
    if not run.folder.samples.is_file():
        notes.append("no samples.jsonl")
    return {
        "label": run.label,
        "method": run.method,
        "seed": "-" if info is None or info.seed is None else info.seed,
        "steps": str(run.last_step) + (f" of {info.num_steps}" if info and info.num_steps != run.last_step else ""),
        "trained": duration(summary.train_seconds),
        "step_seconds": number(summary.step_seconds),
        "model": info.model if info else "",
        "engine": info.engine if info else "",
        "notes": "; ".join(notes),
    }


def _resource(name: str) -> str:
    return (files("ctwa.report.html") / name).read_text(encoding="utf-8")
