"""Pairs as tokens: prompt and response apart, masks on the response alone, padded batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ctwa.data.rows import text_fault
from ctwa.errors import CtwaError
from ctwa.preference.data import Pair, PairSet, skip_or_stop
from ctwa.preference.rendering import render_answer, render_prompt
from ctwa.preference.schemas import BadRow, Prompt

# Texts that a response's first token does not join, to see its tokens without what the tokenizer begins a text with.
_ANCHORS = ("\n", "a", ".", "0", ")")


@dataclass(frozen=True)
class PairTokens:
    """The token ids of a pair, the end of the response included; ``labels`` and ``row`` as in :class:`Pair`."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    labels: Mapping[str, int]
    row: int


@dataclass(frozen=True)
class TokenSet:
    """A data set of pairs as tokens, in the order of its rows; ``skipped`` counts over-long rows too."""

    source: str
    objectives: tuple[str, ...]
    pairs: tuple[PairTokens, ...]
    skipped: Mapping[str, int]


@dataclass(frozen=True)
class PreferenceBatch:
    """P pairs as N = 2 P rows, padded on the right: first the chosen responses, then the rejected in the same order.

    Attributes:
        input_ids_NT: prompt and response.
        attention_mask_NT: 1 at real tokens, int64.
        response_mask_NT: True at the response's tokens, its end included. Where the log-probability of token t, given
            the tokens before it, stands at t, this is the mask of ``sum_log_probs``.
        labels_PM: +1, -1 or 0, int8; the objectives in the order they were asked for.
        labelled_PM: False where the pair has no label for the objective.
    """

    input_ids_NT: Tensor
    attention_mask_NT: Tensor
    response_mask_NT: Tensor
    labels_PM: Tensor
    labelled_PM: Tensor


def tokenize_pairs(
    pair_set: PairSet, tokenizer: Any, *, max_length: int, template_kwargs: Mapping[str, Any] | None = None
) -> TokenSet:
    """Tokenise all pairs.

    Nothing is cut: a pair of which prompt and longer response have more than ``max_length`` tokens is an unusable row.
    Text pairs get no template: the prompt has the tokenizer's beginning of sequence (if it writes one), the response
    its end, each once where the text is rendered and has it already. Chat pairs are written by the tokenizer's chat
    template, with ``template_kwargs``; what it writes after the end of sequence is left out. A pair that the template
    does not take, or of which it changes a response, is an unusable row.

    Args:
        pair_set: the pairs; its ``bad_rows`` says what happens to unusable ones.
        tokenizer: of ``transformers``.
        max_length: in tokens, prompt and response together.
        template_kwargs: variables of the chat template.

    Raises:
        CtwaError: the tokenizer lacks what the pairs need, a row is unusable, or no row is usable.
    """
    if not getattr(tokenizer, "chat_template", None) and any(not isinstance(p.prompt, str) for p in pair_set.pairs):
        raise CtwaError(
            f"{pair_set.source} has chat messages and the tokenizer no chat template; give one, or text (chat: false)"
        )
    if tokenizer.eos_token_id is None:
        raise CtwaError("the tokenizer has no end-of-sequence token; set tokenizer.eos_token")
    write = ConversationTokenizer(tokenizer, template_kwargs)
    pairs, skipped = [], Counter(pair_set.skipped)
    first: BadRow | None = None
    for pair in pair_set.pairs:
        try:
            tokens = write.pair(pair)
            _check(tokens, max_length)
            pairs.append(tokens)
        except BadRow as error:
            skip_or_stop(pair_set.source, pair.row, error, pair_set.bad_rows, skipped)
            first = first or error
    if not pairs:
        raise CtwaError(
            f"{pair_set.source} has no usable pair with at most {max_length} tokens ({dict(skipped)}); the first that "
            f"is not: {first}"
        )
    return TokenSet(pair_set.source, pair_set.objectives, tuple(pairs), dict(skipped))


def collate(pairs: Sequence[PairTokens], objectives: Sequence[str], *, pad_token_id: int) -> PreferenceBatch:
    """Pad P pairs to a rectangle.

    Args:
        pairs: may come from several sets.
        objectives: the columns of the labels.
        pad_token_id: fills what is no token.
    """
    rows = [(pair.prompt, pair.chosen) for pair in pairs] + [(pair.prompt, pair.rejected) for pair in pairs]
    length = max(len(prompt) + len(response) for prompt, response in rows)
    input_ids_NT = torch.full((len(rows), length), pad_token_id)
    attention_mask_NT = torch.zeros_like(input_ids_NT)
    response_mask_NT = torch.zeros_like(input_ids_NT, dtype=torch.bool)
    for n, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        input_ids_NT[n, :end] = torch.tensor([*prompt, *response])
        attention_mask_NT[n, :end] = 1
        response_mask_NT[n, len(prompt) : end] = True
    return PreferenceBatch(
        input_ids_NT,
        attention_mask_NT,
        response_mask_NT,
        *label_matrices(pairs, objectives),
    )


def label_matrices(pairs: Sequence[PairTokens], objectives: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(P, M): the labels, int8, 0 where there is none; and where there is one."""
    return (
        torch.tensor([[pair.labels.get(name, 0) for name in objectives] for pair in pairs], dtype=torch.int8),
        torch.tensor([[name in pair.labels for name in objectives] for pair in pairs]),
    )


def prompt_indices(pairs: Sequence[PairTokens]) -> Tensor:
    """(P,), int64: which prompt each pair is of, in the order in which the prompts come first."""
    index_of = {prompt: index for index, prompt in enumerate(dict.fromkeys(pair.prompt for pair in pairs))}
    return torch.tensor([index_of[pair.prompt] for pair in pairs])


class ConversationTokenizer:
    """Writes prompts and responses as the tokens of a tokenizer.

    The prompt is tokenised as a model that generates is given it. A response is what the tokens of prompt and response
    together have behind it, so that it has the tokens that the whole text has: no dummy prefix, no second beginning.
    Where a token of the whole would reach over the boundary, the response is written apart: no model could generate it.

    Args:
        tokenizer: of ``transformers``.
        template_kwargs: variables of its chat template.
    """

    def __init__(self, tokenizer: Any, template_kwargs: Mapping[str, Any] | None = None) -> None:
        self._tokenizer = tokenizer
        self._kwargs = dict(template_kwargs or {})
        added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        no_ends = {tokenizer.bos_token, tokenizer.unk_token} - {tokenizer.eos_token}
        self._ends = tuple({*added, *tokenizer.all_special_tokens} - no_ends)  # what rendered text may end with
        plain, full = self._ids("a"), list(tokenizer("a")["input_ids"])
        places = [i for i in range(len(full) - len(plain) + 1) if full[i : i + len(plain)] == plain]
        self._opening = full[: places[0]] if places else []

    def pair(self, pair: Pair) -> PairTokens:
        """The tokens of a pair, by a tokenizer that has an end of sequence.

        Raises:
            BadRow: no tokens say what the pair says.
        """
        if isinstance(pair.prompt, str):
            plain = self._ids(pair.prompt)
            prompt = self._opened(plain)
            chosen, rejected = (self._text_response(pair.prompt, plain, text) for text in (pair.chosen, pair.rejected))
        else:
            before = render_prompt(self._tokenizer, pair.prompt, self._kwargs)
            prompt = self._ids(before)
            chosen, rejected = (
                self._chat_response(pair.prompt, before, prompt, text) for text in (pair.chosen, pair.rejected)
            )
        return PairTokens(tuple(prompt), tuple(chosen), tuple(rejected), pair.labels, pair.row)

    def prompt(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt.

        Text is written as it stands, behind the tokenizer's beginning of sequence where it has it not already;
        messages by the chat template, with the opening of the model's turn.

        Raises:
            BadRow: the template does not take the messages.
        """
        if isinstance(prompt, str):
            return self._opened(self._ids(prompt))
        return self._ids(render_prompt(self._tokenizer, prompt, self._kwargs))

    def _opened(self, ids: list[int]) -> list[int]:
        return ids if ids[: len(self._opening)] == self._opening else [*self._opening, *ids]

    def _ids(self, text: str) -> list[int]:
        if fault := text_fault(text):
            raise BadRow("malformed", f"it has {fault} in a text")
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _text_response(self, before: str, plain: list[int], text: str) -> list[int]:
        eos = self._tokenizer.eos_token
        rendered = text.rstrip().endswith(self._ends)
        if rendered:
            text = text.rstrip()  # what stands behind the end is no response
        self._refuse_end_within(text.removesuffix(eos))
        ids = self._behind(before, plain, text)
        return ids if rendered else [*ids, self._tokenizer.eos_token_id]

    def _chat_response(
        self, messages: Sequence[Mapping[str, str]], before: str, prompt: list[int], text: str
    ) -> list[int]:
        self._refuse_end_within(text)
        written = render_answer(self._tokenizer, messages, before, text, self._kwargs)
        ids = self._behind(before, prompt, written)
        eos = self._tokenizer.eos_token_id
        return ids[: ids.index(eos) + 1] if eos in ids else ids

    def _refuse_end_within(self, text: str) -> None:
        if self._tokenizer.eos_token in text:
            raise BadRow(
                "malformed", f"the end-of-sequence token {self._tokenizer.eos_token!r} stands within a response"
            )

    def _behind(self, before: str, prompt: list[int], text: str) -> list[int]:
        """The tokens of a text that goes on behind another, of which the tokens are ``prompt``."""
        whole = self._ids(before + text)
        if whole[: len(prompt)] == prompt:
            return whole[len(prompt) :]
        alone = self._ids(text)
        before_text = self._decode(prompt)
        for anchor in _ANCHORS:
            head = self._ids(anchor)
            ids = self._ids(anchor + text)
            if ids[: len(head)] == head:
                ids = ids[len(head) :]
                if ids == alone or self._decode(prompt + ids) == before_text + text:
                    return ids
        raise BadRow(
            "malformed",
            f"no token of the tokenizer ends where its prompt ends ({before[-20:]!r}) and a response begins "
            f"({text[:20]!r}); end the prompt, or begin the response, with other white space",
        )

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _check(tokens: PairTokens, max_length: int) -> None:
    if tokens.chosen == tokens.rejected:
        raise BadRow("identical", "its two responses are the same tokens")
    longer = max(len(tokens.chosen), len(tokens.rejected))
    if len(tokens.prompt) + longer > max_length:
        raise BadRow(
            "over-long",
            f"its prompt of {len(tokens.prompt)} tokens and its longer response of {longer} exceed {max_length}",
        )
    if not tokens.chosen or not tokens.rejected:
        raise BadRow("empty", "one of its responses has no token, not even an end")
    if not tokens.prompt:
        raise BadRow("empty", "its prompt has no token, and the response's first token nothing to be predicted from")
