"""Looks after a run that waits: a process that has died, or a phase that does not end, ends the run with a sentence.

Without it a run may wait for ever: the transfer queue's clients have no time limit, and neither has a collective
operation on the CPU. What the run has saved stays; an interrupted step is made again by the resumed run.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple, TypeVar

import psutil
from pydantic import Field, model_validator

from ctwa.errors import CtwaError
from ctwa.run.text import duration, listed
from ctwa.strict import StrictModel

MAY_DIE = ("RewardNode",)
"""Actors whose calls others take."""
NODE_LOST = "its node was lost"
"""Why a process has died that ran on such a node."""
T = TypeVar("T")
LATE = 3.0
"""Seconds by which a look may be late before that is told."""


class WatchdogSettings(StrictModel):
    """When a run that waits is ended (docs/training.md).

    Attributes:
        factor: a phase may last so many times the longest that it has lasted in this run,
        floor: but at least so many seconds,
        ceiling: and at most so many; so long as well where it has not ended yet in this run.
        every: seconds between two looks at the processes.
    """

    factor: Annotated[float, Field(gt=1)] = 10.0
    floor: Annotated[float, Field(gt=0)] = 600.0
    ceiling: Annotated[float, Field(gt=0)] = 4 * 3600.0
    every: Annotated[float, Field(ge=0.1, le=3600)] = 10.0

    @model_validator(mode="after")
    def _floor_is_below(self) -> WatchdogSettings:
        if self.floor > self.ceiling:
            raise ValueError(f"floor, {self.floor:g} s, is above ceiling, {self.ceiling:g} s: write a lower one")
        return self

    def limit(self, longest: float | None) -> float:
        """Seconds that a phase may last which so far lasted ``longest`` at most; None where it has not ended yet."""
        return self.ceiling if longest is None else min(max(self.factor * longest, self.floor), self.ceiling)


class Process(NamedTuple):
    """A process of the run.

    Attributes:
        name: what it is, with its process id and, elsewhere than here, its machine.
        pid: None where it runs on another machine.
        died: why, where it has died by itself; None while it lives, or was ended because it was needed no more.
        kind: what it is.
        node: Ray's id of the node that it runs on, as far as Ray knows; empty where it does not run.
    """

    name: str
    pid: int | None = None
    died: str | None = None
    kind: str = ""
    node: str = ""


@dataclass
class _Waiting:
    phase: str
    since: float  # by time.monotonic


def no_processes() -> list[Process]:
    """Of a run that has not started any."""
    return []


@dataclass
class Watchdog:
    """Watches from a thread of its own, while ``with watchdog.watching():`` lasts.

    Args:
        settings: how long is waited.
        end: told in a sentence why the run is to end, from the watching thread.
        say: told what the user should know while the run goes on.
    """

    settings: WatchdogSettings
    end: Callable[[str], None]
    say: Callable[[str], None]
    _longest: dict[str, float] = field(default_factory=dict)
    _waiting: list[_Waiting] = field(default_factory=list)
    _processes: Callable[[], Collection[Process]] = no_processes
    _seen: Collection[Process] = ()
    _counted: Callable[[], Mapping[str, float]] = dict
    _looking: threading.Lock = field(default_factory=threading.Lock)
    _memory: dict[str, float] = field(default_factory=dict)
    _dead: set[str] = field(default_factory=set)
    _stopped: set[str] = field(default_factory=set)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Let a phase have its time; one within another has its own."""
        waiting = _Waiting(name, time.monotonic())
        self._waiting.append(waiting)
        try:
            yield
        finally:
            self._waiting.remove(waiting)
        self._longest[name] = max(self._longest.get(name, 0.0), time.monotonic() - waiting.since)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look every few seconds, while the body runs."""
        over = threading.Event()

        def watch() -> None:
            while True:
                began, computed = time.monotonic(), time.process_time()
                if over.wait(self.settings.every):
                    return
                try:
                    self.woke(time.monotonic() - began - self.settings.every, time.process_time() - computed)
                    with self._looking:
                        fault = self.look(self._see(), time.monotonic())
                except (OSError, CtwaError) as error:  # what is to be told cannot be written
                    fault = str(error)
                if fault is not None:
                    self.end(fault)
                    return

        thread = threading.Thread(target=watch, daemon=True, name="ctwa-watchdog")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @contextmanager
    def sees(
        self, processes: Callable[[], Collection[Process]], counted: Callable[[], Mapping[str, float]] = dict
    ) -> Iterator[None]:
        """Look at these processes too, while the body runs: none of them is meant to end before it does.

        Args:
            processes: of the run.
            counted: metrics of others that it has.
        """
        self._processes, self._counted = processes, counted
        try:
            yield
        finally:
            with self._looking:
                self._processes, self._seen, self._counted = no_processes, (), dict

    def _see(self) -> Collection[Process]:
        """The processes, as they were seen last where nobody answers: a phase has its limit then, too."""
        with suppress(Exception):  # whatever Ray's client raises where its servers are slow, or gone
            self._seen = self._processes()
        return self._seen

    def metrics(self) -> dict[str, float]:
        """What the run's processes are.

        ``memory/<kind>`` is GB of the driver, and at the last look of the largest process of each kind here; the
        others are counted now.
        """
        return {"memory/driver": memory_gb(os.getpid()), **self._memory, **self._counted()}

    def woke(self, late: float, computed: float) -> None:
        """Take note of a pause in which this process could not do anything: no phase has had that time.

        Args:
            late: seconds by which the watching thread woke too late.
            computed: seconds that this process has computed meanwhile: where they are many, it kept the thread waiting.
        """
        if late < LATE or computed > late / 2:
            return
        for waiting in list(self._waiting):
            waiting.since += late
        self.say(
            f"this process (the driver, {os.getpid()}) was stopped, or its machine was, or found no time for it, for "
            f"{late:.0f} s: what was waited for meanwhile has that much longer"
        )

    def look(self, processes: Collection[Process], now: float) -> str | None:
        """What is wrong, as a sentence; None where nothing is.

        A process that has died is given the time until the next look: who waits for it may say more of it.

        Args:
            processes: of the run.
            now: seconds, by the clock of ``time.monotonic``.
        """
        died = {process.name: process.died for process in processes if process.died is not None}
        if known := died.keys() & self._dead:
            return "; ".join(f"{name} has died: {died[name]}" for name in sorted(known))
        self._dead |= died.keys()
        memory: dict[str, float] = {}
        for process in processes:
            if process.pid is not None:
                key = f"memory/{process.kind}"
                memory[key] = max(memory.get(key, 0.0), memory_gb(process.pid))
        self._memory = memory
        self._tell_of_stopped({each.name: each.pid for each in processes if is_stopped(each.pid)})
        for waiting in self._waiting:
            lasted, limit = now - waiting.since, self.settings.limit(self._longest.get(waiting.phase))
            if lasted > limit:
                return f"{self._lasts(waiting.phase, lasted, limit)}; {_states(processes)}"
        return None

    def _tell_of_stopped(self, stopped: Mapping[str, int | None]) -> None:
        for name in stopped.keys() - self._stopped:
            self.say(f"{name} is stopped (SIGSTOP): `kill -CONT {stopped[name]}` lets it go on")
        for name in self._stopped - stopped.keys():
            self.say(f"{name} is stopped no more")
        self._stopped = set(stopped)

    def _lasts(self, phase: str, lasted: float, limit: float) -> str:
        longest = self._longest.get(phase)
        before = "" if longest is None else f", and took {duration(longest)} at most before"
        return f"the phase {phase} lasts for {duration(lasted)}{before} (ctwa.watchdog allows {duration(limit)})"


def _states(processes: Collection[Process]) -> str:
    """Who works, who waits and who is stopped, of the processes here; for who looks for the one that is stuck."""
    here = [process for process in processes if process.pid is not None]
    before = {process.pid: cpu_seconds(process.pid) for process in here}
    time.sleep(1)
    working = [process.name for process in here if cpu_seconds(process.pid) - before[process.pid] > 0.1]
    stopped = [process.name for process in here if is_stopped(process.pid)]
    waiting = [process.name for process in here if process.name not in (*working, *stopped)]
    kinds = {"working": working, "stopped": stopped, "waiting": waiting}
    return "; ".join(f"{kind}: {listed(names)}" for kind, names in kinds.items() if names) or "no process is here"


def is_stopped(pid: int | None) -> bool:
    """Whether a process of this machine was stopped by a signal."""
    return _asked(pid, lambda process: process.status() == psutil.STATUS_STOPPED, False)


def cpu_seconds(pid: int | None) -> float:
    """What a process of this machine has computed so far; 0 where there is none."""
    return _asked(pid, lambda process: process.cpu_times().user + process.cpu_times().system, 0.0)


def memory_gb(pid: int) -> float:
    """What a process of this machine has in memory, with pages that it shares; 0 where there is none."""
    return _asked(pid, lambda process: process.memory_info().rss / 1e9, 0.0)


def _asked(pid: int | None, ask: Callable[[psutil.Process], T], otherwise: T) -> T:
    try:
        return otherwise if pid is None else ask(psutil.Process(pid))
    except psutil.Error:  # it has ended
        return otherwise


def actors() -> list[Process]:
    """The actors of this Ray job; none of those that may die."""
    import ray
    from ray._private.state import actors as table

    context = ray.get_runtime_context()
    here, job = context.get_node_id(), ray.JobID.from_hex(context.get_job_id())
    of_the_run: Mapping[str, Mapping[str, Any]] = table(job_id=job)
    return [_process(each, here) for each in of_the_run.values() if each["ActorClassName"] not in MAY_DIE]


def _process(actor: Mapping[str, Any], here: str) -> Process:
    is_here = actor["Address"]["NodeID"] == here
    kind = actor["ActorClassName"].rpartition(".")[2]  # verl makes that of the ranks within a function
    where = f"process {actor['Pid']}" + ("" if is_here else f" on {actor['Address']['IPAddress']}")
    return Process(
        name=f"{kind} ({where})",
        pid=actor["Pid"] if is_here and actor["State"] == "ALIVE" else None,
        died=_why(actor["DeathCause"]) if actor["State"] == "DEAD" else None,
        kind=kind,
        node=actor["Address"]["NodeID"] if actor["State"] == "ALIVE" else "",
    )


_DEATHS = {
    "WORKER_DIED": "it was killed, or crashed, or found no memory (engine.log may say more)",
    "NODE_DIED": NODE_LOST,
}
"""By Ray's reasons; the others are those of an actor that was ended."""


def _why(cause: Any) -> str | None:
    """Why an actor has died by itself, as Ray knows it; None where it was ended.

    Args:
        cause: Ray's `ActorDeathCause`.
    """
    kind = cause.WhichOneof("context")
    if kind == "oom_context":
        return "the memory of its machine was full"
    if kind != "actor_died_error_context":
        return None  # it never lived, which is told where it was started
    context = cause.actor_died_error_context
    reason = context.DESCRIPTOR.enum_types_by_name["Reason"].values_by_number[context.reason].name
    return _DEATHS.get(reason)
