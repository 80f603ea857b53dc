"""Try reward functions on a data set's rows, as a run would call them, and show what they gave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ctwa.data.formats import Row
from ctwa.data.rows import row_fault
from ctwa.errors import CtwaError
from ctwa.objectives.calls import CallQueue, functions_of, kinds, plan, sharing
from ctwa.objectives.completion import Completion, Moment
from ctwa.objectives.config import ObjectiveConfig, parse_objectives
from ctwa.objectives.contract import Contract, Outcome, need_ground_truth, shortened
from ctwa.objectives.conventions import column_fault
from ctwa.objectives.loading import resolve_spec, split_spec
from ctwa.objectives.pool import WorkerPool
from ctwa.objectives.responses import Response, measured, of_rows, probes_of, samples_of

MAX_UNSCORED = 0.05  # the default of a run
FIRST_STEP = Moment("train", 1, 0.0)
NUM_SHOWN = 12  # completions whose values are listed


@dataclass(frozen=True)
class Checked:
    """One completion and what the function gave for it.

    Attributes:
        row: index of the row of the data set.
        kind: ``response``, or which probe it is.
        completion: what the function was given.
        outcome: its value or why there is none, and the seconds the call took.
    """

    row: int
    kind: str
    completion: Completion
    outcome: Outcome


@dataclass(frozen=True)
class CheckResult:
    """What a reward function gave on a data set.

    Attributes:
        spec: the function, with its absolute path.
        checked: one entry a completion, in the order of the rows.
        notes: where the completions and their lengths came from.
        key: what was taken of the dict that it returned.
    """

    spec: str
    checked: tuple[Checked, ...]
    notes: tuple[str, ...]
    key: str | None = None

    @property
    def title(self) -> str:
        """The function, and the key."""
        return self.spec if self.key is None else f"{self.spec}, key {self.key}"

    @property
    def unscored_frac(self) -> float:
        """The share of completions without a value, of those that the function says it applies to."""
        applicable = [item.outcome for item in self.checked if item.outcome.applies]
        return sum(outcome.value is None for outcome in applicable) / max(len(applicable), 1)

    @property
    def has_scored(self) -> bool:
        """Whether there is any value."""
        return any(item.outcome.value is not None for item in self.checked)


def check_reward(
    spec: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    key: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    timeout: float = 10.0,
    **options: Any,
) -> CheckResult:
    """Run a reward function on rows of a data set, as a run would.

    Args:
        spec: ``path/file.py:function`` or ``package.module:function``.
        rows: rows in verl's format.
        key: what to take of a dict that it returns, in place of ``score``.
        kwargs: the objective's further arguments.
        timeout: seconds a call may take.
        options: as in ``check_rewards``.

    Raises:
        CtwaError: the function cannot be loaded or called, or the rows are not in verl's format.
    """
    name = split_spec(spec)[1]
    objective = {"reward_fn": spec, "key": key, "kwargs": dict(kwargs or {}), "timeout": timeout}
    return check_rewards(parse_objectives({name: objective}), rows, **options)[name]


def check_rewards(
    objectives: Mapping[str, ObjectiveConfig],
    rows: Sequence[Mapping[str, Any]],
    *,
    responses: Sequence[str | Sequence[str | Response]] | None = None,
    source: str = "the responses are the ones given",
    reference_tokens: float | None = None,
    tokenize: Callable[[str], Sequence[int]] | None = None,
    moment: Moment = FIRST_STEP,
) -> dict[str, CheckResult]:
    r"""Run the reward functions of objectives on rows of a data set, loaded into one process, as a run would.

    Args:
        objectives: by name; those that take keys of one function share its calls.
        rows: rows in verl's format.
        responses: one response a row, or a list of them. Without it, the rows' column ``response``; without that,
            probes of each row: its ground truth in the forms that answers have (`PROBES`), a wrong answer, nothing.
        source: where ``responses`` came from, for the notes.
        reference_tokens: the reference length; without it, the mean length of the responses.
        tokenize: gives the tokens of a response, its end of sequence included; without it, words are counted.
        moment: when in a run this is to be.

    Returns:
        What each gave, by objective.

    Raises:
        CtwaError: a function cannot be loaded or called, or the rows are not in verl's format.
    """
    if not rows:
        raise CtwaError("there is no row to check the reward function on; give a data set that has some")
    if responses is None:
        responses, source = of_rows(rows)
    if responses is not None and len(responses) != len(rows):
        raise CtwaError(
            f"there are {len(responses)} responses for {len(rows)} rows; give one, or one list, for each row"
        )

    with closing(WorkerPool(functions_of(objectives), num_workers=1)) as pool:
        contracts = dict(zip(objectives, pool.contracts, strict=True))
        _check_rows(rows, contracts)
        samples = probes_of(rows) if responses is None else samples_of(responses)
        made = [each if isinstance(each, Response) else measured(each, tokenize) for _, _, each in samples]
        wanting = [name for name, contract in contracts.items() if "completion_ids" in contract.required]
        if wanting and any(each.token_ids is None for each in made):
            raise CtwaError(
                f"reward function '{objectives[wanting[0]].reward_fn}' asks for completion_ids, the tokens of the "
                "responses: --tokenizer names a model to make them with (tokenize in Python)"
            )
        notes = [source]
        if tokenize is None and not all(isinstance(each, Response) for _, _, each in samples):
            notes.append("response_tokens counts words, and one for the end: --tokenizer names one to ask")
        if reference_tokens is None:
            reference_tokens = fmean(response.num_tokens for response in made)
            notes.append(f"reference_tokens is the mean of these, {reference_tokens:.1f}")
        completions = [
            Completion.from_row(
                rows[row],
                response=response.text,
                response_tokens=response.num_tokens,
                reference_tokens=reference_tokens,
                finished=response.finished,
                token_ids=response.token_ids,
                moment=moment,
            )
            for (row, _, _), response in zip(samples, made, strict=True)
        ]
        outcomes = _outcomes_of(completions, [row for row, _, _ in samples], objectives, pool)
    results = {}
    for name, objective in objectives.items():
        checked = tuple(
            Checked(row, kind, completions[index], outcomes[name][index])
            for index, (row, kind, _) in enumerate(samples)
        )
        results[name] = CheckResult(resolve_spec(objective.reward_fn), checked, tuple(notes), objective.key)
    return results


def _check_rows(rows: Sequence[Mapping[str, Any]], contracts: Mapping[str, Contract]) -> None:
    """Refuse the first row that lacks what a run, or a function, asks of every row."""
    needed_by = need_ground_truth(contracts)
    columns = {name: contract.columns for name, contract in contracts.items()}
    for index, row in enumerate(rows):
        fault = row_fault(Row(index, dict(row)), needs_ground_truth=needed_by, text_prompts=True)
        if fault := fault or column_fault(row, columns):
            raise CtwaError(f"row {index} (from 0) of the data: {fault}")


def _outcomes_of(
    completions: Sequence[Completion],
    group_N: Sequence[int],
    objectives: Mapping[str, ObjectiveConfig],
    pool: WorkerPool,
) -> dict[str, dict[int, Outcome]]:
    """What the pool's functions give, by objective and the completion's place."""
    queue = CallQueue(kinds(objectives, pool.contracts), pool.num_workers)
    queue.put(plan(objectives, pool.contracts, range(len(completions)), completions, group_N))
    queue.complete()
    names, together = list(objectives), sharing(objectives)
    outcomes: dict[str, dict[int, Outcome]] = {name: {} for name in names}
    for call, call_outcomes in pool.run(queue):
        for place, name in enumerate(together[names[call.function]]):
            outcomes[name].update(zip(call.rows, (each.of(place) for each in call_outcomes), strict=True))
    return outcomes


def render(result: CheckResult) -> RenderableType:
    """The result as tables: by kind of response, then completion by completion, failures first."""
    return Group(_by_kind(result), _listing(result), *(Text(f"- {note}") for note in _notes(result)))


def _by_kind(result: CheckResult) -> Table:
    table = Table(title=Text(result.title), title_justify="left")
    table.add_column("response", no_wrap=True)
    for column in ("n", "scored", "mean", "min", "max", "ms", "max ms"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("not scored")
    for kind in dict.fromkeys(item.kind for item in result.checked):
        outcomes = [item.outcome for item in result.checked if item.kind == kind]
        values = [outcome.value for outcome in outcomes if outcome.value is not None]
        milliseconds = [1000 * outcome.seconds for outcome in outcomes]
        counts = Counter(why for outcome in outcomes if (why := _why_not(outcome)) is not None)
        table.add_row(
            kind,
            str(len(outcomes)),
            str(len(values)),
            *(f"{f(values):.4g}" if values else "-" for f in (fmean, min, max)),
            f"{median(milliseconds):.2f}",
            f"{max(milliseconds):.2f}",
            ", ".join(f"{reason} {count}" for reason, count in counts.most_common()) or "-",
        )
    return table


def _why_not(outcome: Outcome) -> str | None:
    """Why there is no value."""
    return outcome.reason if outcome.applies else "not applicable"


def _listing(result: CheckResult) -> Table:
    table = Table("row", "response", "its text", "ground truth", "value")
    failures_first = sorted(result.checked, key=lambda item: item.outcome.reason is None)
    for item in failures_first[:NUM_SHOWN]:
        table.add_row(
            str(item.row),
            item.kind,
            Text(shortened(" ".join(item.completion.response.split()), 60)),
            Text(shortened(str(item.completion.ground_truth), 30)),
            Text(_in_words(item.outcome)),
        )
    return table


def _in_words(outcome: Outcome) -> str:
    if outcome.value is not None:
        return f"{outcome.value:g}"
    return f"{outcome.reason}: {outcome.text}" if outcome.applies else "not applicable"


def _notes(result: CheckResult) -> list[str]:
    notes = [*result.notes, "ms is the median time of a call"]
    different = {item.outcome.value for item in result.checked if item.outcome.value is not None}
    if len(different) == 1 and len(result.checked) > 1:
        notes.append(
            f"every value is {different.pop():g}: nothing here is told from anything else; give --text or --responses"
        )
    if len(result.checked) > NUM_SHOWN:
        notes.append(f"{len(result.checked) - NUM_SHOWN} more completions are not listed")
    if result.unscored_frac > MAX_UNSCORED:
        notes.append(
            f"{result.unscored_frac:.0%} could not be scored: with max_unscored={MAX_UNSCORED:g} a run would stop here"
        )
    if any(item.outcome.reason == "none" for item in result.checked):
        notes.append(
            "None says that a completion could not be scored: it has no part in the reward's statistics, and the mean"
            " of its prompt in the score; ctwa.rewards.max_unscored is the share of a batch for which that may be so."
            " Where None means that the completion is not this reward's, write none: not_applicable at the objective"
        )
    return notes
