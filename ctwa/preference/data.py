"""Preference data: where each objective's pairs and labels come from, and the checks every row passes.

Objectives that name the same data share its pairs, each with a label of its own; the others bring their own pairs.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from ctwa.data.files import HUB, SUFFIXES, is_local, open_rows
from ctwa.data.formats import RowFile
from ctwa.data.forms import INSTRUCTION, has_column, lookup
from ctwa.data.messages import SYSTEM, instruction_with, is_filled, with_system
from ctwa.data.rows import prompt_fault, text_fault
from ctwa.errors import CtwaError
from ctwa.preference.schemas import READERS, BadRow, Content, Format, Prompt
from ctwa.strict import StrictModel

BadRows = Literal["stop", "skip"]
ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
LABELS: Mapping[Format, tuple[str, ...]] = {
    "safe-rlhf": ("better_response_id", "safer_response_id"),
    "ultrafeedback": ASPECTS,
    "summaries": ("choice", "shorter"),
}


class PreferenceSource(StrictModel):
    """Where an objective's preferences are.

    Attributes:
        data: a parquet, JSON Lines, JSON or CSV file, a folder of ``datasets.save_to_disk``, or the name of a data set
            on the Hugging Face hub.
        format: the columns' names and meaning (``ctwa.preference.schemas``).
        label: what decides the objective's label. ``pairs``, ``hh``, ``sharegpt``: a column of +1, -1 and 0; by default
            every row prefers ``chosen``. ``safe-rlhf``: ``better_response_id`` or ``safer_response_id``.
            ``ultrafeedback``: the aspect. ``summaries``: ``choice`` (default) or ``shorter``.
        columns: where the file has other names than the format: ``{prompt: question, chosen: better}``.
        subset, split: of a data set on the hub; the split also of a folder that has several.
        chat: whether a prompt that is text becomes a user's message. By default it does, except for the format
            ``pairs``, whose files say themselves what they are: a column ``system`` makes conversations of them.
        bad_rows: ``stop`` at the first unusable row, or ``skip`` such rows and count them by reason.
    """

    data: str
    format: Format = "pairs"
    label: str | None = None
    columns: dict[Literal["prompt", "chosen", "rejected", "conversations", "system"], str] = Field(default_factory=dict)
    subset: str | None = None
    split: str = "train"
    chat: bool | None = None
    bad_rows: BadRows = "stop"

    @model_validator(mode="after")
    def _label_is_known(self) -> PreferenceSource:
        known = LABELS.get(self.format)
        needed = self.format in ("safe-rlhf", "ultrafeedback")
        if known and (self.label not in known) and (needed or self.label is not None):
            raise ValueError(f"the label of format '{self.format}' is {self.label!r}; write one of {', '.join(known)}")
        return self


@dataclass(frozen=True)
class Pair:
    """Two responses to a prompt, none of them empty, not the same.

    Attributes:
        prompt: text, or chat messages.
        labels: by objective: +1 prefers ``chosen``, -1 prefers ``rejected``, 0 neither.
        row: its index in the data, from 0.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    labels: Mapping[str, int]
    row: int


@dataclass(frozen=True)
class PairSet:
    """The pairs of one data set.

    Attributes:
        source: the data set, as messages name it.
        objectives: the objectives that every pair has a label for.
        bad_rows: what happens to rows that turn out unusable.
        skipped: how many rows were left out, by reason.
    """

    source: str
    objectives: tuple[str, ...]
    pairs: tuple[Pair, ...]
    bad_rows: BadRows
    skipped: Mapping[str, int]


def load_preferences(objectives: Mapping[str, PreferenceSource]) -> tuple[PairSet, ...]:
    """Read every objective's preferences.

    Args:
        objectives: by name; sources that differ in their ``label`` alone share their pairs. (Not for
            ``ultrafeedback``, where every aspect chooses its own responses.)

    Returns:
        One set for each data set, in the order of the objectives.

    Raises:
        CtwaError: a file or column is missing, a row is unusable, no row is usable, or two objectives are the same.
    """
    return tuple(_load(source, labels) for source, labels in data_sets(objectives))


def data_sets(objectives: Mapping[str, PreferenceSource]) -> list[tuple[PreferenceSource, dict[str, str | None]]]:
    """The data sets that objectives name, each with the labels that it gives to which of them; no file is opened.

    Raises:
        CtwaError: two objectives are the same.
    """
    shared: dict[Any, tuple[PreferenceSource, dict[str, str | None]]] = {}
    for name, source in objectives.items():
        same = source if source.format == "ultrafeedback" else source.model_copy(update={"label": None})
        labels = shared.setdefault(same.model_dump_json(), (source, {}))[1]
        if source.label in labels.values():
            other = next(other for other, label in labels.items() if label == source.label)
            raise CtwaError(
                f"objectives '{other}' and '{name}' have the same preferences ({source.data}, label "
                f"{source.label or 'none'}); give each a 'label' of its own"
            )
        labels[name] = source.label
    return list(shared.values())


def open_source(source: PreferenceSource) -> RowFile:
    """The rows of a file, a folder of ``datasets.save_to_disk`` or a data set on the hub.

    Raises:
        CtwaError: there is no such file, it is not what its name says, or the hub cannot be asked.
    """
    name, path = source.data, Path(source.data)
    is_name = name.count("/") == 1 and ":" not in name and path.suffix not in SUFFIXES
    if is_local(name) and is_name and not path.exists():
        name = ":".join(filter(None, (f"{HUB}{name}", source.subset, source.split)))
    elif (path / "dataset_dict.json").is_file():
        name = f"{name}:{source.split}"
    return open_rows(name)


def skip_or_stop(source: str, row: int, error: BadRow, bad_rows: BadRows, skipped: Counter[str]) -> None:
    """Count an unusable row, or stop with it.

    Raises:
        CtwaError: ``bad_rows`` is ``stop``.
    """
    if bad_rows == "stop":
        raise CtwaError(
            f"{source}, row {row} (from 0): {error}; mend or delete that row, or set bad_rows: skip"
        ) from error
    skipped[error.reason] += 1


def split_pairs(pair_set: PairSet, shares: Mapping[str, float], *, seed: int = 0) -> dict[str, PairSet]:
    """Split by prompt, so that no prompt is in two parts.

    The part a prompt falls into depends on it and the seed alone: data sets that have prompts in common are split
    alike. Shares are therefore met only on average.

    Args:
        pair_set: what to split.
        shares: of the prompts, by the part's name; they sum to 1.
        seed: another seed is another split.

    Raises:
        CtwaError: the shares do not sum to 1, or a part is empty.
    """
    if abs(sum(shares.values()) - 1) > 1e-9 or min(shares.values()) < 0:
        raise CtwaError(f"the shares {dict(shares)} of a split must be 0 or more and sum to 1")
    names, bounds = list(shares), list(accumulate(shares.values()))
    parts: dict[str, list[Pair]] = {name: [] for name in names}
    for pair in pair_set.pairs:
        digest = hashlib.sha256(json.dumps([seed, pair.prompt]).encode()).digest()
        position = int.from_bytes(digest[:6], "big") / 2**48
        parts[names[min(bisect_right(bounds, position), len(names) - 1)]].append(pair)
    for name, pairs in parts.items():
        if not pairs and shares[name]:
            raise CtwaError(
                f"{pair_set.source}: {len(pair_set.pairs)} pairs are too few to split, the part '{name}' "
                f"of {shares[name]:g} is empty; give more data or another share"
            )
    return {name: replace(pair_set, pairs=tuple(pairs), skipped={}) for name, pairs in parts.items()}


def hold_out(pair_set: PairSet, share: float) -> tuple[PairSet, PairSet]:
    """The pairs that `ctwa prefer` trains on, and those of this share of the prompts, which it validates on."""
    parts = split_pairs(pair_set, {"train": 1 - share, "validation": share})
    return parts["train"], parts["validation"]


def _load(source: PreferenceSource, labels: Mapping[str, str | None]) -> PairSet:
    pairs, skipped = [], Counter[str]()
    system, has_system = source.columns.get(SYSTEM, SYSTEM), False
    for row in open_source(source).rows():
        try:
            if row.unreadable is not None:
                raise BadRow("unreadable", row.unreadable)
            has_system = has_system or has_column(row.values, system)
            content = _content(source, _renamed(source, row.values), labels)
            _check(content)
            pairs.append(Pair(content.prompt, content.chosen, content.rejected, content.labels, row.index))
        except BadRow as error:
            skip_or_stop(source.data, row.index, error, source.bad_rows, skipped)
    if not pairs:
        raise CtwaError(f"{source.data} has no usable pair ({dict(skipped) or 'it is empty'}); give other data")
    if SYSTEM in source.columns and not has_system:
        raise CtwaError(f"columns.{SYSTEM}={system}, and {source.data} has no such column; write one that it has")
    pairs = _as_chat(source, pairs, has_system=has_system)
    return PairSet(source.data, tuple(labels), tuple(pairs), source.bad_rows, dict(skipped))


def _renamed(source: PreferenceSource, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row by the names that its format has."""
    if not source.columns:
        return values
    needed = (column for name, column in source.columns.items() if name != SYSTEM)
    if missing := next((column for column in needed if lookup(values, column) is None), None):
        raise BadRow("malformed", f"it has nothing in the column '{missing}' (it has {', '.join(values)})")
    renamed: dict[str, Any] = {**values, **{name: lookup(values, column) for name, column in source.columns.items()}}
    if source.columns.get("prompt") == INSTRUCTION and isinstance(renamed["prompt"], str):
        try:
            renamed["prompt"] = instruction_with(renamed["prompt"], values)
        except ValueError as error:
            raise BadRow("malformed", str(error)) from error
    return renamed


def _content(source: PreferenceSource, row: Mapping[str, Any], labels: Mapping[str, str | None]) -> Content:
    try:
        content = READERS[source.format](row, labels)
        return replace(content, prompt=_with_system(source, content.prompt, row))
    except (TypeError, AttributeError, LookupError) as error:  # values of other types than the format has
        raise BadRow("malformed", f"it is not of the format '{source.format}' ({error})") from error


def _with_system(source: PreferenceSource, prompt: Prompt, row: Mapping[str, Any]) -> Prompt:
    """The prompt behind the system message of its row, which makes messages of a text."""
    if not is_filled(row.get(SYSTEM)):
        return prompt
    if source.chat is False:
        raise CtwaError(
            f"{source.data} has system messages in its column '{source.columns.get(SYSTEM, SYSTEM)}', and its source "
            "says chat: false; leave that column out, or chat"
        )
    try:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        return tuple(with_system(messages, row))
    except ValueError as error:
        raise BadRow("malformed", str(error)) from error


def _check(content: Content) -> None:
    for column in ("chosen", "rejected"):
        text = getattr(content, column)
        if not isinstance(text, str):
            raise BadRow("malformed", f"its {column} response is {type(text).__name__} where text belongs")
        if not text.strip():
            raise BadRow("empty", f"its {column} response is empty")
        if fault := text_fault(text):
            raise BadRow("malformed", f"it has {fault} in its {column} response")
    if fault := prompt_fault(content.prompt, text=True):
        raise BadRow("empty" if "empty" in fault else "malformed", fault)
    if content.chosen == content.rejected:
        raise BadRow("identical", "its two responses are the same")


def _as_chat(source: PreferenceSource, pairs: list[Pair], *, has_system: bool) -> list[Pair]:
    """As they are trained on: where a file has a column ``system``, rows with nothing in it are conversations, too."""
    chat = source.format != "pairs" or has_system if source.chat is None else source.chat
    if chat:
        return [
            replace(pair, prompt=({"role": "user", "content": pair.prompt},)) if isinstance(pair.prompt, str) else pair
            for pair in pairs
        ]
    if source.chat is False and not all(isinstance(pair.prompt, str) for pair in pairs):
        raise CtwaError(f"{source.data} has chat messages, and its source says chat: false; leave chat out")
    return pairs
