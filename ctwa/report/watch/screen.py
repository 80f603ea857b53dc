"""What the live view shows of a run, as lines that fit a terminal of any size."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf

from rich.cells import cell_len
from rich.text import Text

from ctwa.report.watch.state import CURVES, Curve, WatchedRun, Word
from ctwa.run.text import clean, duration, fit, number, resample, sparkline

_VALIDATION, _TRAINING, _COVARIANCE, _WEIGHT = CURVES
_STYLES: dict[Word, str] = {"going on": "green", "finished": "cyan", "ended": "bold red"}
_GAP = 3  # between panels
_NOTED = 30  # from this width on a panel has room for a note
_NOTE = 9
_LEAST_ALARMS = 4  # lines that the panels leave to alarms
_FOOTER = "q ends this view, not the run"


@dataclass(frozen=True)
class Panel:
    """One metric of all objectives: a value, a note and a curve for each."""

    title: str
    note: str  # what stands beside a value, where there is room for it
    pattern: str
    shared: bool = False  # one scale for all objectives, with 0 in it


PANELS = (
    Panel("held-out reward", "(its change)", _VALIDATION),
    Panel("training reward", "(its change)", _TRAINING),
    Panel("covariance", "of its target", _COVARIANCE, shared=True),
    Panel("weight", "(its change)", _WEIGHT, shared=True),
)


def draw(run: WatchedRun, width: int, height: int) -> list[Text]:
    """At most `height` lines of at most `width` cells. What the user named is text, never markup."""
    head = _head(run, width)
    alarms = _alarms(run, width, height)
    room = height - len(head) - min(len(alarms), _LEAST_ALARMS) - 2
    bands = _bands(run, width, room)
    lines = [*head, *bands]
    left = height - len(lines) - 1
    if len(alarms) > left:
        alarms = [*alarms[: max(left - 1, 0)], Text("  more alarms: enlarge the window", "dim")]
    lines += alarms
    lines = lines[: max(height - 1, 0)]
    lines.append(Text(_FOOTER, "dim"))
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
    return lines[:height]


def _head(run: WatchedRun, width: int) -> list[Text]:
    info, status = run.info, run.status()
    facts = [str(run.folder.path)]
    if info:
        facts += [fact for fact in (info.model, f"engine {info.engine}" * bool(info.engine)) if fact]
        facts += [f"seed {info.seed}"] if info.seed is not None else []
    title = Text(clean(info.method if info else run.folder.path.name), "bold")
    title.append(clean(f"  {', '.join(facts)}"), "not bold")
    lines = [title, _progress(run, status.word, width), Text(clean(status.text), _STYLES[status.word])]
    if run.event:
        lines.append(Text(clean(f"last event: {run.event['text']}"), "dim"))
    return lines


def _progress(run: WatchedRun, word: Word, width: int) -> Text:
    step, total = max(run.step, 0), run.num_steps
    times = [f"trained {duration(run.trained)}"]
    times += [f"{number(run.step_seconds)} s a step"] if run.step_seconds is not None else []
    times += [f"ETA {duration(run.eta())}"] if word == "going on" and run.eta() is not None else []
    facts = "  " + ", ".join(times)
    if not total:
        return Text(f"step {step}{facts}")
    share = min(step / total, 1.0)
    counts = f"step {step}/{total} "
    percent = f" {share:4.0%}"
    length = max(min(width - len(counts) - len(percent) - len(facts), 60), 5)
    full = int(share * length)
    return Text.assemble(counts, ("━" * full, _STYLES[word]), ("─" * (length - full), "dim"), percent, facts)


def _bands(run: WatchedRun, width: int, room: int) -> list[Text]:
    """The panels, as few beside each other as the height allows: the wider a curve, the more it tells."""
    names = run.objectives
    panels = [panel for panel in PANELS if any(run.curve(panel.pattern, name).last is not None for name in names)]
    if not panels:
        return []
    height = 2 + len(names)  # of a band, see below
    fitting = [beside for beside in (1, 2) if ceil(len(panels) / beside) * height <= room]
    beside = fitting[0] if fitting else len(PANELS)
    found = [
        line for at in range(0, len(panels), beside) for line in _band(run, panels[at : at + beside], beside, width)
    ]
    if len(found) <= room:
        return found
    # Not even all panels beside each other fit: the objectives that do, and how many do not.
    hidden = f"{len(found) - max(room, 0) + 1} more objectives: enlarge the window"
    return [*found[: room - 1], Text(hidden, "dim")] if room > 2 else found[: max(room, 0)]


def _band(run: WatchedRun, panels: Sequence[Panel], beside: int, width: int) -> list[Text]:
    """Panels beside each other: a blank line, the titles, and a line for each objective."""
    name_width = max(4, min(max(cell_len(clean(name)) for name in run.objectives), width // 4, 24))
    panel_width = max((width - name_width) // beside - _GAP, 1)
    title = Text(" " * name_width)
    lines = [Text(fit(name, name_width)) for name in run.objectives]
    for panel in panels:
        words = f"{panel.title} {panel.note}" if panel_width >= _NOTED else panel.title
        title.append(" " * _GAP + fit(words, panel_width), "bold")
        for line, cell in zip(lines, _cells(run, panel, panel_width), strict=True):
            line.append(" " * _GAP).append_text(cell)
    return [Text(""), title, *lines]


def _cells(run: WatchedRun, panel: Panel, width: int) -> list[Text]:
    """A panel's line of each objective, `width` cells wide."""
    noted = width >= _NOTED
    spark_width = max(width - 7 - (_NOTE + 1) * noted, 1)
    curves = {name: run.curve(panel.pattern, name) for name in run.objectives}
    columns = {name: resample(curve.points, 0, run.step, spark_width) for name, curve in curves.items()}
    every = [value for values in columns.values() for value in values]
    cells = []
    for name, curve in curves.items():
        values = columns[name]
        scaled = [*every, 0.0] if panel.shared else values
        low, high = min(scaled, default=0.0), max(scaled, default=0.0)
        note, style = _note(run, panel, name, curve)
        cell = Text(f"{number(curve.last, sign=panel.pattern == _COVARIANCE):>6}", style)
        if noted:
            cell.append(f" {note:>{_NOTE}}", "dim")
        cells.append(cell.append(" " + sparkline(values, low, high).ljust(spark_width), "cyan"))
    return cells


def _note(run: WatchedRun, panel: Panel, name: str, curve: Curve) -> tuple[str, str]:
    """What stands beside a value (its change, or its target), and the value's style."""
    if curve.first is None or curve.last is None:
        return "", ""
    if panel.pattern == _COVARIANCE:
        target = run.target(name)
        style = "red" if curve.last < 0 else "yellow" if curve.last < (-inf if target is None else target) else ""
        return (f"of {number(target)}" if target is not None else ""), style
    return f"({number(curve.last - curve.first, sign=True)})", ""


def _alarms(run: WatchedRun, width: int, most: int) -> list[Text]:
    """The alarms that hold, with what to try; below them those that are over. A few lines more than `most` at most."""
    lines = [Text("")]
    for alarm in run.alarms.active:
        words = f"{alarm.kind}, since step {alarm.since}: {alarm.text}"
        lines += [Text(line, "bold red") for line in _wrap(words, "! ", width)]
        lines += [Text(line) for line in _wrap(alarm.advice, "  ", width)]
    for episode in reversed(run.alarms.episodes):
        if len(lines) > most:
            break
        if episode.over:
            alarm = episode.alarm
            words = f"over: {alarm.kind}, steps {alarm.since} to {episode.last}: {alarm.text}"
            lines += [Text(line, "dim") for line in _wrap(words, "  ", width)]
    return lines if len(lines) > 1 else [Text(""), Text("no alarm", "dim")]


def _wrap(words: str, indent: str, width: int) -> list[str]:
    return textwrap.wrap(
        clean(words), max(width, 20), initial_indent=indent, subsequent_indent="  ", break_on_hyphens=False
    )
