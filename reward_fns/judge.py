"""A language model as judge, behind an OpenAI-compatible endpoint: how good is the response by a rubric?"""

import math
import re
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ctwa.chat.client import Client, EndpointConfig, ExtraBody, Unreachable, check_endpoint, endpoint
from ctwa.chat.grades import RUBRIC, TEMPLATE, grade_of, question
from ctwa.chat.ledger import Ledger, ReplyFolder
from ctwa.strict import validated

PAUSE = 60.0  # s without a request, after a server did not answer


async def judge(
    response: str,
    prompt: str,
    base_url: str,
    model: str,
    ground_truth: Any = None,
    rubric: str = RUBRIC,
    scale: Sequence[float] = (1, 10),
    template: str = TEMPLATE,
    pattern: str | None = None,
    api_key_env: str | None = None,
    reference: bool = False,
    max_tokens: int = 512,
    extra_body: Mapping[str, Any] | None = None,
    concurrency: int = 8,
    request_timeout: float = 30.0,
    max_attempts: int = 3,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
    prices: Sequence[float] = (0, 0),
    folder: str = "runs/judge",
) -> float:
    """The judge's grade of the response, from 0 to 1.

    A response without a grade is left out: the judge did not answer, refused, was cut off, or gave no number on the
    scale. Let the objective have `max_unscored: 1`, so that a judge that is down never stops the run, and a `timeout`
    of `max_attempts * request_timeout` and more. Replies are kept on disk, and nothing is asked twice.

    Args:
        response: the response.
        prompt: its prompt.
        base_url: what stands before `/chat/completions`.
        model: its name there.
        ground_truth: of the row; the judge sees it where `reference` says so.
        rubric: what is to be graded, in words.
        scale: the worst and the best grade.
        template: the message, with `{prompt}`, `{response}`, `{rubric}`, `{reference}`, `{mark}`, `{low}`, `{high}`.
        pattern: a regular expression whose group 1 is the grade; without one, `score` of the reply's JSON object.
        api_key_env: the NAME of the environment variable that holds the key.
        reference: whether the judge sees the ground truth as a reference answer.
        max_tokens: of a reply.
        extra_body: further fields of every request, but messages and model; null leaves one of ours out.
        concurrency: requests under way at once, in each reward worker.
        request_timeout: seconds a request may take.
        max_attempts: how often a request is sent before it is given up.
        requests_per_minute: of all workers of a machine together.
        tokens_per_minute: of all workers of a machine together, as estimated before and counted after.
        prices: of a million tokens asked and of a million written; `usage.json` has the sum.
        folder: of the replies and of `usage.json`.
    """
    asked_by = _judge(
        endpoint(base_url, api_key_env, concurrency, request_timeout, max_attempts).model_dump_json(),
        folder,
        requests_per_minute,
        tokens_per_minute,
        (prices[0], prices[1]),
    )
    gold = None if not reference or ground_truth is None else str(ground_truth)
    text = question(prompt, response, gold, rubric=rubric, scale=scale, template=template)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": max_tokens,
        **(extra_body or {}),
    }
    reply = await asked_by.answer({name: value for name, value in body.items() if value is not None})
    return grade_of(reply, scale=scale, pattern=pattern)


def check_judge(
    base_url: str,
    api_key_env: str | None = None,
    scale: Sequence[float] = (1, 10),
    template: str = TEMPLATE,
    pattern: str | None = None,
    extra_body: Mapping[str, Any] | None = None,
    concurrency: int = 8,
    request_timeout: float = 30.0,
    max_attempts: int = 3,
    requests_per_minute: float | None = None,
    tokens_per_minute: float | None = None,
    prices: Sequence[float] = (0, 0),
    **_: Any,
) -> None:
    """Refuse an address, a key, a scale, a pattern, further fields, limits or prices that cannot be used."""
    check_endpoint(endpoint(base_url, api_key_env, concurrency, request_timeout, max_attempts))
    validated(ExtraBody, extra_body or {}, under="extra_body")
    for name, limit in (("requests_per_minute", requests_per_minute), ("tokens_per_minute", tokens_per_minute)):
        if limit is not None and not limit > 0:
            raise ValueError(f"{name}={limit}: write a number above 0, or leave it out for no limit")
    if not _are_two_numbers(prices):
        raise ValueError(f"prices={prices}: write those of a million tokens asked and written, e.g. [0.15, 0.6]")
    if not _are_two_numbers(scale) or scale[0] == scale[1]:
        raise ValueError(f"scale={scale}: write the worst and the best grade, e.g. [1, 10]")
    if "{response}" not in template:
        raise ValueError("the template lacks {response}: write it where the response belongs")
    if pattern is not None and re.compile(pattern).groups < 1:
        raise ValueError(f"pattern={pattern!r} has no group: put the grade in brackets, e.g. score: (\\d+)")


def _are_two_numbers(given: Any) -> bool:
    return isinstance(given, list | tuple) and len(given) == 2 and all(map(_is_number, given))


def _is_number(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given)


class _Judge(Client):
    """A client that keeps to limits, and leaves a server alone for a while that does not answer."""

    def __init__(self, config: EndpointConfig, replies: ReplyFolder, ledger: Ledger) -> None:
        super().__init__(config, replies, keys="base_url, model and api_key_env in the objective's kwargs")
        self._ledger = ledger
        self._pause_ends = 0.0

    async def post(self, path: str, body: Mapping[str, Any], read: Any) -> Any:
        if time.monotonic() < self._pause_ends:
            raise Unreachable(f"the judge at {self.config.base_url} did not answer a moment ago: not asked")
        estimate = len(str(body["messages"])) // 3 + int(body.get("max_tokens", 0))
        await self._ledger.admit(estimate)
        try:
            reply = await super().post(path, body, read)
        except Unreachable:
            self._pause_ends = time.monotonic() + PAUSE
            raise
        self._ledger.note(reply, estimate)
        return reply


@lru_cache(maxsize=16)
def _judge(
    config: str, folder: str, requests: float | None, tokens: float | None, prices: tuple[float, float]
) -> _Judge:
    """One a process: its connections and its limits outlive a call."""
    path = Path(folder)
    ledger = Ledger(path, requests_per_minute=requests, tokens_per_minute=tokens, prices=prices)
    return _Judge(EndpointConfig.model_validate_json(config), ReplyFolder(path / "replies"), ledger)
