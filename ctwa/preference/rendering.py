"""Conversations as a tokenizer's chat template writes them, and a sentence where it does not write what they say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ctwa.data.templates import template_fault
from ctwa.errors import one_line
from ctwa.objectives.contract import shortened
from ctwa.preference.schemas import BadRow


def render_prompt(tokenizer: Any, messages: Sequence[Mapping[str, Any]], template_kwargs: Mapping[str, Any]) -> str:
    """The text that a model is given to answer: the messages, and the opening of its own turn.

    Args:
        tokenizer: of ``transformers``, with a chat template.
        messages: with ``role`` and ``content``.
        template_kwargs: variables of the template.

    Raises:
        BadRow: the template refuses the messages (no system role, roles that do not alternate, ...), or leaves out or
            changes one that is not the model's own.
    """

    def render(messages: Sequence[Mapping[str, Any]]) -> str:
        return _render(tokenizer, messages, template_kwargs, add_generation_prompt=True)

    text = render(messages)
    if text and (fault := template_fault(messages, text, render)) is not None:
        raise BadRow("template", f"the chat template {fault}")
    return text


def render_answer(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], prompt: str, answer: str, template_kwargs: Mapping[str, Any]
) -> str:
    """What the template writes behind the prompt where the model has answered: the answer, and the end of its turn.

    Args:
        tokenizer: of ``transformers``, with a chat template.
        messages: the conversation before the answer.
        prompt: what ``render_prompt`` gives for it.
        answer: the model's.
        template_kwargs: variables of the template.

    Raises:
        BadRow: the template does not write the answer behind the prompt, or not as it is, or other words around it.
    """
    answered = [*messages, {"role": "assistant", "content": answer}]
    whole = _render(tokenizer, answered, template_kwargs, add_generation_prompt=False)
    if not whole.startswith(prompt):
        is_moved = any(message.get("role") == "system" for message in messages)  # by Mistral's, to the last user's
        instead = "write what the system says into the user's message, or " if is_moved else "write "
        same = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
        raise BadRow(
            "template",
            "the chat template does not write the answer behind its own prompt for generation, which ends with "
            f"{_short(prompt[-40:])} where the whole conversation goes on with {_short(whole[same : same + 40])}; "
            f"{instead}the prompt as rendered text (chat: false), or give the tokenizer another template",
        )
    written = whole[len(prompt) :]
    if not _stands_alone(answer, written, tokenizer.all_special_tokens):
        trimmed = answer not in written and answer.strip() in written
        hint = "take the white space off its ends" if trimmed else "give another template"
        raise BadRow(
            "template",
            f"the chat template changes its response: it writes {_short(written)} where the response is "
            f"{_short(answer)}; {hint}, or write the row as rendered text (chat: false)",
        )
    return written


def _stands_alone(answer: str, written: str, special_tokens: Sequence[str]) -> bool:
    """Whether an answer is all that a template writes as the model's words.

    Between the prompt and the answer may stand what ends with a mark, as an empty ``<think></think>`` does, and the end
    of the turn comes right behind the answer. A template without such marks may end a turn as it likes.
    """
    mark = "|".join([r"<[^<>\s]+>", *map(re.escape, special_tokens)])
    alone = rf"(?:\A|{mark})\s*{re.escape(answer)}(?:\s*(?:{mark})|(?!.*(?:{mark})))"
    return re.search(alone, written, re.DOTALL) is not None


def _render(tokenizer: Any, messages: Any, template_kwargs: Mapping[str, Any], *, add_generation_prompt: bool) -> str:
    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt, **template_kwargs
        )
    except Exception as error:  # a template is a program of the model's maker, and may raise anything
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise BadRow(
            "template", f"the chat template does not take its conversation (roles {roles}): {one_line(error)}"
        ) from error


def _short(text: str) -> str:
    return repr(shortened(text, 60))
