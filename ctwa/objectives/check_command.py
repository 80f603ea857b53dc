"""``ctwa check-reward``: reward functions on a data set's rows before any training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ctwa.data.reading import first_rows
from ctwa.data.settings import RowSettings
from ctwa.errors import CtwaError
from ctwa.objectives.attack import attack, render_attack
from ctwa.objectives.check import FIRST_STEP, MAX_UNSCORED, CheckResult, check_rewards, render
from ctwa.objectives.check_together import overrides, render_together, together
from ctwa.objectives.completion import Moment
from ctwa.objectives.config import ObjectiveConfig, parse_objectives
from ctwa.objectives.loading import resolve_spec, split_spec
from ctwa.objectives.responses import Sampler, of_rows, read_responses


def main(
    specs: Sequence[str],
    data: str | Path,
    *,
    settings: RowSettings | None = None,
    responses: str | None = None,
    texts: Sequence[str] = (),
    sample: Sampler | None = None,
    limit: int = 20,
    keys: Sequence[str] = (),
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
        keys: of the dict that the function returns: each is a reward by itself, and the function is called once.
        kwargs: further arguments of the function; of several functions, by their names.
        timeout: seconds a call may take.
        reference_tokens: as in ``check_rewards``.
        tokenize: as in ``check_rewards``.
        moment: as in ``check_rewards``.
        attacked: try responses that say nothing, too (``attack``).
        console: where to show the tables.

    Returns:
        The exit status: 1 where so little could be scored that a run would stop, or an attack is paid like a good
        answer, else 0.
    """
    if limit < 1:
        raise CtwaError(f"limit is {limit}; give the number of rows to check, at least 1")
    rows = first_rows(str(data), settings or RowSettings(), lambda name: f"--{name.replace('_', '-')}", limit)
    ways = {"--text": bool(texts), "--responses": responses is not None, "--model": sample is not None}
    if len(given := [way for way, is_given in ways.items() if is_given]) > 1:
        raise CtwaError(f"{' and '.join(given)} all give the responses; write one of them")
    objectives = _objectives(specs, keys, kwargs or {}, timeout)
    chosen: Sequence[Any] | None
    if sample is not None:
        chosen, source = sample(rows)
    elif responses is not None:
        chosen, source = read_responses(responses, rows, data), f"the responses are {responses}"
    elif texts:
        chosen, source = [list(texts)] * len(rows), "the response is the text given"
    else:
        chosen, source = of_rows(rows)
    console = console or Console()
    how: dict[str, Any] = {"responses": chosen, "tokenize": tokenize, "moment": moment}
    results = check_rewards(objectives, rows, source=source, reference_tokens=reference_tokens, **how)
    for result in results.values():
        console.print(render(result))
    if chosen is not None:  # the probes are no model's: what they have in common says nothing of training
        _show_together(results, console)
    is_paid_for_nothing = False
    for name, each in objectives.items() if attacked else ():
        known = results[name].checked[0].completion.reference_tokens
        called: dict[str, Any] = {"key": each.key, "kwargs": each.kwargs, "timeout": timeout}
        found = attack(each.reward_fn, rows, reference_tokens=known, **called, **how)
        console.print(render_attack(found))
        is_paid_for_nothing |= bool(found.through)
    return int(is_paid_for_nothing or any(result.unscored_frac > MAX_UNSCORED for result in results.values()))


def _show_together(results: Mapping[str, CheckResult], console: Console) -> None:
    scored = {name: result for name, result in results.items() if result.has_scored}
    if scored and (found := together(scored)) is not None:
        console.print(render_together(found))
        if targets := overrides(found):
            console.print(Text(targets), soft_wrap=True)  # a line to paste stays one


def _objectives(
    specs: Sequence[str], keys: Sequence[str], kwargs: Mapping[str, Any], timeout: float
) -> dict[str, ObjectiveConfig]:
    """What is to be checked: functions, or the keys of one, by names as objectives have them."""
    if len(set(map(resolve_spec, specs))) < len(specs):
        raise CtwaError("a reward function is given twice; give each once")
    if keys and len(specs) > 1:
        raise CtwaError("--key is of what one function returns, and several are given; check them one after the other")
    functions = [split_spec(spec)[1] for spec in specs]
    if len(set(functions)) < len(functions):  # of several files
        functions = list(specs)
    names = [each.replace("/", ".") for each in keys or functions]
    if len(set(names)) < len(names):
        raise CtwaError(f"two of {', '.join(keys or functions)} have one name; give each once, or one after the other")
    own = _own_kwargs(functions, kwargs)
    taken: list[tuple[str, str, str | None]] = [(functions[0], specs[0], key) for key in keys]
    taken = taken or [(function, spec, None) for function, spec in zip(functions, specs, strict=True)]
    return parse_objectives(
        {
            name: {"reward_fn": spec, "key": key, "kwargs": dict(own[function]), "timeout": timeout}
            for name, (function, spec, key) in zip(names, taken, strict=True)
        }
    )


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
