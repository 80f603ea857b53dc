"""Guarded evaluation: every completion under every objective, and what could not be scored."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ctwa import metrics as key_of
from ctwa.batch import RewardMatrix
from ctwa.errors import CtwaError
from ctwa.objectives.completion import Completion
from ctwa.objectives.config import ObjectiveConfig, check_objectives
from ctwa.objectives.contract import Contract, Outcome, Reason
from ctwa.objectives.loading import resolve_spec
from ctwa.objectives.messages import Function
from ctwa.objectives.pool import Call, Chunk, WorkerPool

# Calls sent together: enough that sending costs little, few enough that the workers end at the same time.
MAX_CHUNK = 16
MAX_ASYNC_CHUNK = 64  # of an async function: how many run concurrently in a worker
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
    """

    matrix: RewardMatrix
    failures: tuple[Failure, ...]
    seconds: dict[str, float]

    def metrics(self) -> dict[str, float]:
        """Per objective: the share of the batch that it applies to; of this, mean and (population) std over what was
        scored, and shares of what was scored and was not; seconds.

        What applies to nothing has no mean and no shares.
        """
        metrics: dict[str, float] = {}
        counts: Counter[tuple[str, str]] = Counter((failure.objective, failure.reason) for failure in self.failures)
        for name in self.matrix.names:
            rewards_N, scored_N = self.matrix.column(name)
            rewards = rewards_N[scored_N]
            num_rows = int(self.matrix.applicable(name).sum())
            shares = {"applicable_frac": num_rows / len(rewards_N)}
            if num_rows:
                shares["scored_frac"] = len(rewards) / num_rows
                shares["timeout_frac"] = counts[name, "timeout"] / num_rows
                shares["error_frac"] = sum(counts[name, reason] for reason in _ERROR_REASONS) / num_rows
            if len(rewards):
                metrics[key_of.objective_mean(name)] = float(rewards.mean())
                metrics[key_of.objective(name, "std")] = float(rewards.std(correction=0))
            metrics |= {key_of.objective(name, key): share for key, share in shares.items()}
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

    Raises:
        CtwaError: a reward function is not found, cannot be imported, or asks for what is not offered.
    """

    def __init__(
        self, objectives: Mapping[str, ObjectiveConfig], *, num_workers: int = 2, max_unscored: float = 0.05
    ) -> None:
        if not 0 <= max_unscored <= 1:
            raise CtwaError(f"max_unscored is {max_unscored}; write the share of a batch, between 0 and 1")
        self._objectives = dict(check_objectives(objectives))
        self._max_unscored = {
            name: max_unscored if objective.max_unscored is None else objective.max_unscored
            for name, objective in self._objectives.items()
        }
        self._num_workers = num_workers
        self._pool = WorkerPool(_functions(self._objectives), num_workers)

    @property
    def contracts(self) -> dict[str, Contract]:
        """How each objective's function is called."""
        return dict(zip(self._objectives, self._pool.contracts, strict=True))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()

    def evaluate(self, completions: Sequence[Completion], group_N: Sequence[int]) -> Evaluation:
        """Score a batch, of one moment of a run.

        Args:
            completions: N completions.
            group_N: the prompt each belongs to; a function that takes ``group_*`` is called once for each prompt, with
                those of its completions that the objective applies to.

        Returns:
            The rewards: without objectives of ``split: val`` where the completions are trained on.

        Raises:
            CtwaError: an objective could not score more than ``max_unscored`` of what it applies to, or anything at all
                with ``on_failure: stop``; one line for each such objective. Raised early where waiting for the rest
                would take long: after too many timeouts or crashes.
        """
        names = tuple(self._objectives)
        chunks = plan(self._objectives, self._pool.contracts, completions, group_N, self._num_workers)
        outcomes: dict[str, dict[int, Outcome]] = {name: {} for name in names}
        num_slow = Counter[str]()
        allowed = {name: self._max_unscored[name] * num for name, num in _num_called(chunks, names).items()}
        with closing(self._pool.run(chunks)) as calls:
            for call, call_outcomes in calls:
                name = names[call.function]
                taken = [self._objectives[name].taken(outcome) for outcome in call_outcomes]
                outcomes[name].update(zip(call.rows, taken, strict=True))
                reasons = [outcome.reason for outcome in taken]
                num_slow[name] += sum(reason in ("timeout", "crashed") for reason in reasons)
                if any(reasons) and (self._objectives[name].on_failure == "stop" or num_slow[name] > allowed[name]):
                    raise CtwaError(self._complaint(name, outcomes[name], completions))

        failures, complaints = [], []
        for name in names:
            failed = [
                Failure(name, row, outcome.reason, outcome.text)
                for row, outcome in sorted(outcomes[name].items())
                if outcome.reason is not None
            ]
            if len(failed) > self._max_unscored[name] * _num_applicable(outcomes[name]):
                complaints.append(self._complaint(name, outcomes[name], completions))
            failures += failed
        if complaints:
            raise CtwaError("\n".join(complaints))
        seconds = dict.fromkeys(names, 0.0)
        for chunk in chunks:
            seconds[names[chunk.function]] += chunk.seconds
        rows = range(len(completions))
        columns = {
            name: [outcomes[name].get(row, _NOT_CALLED).reward for row in rows]
            for name in names
            if not completions or self._objectives[name].is_seen(completions[0].moment)
        }
        return Evaluation(RewardMatrix.from_columns(columns), tuple(failures), seconds)

    def _complaint(self, name: str, outcomes: Mapping[int, Outcome], completions: Sequence[Completion]) -> str:
        objective = self._objectives[name]
        failed = {row: outcome for row, outcome in sorted(outcomes.items()) if outcome.reason is not None}
        row, outcome = next(iter(failed.items()))
        first = (
            f"row {row}: {outcome.reason}: {outcome.text}; its completion begins {completions[row].response[:120]!r}"
        )
        if objective.on_failure == "stop":
            return f"objective '{name}' ({objective.reward_fn}) could not score {first} (on_failure is 'stop')"
        counts = Counter(outcome.reason for outcome in failed.values())
        by_reason = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
        num_waiting = sum(objective.applies(completion) for completion in completions) - len(outcomes)
        at_least = "at least " if num_waiting else ""
        return (
            f"objective '{name}' ({objective.reward_fn}) could not score {at_least}{len(failed)} of "
            f"{num_waiting + _num_applicable(outcomes)} completions ({by_reason}), more than "
            f"max_unscored={self._max_unscored[name]:g} allows; first {first}"
        )


def _num_called(chunks: Sequence[Chunk], names: Sequence[str]) -> dict[str, int]:
    """How many completions each objective's function is called on."""
    num_called = dict.fromkeys(names, 0)
    for chunk in chunks:
        num_called[names[chunk.function]] += sum(len(call.rows) for call in chunk.calls)
    return num_called


def _num_applicable(outcomes: Mapping[int, Outcome]) -> int:
    return sum(outcome.applies for outcome in outcomes.values())


def load_contracts(objectives: Mapping[str, ObjectiveConfig]) -> dict[str, Contract]:
    """How each objective's function is called: all are imported in a process of their own, as a run will.

    Raises:
        CtwaError: a reward function is not found, cannot be imported, or asks for what is not offered.
    """
    with closing(WorkerPool(_functions(objectives), num_workers=1)) as pool:
        return dict(zip(objectives, pool.contracts, strict=True))


def _functions(objectives: Mapping[str, ObjectiveConfig]) -> list[Function]:
    return [Function(resolve_spec(objective.reward_fn), objective.kwargs) for objective in objectives.values()]


def need_ground_truth(contracts: Mapping[str, Contract]) -> list[str]:
    """The objectives that cannot do without a ground truth: their functions take it and have no default for it."""
    return [
        name
        for name, contract in contracts.items()
        if any(each in contract.required for each in ("ground_truth", "ground_truths"))
        or (contract.convention == "rollout" and "answer" in contract.required)
    ]


def plan(
    objectives: Mapping[str, ObjectiveConfig],
    contracts: Sequence[Contract],
    completions: Sequence[Completion],
    group_N: Sequence[int],
    num_workers: int,
) -> list[Chunk]:
    """Cut the calls of a batch into chunks, each function on the completions that its objective applies to.

    Async functions come first: while they wait, the others run.
    """
    chunks = []
    for index, (objective, contract) in enumerate(zip(objectives.values(), contracts, strict=True)):
        rows_by_group: dict[int, list[int]] = {}
        for row, (completion, group) in enumerate(zip(completions, group_N, strict=True)):
            if objective.applies(completion):
                rows_by_group.setdefault(int(group), []).append(row)
        if contract.is_group:
            rows_of_calls = [tuple(rows) for rows in rows_by_group.values()]
        else:
            rows_of_calls = [(row,) for row in sorted(row for rows in rows_by_group.values() for row in rows)]
        calls = []
        for rows in rows_of_calls:
            arguments = {**contract.collect([completions[row] for row in rows]), **objective.kwargs}
            calls.append(Call(index, pickle.dumps(arguments, pickle.HIGHEST_PROTOCOL), rows))
        share = -(-len(calls) // num_workers)
        size = min(max(share, 1), MAX_ASYNC_CHUNK if contract.is_async else MAX_CHUNK)
        chunks += [
            Chunk(index, objective.timeout, contract.is_async, calls[start : start + size])
            for start in range(0, len(calls), size)
        ]
    return sorted(chunks, key=lambda chunk: not chunk.is_async)
