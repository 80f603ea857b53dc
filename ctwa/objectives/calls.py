"""Calls of reward functions: which ones completions need, and the queue in which they wait for a worker."""

from __future__ import annotations

import pickle
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from ctwa.objectives.completion import Completion
from ctwa.objectives.config import ObjectiveConfig
from ctwa.objectives.contract import Contract, Outcome
from ctwa.objectives.loading import resolve_spec
from ctwa.objectives.messages import Function

# Calls sent together: enough that sending costs little, few enough that the workers end at the same time.
MAX_CHUNK = 16
MAX_ASYNC_CHUNK = 64  # of an async function: how many run concurrently in a worker


@dataclass(frozen=True)
class Kind:
    """What all calls of a function have in common: the seconds that one may take, and whether they run together."""

    timeout: float
    is_async: bool


@dataclass(frozen=True)
class Call:
    """One call of a function (its index): the pickled arguments, and the completions (rows) whose values it gives."""

    function: int
    arguments: bytes
    rows: tuple[int, ...]


@dataclass
class Chunk:
    """Calls of one function that go to a worker together; ``seconds`` is how long workers were busy with them."""

    function: int
    kind: Kind
    calls: list[Call]
    seconds: float = field(default=0.0, init=False)


Ended = tuple[Call, list[Outcome]]  # a call that came to an end, with an outcome for each of its rows


class CallQueue:
    """The calls of a batch: one thread puts them in as they come, and those that serve the workers take them out.

    Calls of async functions come first: while they wait, the others run. Which worker runs a call, and with which
    others, depends on the clock; what it gives does not, since calls share nothing.

    Args:
        kinds: of the functions, by their index.
        num_workers: that take calls from here, all together.
    """

    def __init__(self, kinds: Sequence[Kind], num_workers: int) -> None:
        self.kinds = kinds
        self._num_workers = num_workers
        self._lock = threading.Lock()
        order = sorted(range(len(kinds)), key=lambda function: not kinds[function].is_async)
        self._waiting: dict[int, deque[Call]] = {function: deque() for function in order}
        self._listeners: list[Callable[[], None]] = []
        self._num_unfinished = 0
        self._is_complete = False
        self._busy, self._busy_since = 0.0, 0.0
        #: whether nobody wants what is left
        self.is_cancelled = False
        #: all that were taken out
        self.chunks: list[Chunk] = []

    def listen(self, wake: Callable[[], None]) -> None:
        """Have a function called whenever there may be something to take, or nothing any more."""
        self._listeners.append(wake)

    def put(self, calls: Sequence[Call]) -> None:
        """Add calls."""
        with self._lock:
            if calls and not self._num_unfinished:
                self._busy_since = perf_counter()
            for call in calls:
                self._waiting[call.function].append(call)
            self._num_unfinished += len(calls)
        self._wake()

    def complete(self) -> None:
        """No more calls will come."""
        self._is_complete = True
        self._wake()

    def cancel(self) -> None:
        """Let those who take calls stop, and kill what runs."""
        self.is_cancelled = True
        self._wake()

    def take(self, num_idle: int) -> Chunk | None:
        """The calls for one of ``num_idle`` workers; None where none waits."""
        with self._lock:
            for function, calls in self._waiting.items():
                if calls:
                    kind = self.kinds[function]
                    if kind.is_async:  # all start at once, on all workers that are free
                        size = min(-(-len(calls) // num_idle), MAX_ASYNC_CHUNK)
                    else:  # a fair share, so that no worker waits while another has several of the last
                        size = min(max(len(calls) // self._num_workers, 1), MAX_CHUNK)
                    self.chunks.append(Chunk(function, kind, [calls.popleft() for _ in range(size)]))
                    return self.chunks[-1]
        return None

    def give_back(self, calls: Sequence[Call]) -> None:
        """Let calls that came to no end be taken again, before all others of their function."""
        with self._lock:
            for call in reversed(calls):
                self._waiting[call.function].appendleft(call)
        self._wake()

    def finish(self) -> None:
        """One of the calls that were taken came to its end."""
        with self._lock:
            self._num_unfinished -= 1
            if not self._num_unfinished:
                self._busy += perf_counter() - self._busy_since
        if self.is_over:
            self._wake()

    @property
    def is_over(self) -> bool:
        """Whether every call came to its end, and no more will come."""
        return self._is_complete and not self._num_unfinished

    @property
    def busy_seconds(self) -> float:
        """How long, up to now, some call was waiting or running."""
        with self._lock:
            return self._busy + (perf_counter() - self._busy_since if self._num_unfinished else 0.0)

    def _wake(self) -> None:
        for wake in self._listeners:
            wake()


def plan(
    objectives: Mapping[str, ObjectiveConfig],
    contracts: Sequence[Contract],
    rows: Sequence[int],
    completions: Sequence[Completion],
    group_N: Sequence[int],
) -> list[Call]:
    """The calls that completions need, which are of whole prompts, with those of a batch's rows that each scores.

    Each function is called on the completions that its objective applies to; one that several share is called once.
    """
    calls, first_of = [], sharing(objectives)
    for index, ((name, objective), contract) in enumerate(zip(objectives.items(), contracts, strict=True)):
        if name not in first_of:
            continue
        places_by_group: dict[int, list[int]] = {}
        for place, (completion, group) in enumerate(zip(completions, group_N, strict=True)):
            if objective.applies(completion):
                places_by_group.setdefault(int(group), []).append(place)
        together = list(places_by_group.values())
        if not contract.is_group:
            together = [[place] for place in sorted(place for places in together for place in places)]
        for places in together:
            arguments = {**contract.collect([completions[place] for place in places]), **objective.kwargs}
            payload = pickle.dumps(arguments, pickle.HIGHEST_PROTOCOL)
            calls.append(Call(index, payload, tuple(rows[place] for place in places)))
    return calls


def kinds(objectives: Mapping[str, ObjectiveConfig], contracts: Sequence[Contract]) -> list[Kind]:
    """What the calls of each objective have in common."""
    return [
        Kind(objective.timeout, contract.is_async)
        for objective, contract in zip(objectives.values(), contracts, strict=True)
    ]


def functions_of(objectives: Mapping[str, ObjectiveConfig]) -> list[Function]:
    """What a worker loads, in the order of the objectives; one that several share is loaded for each."""
    together = sharing(objectives)
    return [
        Function(
            resolve_spec(objective.reward_fn),
            objective.kwargs,
            tuple(objectives[each].key for each in together.get(name, [name])),
        )
        for name, objective in objectives.items()
    ]


def sharing(objectives: Mapping[str, ObjectiveConfig]) -> dict[str, list[str]]:
    """By the first of the objectives that one call serves, all of them: those that take a key of what it returns."""
    together: dict[str, list[str]] = {}
    for name, objective in objectives.items():
        others = (first for first in together if objective.key and objectives[first].key)
        first = next((each for each in others if objective.shares_calls_with(objectives[each])), name)
        together.setdefault(first, []).append(name)
    return together
