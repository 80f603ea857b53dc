"""What a user sees while a run goes on: a header, a line every few steps, the validations, what happened in between."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import nan
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.text import Text

from ctwa import metrics as key_of
from ctwa.run.folder import RunInfo
from ctwa.run.text import clean, counted, duration, fit, number, table
from ctwa.run.trace import Event, Record

Metrics = Mapping[str, float | None]
Cell = tuple[str, int, str]  # text, how many of an objective's columns it takes, style

PLAIN_WIDTH = 100  # where the output is not a terminal
_RECENT_STEPS = 20  # whose median time makes the ETA
_HEADING_EVERY = 20  # lines of steps
_EVENT_STYLES = {"alarm": "bold red", "stop": "bold red", "stuck": "bold red"}  # the others are dim
_HEADING = " elapsed     eta s/step"
_COLUMNS = {"mean": 6, "cov": 7, "weight": 7}  # of an objective, with their widths
_WITHOUT_COVARIANCES = {"mean": 6, "weight": 9}
_BORDER = " │"
_APART = 2  # what a column is wider where an objective has a line of its own


class ConsoleReporter:
    """Prints the records of a trace as aligned lines.

    The objectives stand side by side where the width allows it, else one below the other. Text from the user (names of
    objectives, messages) is printed as it is, never read as markup.

    Args:
        info: what runs.
        console: where to print; when it is no terminal, lines are plain and `PLAIN_WIDTH` wide.
        folder: the run's folder, for the header.
        every: print every so many steps; validations and the last step are always printed.
        clock: s since 1970; the elapsed time counts from the construction of the reporter.
    """

    def __init__(
        self,
        info: RunInfo,
        console: Console,
        *,
        folder: Path | str = "",
        every: int = 1,
        clock: Callable[[], float] = time.time,
    ):
        self.info = info
        self.console = console
        self.folder = str(folder)
        self.every = every
        self._started = clock()
        self._step_seconds: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._reached = self._started  # the time of the last record
        self._start: dict[tuple[str, str], float] = {}  # each objective's first validation, in all and by source
        self._until_heading = 0
        self._width = console.width if console.is_terminal else PLAIN_WIDTH
        self._step_width = max(2 * len(str(info.num_steps)) + 1, len("step"))
        self._prefix_width = self._step_width + len(_HEADING)
        self._columns = _COLUMNS if info.covariances else _WITHOUT_COVARIANCES
        self._objective_width = len(_BORDER) + sum(self._columns.values())
        self._wide = self._prefix_width + self._objective_width * len(info.objectives) <= self._width
        narrow = sum(self._columns.values()) + _APART * len(self._columns)
        self._name_width = self._width - self._prefix_width - len("  ") - narrow

    def header(self) -> None:
        """Prints what runs, with each objective's weight and covariance target, and where it goes."""
        info = self.info
        facts = [counted(info.num_steps, "step")]
        facts += [fact for fact in (f"engine {info.engine}" * bool(info.engine), info.model) if fact]
        facts += [f"seed {info.seed}"] if info.seed is not None else []
        self._print(f"{info.method}: " + ", ".join(facts), "bold")
        if self.folder:
            self._print(f"run folder: {self.folder}")
        rows = [(name, number(each.weight), number(each.target)) for name, each in info.objectives.items()]
        columns = 3 if any(each.target is not None for each in info.objectives.values()) else 2
        for line in table(("objective", "weight", "covariance target")[:columns], [row[:columns] for row in rows]):
            self._print("  " + line)
        self._print(
            f"held-out lines: {info.result} (and its change since the start){info.decoding and f', {info.decoding}'}"
        )

    def past(self, record: Record) -> None:
        """Takes note, without a word, of a record from before this process: a resumed run's earlier steps."""
        metrics = record["metrics"]
        for source in ("", *key_of.sources_in(metrics)):
            for name, value in self._validation(metrics, source).items():
                self._start.setdefault((name, source), value)

    def record(self, record: Record) -> None:
        """Prints a record, if it is due."""
        step, metrics = record["step"], record["metrics"]
        validation = self._validation(metrics)
        trained = any(self._mean(metrics, name) is not None for name in self.info.objectives)
        if trained:
            self._step_seconds.append(self._seconds(record))
        if trained and (validation or step == self.info.num_steps or step % self.every == 0):
            self._print_step(record)
        if validation:
            self._print_validation(f"{self._of_total(step)} held-out", validation)
            for source in key_of.sources_in(metrics):
                if by_source := self._validation(metrics, source):
                    self._print_validation(fit(f"  {source}", self._prefix_width), by_source, source)
        self.past(record)
        self._reached = record["time"]

    def event(self, event: Event) -> None:
        """Prints an event with the time since the start; an alarm stands out, and says what to try.

        An error is left to who ends the run by it, who says more.
        """
        if event["kind"] == "error":
            return
        mark = "alarm: " * (event["kind"] == "alarm")
        style = _EVENT_STYLES.get(event["kind"], "dim")
        self._print(f"{duration(event['time'] - self._started)}  {mark}{event['text']}", style)

    def _seconds(self, record: Record) -> float:
        measured = record["metrics"].get(key_of.STEP_SECONDS)
        return record["time"] - self._reached if measured is None else measured

    def _validation(self, metrics: Metrics, source: str = "") -> dict[str, float]:
        """Each objective's result on held-out problems, on those of one source where that is named."""
        found = {
            name: _value(metrics, key_of.validation_of_source(name, source) if source else key_of.validation(name))
            for name in self.info.objectives
        }
        return {name: value for name, value in found.items() if value is not None}

    def _mean(self, metrics: Metrics, name: str) -> float | None:
        """The mean reward of a step's completions; NaN where none of them was scored."""
        nothing = metrics.get(key_of.objective(name, "scored_frac")) == 0
        return nan if nothing else _value(metrics, key_of.objective_mean(name))

    def _print_step(self, record: Record) -> None:
        step, metrics = record["step"], record["metrics"]
        per_step = median(self._step_seconds)
        prefix = (
            f"{self._of_total(step)} {duration(record['time'] - self._started):>7}"
            f" {duration((self.info.num_steps - step) * per_step):>7} {number(self._step_seconds[-1]):>6}"
        )
        cells = {}
        for name, objective in self.info.objectives.items():
            covariance = metrics.get(key_of.covariance(name))
            short = covariance is not None and objective.target is not None and covariance < objective.target
            cells[name] = [
                (number(self._mean(metrics, name)), 1, ""),
                *([(number(covariance, sign=True), 1, "yellow" if short else "")] * self.info.covariances),
                (number(metrics.get(key_of.weight(name))), 1, ""),
            ]
        self._print_heading()
        self._print_cells(Text(prefix.ljust(self._prefix_width)), cells)

    def _print_validation(self, title: str, validation: Mapping[str, float], source: str = "") -> None:
        style = "cyan" if source else "bold cyan"
        prefix = Text(title.ljust(self._prefix_width), style)
        cells = {}
        for name in self.info.objectives:
            value, start = validation.get(name), self._start.get((name, source))
            change = "" if value is None or start is None else f"({number(value - start, sign=True)})"
            cells[name] = [(number(value), 1, style), (change, len(self._columns) - 1, "cyan")]
        self._print_heading()
        self._print_cells(prefix, cells)

    def _print_cells(self, prefix: Text, cells: Mapping[str, list[Cell]]) -> None:
        """Prints one line, or in the narrow layout one for each objective."""
        line = prefix
        for index, (name, columns) in enumerate(cells.items()):
            if self._wide:
                line.append(_BORDER).append_text(self._in_columns(columns))
            else:
                line = line if index == 0 else Text(" " * self._prefix_width)
                line.append("  " + fit(name, self._name_width))
                line.append_text(self._in_columns(columns, apart=_APART))
                self._print(line)
        if self._wide:
            self._print(line)
        self._until_heading -= 1 if self._wide else len(cells)

    def _in_columns(self, cells: Sequence[Cell], *, apart: int = 0) -> Text:
        line, widths = Text(), [width + apart for width in self._columns.values()]
        for text, span, style in cells:
            line.append(text.rjust(sum(widths[:span])), style)
            widths = widths[span:]
        return line

    def _print_heading(self) -> None:
        if self._until_heading > 0:
            return
        self._until_heading = _HEADING_EVERY
        prefix = f"{'step':>{self._step_width}}{_HEADING}"
        self._print("")
        columns: list[Cell] = [(column, 1, "") for column in self._columns]
        if self._wide:
            names = "".join(f"{_BORDER} {fit(name, self._objective_width - 3)}" for name in self.info.objectives)
            self._print(" " * self._prefix_width + names, "bold")
            self._print(prefix + (_BORDER + self._in_columns(columns).plain) * len(self.info.objectives), "bold")
        else:
            heading = self._in_columns(columns, apart=_APART).plain
            self._print(f"{prefix}  {fit('objective', self._name_width)}{heading}", "bold")

    def _of_total(self, step: int) -> str:
        return f"{step}/{self.info.num_steps}".rjust(self._step_width)

    def _print(self, line: Text | str, style: str = "") -> None:
        text = Text(clean(line), style) if isinstance(line, str) else line
        text.rstrip()
        # Text, not a string: a string's [brackets] would be read as markup. soft_wrap: a line stays one line.
        self.console.print(text, soft_wrap=True, highlight=False)


def _value(metrics: Metrics, key: str) -> float | None:
    """A result: None where it was not measured, NaN where what was measured is no number."""
    value = metrics.get(key)
    return nan if value is None and key in metrics else value
