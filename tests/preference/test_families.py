"""Tokens that are trained on are those of the template's own text, for the families of tokenizers and templates."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from ctwa.errors import CtwaError
from ctwa.preference import Pair, PairSet, tokenize_pairs
from tests.preference.families import FAMILIES

QUESTION = ({"role": "user", "content": "Name a prime number."},)
SYSTEM = ({"role": "system", "content": "Be brief."}, *QUESTION)
TURNS = (*QUESTION, {"role": "assistant", "content": "7"}, {"role": "user", "content": "Another one."})
TWO_QUESTIONS = (*QUESTION, *QUESTION)
THOUGHT = "<think>\nLet us think.\n</think>\n\n7"
PLAIN = ("7", "The answer is 7.", "é ß", "(7)", "def add(a, b):\n    return a + b")
SPACED = {"a space before": " 7", "a break behind": "7\n", "a break before": "\n7"}
CHANGES = "the chat template changes its response"
NO_PROMPT = "does not write the answer behind its own prompt"
# What a family has no tokens for, and the sentence that says so.
REFUSED: dict[str, dict[str, str]] = {
    "strips thought": {"a break before": CHANGES, "thought": CHANGES},
    "qwq": dict.fromkeys([*PLAIN, *SPACED, "thought", "system", "turns", "two questions"], NO_PROMPT),
    "r1": dict.fromkeys([*PLAIN, *SPACED, "thought", "system", "turns", "two questions"], NO_PROMPT),
    "llama 3": dict.fromkeys(SPACED, CHANGES),
    "gemma": {**dict.fromkeys(SPACED, CHANGES), "system": "does not take its conversation (roles system, user): Sys"},
    **{
        name: {
            **dict.fromkeys(["a break behind", "a break before"], CHANGES),
            "two questions": "does not take its conversation (roles user, user): roles must alternate",
        }
        for name in ("llama 2", "llama 2, not legacy")
    },
    **{
        name: {
            "system": "does not take its conversation (roles system, user): only user and assistant",
            "two questions": "does not take its conversation (roles user, user): roles must alternate",
        }
        for name in ("mistral", "mistral, not legacy")
    },
}
# A byte-level tokenizer has one token for the prompt's last line break and the response's first; it is not trained on.
JOINED = {("chatml", "a break before"), ("chatml, another end", "a break before")}
CASES = {
    **{text: (QUESTION, text) for text in PLAIN},
    **{name: (QUESTION, text) for name, text in SPACED.items()},
    "thought": (QUESTION, THOUGHT),
    "system": (SYSTEM, "7"),
    "turns": (TURNS, "The answer is 7."),
    "two questions": (TWO_QUESTIONS, "7"),
}


@cache
def build(family: str) -> Any:
    return FAMILIES[family].build()


def tokenize(tokenizer: Any, prompt: Any, chosen: str, rejected: str = "12", **options: Any) -> Any:
    pair_set = PairSet("pairs.jsonl", ("a",), (Pair(prompt, chosen, rejected, {"a": 1}, 3),), "stop", {})
    return tokenize_pairs(pair_set, tokenizer, max_length=200, **options).pairs[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", CASES)
def test_a_chat_pair_has_the_tokens_of_the_templates_own_text(family: str, case: str) -> None:
    tokenizer, (messages, answer) = build(family), CASES[case]
    if refusal := REFUSED.get(family, {}).get(case):
        with pytest.raises(CtwaError) as error:
            tokenize(tokenizer, messages, answer)
        assert str(error.value).startswith("pairs.jsonl, row 3 (from 0): ")
        assert refusal in str(error.value)
        return
    pair = tokenize(tokenizer, messages, answer)
    before = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": answer}], tokenize=False)
    if tokenizer.eos_token in whole[len(before) :]:
        whole = whole[: whole.rindex(tokenizer.eos_token)] + tokenizer.eos_token

    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]

    assert list(pair.prompt) == tokenizer(before, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(pair.prompt + pair.chosen) == tokenizer.decode(ids)
    assert (list(pair.prompt + pair.chosen) == ids) == ((family, case) not in JOINED)


TEXTS = {"7": "7", "a sentence": "The answer is 7.", "a space before": " 7"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_text_pair_has_the_tokens_of_its_text_and_one_beginning_and_end(family: str, text: str) -> None:
    tokenizer = build(family)
    prompt = "Name a prime number.\nAssistant:"
    pair = tokenize(tokenizer, prompt, text)

    assert list(pair.prompt) == tokenizer(prompt)["input_ids"]
    assert list(pair.prompt + pair.chosen) == [*tokenizer(prompt + text)["input_ids"], tokenizer.eos_token_id]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("prompt", "response"), [("A nu", "mber"), ("Assistant:", "\n7"), ("Assistant: ", "The")])
def test_a_response_that_would_join_the_prompt_has_tokens_of_its_own(family: str, prompt: str, response: str) -> None:
    tokenizer = build(family)
    pair = tokenize(tokenizer, prompt, response)

    assert list(pair.prompt) == tokenizer(prompt)["input_ids"]
    assert tokenizer.decode(pair.prompt + pair.chosen).endswith(prompt + response + tokenizer.eos_token)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("behind", ["", "\n"])
def test_rendered_text_gets_no_second_beginning_and_no_second_end(family: str, behind: str) -> None:
    tokenizer = build(family)
    before = tokenizer.apply_chat_template(list(QUESTION), add_generation_prompt=True, tokenize=False)
    for end in (tokenizer.eos_token, *FAMILIES[family].more):
        pair = tokenize(tokenizer, before, "The answer is 7." + end + behind, "12" + end + behind)

        whole = tokenizer(before + "The answer is 7." + end, add_special_tokens=False)["input_ids"]
        if tokenizer.bos_token and whole[0] != tokenizer.bos_token_id:
            whole.insert(0, tokenizer.bos_token_id)
        assert list(pair.prompt + pair.chosen) == whole


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompt", [QUESTION, "Name a prime number."], ids=["chat", "text"])
def test_an_end_within_a_response_is_no_response(family: str, prompt: Any) -> None:
    tokenizer = build(family)
    with pytest.raises(CtwaError, match=r"row 3 .*(stands within a response|does not write the answer behind)"):
        tokenize(tokenizer, prompt, f"The answer{tokenizer.eos_token} is 7.")


def test_what_a_template_does_not_take_can_be_skipped_and_is_counted() -> None:
    pairs = tuple(
        Pair(messages, "7", "12", {"a": 1}, row) for row, messages in enumerate([SYSTEM, QUESTION, TWO_QUESTIONS])
    )
    tokenizer = build("mistral")
    tokens = tokenize_pairs(PairSet("pairs.jsonl", ("a",), pairs, "skip", {}), tokenizer, max_length=200)

    assert [pair.row for pair in tokens.pairs] == [1]
    assert tokens.skipped == {"template": 2}
    with pytest.raises(CtwaError, match=r"no usable pair .*'template': 1.*only user and assistant may speak"):
        tokenize_pairs(PairSet("pairs.jsonl", ("a",), pairs[:1], "skip", {}), tokenizer, max_length=200)


def test_a_system_message_is_not_left_out_in_silence() -> None:
    tokenizer = FAMILIES["chatml"].build()
    tokenizer.chat_template = (
        "{% for m in messages if m.role != 'system' %}" + tokenizer.chat_template.split("%}", 1)[1]
    )

    assert tokenize(tokenizer, QUESTION, "7")
    with pytest.raises(CtwaError, match="leaves out its system message 'Be brief"):
        tokenize(tokenizer, SYSTEM, "7")


@pytest.mark.parametrize("change", ["upper", "e", "truncate(9)", "replace(' ', '')"])
def test_a_question_is_not_changed_in_silence(change: str) -> None:
    tokenizer = FAMILIES["chatml"].build()
    tokenizer.chat_template = tokenizer.chat_template.replace("m.content", f"m.content | {change}")
    question = {"role": "user", "content": "Is a < b, if a is 7 and b is 12?"}

    with pytest.raises(CtwaError, match=r"leaves out its user message 'Is a < b.*, or changes it"):
        tokenize(tokenizer, (question,), "7")


@pytest.mark.parametrize("family", ["chatml", "llama 2", "chatml, unigram"])
@pytest.mark.parametrize("texts", [("a\ud83d", "b", "c"), ("a", "b\udc00", "c"), ("a", "b", "\ud83d")])
@pytest.mark.parametrize("chat", [True, False])
def test_half_a_character_is_one_sentence(family: str, texts: tuple[str, str, str], chat: bool) -> None:
    prompt, *responses = texts
    with pytest.raises(CtwaError, match=r"row 3 .*half a surrogate pair"):
        tokenize(build(family), ({"role": "user", "content": prompt},) if chat else prompt, *responses)


@pytest.mark.parametrize("expression", ["missing.field.of", "messages[9].content", "1 / 0"])
def test_a_broken_template_is_one_sentence(expression: str) -> None:
    tokenizer = FAMILIES["chatml"].build()
    tokenizer.chat_template = "{{ " + expression + " }}"
    with pytest.raises(CtwaError, match=r"row 3 .*the chat template does not take its conversation"):
        tokenize(tokenizer, QUESTION, "7")
