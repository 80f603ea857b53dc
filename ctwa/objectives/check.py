"""``ctwa check-reward``: try a reward function on a data set's rows before any training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ctwa.data.formats import Row
from ctwa.data.reading import first_rows
from ctwa.data.rows import row_fault
from ctwa.data.settings import RowSettings
from ctwa.errors import CtwaError
from ctwa.objectives.calls import CallQueue, kinds, plan
from ctwa.objectives.completion import Completion, Moment
from ctwa.objectives.config import parse_objectives
from ctwa.objectives.contract import Outcome, need_ground_truth, shortened
from ctwa.objectives.conventions import column_fault
from ctwa.objectives.loading import resolve_spec, split_spec
from ctwa.objectives.messages import Function
from ctwa.objectives.pool import WorkerPool
from ctwa.objectives.responses import (
    PROBES,
    Response,
    Sampler,
    measured,
    of_column,
    probes_of,
    read_responses,
    samples_of,
)

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
    """

    spec: str
    checked: tuple[Checked, ...]
    notes: tuple[str, ...]

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
    responses: Sequence[str | Sequence[str | Response]] | None = None,
    source: str = "the responses are the ones given",
    kwargs: Mapping[str, Any] | None = None,
    timeout: float = 10.0,
    reference_tokens: float | None = None,
    tokenize: Callable[[str], Sequence[int]] | None = None,
    moment: Moment = FIRST_STEP,
) -> CheckResult:
    r"""Run a reward function on rows of a data set, as a run would.

    Args:
        spec: ``path/file.py:function`` or ``package.module:function``.
        rows: rows in verl's format.
        responses: one response a row, or a list of them. Without it, the rows' column ``response``; without that,
            probes of each row: its ground truth in the forms that answers have (`PROBES`), a wrong answer, nothing.
        source: where ``responses`` came from, for the notes.
        kwargs: the objective's further arguments.
        timeout: seconds a call may take.
        reference_tokens: the reference length; without it, the mean length of the responses.
        tokenize: gives the tokens of a response, its end of sequence included; without it, words are counted.
        moment: when in a run this is to be.

    Raises:
        CtwaError: the function cannot be loaded or called, or the rows are not in verl's format.
    """
    if not rows:
        raise CtwaError("there is no row to check the reward function on; give a data set that has some")
    if responses is None and "response" in rows[0]:
        responses = of_column(rows, "response")
        source = "the responses are the data's column 'response'"
    elif responses is None:
        source = f"the data has no responses: probed are {', '.join(PROBES)} (--text gives one of your own)"
    if responses is not None and len(responses) != len(rows):
        raise CtwaError(
            f"there are {len(responses)} responses for {len(rows)} rows; give one, or one list, for each row"
        )

    resolved = resolve_spec(spec)
    _, name = split_spec(spec)
    objectives = parse_objectives({name: {"reward_fn": spec, "kwargs": dict(kwargs or {}), "timeout": timeout}})
    outcomes: dict[int, Outcome] = {}
    with closing(WorkerPool([Function(resolved, objectives[name].kwargs)], num_workers=1)) as pool:
        needed_by = need_ground_truth({name: pool.contracts[0]})
        for index, row in enumerate(rows):
            fault = row_fault(Row(index, dict(row)), needs_ground_truth=needed_by, text_prompts=True)
            if fault := fault or column_fault(row, {name: pool.contracts[0].columns}):
                raise CtwaError(f"row {index} (from 0) of the data: {fault}")
        samples = probes_of(rows) if responses is None else samples_of(responses)
        made = [each if isinstance(each, Response) else measured(each, tokenize) for _, _, each in samples]
        if "completion_ids" in pool.contracts[0].required and any(each.token_ids is None for each in made):
            raise CtwaError(
                f"reward function '{spec}' asks for completion_ids, the tokens of the responses: --tokenizer names a "
                "model to make them with (tokenize in Python)"
            )
        lengths = [response.num_tokens for response in made]
        notes = [source]
        if tokenize is None and not all(isinstance(each, Response) for _, _, each in samples):
            notes.append("response_tokens counts words, and one for the end: --tokenizer names one to ask")
        if reference_tokens is None:
            reference_tokens = fmean(lengths)
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
        prompts = list(dict.fromkeys(completion.prompt for completion in completions))
        group_N = [prompts.index(completion.prompt) for completion in completions]
        queue = CallQueue(kinds(objectives, pool.contracts), pool.num_workers)
        queue.put(plan(objectives, pool.contracts, range(len(completions)), completions, group_N))
        queue.complete()
        for call, call_outcomes in pool.run(queue):
            outcomes.update(zip(call.rows, call_outcomes, strict=True))
    checked = tuple(
        Checked(row, kind, completions[index], outcomes[index]) for index, (row, kind, _) in enumerate(samples)
    )
    return CheckResult(resolved, checked, tuple(notes))


def render(result: CheckResult) -> RenderableType:
    """The result as tables: by kind of response, then completion by completion, failures first."""
    summary = Table(title=Text(result.spec), title_justify="left")
    summary.add_column("response", no_wrap=True)
    for column in ("n", "scored", "mean", "min", "max", "ms", "max ms"):
        summary.add_column(column, justify="right", no_wrap=True)
    summary.add_column("not scored")
    for kind in dict.fromkeys(item.kind for item in result.checked):
        outcomes = [item.outcome for item in result.checked if item.kind == kind]
        values = [outcome.value for outcome in outcomes if outcome.value is not None]
        milliseconds = [1000 * outcome.seconds for outcome in outcomes]
        counts = Counter(why for outcome in outcomes if (why := _why_not(outcome)) is not None)
        summary.add_row(
            kind,
            str(len(outcomes)),
            str(len(values)),
            *(f"{f(values):.4g}" if values else "-" for f in (fmean, min, max)),
            f"{median(milliseconds):.2f}",
            f"{max(milliseconds):.2f}",
            ", ".join(f"{reason} {count}" for reason, count in counts.most_common()) or "-",
        )

    listing = Table("row", "response", "its text", "ground truth", "value")
    failures_first = sorted(result.checked, key=lambda item: item.outcome.reason is None)
    for item in failures_first[:NUM_SHOWN]:
        outcome = item.outcome
        listing.add_row(
            str(item.row),
            item.kind,
            Text(shortened(" ".join(item.completion.response.split()), 60)),
            Text(shortened(str(item.completion.ground_truth), 30)),
            Text(_in_words(outcome)),
        )
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
    return Group(summary, listing, *(Text(f"- {note}") for note in notes))


def _in_words(outcome: Outcome) -> str:
    if outcome.value is not None:
        return f"{outcome.value:g}"
    return f"{outcome.reason}: {outcome.text}" if outcome.applies else "not applicable"


def _why_not(outcome: Outcome) -> str | None:
    """Why there is no value."""
    return outcome.reason if outcome.applies else "not applicable"


def main(
    specs: Sequence[str],
    data: str | Path,
    *,
    settings: RowSettings | None = None,
    responses: str | None = None,
    texts: Sequence[str] = (),
    sample: Sampler | None = None,
    limit: int = 20,
    kwargs: Mapping[str, Any] | None = None,
    timeout: float = 10.0,
    reference_tokens: float | None = None,
    tokenize: Callable[[str], Sequence[int]] | None = None,
    moment: Moment = FIRST_STEP,
    attacked: bool = False,
    console: Console | None = None,
) -> int:
    """The command: read, check, show.

    Args:
        specs: the reward functions.
        data: what holds the rows (docs/data.md).
        settings: how they are read.
        responses: a column of it, or a ``.jsonl`` file with a line a row: a string, a list of them, or an object with
            such a ``response``.
        texts: responses to every row, in place of these.
        sample: makes the responses, in place of these: of the rows, with a sentence that says of what.
        limit: how many rows, from the first.
        kwargs: as in ``check_reward``; of several functions, by their names.
        timeout: as in ``check_reward``.
        reference_tokens: as in ``check_reward``.
        tokenize: as in ``check_reward``.
        moment: as in ``check_reward``.
        attacked: try responses that say nothing, too (``attack``).
        console: where to show the tables.

    Returns:
        The exit status: 1 where so little could be scored that a run would stop, or an attack is paid like a good
        answer, else 0.
    """
    from ctwa.objectives.attack import attack, render_attack
    from ctwa.objectives.check_together import overrides, render_together, together  # torch

    if limit < 1:
        raise CtwaError(f"limit is {limit}; give the number of rows to check, at least 1")
    rows = first_rows(str(data), settings or RowSettings(), lambda name: f"--{name.replace('_', '-')}", limit)
    ways = {"--text": bool(texts), "--responses": responses is not None, "--model": sample is not None}
    if len(given := [way for way, is_given in ways.items() if is_given]) > 1:
        raise CtwaError(f"{' and '.join(given)} all give the responses; write one of them")
    names = _names(specs)
    own = _own_kwargs(names, kwargs or {})
    for spec in specs:
        resolve_spec(spec)  # before a model is asked
    chosen: Sequence[Any] | None = None
    source = f"the responses are {responses}"
    if sample is not None:
        chosen, source = sample(rows)
    elif responses is not None:
        chosen = read_responses(responses, rows, data)
    elif texts:
        chosen, source = [list(texts)] * len(rows), "the response is the text given"
    console = console or Console()
    results = {}
    for name, spec in zip(names, specs, strict=True):
        results[name] = check_reward(
            spec,
            rows,
            responses=chosen,
            source=source,
            kwargs=own[name],
            timeout=timeout,
            reference_tokens=reference_tokens,
            tokenize=tokenize,
            moment=moment,
        )
        console.print(render(results[name]))
    # The probes are no model's: what they have in common says nothing of training. Nor does what scored nothing.
    scored = {name: result for name, result in results.items() if result.has_scored}
    if scored and (chosen is not None or "response" in rows[0]) and (found := together(scored)) is not None:
        console.print(render_together(found))
        if targets := overrides(found):
            console.print(Text(targets), soft_wrap=True)  # a line to paste stays one
    is_paid_for_nothing = False
    if attacked:
        good = chosen if chosen is not None or "response" not in rows[0] else of_column(rows, "response")
        for name, spec in zip(names, specs, strict=True):
            found_by = attack(
                spec,
                rows,
                responses=good,
                kwargs=own[name],
                timeout=timeout,
                reference_tokens=results[name].checked[0].completion.reference_tokens,
                tokenize=tokenize,
                moment=moment,
            )
            console.print(render_attack(found_by))
            is_paid_for_nothing |= bool(found_by.through)
    return int(is_paid_for_nothing or any(result.unscored_frac > MAX_UNSCORED for result in results.values()))


def _names(specs: Sequence[str]) -> list[str]:
    """What the functions are called: by their names, where those differ."""
    names = [split_spec(spec)[1] for spec in specs]
    if len(set(map(resolve_spec, specs))) < len(specs):
        raise CtwaError("a reward function is given twice; give each once")
    return names if len(set(names)) == len(names) else list(specs)


def _own_kwargs(names: Sequence[str], kwargs: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Each function's further arguments."""
    if len(names) == 1:
        return {names[0]: kwargs}
    if wrong := [name for name, own in kwargs.items() if name not in names or not isinstance(own, Mapping)]:
        raise CtwaError(
            f"kwargs of several functions are by their names ({', '.join(names)}), and {wrong[0]!r} is none of them "
            f'with its own; write e.g. --kwargs \'{{"{names[0]}": {{"limit": 100}}}}\''
        )
    return {name: kwargs.get(name, {}) for name in names}
