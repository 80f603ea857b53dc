"""Guarded evaluation: every completion under every objective, and what could not be scored."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Self

from ctwa import metrics as key_of
from ctwa.batch import RewardMatrix
from ctwa.errors import CtwaError
from ctwa.objectives.calls import Call, CallQueue, functions_of, kinds, plan, sharing
from ctwa.objectives.completion import Completion
from ctwa.objectives.config import ObjectiveConfig, check_objectives
from ctwa.objectives.contract import Contract, Outcome, Reason
from ctwa.objectives.pool import Pool, WorkerPool

_NOT_CALLED = Outcome(None, applies=False)
_ERROR_REASONS: tuple[Reason, ...] = ("exception", "not_finite", "wrong_type", "crashed")


@dataclass(frozen=True)
class Failure:
    """A completion that an objective could not score.

    Attributes:
        objective: its name.
        row: index of the completion in the batch.
        reason: what went wrong.
        text: the exception, or what was returned.
    """

    objective: str
    row: int
    reason: Reason
    text: str


@dataclass(frozen=True)
class Evaluation:
    """The rewards of a batch.

    Attributes:
        matrix: rewards and what of them was scored.
        failures: one for each entry that applies and was not scored, by objective, then row.
        seconds: how long workers were busy with each objective.
        hidden_seconds: how long functions ran before the last completion was there.
        waited_seconds: how long they ran after it, and so were waited for.
    """

    matrix: RewardMatrix
    failures: tuple[Failure, ...]
    seconds: dict[str, float]
    hidden_seconds: float = 0.0
    waited_seconds: float = 0.0

    def metrics(self) -> dict[str, float]:
        """``RewardMatrix.metrics``, with the shares of what was not scored in time or raised, and the seconds."""
        metrics = self.matrix.metrics()
        counts: Counter[tuple[str, str]] = Counter((failure.objective, failure.reason) for failure in self.failures)
        for name in self.matrix.names:
            if num_rows := int(self.matrix.applicable(name).sum()):
                num_errors = sum(counts[name, reason] for reason in _ERROR_REASONS)
                metrics[key_of.objective(name, "timeout_frac")] = counts[name, "timeout"] / num_rows
                metrics[key_of.objective(name, "error_frac")] = num_errors / num_rows
            metrics[key_of.objective(name, "seconds")] = self.seconds[name]
        return metrics


class RewardEvaluator:
    """Scores batches of completions under all objectives, in processes of its own that can be killed.

    A context manager; the processes start here, stay for all batches, and end with ``close`` or with this process.

    Args:
        objectives: name -> configuration, in the order of the reward matrix's columns.
        num_workers: number of processes.
        max_unscored: share of the completions of a batch that it applies to which an objective may fail to score
            before ``evaluate`` raises, where the objective does not say another.
        max_memory: GB that each process may take; half of the machine's by default.

    Raises:
        CtwaError: a reward function is not found, cannot be imported, or asks for what is not offered.
    """

    def __init__(
        self,
        objectives: Mapping[str, ObjectiveConfig],
        *,
        num_workers: int = 2,
        max_unscored: float = 0.05,
        max_memory: float | None = None,
    ) -> None:
        if not 0 <= max_unscored <= 1:
            raise CtwaError(f"max_unscored is {max_unscored}; write the share of a batch, between 0 and 1")
        self._objectives = dict(check_objectives(objectives))
        self._max_unscored = {
            name: max_unscored if objective.max_unscored is None else objective.max_unscored
            for name, objective in self._objectives.items()
        }
        #: what each worker loads
        self.functions = functions_of(self._objectives)
        self._pool = WorkerPool(self.functions, num_workers, max_memory=max_memory)
        self._pools: list[Pool] = [self._pool]
        self._scoring: Scoring | None = None

    @property
    def contracts(self) -> dict[str, Contract]:
        """How each objective's function is called."""
        return dict(zip(self._objectives, self._pool.contracts, strict=True))

    @property
    def processes(self) -> list[int]:
        """The process ids of the workers on this machine."""
        return self._pool.processes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes."""
        if self._scoring is not None:
            self._scoring.cancel()
        while self._pools:
            self._pools.pop().close()

    def join(self, pool: Pool) -> None:
        """Have calls run by the workers of another machine too; it is closed with the evaluator."""
        self._pools.append(pool)

    def begin(self, num_completions: int) -> Scoring:
        """Begin to score a batch whose completions are still to come; one that is not finished is given up.

        Args:
            num_completions: how many are expected; fewer may come.
        """
        if self._scoring is not None:
            self._scoring.cancel()
        self._scoring = Scoring(self._objectives, self.contracts, self._pools, num_completions, self._max_unscored)
        return self._scoring

    def evaluate(self, completions: Sequence[Completion], group_N: Sequence[int]) -> Evaluation:
        """Score a batch whose completions are all there.

        Args:
            completions: N completions, of one moment of a run.
            group_N: the prompt each belongs to.

        Raises:
            CtwaError: as :meth:`Scoring.finish`.
        """
        scoring = self.begin(len(completions))
        scoring.submit(range(len(completions)), completions, group_N)
        return scoring.finish()


class Scoring:
    """A batch that is being scored, while further completions of it may still be written.

    Whoever has some of them submits them, a prompt's all at once; a thread for each pool serves its workers meanwhile.
    The result is by row: it does not depend on what came first, or ran where.

    Args:
        objectives: name -> configuration.
        contracts: how each one's function is called.
        pools: the workers, those of this machine first.
        num_completions: how many are expected.
        max_unscored: by objective, the share of what it applies to that it may fail to score.
    """

    def __init__(
        self,
        objectives: Mapping[str, ObjectiveConfig],
        contracts: Mapping[str, Contract],
        pools: Sequence[Pool],
        num_completions: int,
        max_unscored: Mapping[str, float],
    ) -> None:
        self._objectives = objectives
        self._names = tuple(objectives)
        self._contracts = list(contracts.values())
        self._sharing = sharing(objectives)
        self._num_completions = num_completions
        self._max_unscored = max_unscored
        self._completions: dict[int, Completion] = {}
        self._outcomes: dict[str, dict[int, Outcome]] = {name: {} for name in objectives}
        self._num_uncalled = Counter[str]()  # completions that an objective's function is not called on
        self._num_slow = Counter[str]()
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._queue = CallQueue(kinds(objectives, self._contracts), sum(pool.num_workers for pool in pools))
        self._threads = [
            threading.Thread(target=self._serve, args=[pool], name="ctwa-rewards", daemon=True) for pool in pools
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, rows: Sequence[int], completions: Sequence[Completion], group_N: Sequence[int]) -> None:
        """Let completions be scored; all completions of a prompt come together.

        Args:
            rows: their places in the batch, from 0.
            completions: as many, of one moment of a run.
            group_N: the prompt each belongs to; a function that takes ``group_*`` is called once for each prompt, with
                those of its completions that the objective applies to.

        Raises:
            CtwaError: as :meth:`check`.
        """
        self.check()
        self._completions.update(zip(rows, completions, strict=True))
        calls = plan(self._objectives, self._contracts, rows, completions, group_N)
        self._num_uncalled.update(dict.fromkeys(self._names, len(completions)))
        for call in calls:
            for name in self._sharing[self._names[call.function]]:
                self._num_uncalled[name] -= len(call.rows)
        self._queue.put(calls)

    def check(self) -> None:
        """Raise what is already known to end the batch, of all that :meth:`finish` would raise."""
        if self._error is not None:
            raise self._error

    def finish(self) -> Evaluation:
        """Wait for the last value.

        Returns:
            The rewards, in the order of the rows: without objectives of ``split: val`` where the completions are
            trained on.

        Raises:
            CtwaError: an objective could not score more than ``max_unscored`` of what it applies to, or anything at all
                with ``on_failure: stop``; one line for each such objective. Raised early, by ``check`` and ``submit``
                too, where waiting for the rest would take long: after too many timeouts or crashes.
        """
        began, hidden = perf_counter(), self._queue.busy_seconds
        self._queue.complete()
        self._join()
        self.check()
        self._num_completions = len(self._completions)
        return self._evaluation(hidden_seconds=hidden, waited_seconds=perf_counter() - began)

    def cancel(self) -> None:
        """Give the batch up; what runs is killed."""
        self._queue.cancel()
        self._join()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _serve(self, pool: Pool) -> None:
        try:
            with closing(pool.run(self._queue)) as calls:
                for call, outcomes in calls:
                    with self._lock:
                        self._note(call, outcomes)
        except BaseException as error:  # noqa: BLE001 - told to the thread that waits for the batch
            self._error = self._error or error
            self._queue.cancel()

    def _note(self, call: Call, outcomes: Sequence[Outcome]) -> None:
        for place, name in enumerate(self._sharing[self._names[call.function]]):
            self._note_of(name, call, [outcome.of(place) for outcome in outcomes])

    def _note_of(self, name: str, call: Call, outcomes: Sequence[Outcome]) -> None:
        objective = self._objectives[name]
        taken = [objective.taken(outcome) for outcome in outcomes]
        self._outcomes[name].update(zip(call.rows, taken, strict=True))
        reasons = [outcome.reason for outcome in taken]
        self._num_slow[name] += sum(reason in ("timeout", "crashed") for reason in reasons)
        is_too_slow = self._num_slow[name] > self._max_unscored[name] * self._num_called(name)
        if any(reasons) and (objective.on_failure == "stop" or is_too_slow):
            raise CtwaError(self._complaint(name))

    def _num_called(self, name: str) -> int:
        """How many completions the function of an objective is called on; those still to come are counted."""
        return self._num_completions - self._num_uncalled[name]

    def _evaluation(self, *, hidden_seconds: float, waited_seconds: float) -> Evaluation:
        rows = sorted(self._completions)
        failures, complaints = [], []
        for name, outcomes in self._outcomes.items():
            failed = [
                Failure(name, place, outcome.reason, outcome.text)
                for place, row in enumerate(rows)
                if (outcome := outcomes.get(row, _NOT_CALLED)).reason is not None
            ]
            if len(failed) > self._max_unscored[name] * _num_applicable(outcomes):
                complaints.append(self._complaint(name))
            failures += failed
        if complaints:
            raise CtwaError("\n".join(complaints))
        seconds = dict.fromkeys(self._names, 0.0)
        for chunk in self._queue.chunks:
            seconds[self._names[chunk.function]] += chunk.seconds
        columns = {
            name: [outcomes.get(row, _NOT_CALLED).reward for row in rows]
            for name, outcomes in self._outcomes.items()
            if not rows or self._objectives[name].is_seen(self._completions[rows[0]].moment)
        }
        matrix = RewardMatrix.from_columns(columns)
        return Evaluation(matrix, tuple(failures), seconds, hidden_seconds, waited_seconds)

    def _complaint(self, name: str) -> str:
        objective, outcomes = self._objectives[name], self._outcomes[name]
        failed = {row: outcome for row, outcome in sorted(outcomes.items()) if outcome.reason is not None}
        row, outcome = next(iter(failed.items()))
        begins = self._completions[row].response[:120]
        first = f"row {row}: {outcome.reason}: {outcome.text}; its completion begins {begins!r}"
        if objective.on_failure == "stop":
            return f"objective '{name}' ({objective.reward_fn}) could not score {first} (on_failure is 'stop')"
        counts = Counter(outcome.reason for outcome in failed.values())
        by_reason = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
        num_waiting = self._num_called(name) - len(outcomes)
        at_least = "at least " if num_waiting else ""
        return (
            f"objective '{name}' ({objective.reward_fn}) could not score {at_least}{len(failed)} of "
            f"{num_waiting + _num_applicable(outcomes)} completions ({by_reason}), more than "
            f"max_unscored={self._max_unscored[name]:g} allows; first {first}"
        )


def _num_applicable(outcomes: Mapping[int, Outcome]) -> int:
    return sum(outcome.applies for outcome in outcomes.values())


def load_contracts(objectives: Mapping[str, ObjectiveConfig]) -> dict[str, Contract]:
    """How each objective's function is called: all are imported in a process of their own, as a run will.

    Raises:
        CtwaError: a reward function is not found, cannot be imported, or asks for what is not offered.
    """
    with closing(WorkerPool(functions_of(objectives), num_workers=1)) as pool:
        return dict(zip(objectives, pool.contracts, strict=True))
