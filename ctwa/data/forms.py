"""The form of rows: which column is the prompt, which the ground truth, and how both become verl's.

The schemas: verl's documentation of its data (``prompt``, ``reward_model``, ``data_source``, ``extra_info``); the data
cards of openai/gsm8k (``question``, ``answer`` that ends with ``#### 72``), of MATH (``problem``, ``solution``) and
HuggingFaceH4/MATH-500 (also ``answer``); TRL's documentation of prompt-only data (``prompt``, text or messages, and
columns for its reward functions); ShareGPT's ``conversations`` (``from``, ``value``); OpenAI's ``messages``; Alpaca's
``instruction``, ``input`` and ``output``, and Dolly's ``instruction``, ``context`` and ``response``; LLaMA-Factory's
``system`` and ``history`` beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ctwa.data.answers import WORDS, Rule, extract, rule_for
from ctwa.data.files import HUB, is_local
from ctwa.data.formats import Row, RowFile, described
from ctwa.data.messages import BELOW, SYSTEM, as_messages, instruction_with, is_filled, is_sharegpt, joined, with_system
from ctwa.data.rows import messages_fault, roles_fault, value_fault
from ctwa.data.settings import PLACE, RowSettings
from ctwa.errors import CtwaError

PROMPTS = ("prompt", "messages", "conversations", "question", "problem")
TRUTHS = ("ground_truth", "answer", "solution")
"""The columns that are known; of several that are there the fullest, else the first."""
INSTRUCTION = "instruction"
"""A prompt where no other is known: what stands in ``BELOW`` belongs to it, and ``RESPONSES`` are its truths too."""
RESPONSES = ("output", "response")
VERL = "reward_model"
TRUTH = "ground_truth"
OWN_TRUTH = f"{VERL}.{TRUTH}"
_LIKE_PROMPTS = ("query", "input", "text", "task", "request", "user")
_LIKE_TRUTHS = ("final_answer", "expected_answer", "target", "label", "gold", "reference", "result", "output")
_PAIRS = ("chosen", "rejected")
_SPLITS = ("train", "training", "val", "valid", "validation", "dev", "test", "eval", "held_out", "data")
_LOOKED_AT = 100  # rows whose columns are looked at; of JSON, one may lack what others have

Spelled = Callable[[str], str]
"""How a setting is written where the rows are read: ``data.columns``, ``--columns``, ``generation.columns``."""


class BadRow(Exception):
    """A row that cannot be used: why, and what to write."""


@dataclass(frozen=True)
class Form:
    """What was understood of a file.

    Attributes:
        name: ``verl``, ``messages`` (the last answer is the ground truth, where it has one) or ``columns``.
        prompt: the column of the prompt.
        ground_truth: that of the ground truth; None where that is the last answer of the messages, or nothing.
        rule: how the ground truth is taken out of it.
        data_source: the column of the data source; None where it is ``source_name`` in every row.
        source_name: the data source of rows that have none of their own.
        settings: what the user said.
        columns: of the file.
        below: the columns whose texts go below the prompt's, where they have one.
        chat: whether a prompt that is text becomes a user's message; else :meth:`read` leaves it text.
        join: whether a content in parts that are all text becomes one text.
    """

    name: str
    prompt: str
    ground_truth: str | None
    rule: Rule
    data_source: str | None
    source_name: str
    settings: RowSettings
    columns: tuple[str, ...]
    below: tuple[str, ...] = ()
    chat: bool = True
    join: bool = True

    def __str__(self) -> str:
        truth = self.ground_truth or ("their last answer" if self.name == "messages" else None)
        if self.name == "verl":
            return "verl's format"
        return f"prompt from {' and '.join((self.prompt, *self.below))}, " + (
            "no ground truth" if truth is None else f"ground truth from {truth}, {WORDS[self.rule]}"
        )

    @property
    def changes_nothing(self) -> bool:
        """Whether the rows are in verl's format as they stand."""
        settings = self.settings
        own = settings.columns.prompt or settings.columns.ground_truth or settings.columns.data_source
        asked = own or settings.answer or settings.system_prompt or settings.prompt_template
        return self.name == "verl" and not asked and settings.bad_rows == "stop"

    def has_truth(self) -> bool:
        """Whether rows may have a ground truth."""
        return self.ground_truth is not None or self.name == "messages"

    def read(self, row: Row) -> dict[str, Any]:
        """A row in verl's format: its own columns, and ``prompt``, ``reward_model``, ``data_source``, ``extra_info``.

        Raises:
            BadRow: it cannot be used.
        """
        return self.make(row, *self.split(row))

    def make(self, row: Row, prompt: list[dict[str, Any]], answer: str | None) -> dict[str, Any]:
        """What :meth:`read` gives, of what :meth:`split` gave."""
        values = row.values
        made = dict(values)
        rendered = self._rendered(prompt)
        is_text = not self.chat and len(rendered) == 1 and isinstance(as_messages(lookup(values, self.prompt)), str)
        made["prompt"] = rendered[0]["content"] if is_text else rendered
        if self.has_truth():
            made[VERL] = {**(values.get(VERL) or {}), TRUTH: self._truth(values, answer)}
        named = lookup(values, self.data_source) if self.data_source else None
        made["data_source"] = self.source_name if named is None else str(named)
        extra_info = values.get("extra_info")
        if extra_info is not None and not isinstance(extra_info, Mapping):
            raise BadRow(f"its extra_info is {described(extra_info)}; write a dict, or leave the column out")
        made["extra_info"] = extra_info or {"index": row.index}
        if fault := value_fault(values):
            place, what = fault
            raise BadRow(f"its {place[1:]} {what}" if place else f"it {what}")
        return made

    def split(self, row: Row) -> tuple[list[dict[str, Any]], str | None]:
        """The messages of a row, without what the settings add, and its last answer where the form takes that for the
        ground truth.

        Raises:
            BadRow: it has no messages.
        """
        if row.unreadable is not None:
            raise BadRow(row.unreadable)
        values = row.values
        if isinstance(reward := values.get(VERL), str | list) or isinstance(reward, int | float):
            raise BadRow(f'its reward_model is {described(reward)}; write {{"ground_truth": ...}}')
        found = lookup(values, self.prompt)
        if found is None and self.prompt not in values:
            raise BadRow(f"it has no column '{self.prompt}' (it has {', '.join(values) or 'none'}); write it")
        messages = self._messages(found, values)
        answer = None
        if self.name == "messages" and messages[-1]["role"] == "assistant":
            *messages, last = messages
            answer = joined(last["content"])
            if not messages:
                raise BadRow(f"its {self.prompt} is an answer without a prompt; write what the user says before it")
            if not isinstance(answer, str):
                raise BadRow(f"its {self.prompt}' last answer is {described(answer)}; write a text")
        if fault := roles_fault(messages, self.prompt):
            raise BadRow(fault)
        return messages, answer

    def _messages(self, found: Any, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What stands in the column of the prompt as messages, with what else of the row belongs to them."""
        messages = as_messages(found, join=self.join)
        if fault := messages_fault(messages, self.prompt, text=True):
            raise BadRow(fault)
        try:
            if isinstance(messages, str):
                text = instruction_with(messages, values) if self.prompt == INSTRUCTION else messages
                messages = [{"role": "user", "content": text}]
            return messages if self.name == "verl" else with_system(messages, values)
        except ValueError as error:
            raise BadRow(str(error)) from error

    def _rendered(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages with the system prompt and the template of the settings."""
        settings = self.settings
        if settings.prompt_template is not None:
            last = messages[-1]
            if last["role"] != "user" or not isinstance(last["content"], str):
                raise BadRow("its prompt does not end with a user's text, which the prompt template is about")
            messages = [*messages[:-1], {**last, "content": settings.prompt_template.replace(PLACE, last["content"])}]
        if settings.system_prompt is not None:
            if messages[0]["role"] in ("system", "developer"):
                raise BadRow("it has a system message of its own, and a system prompt is set; leave one of them out")
            messages = [{"role": "system", "content": settings.system_prompt}, *messages]
        return messages

    def _truth(self, values: Mapping[str, Any], last_answer: str | None) -> Any:
        column = self.ground_truth or f"{self.prompt}' last answer"
        answer = lookup(values, self.ground_truth) if self.ground_truth else last_answer
        if (isinstance(answer, str) and not answer.strip() and self.name != "verl") or answer != answer:  # not a number
            answer = None
        if answer is None and self.settings.answer is None and self.rule == "as_is":
            return None  # which a reward function may do without
        is_whole = self.ground_truth in (None, *RESPONSES) or column.startswith(VERL)  # whatever is in it
        is_found = self.settings.answer is None and not is_whole
        if is_found and self.rule == "as_is" and (other := rule_for(answer)) != "as_is":
            raise BadRow(
                f"its {column} is for the rule {other!r}, and those of most rows are taken as they are; write the "
                "result alone, or answer=as_is"
            )
        found, fault = extract(answer, self.rule)
        if fault:
            raise BadRow(f"its {column} {fault}")
        return found


def find_form(file: RowFile, settings: RowSettings, spelled: Spelled) -> Form:
    """Find out what the columns of a file are.

    Args:
        file: the file.
        settings: what the user said of it.
        spelled: how a setting is written here.

    Raises:
        CtwaError: no column is known as a prompt, or a column that was named is not there; what to write.
    """
    looked_at = [row for row in file.head(_LOOKED_AT) if row.unreadable is None]
    columns = tuple(dict.fromkeys(name for row in looked_at for name in row.values))
    own = settings.columns
    if looked_at:
        _check_named(file, settings, looked_at, columns, spelled)
    prompt = own.prompt or _fullest(PROMPTS, looked_at)
    if prompt is None and INSTRUCTION in columns:
        prompt = INSTRUCTION
    elif prompt is None and looked_at:
        raise CtwaError(f"{file.source} {_unknown(columns, spelled)}")
    elif prompt is None:
        prompt = "prompt"  # each row says why it cannot be read
    has_own = any(is_filled(lookup(row.values, OWN_TRUTH)) for row in looked_at)
    truth = own.ground_truth or (OWN_TRUTH if has_own else _fullest(TRUTHS, looked_at))
    if truth is None and prompt == INSTRUCTION:
        truth = _fullest(RESPONSES, looked_at)
    if truth is None and VERL in columns:
        truth = OWN_TRUTH
    form = Form(
        name=_form_name(prompt, truth, looked_at, columns),
        prompt=prompt,
        ground_truth=truth,
        rule="as_is",
        data_source=own.data_source or ("data_source" if "data_source" in columns else None),
        source_name=source_name(file.source),
        settings=settings,
        columns=columns,
        below=tuple(name for name in BELOW if name in columns) if prompt == INSTRUCTION else (),
    )
    return _with_rule(form, looked_at)


def _check_named(
    file: RowFile, settings: RowSettings, looked_at: Sequence[Row], columns: Sequence[str], spelled: Spelled
) -> None:
    """Refuse a column that was named and that no row has."""
    own = settings.columns
    for key, named in (("prompt", own.prompt), (TRUTH, own.ground_truth), ("data_source", own.data_source)):
        if named is not None and not any(has_column(row.values, named) for row in looked_at):
            near = get_close_matches(named, columns, n=1)
            meant = f"; did you mean '{near[0]}'?" if near else f": write one of {', '.join(columns)}"
            raise CtwaError(f"{spelled(f'columns.{key}')}={named}, and {file.source} has no such column{meant}")


def _form_name(prompt: str, truth: str | None, looked_at: Sequence[Row], columns: Sequence[str]) -> str:
    """Which form it is, by the columns of prompts and of ground truths, and the first prompt."""
    is_verl = prompt == "prompt" and (truth == OWN_TRUTH or not any(name in columns for name in (*TRUTHS, SYSTEM)))
    prompts = (lookup(row.values, prompt) for row in looked_at)
    first = next((each for each in prompts if each is not None), None)
    if is_verl and isinstance(first, list) and not is_sharegpt(first):
        return "verl"
    return "messages" if prompt != "prompt" and not isinstance(as_messages(first), str) else "columns"


def _fullest(names: Sequence[str], rows: Sequence[Row]) -> str | None:
    """The column with a value in the most rows, of equal ones the first; None where none is there."""
    there = [name for name in names if any(name in row.values for row in rows)]
    return max(there, key=lambda name: sum(is_filled(plain(row.values.get(name))) for row in rows), default=None)


def _with_rule(form: Form, looked_at: Sequence[Row]) -> Form:
    """With the rule of the settings, or that of most answers; verl's rows hold the ground truth itself."""
    rule = form.settings.answer
    if rule is None and not (form.ground_truth or "").startswith(VERL):
        rules: Counter[Rule] = Counter()
        for row in looked_at:
            with suppress(BadRow):
                answer = lookup(row.values, form.ground_truth) if form.ground_truth else form.split(row)[1]
                if answer is not None:
                    rules[rule_for(answer)] += 1
        rule = next((each for each, _ in rules.most_common(1)), None)  # of equally many the first
    return replace(form, rule=rule or "as_is")


def lookup(values: Mapping[str, Any], column: str) -> Any:
    """What stands in a column, or under ``a.b`` in the column ``a``; None where there is nothing."""
    if column in values:
        return plain(values[column])
    value: Any = values
    for key in column.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return plain(value)


def plain(value: Any) -> Any:
    """A value without numpy's types, which rows of pandas have."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def source_name(source: str) -> str:
    """What a data set is called: its name on the hub, its file's, or its folder's where the file has a split's name."""
    if not is_local(source):
        return source.removeprefix(HUB).split(":")[0].split("@")[0]
    path = Path(source if Path(source).exists() else source.rpartition(":")[0])
    path = path.absolute()
    return path.parent.name if path.stem.lower() in _SPLITS and path.parent.name else path.stem


def has_column(values: Mapping[str, Any], column: str) -> bool:
    """Whether a row has a column, or something under ``a.b``."""
    return column in values or ("." in column and lookup(values, column) is not None)


def _unknown(columns: Sequence[str], spelled: Spelled) -> str:
    """What to write where no column is known as a prompt."""
    if all(name in columns for name in _PAIRS):
        return "has preference pairs (chosen, rejected), which are for `ctwa prefer` (docs/preference.md)"
    known = f"has no column that is known as a prompt ({', '.join(PROMPTS)}); it has {', '.join(columns) or 'none'}"
    prompt = _nearest(columns, (*PROMPTS, *_LIKE_PROMPTS))
    truth = _nearest([name for name in columns if name != prompt], (*TRUTHS, *_LIKE_TRUTHS))
    mapping = ", ".join(
        f"{key}: {name}" for key, name in (("prompt", prompt or "COLUMN"), (TRUTH, truth)) if name is not None
    )
    return f"{known}; write '{spelled('columns')}={{{mapping}}}'"


def _nearest(columns: Sequence[str], known: Sequence[str]) -> str | None:
    by_lower = {name.lower(): name for name in columns}
    for name in known:
        if name in by_lower:
            return by_lower[name]
    near = (get_close_matches(name, list(by_lower), n=1, cutoff=0.75) for name in known)
    return next((by_lower[found[0]] for found in near if found), None)
