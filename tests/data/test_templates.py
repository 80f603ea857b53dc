"""What a chat template makes of the messages of a prompt, and what is said where that is not what they say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import jinja2
import pytest

from ctwa.data.templates import refusal
from ctwa.errors import CtwaError

CHATML = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
KNOWS_THREE = (  # of Zephyr, Phi-3 and Qwen: what is of another role is not there
    "{% for m in messages if m.role in ('system', 'user', 'assistant') %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
)
ELSE_IS_THE_MODEL = (  # of Vicuna
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }} {% elif m.role == 'user' %}USER: "
    "{{ m.content }} {% else %}ASSISTANT: {{ m.content }}{% endif %}{% endfor %}"
)
AS_JSON = "{% for m in messages %}<{{ m.role }}>{{ m.content | tojson if m.role == 'tool' else m.content }}{% endfor %}"
PLAIN = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
ANSWERED = [{"role": "user", "content": "What is 12 + 30?"}, {"role": "assistant", "content": "I add."}]


def said(template: str, messages: Sequence[dict[str, Any]]) -> str | None:
    environment = jinja2.Environment()
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)  # as transformers has it
    made = environment.from_string(template)
    return refusal(messages, lambda messages: made.render(messages=messages))


@pytest.mark.parametrize("role", ["system", "developer", "user", "tool"])
@pytest.mark.parametrize("content", ["Answer in French only.", "12", '{"sum": "42\n"}'])
@pytest.mark.parametrize(
    ("template", "lost", "models"),
    [
        (CHATML, (), ()),
        (PLAIN, (), ()),  # which tells nobody's words from another's
        (AS_JSON, (), ()),
        (KNOWS_THREE, ("developer", "tool"), ()),
        (ELSE_IS_THE_MODEL, (), ("developer", "tool")),
        (CHATML.replace("m.content", "m.content if m.role != 'system' else '-'"), ("system",), ()),
    ],
)
def test_whose_message_a_template_leaves_out_or_gives_to_the_model(
    template: str, lost: Sequence[str], models: Sequence[str], role: str, content: str
) -> None:
    """Also one that stands in another's words, as the result of a tool is likely to."""
    message = {"role": role, "content": content}
    messages = [*ANSWERED, message] if role == "tool" else [message, {"role": "user", "content": f"Say {content}."}]
    fault = said(template, messages)
    if role in lost or role in models:
        assert fault is not None
        verb = "leaves out" if role in lost else "writes"
        assert fault.startswith(f"the model's chat template {verb} its {role} message '{content[:3]}")
        assert ("as the model's own words" in fault) == (role in models)
        assert ("(write it as system)" in fault) == (role == "developer")
    else:
        assert fault is None


def test_the_models_own_turns_may_be_left_out() -> None:
    assert said("{{ messages[0].content }}", ANSWERED) is None


def test_what_a_template_raises_is_a_sentence_and_ours_pass() -> None:
    assert said("{{ nobody.content }}", ANSWERED) == (
        "the model's chat template cannot render its prompt ('nobody' is undefined); write messages that it takes"
    )
    assert said("", ANSWERED) == "the model's chat template makes nothing of its prompt; give a template that does"

    def ours(_: Any) -> str:
        raise CtwaError("no template")

    with pytest.raises(CtwaError, match=r"^no template$"):
        refusal(ANSWERED, ours)
