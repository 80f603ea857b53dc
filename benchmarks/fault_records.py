"""What became of the faults of faults.py: their records, and tables of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from statistics import median

from ctwa.report.markdown import table

EACH = ("fault", "at", "exit status", "s to the end", "longest pause, s", "made again", "same", "left")
BY_KIND = ("fault", "tried", *EACH[1:-1], "lost", "left")


@dataclass(frozen=True)
class Trial:
    """A fault at a moment.

    Attributes:
        fault: a key of `FAULTS`.
        moment: "step", "save", or "start": while the ranks load the model.
        restarts: how often the command may still resume the run by itself: --max-restarts.
        seed: of the moment.
    """

    fault: str
    moment: str = "step"
    restarts: int = 0
    seed: int = 0

    @property
    def name(self) -> str:
        """Of the fault, with what the command does then."""
        return f"{self.fault}, `--max-restarts`" if self.restarts else self.fault


@dataclass
class Outcome:
    """What became of a fault.

    Attributes:
        trial: which, and when.
        step: the last one made before it.
        phase: of the step in which it came, by the times that the step before took.
        status: of the command; None where it went on.
        seconds_to_end: from the fault; None likewise.
        said: what the user reads of it: the first such event of the run, or the command's last error.
        survived: whether three further steps were made: at once, or after the run was resumed by itself or by hand.
        pause: the longest time in seconds between the ends of two steps, from the last before the fault on; with the
            engine's start, where the run was resumed.
        steps_lost: made again.
        orphans: processes that were left 20 s after the command's end.
        same: whether the steps from this fault to the next are the undisturbed run's to the bit; None: not compared.
    """

    trial: Trial
    step: int
    phase: str = ""
    status: int | None = None
    seconds_to_end: float | None = None
    said: str = ""
    survived: bool = False
    pause: float | None = None
    steps_lost: int = 0
    orphans: int = 0
    same: bool | None = None

    @property
    def ending(self) -> str:
        """The command's exit status."""
        return "goes on" if self.status is None else str(self.status)


def read_outcomes(path: Path) -> list[Outcome]:
    """Those of the faults that were tried."""
    records = [json.loads(each) for each in path.read_text().splitlines()] if path.exists() else []
    return [Outcome(**(record | {"trial": Trial(**record["trial"])})) for record in records]


def line(outcome: Outcome) -> str:
    """An outcome in the file of records."""
    return json.dumps(asdict(outcome)) + "\n"


def each_fault(outcomes: Sequence[Outcome]) -> str:
    """A table with a line for each fault."""
    return table(EACH, map(row, outcomes))


def row(each: Outcome) -> list[object]:
    """A line of it."""
    moment = f"{each.trial.moment} {each.step + 1}: {each.phase}" if each.phase else each.trial.moment
    seconds = ["-" if value is None else f"{value:.0f}" for value in (each.seconds_to_end, each.pause)]
    same = {None: "-", True: "yes", False: "**no**"}[each.same] if each.survived else "**lost**"
    return [each.trial.name, moment, each.ending, *seconds, each.steps_lost, same, each.orphans]


def by_kind(outcomes: Sequence[Outcome]) -> str:
    """A table with a line for each kind of fault, and one for all."""
    kinds = groupby(sorted(outcomes, key=lambda each: each.trial.name), key=lambda each: each.trial.name)
    lines = [[name, *_summary(list(tried))] for name, tried in kinds]
    num, _, _, _, pause, again, same, lost, left = _summary(outcomes)
    return table(BY_KIND, [*lines, ["**all**", num, "", "", "", pause, again, same, lost, left]])


def _summary(tried: Sequence[Outcome]) -> list[object]:
    compared = [each.same for each in tried if each.same is not None]
    return [
        len(tried),
        _counted([each.phase or each.trial.moment for each in tried]),
        _counted([each.ending for each in tried]),
        _spread([each.seconds_to_end for each in tried if each.seconds_to_end is not None]),
        _spread([each.pause for each in tried if each.pause is not None]),
        max((each.steps_lost for each in tried), default=0),
        f"{sum(compared)} of {len(compared)}" if compared else "-",
        sum(not each.survived for each in tried),
        sum(each.orphans for each in tried),
    ]


def _counted(words: Sequence[str]) -> str:
    counted = Counter(words).most_common()
    return ", ".join(word if num in (1, len(words)) else f"{word} ×{num}" for word, num in counted)


def _spread(seconds: Sequence[float]) -> str:
    """The median, and the most where that is another number."""
    if not seconds:
        return "-"
    middle, most = f"{median(seconds):.0f}", f"{max(seconds):.0f}"
    return middle if middle == most else f"{middle}, at most {most}"
