"""What the live view shows of a run, as lines that fit a terminal of any size."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from math import ceil
from typing import NamedTuple

from rich.cells import cell_len
from rich.text import Text

from ctwa import metrics as key_of
from ctwa.report.curves import resampled
from ctwa.report.trace import RunTrace
from ctwa.report.watch.state import WatchedRun, Word
from ctwa.run.text import clean, duration, fit, number, sparkline

_STYLES: dict[Word, str] = {"going on": "green", "finished": "cyan", "ended": "bold red"}
_GAP = 3  # between blocks
_NOTED = 30  # from this width on a block has room for a note
_NOTE = 9
_ALARMS = 4  # lines that the blocks leave to alarms
_FOOTER = "q ends this view, not the run"


class Block(NamedTuple):
    """One metric of all objectives: a value, a note and a curve for each."""

    title: str
    note: str  # what stands beside a value, where there is room for it
    key: Callable[[str], str]
    shared: bool = False  # one scale for all objectives, with 0 in it


BLOCKS = (
    Block("held-out reward", "(its change)", key_of.validation),
    Block("training reward", "(its change)", key_of.objective_mean),
    Block("covariance", "of its target", key_of.covariance, shared=True),
    Block("weight", "(its change)", key_of.weight, shared=True),
)


def draw(run: WatchedRun, width: int, height: int) -> list[Text]:
    """At most `height` lines of at most `width` cells. What the user named is text, never markup."""
    head = _head(run, width)
    blocks = _blocks(run.trace, width, height - len(head) - _ALARMS - 1)
    lines = [*head, *blocks, Text(""), *_alarms(run.trace, width)][: max(height - 1, 0)]
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
    title = Text(clean(run.trace.method), "bold")
    title.append(clean(f"  {', '.join(facts)}"), "not bold")
    lines = [title, _progress(run, status.word, width), Text(clean(status.text), _STYLES[status.word])]
    if run.event:
        lines.append(Text(clean(f"last event: {run.event['text']}"), "dim"))
    return lines


def _progress(run: WatchedRun, word: Word, width: int) -> Text:
    times = [f"trained {duration(run.trained)}"]
    times += [f"{number(run.step_seconds)} s a step"] if run.step_seconds is not None else []
    times += [f"ETA {duration(run.eta())}"] if word == "going on" and run.eta() is not None else []
    facts = "  " + ", ".join(times)
    if not run.num_steps:
        return Text(f"step {run.step}{facts}")
    share = min(run.step / run.num_steps, 1.0)
    counts, percent = f"step {run.step}/{run.num_steps} ", f" {share:4.0%}"
    length = max(min(width - len(counts) - len(percent) - len(facts), 60), 5)
    full = int(share * length)
    return Text.assemble(counts, ("━" * full, _STYLES[word]), ("─" * (length - full), "dim"), percent, facts)


def _blocks(run: RunTrace, width: int, room: int) -> list[Text]:
    """The blocks, as few beside each other as the height allows: the wider a curve, the more it tells."""
    names = run.objectives
    blocks = [block for block in BLOCKS if any(run.first_and_last(block.key(name)) for name in names)]
    height = 2 + len(names)  # of a band of blocks: a blank line, the titles, a line for each objective
    beside = next((each for each in (1, 2) if ceil(len(blocks) / each) * height <= room), len(BLOCKS))
    name_width = max(4, min(max((cell_len(clean(name)) for name in names), default=0), width // 4, 24))
    block_width = max((width - name_width) // beside - _GAP, 1)
    lines = []
    for at in range(0, len(blocks), beside):
        band = blocks[at : at + beside]
        titles = [f"{block.title} {block.note}" if block_width >= _NOTED else block.title for block in band]
        lines += [Text(""), Text(" " * name_width + "".join(" " * _GAP + fit(each, block_width) for each in titles))]
        lines[-1].stylize("bold")
        cells = [_cells(run, block, block_width) for block in band]
        for name, *row in zip(names, *cells, strict=True):
            lines.append(Text(fit(name, name_width)))
            for cell in row:
                lines[-1].append(" " * _GAP).append_text(cell)
    return lines


def _cells(run: RunTrace, block: Block, width: int) -> list[Text]:
    """A block's line of each objective, `width` cells wide."""
    noted = width >= _NOTED
    spark_width = max(width - 7 - (_NOTE + 1) * noted, 1)
    curves = [resampled(run.curve(block.key(name)), 0, run.last_step, spark_width) for name in run.objectives]
    every = [0.0, *(value for columns in curves for value in columns)]
    cells = []
    for name, columns in zip(run.objectives, curves, strict=True):
        scale = every if block.shared else columns or [0.0]
        value, note, style = _value(run, block, name)
        cell = Text(f"{value:>6}", style)
        if noted:
            cell.append(f" {note:>{_NOTE}}", "dim")
        cells.append(cell.append(" " + sparkline(columns, min(scale), max(scale)).ljust(spark_width), "cyan"))
    return cells


def _value(run: RunTrace, block: Block, name: str) -> tuple[str, str, str]:
    """The newest value, what stands beside it (its change, or its target), and its style."""
    measured, target = run.first_and_last(block.key(name)), run.target(name)
    if measured is None:
        return "-", "", ""
    first, last = measured
    if block.key is not key_of.covariance:
        return number(last), f"({number(last - first, sign=True)})", ""
    style = "red" if last < 0 else "yellow" if target is not None and last < target else ""
    return number(last, sign=True), "" if target is None else f"of {number(target)}", style


def _alarms(run: RunTrace, width: int) -> list[Text]:
    """The alarms that hold, with what to try; below them those that are over, the newest first."""
    lines: list[Text] = []
    for alarm in run.alarms.active:
        lines += _wrapped(f"{alarm.kind}, since step {alarm.since}: {alarm.text}", "! ", width, "bold red")
        lines += _wrapped(alarm.advice, "  ", width)
    for episode in reversed([each for each in run.alarms.episodes if each.over]):
        words = f"over: {episode.alarm.kind}, steps {episode.alarm.since} to {episode.last}: {episode.alarm.text}"
        lines += _wrapped(words, "  ", width, "dim")
    return lines or [Text("no alarm", "dim")]


def _wrapped(words: str, indent: str, width: int, style: str = "") -> list[Text]:
    wrapped = textwrap.wrap(
        clean(words), max(width, 20), initial_indent=indent, subsequent_indent="  ", break_on_hyphens=False
    )
    return [Text(line, style) for line in wrapped]
