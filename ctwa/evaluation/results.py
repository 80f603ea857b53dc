"""What an evaluation found: as tables, and as results.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ctwa import metrics as key_of
from ctwa.evaluation.front import Fronts
from ctwa.evaluation.intervals import Measured
from ctwa.report.compare import interval_text
from ctwa.run.jsonl import write_atomically
from ctwa.run.text import number, table
from ctwa.statistics import CONFIDENCE, Interval

SCHEMA = 1


@dataclass(frozen=True)
class Section:
    """One kind of measurement.

    Attributes:
        name: `preferences`, `perplexity`, `generation` or `judge`.
        title: one line that says of what, and how.
        about: counts and sources, as plain values.
        metrics: by metric and model.
        notes: what a reader has to know, a line each.
        fronts: of models whose weights are chosen here; they are shown in the place of the metrics.
    """

    name: str
    title: str
    about: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, Measured]]
    notes: Sequence[str] = field(default=())
    fronts: Fronts | None = None


@dataclass(frozen=True)
class Results:
    """An evaluation's results. `models` says of each where it is from; the first is the baseline."""

    models: Mapping[str, Mapping[str, Any]]
    sections: Sequence[Section]
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    seconds: Mapping[str, float]

    @property
    def baseline(self) -> str:
        """The model that the others are compared with."""
        return next(iter(self.models))

    def as_json(self) -> dict[str, Any]:
        """As plain values: docs/eval.md has the schema."""
        return {
            "schema": SCHEMA,
            "confidence": CONFIDENCE,
            "baseline": self.baseline,
            "models": self.models,
            "sections": {
                section.name: {
                    "about": section.about,
                    "metrics": {
                        metric: {model: _plain(measured) for model, measured in by_model.items()}
                        for metric, by_model in section.metrics.items()
                    },
                    **({} if section.fronts is None else {"fronts": section.fronts.as_json()}),
                }
                for section in self.sections
            },
            "config": self.config,
            "versions": self.versions,
            "seconds": self.seconds,
        }

    def write(self, path: Path) -> None:
        """Write results.json, complete or not at all."""
        write_atomically(path, json.dumps(self.as_json(), indent=2, allow_nan=False).encode() + b"\n")


def results_text(results: Results) -> str:
    """The results as tables for a terminal or a README."""
    compared = len(results.models) > 1
    header = ["metric", "model", "value", "error", f"{CONFIDENCE:.0%} interval"]
    if compared:
        header += [f"over {results.baseline}", "n"]
    lines: list[str] = []
    for section in results.sections:
        rows = []
        for metric, by_model in section.metrics.items():
            if _is_quiet(metric, by_model):
                continue
            for index, (model, measured) in enumerate(by_model.items()):
                error = measured.standard_error
                row = ["" if index else _short(metric), model, number(measured.value)]
                row += ["-" if error is None else f"± {number(error)}", _bounds(measured)]
                if compared:
                    row += [interval_text(measured.difference, sign=True), str(measured.num_prompts)]
                rows.append(row)
        shown = table(header, rows, left=2) if section.fronts is None else section.fronts.lines()
        lines += [section.title, *shown, *section.notes, ""]
    return "\n".join(lines).rstrip()


def _is_quiet(metric: str, by_model: Mapping[str, Measured]) -> bool:
    """Shares of the data rather than of the models: shown where they say something, and always in the JSON."""
    last = metric.rpartition("/")[2]
    values = [measured.value for measured in by_model.values()]
    if key_of.parse(metric).family == "objective_source" and set(values) == {None}:
        return True  # an objective that is not for the rows of this source
    return (last == "scored_frac" and set(values) == {1.0}) or (last == "tie_frac" and len(set(values)) == 1)


def _short(metric: str) -> str:
    """`objective/accuracy/mean` as `accuracy`, `preference/helpful/loss` as `helpful: loss`."""
    family, key, objective = key_of.parse(metric)
    if family == "objective_source":
        return f"{objective} of {key}"
    if family not in ("objective", "preference", "judge"):
        return metric
    return objective if (family, key) == ("objective", "mean") else ": ".join(filter(None, (objective, key)))


def _bounds(measured: Measured) -> str:
    if measured.low is None or measured.high is None:
        return "-"
    return f"[{number(measured.low)}, {number(measured.high)}]"


def _plain(measured: Measured) -> dict[str, Any]:
    found = asdict(measured)
    difference: Interval | None = measured.difference
    found["difference"] = None if difference is None else difference._asdict()
    return found
