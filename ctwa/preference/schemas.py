"""Rows of published preference data sets as pairs with labels.

Where the columns are from: TRL's documentation of dataset formats (prompt / chosen / rejected, also with the prompt
inside the two conversations); the data card of Anthropic/hh-rlhf (Bai et al. 2022, arXiv 2204.05862); LLaMA-Factory's
documentation of preference data in ShareGPT's form; the data cards of PKU-Alignment/PKU-SafeRLHF, its 10K and 30K
versions (BeaverTails' comparisons: Ji et al. 2023, arXiv 2307.04657); the README of OpenBMB/UltraFeedback (Cui et al.
2023, arXiv 2310.01377); the README of openai/summarize-from-feedback (Stiennon et al. 2020, arXiv 2009.01325).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ctwa.data.formats import described
from ctwa.data.messages import SPEAKERS, as_messages

Message = dict[str, str]
Prompt = str | tuple[Message, ...]
Format = Literal["pairs", "hh", "sharegpt", "safe-rlhf", "ultrafeedback", "summaries"]


class BadRow(Exception):
    """A row that is no usable pair.

    Attributes:
        reason: by which such rows are counted.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True)
class Content:
    """What a row says. The prompt is text or chat messages; the responses are text either way."""

    prompt: Prompt
    chosen: str
    rejected: str
    labels: dict[str, int]


# From a row, and by objective what decides its label, to what the row says but for a system message in ``system``.
Read = Callable[[Mapping[str, Any], Mapping[str, str | None]], Content]


def read_pair(row: Mapping[str, Any], labels: Mapping[str, str | None]) -> Content:
    """``prompt``, ``chosen``, ``rejected``, each text or chat messages.

    The prompt may also stand at the head of both conversations. A label is +1, -1 or 0 in the column that is named
    (``labels.accuracy`` for a field of a column); an objective that names none prefers ``chosen`` in every row.
    """
    if "prompt" not in row and row.get("conversations") is not None:
        raise BadRow("malformed", "it has 'conversations' and no 'prompt'; write format: sharegpt")
    prompt, chosen, rejected = _join(row.get("prompt"), _field(row, "chosen"), _field(row, "rejected"))
    found = {name: 1 if column is None else _sign(row, column) for name, column in labels.items()}
    return Content(prompt, chosen, rejected, found)


def read_hh(row: Mapping[str, Any], labels: Mapping[str, str | None]) -> Content:
    """Anthropic's helpful and harmless dialogues: ``chosen`` and ``rejected``, each the text of a whole dialogue.

    Every turn begins with ``Human:`` or ``Assistant:`` behind an empty line; white space around what is said is none of
    it. Labels as in ``read_pair``.
    """
    return read_pair({**row, "prompt": None, **{key: _dialogue(key, _field(row, key)) for key in _RESPONSES}}, labels)


def read_sharegpt(row: Mapping[str, Any], labels: Mapping[str, str | None]) -> Content:
    """ShareGPT's form: messages with ``from`` and ``value``.

    ``conversations`` is the prompt, ``chosen`` and ``rejected`` a message each (or a list of one, or text); without
    ``conversations`` they are whole conversations. Labels as in ``read_pair``.
    """
    before = row.get("conversations")
    prompt = None if before is None else _turns("conversations", as_messages(before))
    found = {}
    for key in _RESPONSES:
        response = _response(_field(row, key))
        found[key] = response if isinstance(response, str) else _turns(key, response)
    return read_pair({**row, "prompt": prompt, **found}, labels)


def read_safe_rlhf(row: Mapping[str, Any], labels: Mapping[str, str | None]) -> Content:
    """PKU-SafeRLHF: ``prompt``, ``response_0``, ``response_1``; 0 or 1 in ``better_response_id`` (the more helpful
    response) and in ``safer_response_id``. The pair's chosen response is ``response_0``.
    """
    found = {name: _first_or_second(row, column or "better_response_id") for name, column in labels.items()}
    return Content(_field(row, "prompt"), _field(row, "response_0"), _field(row, "response_1"), found)


def read_ultrafeedback(row: Mapping[str, Any], labels: Mapping[str, str | None]) -> Content:
    """UltraFeedback: ``instruction`` and ``completions``, each with a ``response`` and, for every aspect
    (``instruction_following``, ``honesty``, ``truthfulness``, ``helpfulness``), ``annotations[aspect]["Rating"]``.

    The pair is the response with the highest rating of the aspect and the one with the lowest, the first of them where
    several have it (CLAMP). A response rated ``N/A`` takes no part.
    """
    ((name, aspect),) = labels.items()
    rated = []
    for completion in _field(row, "completions"):
        rating = _rating(_lookup(completion, f"annotations.{aspect}.Rating"))
        if rating is not None:
            rated.append((rating, _field(completion, "response")))
    if len(rated) < 2:
        raise BadRow("missing label", f"{len(rated)} of its completions are rated for '{aspect}', and a pair needs 2")
    highest, lowest = max(rated, key=lambda pair: pair[0]), min(rated, key=lambda pair: pair[0])
    if highest[0] == lowest[0]:
        raise BadRow("no preference", f"its completions are all rated {highest[0]:g} for '{aspect}'")
    return Content(_field(row, "instruction"), highest[1], lowest[1], {name: 1})


def read_summaries(row: Mapping[str, Any], labels: Mapping[str, str | None]) -> Content:
    """summarize_from_feedback, ``comparisons``: ``info`` (``subreddit``, ``title`` and ``post``, or a news
    ``article``), two ``summaries`` with a ``text``, and 0 or 1 in ``choice``. The chosen response is the first summary.

    The label is ``choice``, or ``shorter``: the summary with fewer words, a tie where they have equally many.
    """
    info, summaries = _field(row, "info"), _field(row, "summaries")
    if len(summaries) != 2:
        raise BadRow("malformed", f"it has {len(summaries)} summaries where a comparison has 2")
    if info.get("post"):
        subreddit, title = _field(info, "subreddit"), _field(info, "title")
        prompt = f"SUBREDDIT: r/{subreddit}\n\nTITLE: {title}\n\nPOST: {info['post']}\n\nTL;DR:"
    else:
        prompt = f"Article:\n\n{_field(info, 'article')}\n\nTL;DR:"
    first, second = (_field(summary, "text") for summary in summaries)
    found = {}
    for name, decided_by in labels.items():
        if decided_by == "shorter":
            difference = len(second.split()) - len(first.split())
            found[name] = (difference > 0) - (difference < 0)
        else:
            found[name] = _first_or_second(row, decided_by or "choice")
    return Content(prompt, first, second, found)


_RESPONSES = ("chosen", "rejected")
_NUMBERS = {"1": 1, "+1": 1, "0": 0, "-1": -1}  # as CSV has them, in which everything is text
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}  # of HH's dialogues

READERS: dict[Format, Read] = {
    "pairs": read_pair,
    "hh": read_hh,
    "sharegpt": read_sharegpt,
    "safe-rlhf": read_safe_rlhf,
    "ultrafeedback": read_ultrafeedback,
    "summaries": read_summaries,
}


def _lookup(row: Mapping[str, Any], path: str) -> Any:
    """What stands under ``a.b.c``; None where there is nothing."""
    value: Any = row
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _field(row: Mapping[str, Any], path: str) -> Any:
    value = _lookup(row, path)
    if value is None:
        raise BadRow("malformed", f"it has nothing under '{path}' (it has {', '.join(row) or 'nothing'})")
    return value


def _sign(row: Mapping[str, Any], column: str) -> int:
    value = _lookup(row, column)
    if value is None:
        raise BadRow("missing label", f"it has no label under '{column}'")
    value = _NUMBERS.get(value, value) if isinstance(value, str) else value
    if value not in (-1, 0, 1) or isinstance(value, bool):
        raise BadRow("bad label", f"its label under '{column}' is {value!r} where +1, -1 or 0 belongs")
    return int(value)


def _first_or_second(row: Mapping[str, Any], column: str) -> int:
    value = row.get(column)
    if value is None:
        raise BadRow("missing label", f"it has no label under '{column}'")
    value = _NUMBERS.get(value, value) if isinstance(value, str) else value
    if value not in (0, 1):
        raise BadRow("bad label", f"its label under '{column}' is {value!r} where 0 or 1 belongs")
    return 1 if value == 0 else -1


def _rating(text: Any) -> float | None:
    """Ratings are text in the published files: a number, or ``N/A``."""
    try:
        rating = float(text)
    except (TypeError, ValueError):
        return None
    return rating if math.isfinite(rating) else None


def _join(prompt: Any, chosen: Any, rejected: Any) -> tuple[Prompt, str, str]:
    """Text stays text; where anything is a conversation, the prompt is one."""
    prompt, chosen, rejected = as_messages(prompt), _response(chosen), _response(rejected)
    chosen_before, chosen_text = _last_answer("chosen", chosen)
    rejected_before, rejected_text = _last_answer("rejected", rejected)
    if chosen_before != rejected_before:
        raise BadRow("malformed", "its two conversations differ before the last answer")
    if isinstance(chosen, list) != isinstance(rejected, list):
        raise BadRow("malformed", "one of its responses is text and the other a conversation")
    if prompt is not None and not isinstance(prompt, str):
        prompt = _messages("prompt", prompt)
    if chosen_before:
        # The published chat versions repeat the last question as a column of text.
        if prompt not in (None, chosen_before, chosen_before[-1]["content"]):
            raise BadRow("malformed", "its column 'prompt' is not what stands before the answers in its conversations")
        return chosen_before, chosen_text, rejected_text
    if prompt is None:
        if _TURN.match(chosen_text):
            raise BadRow("malformed", "it has no 'prompt', and its responses are dialogues; write format: hh")
        raise BadRow("malformed", "it has no 'prompt', and no conversation that begins with one")
    if isinstance(prompt, str) and isinstance(chosen, list):
        prompt = ({"role": "user", "content": prompt},)
    return prompt, chosen_text, rejected_text


def _dialogue(column: str, text: Any) -> list[Message]:
    before, *turns = _TURN.split(text)
    if before.strip() or not turns:
        raise BadRow("malformed", f"its '{column}' is no dialogue that begins with 'Human:'")
    return [
        {"role": _ROLES[speaker], "content": said.strip()}
        for speaker, said in zip(turns[::2], turns[1::2], strict=True)
    ]


def _turns(column: str, value: Any) -> list[Message]:
    turns = [value] if isinstance(value, Mapping) else value
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise BadRow("malformed", f"its '{column}' is {described(value)}; write a list of turns")
    messages = []
    for turn in turns:
        speaker = turn.get("from", turn.get("role"))
        if speaker not in SPEAKERS:
            raise BadRow("malformed", f"'{speaker}' speaks in its '{column}', which is none of {', '.join(SPEAKERS)}")
        messages.append({"role": SPEAKERS[speaker], "content": turn.get("value", turn.get("content"))})
    return messages


def _response(value: Any) -> Any:
    """A response, as messages where it is some: a text of JSON only where they end with an answer."""
    messages = as_messages(value)
    is_json = isinstance(value, str) and isinstance(messages, list)
    return value if is_json and messages[-1].get("role") != "assistant" else messages


def _last_answer(column: str, response: Any) -> tuple[tuple[Message, ...], str]:
    if isinstance(response, str):
        return (), response
    *before, answer = _messages(column, response)
    if answer["role"] != "assistant":
        raise BadRow("malformed", f"its conversation '{column}' ends with the role {answer['role']!r}, not 'assistant'")
    return tuple(before), answer["content"]


def _messages(column: str, value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise BadRow("malformed", f"its '{column}' is neither text nor a list of messages")
    for message in value:
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise BadRow("malformed", f"a message of its '{column}' has no 'role' and 'content' of text")
    return tuple({"role": message["role"], "content": message["content"]} for message in value)
