"""The trace of a run: what every step measured, what happened in between, and a sample of what the model wrote.

The format is a public one, documented in docs/trace.md.
"""

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import msgspec

import ctwa
from ctwa.arguments import check_count
from ctwa.errors import CtwaError
from ctwa.run.jsonl import SCHEMA, AnyRecord, Count, JsonLinesWriter, iterate_jsonl, read_jsonl

LARGEST = 1e150
"""Of a metric: what is larger counts as infinite, for its square is, and no mean could be taken of it."""
_LONG = 2**63
Metric = (
    Annotated[int, msgspec.Meta(ge=-_LONG, le=_LONG - 1)]
    | Annotated[float, msgspec.Meta(ge=-LARGEST, le=LARGEST)]
    | None
)
ENDS = ("stop", "error")
"""The kinds of events that say why a run ended before its last step."""


class Record(AnyRecord):
    """One line of metrics.jsonl."""

    step: Count  # 0 is before the first update
    time: float  # s since 1970, when the record was written
    metrics: dict[str, Metric]
    non_finite: NotRequired[list[str]]  # the metrics that were NaN, infinite or too large, and are null above


class Event(AnyRecord):
    """One line of events.jsonl."""

    time: float  # s since 1970
    step: Count | None
    kind: str
    text: str


class SampleRecord(AnyRecord):
    """One line of samples.jsonl."""

    step: Count
    split: str
    row: NotRequired[Count]
    prompt: str
    response: str
    rewards: dict[str, Metric]
    weights: NotRequired[dict[str, int | float] | None]


def read_trace(path: Path | str) -> list[Record]:
    """The records of a metrics.jsonl in the order of their steps; an unfinished last line is left out.

    Those of the other files are read as well, as they are there.

    Raises:
        CtwaError: the file is missing, broken before its last line, or of a newer schema.
    """
    return read_jsonl(Path(path))


def iterate_trace(path: Path) -> Iterator[Record]:
    """The records of a metrics.jsonl, one after the other: a long run's trace need not fit into memory.

    Raises:
        CtwaError: as `read_trace`, and for a line that is no record of a step, and for records of several runs.
    """
    before = -1
    for record in iterate_jsonl(path, Record):
        if record["step"] <= before:
            raise CtwaError(
                f"{path} has step {record['step']} after step {before}, so it holds the records of several runs: "
                "take those of one of them away"
            )
        before = record["step"]
        yield record


def make_record(step: int, metrics: Mapping[str, Any], *, clock: Callable[[], float] = time.time) -> Record:
    """The record of a step; numbers of numpy and torch are taken like Python's.

    Raises:
        CtwaError: a metric is not a number.
    """
    numbers = {key: _number(key, value) for key, value in metrics.items()}
    non_finite = [key for key, value in numbers.items() if not abs(value) <= LARGEST]
    record: Record = {
        "schema": SCHEMA,
        "step": step,
        "time": clock(),
        "metrics": {key: value if abs(value) <= LARGEST else None for key, value in numbers.items()},
    }
    if non_finite:
        record["non_finite"] = non_finite
    return record


class TraceWriter(JsonLinesWriter):
    """Writes metrics.jsonl: one record a step, on disk before `write` returns.

    Args:
        path: the file.
        resume_after: None for a new run. For a resumed one the step of the checkpoint it continues from: the records
            up to it stay, later ones will be run again and move to metrics.dropped.jsonl. -1 where no checkpoint was
            left and the run starts over.
        clock: s since 1970.

    Raises:
        CtwaError: the file has records and the run is not a resumed one.
    """

    form = Record

    def __init__(self, path: Path, *, resume_after: int | None = None, clock: Callable[[], float] = time.time):
        super().__init__(path, keep=_up_to(resume_after))
        self._clock = clock
        #: the newest step that has a record; -1 where there is none
        self.last_step: int = self._kept[-1]["step"] if self._kept else -1

    def write(self, step: int, metrics: Mapping[str, Any]) -> Record:
        """Appends the record of a step, as `make_record` makes it.

        Raises:
            CtwaError: the step is no whole number or not after the last one, so that it would be there twice; or a
                metric is not a number.
        """
        step = check_count("step", step, 0)
        if step <= self.last_step:
            raise CtwaError(
                f"step {step} comes after step {self.last_step}, which has its record: write each step once, in order"
            )
        record = make_record(step, metrics, clock=self._clock)
        self._append(record)  # type: ignore[arg-type]
        self.last_step = step
        return record


class EventWriter(JsonLinesWriter):
    """Writes events.jsonl: what happens between the steps (the engine is up, a checkpoint, a resume) in words.

    A resumed run continues the file and takes nothing away: what happened, happened.
    """

    form = Event

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time):
        super().__init__(path, keep=lambda _: True)
        self._clock = clock

    def write(self, kind: str, text: str, *, step: int | None = None) -> Event:
        """Appends one event: a `kind` for programs (one word), a `text` for people (one sentence)."""
        event: Event = {"schema": SCHEMA, "time": self._clock(), "step": step, "kind": kind, "text": text}
        self._append(event)  # type: ignore[arg-type]
        return event


class SampleWriter(JsonLinesWriter):
    """Writes samples.jsonl: a few completions of a step with their rewards.

    Args:
        path: the file.
        num_samples: how many completions of a call to `write` are kept.
        max_characters: a longer prompt or response loses its middle, so that the file's size is bounded.
        seed: which completions are taken depends on it, the split and the step alone, so that a resumed run takes
            the ones an unbroken run does.
        resume_after: as in `TraceWriter`.

    Raises:
        CtwaError: the file has records and the run is not a resumed one.
    """

    form = SampleRecord

    def __init__(
        self,
        path: Path,
        *,
        num_samples: int = 4,
        max_characters: int = 8000,
        seed: int = 0,
        resume_after: int | None = None,
    ):
        super().__init__(path, keep=_up_to(resume_after))
        self._num_samples = num_samples
        self._max_characters = max_characters
        self._seed = seed

    def write(
        self,
        step: int,
        prompts: Sequence[str],
        responses: Sequence[str],
        rewards: Mapping[str, Sequence[float | Literal["not_applicable"] | None]],
        *,
        split: str = "train",
        weights: Sequence[Mapping[str, float] | None] = (),
    ) -> None:
        """Keeps a few of N completions.

        Args:
            step: the step that made them.
            prompts: N prompts.
            responses: N responses.
            rewards: per objective the N rewards, None where the completion could not be scored. What does not apply to
                a completion is left out of its record.
            split: where the prompts are from, "train" or "held-out".
            weights: by completion what its prompt was told to weigh the objectives with, where prompts are told any.
        """
        draw = random.Random(f"{self._seed}/{split}/{step}")
        for row in sorted(draw.sample(range(len(prompts)), min(self._num_samples, len(prompts)))):
            self._append(
                {
                    "schema": SCHEMA,
                    "step": step,
                    "split": split,
                    "row": row,
                    "prompt": _shorten(prompts[row], self._max_characters),
                    "response": _shorten(responses[row], self._max_characters),
                    "rewards": {
                        name: _reward(name, reward)
                        for name, values in rewards.items()
                        if (reward := values[row]) != ctwa.NOT_APPLICABLE
                    },
                    **({"weights": dict(told)} if weights and (told := weights[row]) is not None else {}),
                }
            )


def _up_to(step: int | None) -> Callable[[dict[str, Any]], bool] | None:
    return None if step is None else lambda record: record["step"] <= step


def _number(key: str, value: Any) -> float:
    if isinstance(value, Integral) and -_LONG <= int(value) < _LONG:
        return int(value)
    try:
        return float(value)
    except OverflowError:  # a whole number beyond every float
        return math.inf
    except (TypeError, ValueError) as error:
        raise CtwaError(f"metric {key!r} is {value!r}; pass a number") from error


def _reward(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    number = _number(f"objective/{name}", value)
    return number if abs(number) <= LARGEST else None


def _shorten(text: str, max_characters: int) -> str:
    if len(text) <= max_characters:
        return text
    half = max_characters // 2
    return f"{text[:half]} [... {len(text) - 2 * half} characters left out ...] {text[len(text) - half :]}"
