import random

import pytest
from transformers import AutoTokenizer

from ctwa.testbed.model import build_model
from ctwa.testbed.tasks import STYLES, draw_problem, write_response
from ctwa.testbed.tokenizer import VOCABULARY, build_tokenizer


@pytest.fixture(scope="module", params=["built", "loaded", "loaded twice"])
def tokenizer(request, tmp_path_factory):
    """The tokenizer as built, and as plain AutoTokenizer finds it beside the model, also after a second save."""
    tokenizer = build_tokenizer()
    for _ in range(("built", "loaded", "loaded twice").index(request.param)):
        folder = tmp_path_factory.mktemp("model")
        build_model(0).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def test_vocabulary_is_as_specified():
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 62
    assert VOCABULARY[:4] == ("<pad>", "<eos>", "<bos>", "0")
    assert VOCABULARY[12] == "9"


def test_ids_are_places_in_the_vocabulary(tokenizer):
    assert len(tokenizer) == 62
    assert tokenizer.convert_tokens_to_ids(list(VOCABULARY)) == list(range(62))
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1, 2)


@pytest.mark.parametrize("style", list(STYLES))
def test_round_trip_of_every_style(tokenizer, style):
    rng = random.Random(style)
    for _ in range(20):
        response = write_response(draw_problem(rng, test=False), style)
        ids = tokenizer(f"{response} <eos>").input_ids
        assert len(ids) == len(response.split()) + 1
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True) == response


@pytest.mark.parametrize("add_generation_prompt", [False, True])
def test_chat_template_puts_bos_before_the_prompt_and_nothing_after(tokenizer, add_generation_prompt):
    message = [{"role": "user", "content": "Compute mod 10 : 3 + 4 * 2 - 5 ?"}]
    text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=add_generation_prompt)
    assert text == "<bos> Compute mod 10 : 3 + 4 * 2 - 5 ?"
    encoded = tokenizer.apply_chat_template(
        message, tokenize=True, add_generation_prompt=add_generation_prompt, return_dict=True
    )
    words = ["<bos>", *message[0]["content"].split()]
    assert encoded["input_ids"] == [VOCABULARY.index(word) for word in words]


def test_chat_template_closes_an_answer(tokenizer):
    messages = [
        {"role": "user", "content": "Compute mod 10 : 3 + 4 ?"},
        {"role": "assistant", "content": r"\boxed{ 7 }"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == r"<bos> Compute mod 10 : 3 + 4 ? \boxed{ 7 } <eos>"


def test_any_text_encodes(tokenizer):
    ids = tokenizer("Let $x$ be \\frac{1}{2}, don't\n\tsolve é 数学 for 5").input_ids
    unknown = VOCABULARY.index("<unused0>")
    words = [VOCABULARY[i] if i != unknown else "?" for i in ids]
    assert words == ["Let", "?", "?", "?", "?", "solve", "?", "?", "?", "5"]
    assert tokenizer("").input_ids == []
