"""A language model as judge, behind an OpenAI-compatible endpoint: which of two completions is better, both orders."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ctwa.chat.client import Client, Replies, Unreachable
from ctwa.chat.replies import Reply
from ctwa.errors import CtwaError
from ctwa.evaluation.config import JudgeConfig
from ctwa.evaluation.verdicts import verdict_of, why_none

OUTCOMES = ("win", "loss", "tie", "identical", "disagreement", "unparsed", "refused")
_KEYS = "judge.base_url, judge.model and judge.api_key_env"


@dataclass(frozen=True)
class Duel:
    """Two completions of a prompt, `ours` of the model that is compared and `theirs` of the baseline."""

    row: int
    prompt: str
    ours: str
    theirs: str


@dataclass(frozen=True)
class Judgement:
    """What the judge made of a duel.

    Attributes:
        score: 1 where ours is better in both orders, 0 where theirs is, else .5: a tie, or orders that disagree. None
            where a reply holds no verdict or the server refused a request.
        outcome: `win`, `loss`, `tie`, `disagreement`, `unparsed`, `refused`, or `identical` (a tie that was not asked).
        answers: of the judge: ours first, then theirs first.
        reasons: of `unparsed`: why each of the answers holds no verdict, "" where it holds one.
    """

    row: int
    score: float | None
    outcome: str
    answers: tuple[str, ...]
    reasons: tuple[str, ...] = ()


def judge(
    duels: Sequence[Duel], config: JudgeConfig, replies: Replies, progress: Callable[[int], None]
) -> list[Judgement]:
    """Judge every duel in both orders; what has a reply already is not asked again.

    Raises:
        CtwaError: the server cannot be asked, or refuses every request. Answers so far are kept.
    """
    return asyncio.run(_judge(duels, config, replies, progress))


async def _judge(
    duels: Sequence[Duel], config: JudgeConfig, replies: Replies, progress: Callable[[int], None]
) -> list[Judgement]:
    done = 0

    async def ask(prompt: str, first: str, second: str) -> Reply:
        nonlocal done
        answer = await client.answer(_request(config, prompt, first, second))
        done += 1
        progress(num_identical + done // 2)
        return answer

    asked = [duel for duel in duels if duel.ours != duel.theirs]
    num_identical = len(duels) - len(asked)
    async with Client(config, replies, keys=_KEYS) as client:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {
                    duel.row: (
                        group.create_task(ask(duel.prompt, duel.ours, duel.theirs)),
                        group.create_task(ask(duel.prompt, duel.theirs, duel.ours)),
                    )
                    for duel in asked
                }
        except ExceptionGroup as errors:
            first = errors.exceptions[0]
            if isinstance(first, Unreachable):
                raise CtwaError(f"{first}; the answers so far are kept: the same command goes on from there") from None
            raise first from None
    judgements = [
        _combine(duel, *(task.result() for task in tasks[duel.row]))
        if duel.row in tasks
        else Judgement(duel.row, 0.5, "identical", ())
        for duel in duels
    ]
    refused = [judgement for judgement in judgements if judgement.outcome == "refused"]
    if refused and len(refused) == sum(judgement.outcome != "identical" for judgement in judgements):
        raise CtwaError(f"the judge refused every request, the first with: {refused[0].answers[0]}")
    return judgements


def _request(config: JudgeConfig, prompt: str, first: str, second: str) -> dict[str, Any]:
    fields = {"{prompt}": prompt, "{first}": first, "{second}": second}
    # In one pass: a completion that says "{second}" stays as it is.
    text = re.sub(r"\{(?:prompt|first|second)\}", lambda field: fields[field.group()], config.template)
    messages = [{"role": "user", "content": text}]
    if config.system is not None:
        messages.insert(0, {"role": "system", "content": config.system})
    body = {
        "model": config.model,
        "messages": messages,
        "temperature": 0,
        "seed": config.seed,
        "max_tokens": config.max_tokens,
        **config.extra_body,
    }
    return {key: value for key, value in body.items() if value is not None}


def _combine(duel: Duel, ours_first: Reply, theirs_first: Reply) -> Judgement:
    texts = (ours_first.text, theirs_first.text)
    if ours_first.refused or theirs_first.refused:
        refusals = tuple(answer.text for answer in (ours_first, theirs_first) if answer.refused)
        return Judgement(duel.row, None, "refused", refusals)
    verdicts = verdict_of(ours_first), verdict_of(theirs_first)
    if None in verdicts:
        return Judgement(duel.row, None, "unparsed", texts, (why_none(ours_first), why_none(theirs_first)))
    outcomes = {("first", "second"): (1.0, "win"), ("second", "first"): (0.0, "loss"), ("tie", "tie"): (0.5, "tie")}
    score, outcome = outcomes.get((str(verdicts[0]), str(verdicts[1])), (0.5, "disagreement"))
    return Judgement(duel.row, score, outcome, texts)


def prompt_of(row: Mapping[str, Any]) -> str:
    """A prompt as the judge reads it: text, or the messages with who says them where there are several."""
    prompt = row["prompt"]
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return str(prompt[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def reasons(judgements: Sequence[Judgement]) -> dict[str, int]:
    """How many answers held no verdict, by why, the most frequent first."""
    return dict(Counter(reason for judgement in judgements for reason in judgement.reasons if reason).most_common())


def notes(name: str, judgements: Sequence[Judgement]) -> list[str]:
    """What a reader of a win rate has to know: how it came about, and what did not count."""
    counts = Counter(judgement.outcome for judgement in judgements)
    shown = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts[outcome])
    lines = [f"{name}: {shown}."]
    if why := reasons(judgements):
        lines[0] += f" Answers without a verdict: {', '.join(f'{reason} {count}' for reason, count in why.items())}."
    if "cut off" in why:
        lines[0] += " Raise judge.max_tokens for those cut off."
    for judgement in judgements:
        if judgement.outcome == "refused":
            lines.append(f"{name}, row {judgement.row} does not count (refused): {judgement.answers[0][:160]!r}")
        elif judgement.outcome == "unparsed":
            answer, reason = next(pair for pair in zip(judgement.answers, judgement.reasons, strict=True) if pair[1])
            lines.append(f"{name}, row {judgement.row} does not count ({reason}): {answer[-160:]!r}")
    most = 3
    return lines if len(lines) <= most + 1 else [*lines[: most + 1], f"... and {len(lines) - most - 1} more."]
