import copy

import pytest
import torch

from ctwa.errors import CtwaError
from ctwa.preference import Pair, PairSet, collate, tokenize_pairs
from ctwa.preference.rendering import render_answer, render_prompt
from ctwa.testbed.tokenizer import VOCABULARY

ID = {word: index for index, word in enumerate(VOCABULARY)}
CHAT = ({"role": "user", "content": "Compute mod 10 : 3 + 4 ?"},)


def ids(text):
    return tuple(ID[word] for word in text.split())


def pair(prompt=CHAT, chosen="3 + 4 = 7 .", rejected="7", labels=None, row=0):
    return Pair(prompt, chosen, rejected, labels or {"a": 1}, row)


def pair_set(*pairs, bad_rows="stop", skipped=None):
    return PairSet("pairs.jsonl", ("a",), pairs, bad_rows, skipped or {})


@pytest.fixture
def closing(tokenizer):
    """A tokenizer that writes the end of sequence behind every text, and does not say so in its template."""
    tokenizer = copy.deepcopy(tokenizer)
    backend = tokenizer.backend_tokenizer
    from tokenizers.processors import TemplateProcessing

    backend.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", ID["<bos>"]), ("<eos>", ID["<eos>"])]
    )
    return tokenizer


def writes_responses(written):
    """A template that writes an assistant's content so, and a user's as it is."""
    return (
        "{% for m in messages %}{% set content = m['content'] %}{% if m['role'] == 'assistant' %}{{ "
        + written
        + " }}{% else %}{{ bos_token + ' ' + content + ' ' }}{% endif %}{% endfor %}"
    )


class TestTokenize:
    def test_chat_messages_are_written_by_the_template(self, tokenizer):
        (tokens,) = tokenize_pairs(pair_set(pair()), tokenizer, max_length=32).pairs

        assert tokens.prompt == ids("<bos> Compute mod 10 : 3 + 4 ?")
        assert tokens.chosen == ids("3 + 4 = 7 . <eos>")
        assert tokens.rejected == ids("7 <eos>")
        assert tokens.labels == {"a": 1}

    def test_text_has_no_template_and_ends(self, tokenizer):
        (tokens,) = tokenize_pairs(pair_set(pair(prompt="3 + 4 =")), tokenizer, max_length=32).pairs

        assert tokens.prompt == ids("3 + 4 =")
        assert tokens.chosen == ids("3 + 4 = 7 . <eos>")

    def test_a_tokenizer_that_closes_every_text_does_not_close_the_prompt(self, closing):
        (tokens,) = tokenize_pairs(pair_set(pair(prompt="3 + 4 =")), closing, max_length=32).pairs

        assert tokens.prompt == ids("<bos> 3 + 4 =")
        assert tokens.rejected == ids("7 <eos>")

    def test_what_a_template_writes_behind_the_end_is_left_out(self, tokenizer):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = tokenizer.chat_template.replace("eos_token }}", "eos_token + ' .' }}")
        (tokens,) = tokenize_pairs(pair_set(pair()), tokenizer, max_length=32).pairs

        assert tokens.rejected == ids("7 <eos>")

    @pytest.mark.parametrize("written", ["'9 ' + content", "content + ' ' + content", "content + ' 9'"])
    def test_a_template_that_adds_words_to_a_response_is_refused(self, tokenizer, written: str):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = writes_responses(written + " + ' ' + eos_token")

        with pytest.raises(
            CtwaError, match=r"the chat template changes its response: it writes '.*' where .*another tem"
        ):
            tokenize_pairs(pair_set(pair()), tokenizer, max_length=32)

    @pytest.mark.parametrize(
        "written",
        [
            "content + eos_token",
            "' ' + content + '\\n' + eos_token + '\\n'",
            "'<think>\\n\\n</think>\\n\\n' + content + '<|im_end|>'",
            "'<|channel|>final<|message|>' + content + '<|return|>'",
            "eos_token + '\\n' + content",
            "content + '\\n\\n### End'",  # an end in a template's own words
        ],
    )
    @pytest.mark.parametrize("response", ["7", "e", "<", "t", ">"])
    def test_marks_around_a_response_are_no_words(self, tokenizer, written: str, response: str):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = writes_responses(written)
        prompt = list(pair().prompt)
        before = render_prompt(tokenizer, prompt, {})

        assert response in render_answer(tokenizer, prompt, before, response, {})

    def test_a_template_that_leaves_out_a_turn_is_refused(self, tokenizer):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = "{{ bos_token }} {{ messages[-1]['content'] }}"
        turns = [{"role": "user", "content": "3 + 4 ?"}, {"role": "assistant", "content": "7"}]

        for first in ({"role": "system", "content": "mod 10"}, *turns[:1]):
            prompt = (first, *turns[1:], {"role": "user", "content": "and 5 ?"})
            with pytest.raises(CtwaError, match=f"leaves out its {first['role']} message '{first['content'][:3]}"):
                tokenize_pairs(pair_set(pair(prompt=prompt)), tokenizer, max_length=32)

    def test_variables_of_the_template(self, tokenizer):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = tokenizer.chat_template.replace("bos_token", "opening")
        tokens = tokenize_pairs(pair_set(pair()), tokenizer, max_length=32, template_kwargs={"opening": "solve"})

        assert tokens.pairs[0].prompt[0] == ID["solve"]

    def test_a_template_that_rewrites_the_prompt_is_no_way_to_a_pair(self, tokenizer):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = (
            "{{ 'a ' if add_generation_prompt else 'b ' }}{{ messages | map(attribute='content') | join }}"
        )
        with pytest.raises(CtwaError, match=r"pairs\.jsonl, row 0 .*does not write the answer behind its own prompt"):
            tokenize_pairs(pair_set(pair()), tokenizer, max_length=32)
        system = {"role": "system", "content": "mod"}
        with pytest.raises(CtwaError, match=r"write what the system says into the user's message, or the prompt"):
            tokenize_pairs(pair_set(pair((system, *CHAT))), tokenizer, max_length=32)

    def test_chat_without_a_template(self, tokenizer):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = None
        with pytest.raises(CtwaError, match="the tokenizer no chat template"):
            tokenize_pairs(pair_set(pair()), tokenizer, max_length=32)

    def test_a_tokenizer_without_an_end(self, tokenizer):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.eos_token = None
        with pytest.raises(CtwaError, match="no end-of-sequence token"):
            tokenize_pairs(pair_set(pair()), tokenizer, max_length=32)


class TestBadRows:
    def test_over_long_is_prompt_and_longer_response_together(self, tokenizer):
        # 9 tokens of prompt, 7 and 2 of responses, their ends included.
        assert len(tokenize_pairs(pair_set(pair()), tokenizer, max_length=16).pairs) == 1
        with pytest.raises(
            CtwaError, match=r"pairs\.jsonl, row 5 \(from 0\): its prompt of 9 tokens and its longer response of 7 exc"
        ):
            tokenize_pairs(pair_set(pair(row=5)), tokenizer, max_length=15)

    def test_skipped_rows_add_to_those_of_the_data(self, tokenizer):
        longer = pair(rejected="1 2 3 4 5 6 7 8 9", row=1)
        unknown = pair(chosen="unknown", rejected="unheard-of", row=2)
        pairs = pair_set(longer, unknown, pair(row=3), bad_rows="skip", skipped={"empty": 4, "identical": 1})
        tokens = tokenize_pairs(pairs, tokenizer, max_length=16)

        assert tokens.skipped == {"empty": 4, "identical": 2, "over-long": 1}
        assert [p.row for p in tokens.pairs] == [3]

    def test_no_pair_left(self, tokenizer):
        with pytest.raises(CtwaError, match=r"no usable pair with at most 3 tokens \(\{'over-long': 1\}\)"):
            tokenize_pairs(pair_set(pair(), bad_rows="skip"), tokenizer, max_length=3)

    def test_a_response_without_a_token(self, tokenizer):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        with pytest.raises(CtwaError, match="one of its responses has no token"):
            tokenize_pairs(pair_set(pair(chosen="")), tokenizer, max_length=32)

    def test_a_prompt_without_a_token(self, tokenizer):
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = "{{ messages[1]['content'] if messages|length > 1 else '' }}"
        with pytest.raises(CtwaError, match="its prompt has no token"):
            tokenize_pairs(pair_set(pair()), tokenizer, max_length=32)


class TestCollate:
    @pytest.fixture
    def batch(self, tokenizer):
        one = pair(labels={"a": 1, "b": -1})
        two = pair(prompt=({"role": "user", "content": "1"},), chosen="1", rejected="2 3", labels={"b": 0})
        tokens = tokenize_pairs(pair_set(one, two), tokenizer, max_length=32)
        return collate(tokens.pairs, ["a", "b"], pad_token_id=ID["<pad>"])

    def test_chosen_rows_come_first(self, batch):
        rows = [
            "<bos> Compute mod 10 : 3 + 4 ? 3 + 4 = 7 . <eos>",
            "<bos> 1 1 <eos>",
            "<bos> Compute mod 10 : 3 + 4 ? 7 <eos>",
            "<bos> 1 2 3 <eos>",
        ]
        for n, text in enumerate(rows):
            length = len(text.split())
            assert tuple(batch.input_ids_NT[n, :length].tolist()) == ids(text)
            assert batch.input_ids_NT[n, length:].eq(ID["<pad>"]).all()
            assert batch.attention_mask_NT[n].tolist() == [1] * length + [0] * (16 - length)
        assert batch.input_ids_NT.shape == (4, 16)

    def test_the_mask_is_the_response_with_its_end(self, batch):
        spans = [(9, 16), (2, 4), (9, 11), (2, 5)]
        for n, (start, end) in enumerate(spans):
            assert batch.response_mask_NT[n].nonzero()[:, 0].tolist() == list(range(start, end))

    def test_labels_go_by_name(self, batch):
        assert batch.labels_PM.tolist() == [[1, -1], [0, 0]]
        assert batch.labelled_PM.tolist() == [[True, True], [False, True]]
        assert batch.labels_PM.dtype == torch.int8
