"""Conversations as a tokenizer's chat template writes them, and a sentence where it does not write what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ctwa.objectives.contract import shortened
from ctwa.preference.schemas import BadRow


def render_prompt(tokenizer: Any, messages: Sequence[Mapping[str, Any]], template_kwargs: Mapping[str, Any]) -> str:
    """The text that a model is given to answer: the messages, and the opening of its own turn.

    Args:
        tokenizer: of ``transformers``, with a chat template.
        messages: with ``role`` and ``content``.
        template_kwargs: variables of the template.

    Raises:
        BadRow: the template refuses the messages (no system role, roles that do not alternate, ...), or leaves the
            system's out.
    """
    text = _render(tokenizer, messages, template_kwargs, add_generation_prompt=True)
    for message in messages:
        content = message.get("content")
        if message.get("role") == "system" and isinstance(content, str) and content.strip() not in text:
            raise BadRow("template", f"the chat template leaves out its system message {_short(content)}")
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
        BadRow: the template does not write the answer behind the prompt, or not as it is, or the prompt not as it is.
    """
    answered = [*messages, {"role": "assistant", "content": answer}]
    whole = _render(tokenizer, answered, template_kwargs, add_generation_prompt=False)
    if not whole.startswith(prompt):
        same = next((i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b), len(whole))
        raise BadRow(
            "template",
            "the chat template does not write the answer behind its own prompt for generation, which ends with "
            f"{_short(prompt[-40:])} where the whole conversation goes on with {_short(whole[same : same + 40])}; "
            "write the prompt as rendered text (chat: false), or give the tokenizer another template",
        )
    written = whole[len(prompt) :]
    if answer not in written:
        hint = "take the white space off its ends" if answer.strip() in written else "give another template"
        raise BadRow(
            "template",
            f"the chat template changes its response: it writes {_short(written)} where the response is "
            f"{_short(answer)}; {hint}, or write the row as rendered text (chat: false)",
        )
    for message in messages:  # of the model's own earlier turns a template may leave out what was thought
        content = message.get("content")
        if prompt and message.get("role") == "user" and isinstance(content, str) and content.strip() not in prompt:
            raise BadRow("template", f"the chat template leaves out its user message {_short(content)}, or changes it")
    return written


def _render(tokenizer: Any, messages: Any, template_kwargs: Mapping[str, Any], *, add_generation_prompt: bool) -> str:
    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt, **template_kwargs
        )
    except Exception as error:  # a template is a program of the model's maker, and may raise anything
        roles = ", ".join(str(message.get("role")) for message in messages)
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadRow(
            "template", f"the chat template does not take its conversation (roles {roles}): {reason}"
        ) from error


def _short(text: str) -> str:
    return repr(shortened(text, 60))
