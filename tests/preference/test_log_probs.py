"""Log-probabilities of responses under a model of transformers: batches, padding and order change nothing."""

from dataclasses import replace

import pytest
import torch

from ctwa.errors import CtwaError
from ctwa.preference import PairTokens, TokenSet, continuation_log_probs, response_log_probs
from ctwa.preference import log_probs as module
from tests.models.models import build

PAIRS = (
    PairTokens((2, 5, 7), (9, 4, 1), (3, 1), {}, 0),
    PairTokens((2,), (11, 1), (6, 6, 6, 6, 6, 1), {}, 1),
    PairTokens((2, 8, 8, 3, 4, 4), (1,), (19, 1), {}, 2),
)


@pytest.fixture(scope="module")
def model():
    return build()


def by_hand(model, given, continuation):
    """One row, no padding, one token after the other, in float64."""
    with torch.no_grad():
        logits_TV = model(torch.tensor([[*given, *continuation]])).logits[0].double()
    log_probs_TV = logits_TV.log_softmax(-1)
    return sum(log_probs_TV[len(given) - 1 + i, token].item() for i, token in enumerate(continuation))


@pytest.mark.parametrize("max_batch_tokens", [1, 12, 8192])
def test_they_are_the_models_own_for_every_size_of_the_batches(model, max_batch_tokens):
    token_set = TokenSet("pairs", (), PAIRS, {})
    chosen_P, rejected_P = response_log_probs(model, token_set, max_batch_tokens=max_batch_tokens)

    assert chosen_P.dtype == torch.float64
    assert chosen_P.tolist() == pytest.approx([by_hand(model, p.prompt, p.chosen) for p in PAIRS], abs=1e-5)
    assert rejected_P.tolist() == pytest.approx([by_hand(model, p.prompt, p.rejected) for p in PAIRS], abs=1e-5)


def test_logits_in_parts_are_the_same(model, monkeypatch):
    rows = [(pair.prompt, pair.rejected) for pair in PAIRS]
    whole = continuation_log_probs(model, rows)
    monkeypatch.setattr(module, "_LOGITS_AT_ONCE", 1)

    assert torch.equal(continuation_log_probs(model, rows), whole)


def test_a_large_vocabulary_makes_batches_smaller(model, monkeypatch):
    rows = [(pair.prompt, pair.rejected) for pair in PAIRS]
    sizes = []
    monkeypatch.setattr(module, "_MAX_LOGITS", 8 * model.config.vocab_size)
    found = continuation_log_probs(model, rows, progress=sizes.append)

    assert sizes == [1, 2, 3]
    assert found.tolist() == pytest.approx([by_hand(model, *row) for row in rows], abs=1e-5)


def test_progress_ends_at_the_number_of_responses(model):
    seen = []
    response_log_probs(model, TokenSet("pairs", (), PAIRS, {}), max_batch_tokens=8, progress=seen.append)

    assert seen == sorted(seen)
    assert seen[-1] == 6


@pytest.mark.parametrize("pair", [replace(PAIRS[0], prompt=()), replace(PAIRS[0], chosen=())])
def test_a_row_without_a_token_is_refused(model, pair):
    with pytest.raises(CtwaError, match="has no token"):
        response_log_probs(model, TokenSet("pairs", (), (pair,), {}))
