"""``ctwa data``: what is understood of a user's rows, before anything is trained on them."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ctwa.data.answers import WORDS
from ctwa.data.files import open_rows
from ctwa.data.forms import Form
from ctwa.data.messages import SYSTEM
from ctwa.data.reading import Bad, Rows, hold_out, read_rows
from ctwa.data.settings import DataSettings
from ctwa.data.templates import Refused, refusal, write_prompt
from ctwa.errors import CtwaError

NUM_COUNTED = 20_000
"""Rows whose tokens are counted: of more, as many random ones."""
NUM_SHOWN = 3
NUM_NAMED = 5
MAX_CHARACTERS = 1200
QUANTILES = (0.5, 0.9, 0.99)
_PLAIN = re.compile(r"[\w./:@%+-]+")


def show(
    source: str,
    settings: DataSettings,
    *,
    validation: str | None = None,
    model: str | None = None,
    tokenizer: Any = None,
    max_prompt_length: int = 1024,
) -> Iterator[str]:
    """What is understood of some rows, as the lines of a page.

    Args:
        source: the rows to train on.
        settings: how they are read.
        validation: the rows to validate on.
        model: its name, for the command at the end.
        tokenizer: the model's; without one nothing is counted in tokens.
        max_prompt_length: in tokens.

    Raises:
        CtwaError: the rows cannot be read, no column is known as a prompt, or no row can be used.
    """
    rows, held_out = _read(source, settings, tokenizer), None
    if validation is not None:
        if settings.validation_share is not None:
            raise CtwaError("--val-files and --validation-share both say what is validated on; write one of them")
        held_out = _read(validation, settings, tokenizer)
    yield from _understood(rows)
    if held_out is not None:
        yield ""
        yield from _understood(held_out)
    facts = []
    if settings.validation_share is not None and len(rows):
        bad = rows.bad
        rows, held_out = hold_out(rows, settings.validation_share, settings.validation_seed)
        rows.bad = bad
        facts.append(
            f"held out: {len(held_out):,} rows, {settings.validation_share:g} of the prompts (validation_seed "
            f"{settings.validation_seed}); {len(rows):,} are left to train on"
        )
    if held_out is not None:
        facts.append(_overlap(rows, held_out))
    if tokenizer is not None and len(rows):
        facts += _lengths(rows, tokenizer, max_prompt_length)
    if facts:
        yield ""
        yield from facts
    if not len(rows):
        first = rows.bad[0]
        raise CtwaError(f"{first.source} has no row that can be used: row {first.index} (from 0): {first.why}")
    yield ""
    yield f"{min(NUM_SHOWN, len(rows))} prompts, as " + ("the model reads them:" if tokenizer else "messages:")
    for place, row in _chosen(rows, NUM_SHOWN):
        yield f"--- row {place}, ground truth {_truth(row)}"
        yield from _shortened(_text(row["prompt"], tokenizer)).splitlines()
    yield "---"
    yield ""
    yield "to train on these rows (objectives: docs/rewards.md):"
    if any(read is not None and read.bad for read in (rows, held_out)):
        settings = settings.model_copy(update={"bad_rows": "skip"})
    yield command(source, settings, validation=validation, model=model, max_prompt_length=max_prompt_length)


def command(
    source: str, settings: DataSettings, *, validation: str | None, model: str | None, max_prompt_length: int
) -> str:
    """The command that trains on these rows, to be pasted."""
    is_whole = validation is not None or settings.validation_share is not None
    wanted = settings if is_whole else settings.model_copy(update={"validation_share": 0.1})
    overrides = [f"data.train_files={_quoted(source)}"]
    if validation is not None:
        overrides.append(f"data.val_files={_quoted(validation)}")
    for key, value in wanted.model_dump(exclude_defaults=True).items():
        if isinstance(value, dict):
            written = "{" + ", ".join(f"{name}: {_quoted(column)}" for name, column in value.items()) + "}"
        else:
            written = _quoted(value) if isinstance(value, str) else f"{value}"
        overrides.append(f"data.{key}={written}")
    overrides += [
        f"data.max_prompt_length={max_prompt_length}",
        f"actor_rollout_ref.model.path={_quoted(model or 'MODEL')}",
        "+ctwa.objectives.accuracy.reward_fn=reward_fns/accuracy.py:accuracy",
    ]
    start = "ctwa train task=custom method=linear ctwa.run=runs/mine"
    return " \\\n    ".join([start, *(shlex.quote(each) for each in overrides)])


def _quoted(text: str) -> str:
    """A text as Hydra's overrides have it."""
    if _PLAIN.fullmatch(text) and text.lower() not in ("null", "true", "false") and not _is_number(text):
        return text
    # A backslash means itself but before a quote, and at the end.
    escaped = re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), text)
    return f"'{escaped}'"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read(source: str, settings: DataSettings, tokenizer: Any) -> Rows:
    """The rows, without those that the chat template of a tokenizer refuses, where there is one."""
    file = open_rows(source)
    if not file.num_rows:
        raise CtwaError(f"{source} has no row; give another file")
    rows = read_rows([file], settings, lambda name: f"--{name.replace('_', '-')}")
    if tokenizer is None:
        return rows
    look_at_all = settings.bad_rows == "skip" or len(rows) <= NUM_COUNTED
    return rows.leave_out(lambda messages: refusal(messages, _writes(tokenizer)), look_at_all=look_at_all)


def _understood(rows: Rows) -> Iterator[str]:
    (form,), (file,) = rows.forms, rows.files
    yield f"{file.source}: {file.num_rows:,} rows, {file.kind}"
    yield f"  columns       {', '.join(form.columns)}"
    for name, text in _words(form):
        yield f"  {name:<13} {text}"
    usable = f"{len(rows):,} rows can be used"
    if rows.without_truth and form.has_truth():
        usable += f", {len(rows.without_truth):,} of them without a ground truth"
    yield f"  rows          {usable}; {_bad(rows.bad, form)}"
    repeated = [prompt for prompt, number in Counter(rows.prompts).items() if number > 1]
    yield f"  duplicates    {_duplicates(rows, repeated)}"


def _words(form: Form) -> list[tuple[str, str]]:
    truth = form.ground_truth or ("the last answer of the messages" if form.name == "messages" else None)
    told = {"verl": "verl's", "messages": "conversations", "columns": "a prompt and an answer"}[form.name]
    if form.name == "columns" and truth is None:
        told = "a prompt"
    missing = "none: write --columns '{ground_truth: COLUMN}' where reward functions ask for one"
    prompt = (
        form.prompt
        + (f", with {' and '.join(form.below)} below it" if form.below else "")
        + (", a system message from system" if SYSTEM in form.columns and form.name != "verl" else "")
        + ("" if form.name == "verl" else "; a text becomes a user's message")
    )
    kept = [name for name in form.columns if name not in ("prompt", "reward_model", "data_source", "extra_info")]
    return [
        ("form", told),
        ("prompt", f"{form.prompt}, without its last answer" if form.name == "messages" else prompt),
        ("ground truth", missing if truth is None else f"{truth}, {WORDS[form.rule]} (--answer={form.rule})"),
        ("data_source", form.data_source or f"{form.source_name}"),
        ("row", ", ".join(kept) or "nothing else, for reward functions that ask for `row`"),
    ]


def _bad(bad: Sequence[Bad], form: Form) -> str:
    if not bad:
        return "none cannot"
    named = "".join(f"\n                  row {each.index}: {each.why}" for each in bad[:NUM_NAMED])
    more = f"\n                  and {len(bad) - NUM_NAMED:,} more" if len(bad) > NUM_NAMED else ""
    what = "are left out" if form.settings.bad_rows == "skip" else "stop a run, but for data.bad_rows=skip"
    return f"{len(bad):,} cannot, and {what}:{named}{more}"


def _duplicates(rows: Rows, repeated: Sequence[bytes]) -> str:
    if not repeated:
        return "none"
    first = [index for (_, index), prompt in zip(rows.places, rows.prompts, strict=True) if prompt == repeated[0]]
    named = ", ".join(map(str, first[:NUM_NAMED])) + (", ..." if len(first) > NUM_NAMED else "")
    stand = "1 prompt stands" if len(repeated) == 1 else f"{len(repeated):,} prompts stand"
    return f"{stand} in several rows, the first in the rows {named}"


def _overlap(rows: Rows, held_out: Rows) -> str:
    known = set(rows.prompts)
    both = [index for (_, index), prompt in zip(held_out.places, held_out.prompts, strict=True) if prompt in known]
    if not both:
        return "overlap: no prompt of the validation is trained on"
    named = ", ".join(map(str, both[:NUM_NAMED])) + (", ..." if len(both) > NUM_NAMED else "")
    return f"overlap: {len(both):,} rows of the validation have a prompt that is trained on (rows {named})"


def _lengths(rows: Rows, tokenizer: Any, most: int) -> Iterator[str]:
    chosen = _chosen(rows, NUM_COUNTED)
    lengths = []
    for start in range(0, len(chosen), 1000):
        texts = [_rendered(row["prompt"], tokenizer, place) for place, row in chosen[start : start + 1000]]
        lengths += [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    ordered = sorted(lengths)
    quantiles = "  ".join(f"{share:.0%} {ordered[int(share * (len(ordered) - 1))]}" for share in QUANTILES)
    of = "" if len(chosen) == len(rows) else f" (of {len(chosen):,} random rows)"
    yield f"tokens of a prompt: least {ordered[0]}  {quantiles}  most {ordered[-1]}{of}"
    long = [place for (place, _), length in zip(chosen, lengths, strict=True) if length > most]
    named = f": rows {', '.join(map(str, long[:NUM_NAMED]))}{', ...' if len(long) > NUM_NAMED else ''}" if long else ""
    yield f"longer than data.max_prompt_length={most}, and left out by task=custom: {len(long):,}{named}"


def _chosen(rows: Rows, number: int) -> list[tuple[int, dict[str, Any]]]:
    return [(row.index, row.values) for _, row in rows.sample(number - 1)]


def _writes(tokenizer: Any) -> Callable[[Sequence[Mapping[str, Any]]], str]:
    """What writes messages by the tokenizer's chat template."""

    def write(messages: Sequence[Mapping[str, Any]]) -> str:
        # A table gives every message the keys that any has.
        messages = [{key: value for key, value in each.items() if value is not None} for each in messages]
        text: str = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return text

    return write


def _rendered(messages: list[dict[str, Any]], tokenizer: Any, place: int) -> str:
    try:
        return write_prompt(messages, _writes(tokenizer))
    except Refused as error:  # one of many rows, of whose roles the template takes others
        raise CtwaError(f"row {place} (from 0): {error}") from error


def _text(messages: list[dict[str, Any]], tokenizer: Any) -> str:
    if tokenizer is not None:
        return _writes(tokenizer)(messages)
    return "\n".join(f"{each['role']}: {each['content']}" for each in messages)


def _truth(row: dict[str, Any]) -> str:
    truth = (row.get("reward_model") or {}).get("ground_truth")
    return "none" if truth is None else repr(truth)[:200]


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} ... ({len(text):,} characters)"
