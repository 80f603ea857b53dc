"""The console of a run whose trainer is another process: the trainer writes the trace, this follows and prints it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event as StopEvent
from threading import Thread
from typing import Any, Protocol

from ctwa.run.folder import RunFolder
from ctwa.run.jsonl import JsonLinesTail
from ctwa.run.trace import Event, Record


class Reporter(Protocol):
    """What is told of a run; `ConsoleReporter` is one."""

    def past(self, record: Record) -> None:
        """A record that was there before the following began."""

    def record(self, record: Record) -> None:
        """A new record."""

    def event(self, event: Event) -> None:
        """A new event."""


class Follower:
    """Hands a run's new records and events to a reporter, in the order of their times, each once.

    What is there when it is made is the past: an earlier process's part of a resumed run. When the resumed trainer then
    rewinds the trace, what was seen is not handed out again; the steps that are run again are.
    """

    def __init__(self, run: RunFolder | Path, reporter: Reporter):
        run = run if isinstance(run, RunFolder) else RunFolder(run)
        self._reporter = reporter
        self._records = JsonLinesTail(run.metrics, Record)
        self._events = JsonLinesTail(run.events, Event)
        self._seen: set[tuple[Any, ...]] = set()
        for record in self._new(self._records):
            reporter.past(record)
        self._new(self._events)

    def poll(self) -> None:
        """Reports what came since the last poll."""
        found: list[tuple[float, Callable[[], None]]] = [
            (record["time"], partial(self._reporter.record, record)) for record in self._new(self._records)
        ]
        found += [(event["time"], partial(self._reporter.event, event)) for event in self._new(self._events)]
        for _, report in sorted(found, key=lambda each: each[0]):
            report()

    def _new(self, tail: JsonLinesTail) -> list[Any]:
        found = [(_identity(item), item) for item in tail.poll()]
        new = [item for identity, item in found if identity not in self._seen]
        self._seen.update(identity for identity, _ in found)
        return new


def _identity(item: Mapping[str, Any]) -> tuple[Any, ...]:
    return item["time"], item["step"], item.get("kind"), item.get("text")


@contextmanager
def following(run: RunFolder | Path, reporter: Reporter, *, interval: float = 0.2) -> Iterator[None]:
    """Follows a run in a thread while the body runs; everything written by the body's end has been reported then.

    Enter it before the trainer starts: what is in the trace on entry counts as the past.
    """
    stop = StopEvent()
    thread = Thread(target=_follow, args=(Follower(run, reporter), stop, interval), name="ctwa-follow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _follow(follower: Follower, stop: StopEvent, interval: float) -> None:
    while not stop.wait(interval):
        follower.poll()
    follower.poll()
