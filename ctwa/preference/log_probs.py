"""Log-probabilities of texts under a model of transformers, in batches: no engine, one device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ctwa.errors import CtwaError
from ctwa.preference.tokenization import TokenSet

Tokens = Sequence[int]
MAX_BATCH_TOKENS = 8192
_MAX_LOGITS = 2**29  # of a batch, as the model gives them: 2 GB in float32
_LOGITS_AT_ONCE = 2**25  # converted to float32 together: 128 MB


@torch.inference_mode()
def continuation_log_probs(
    model: Any,
    rows: Sequence[tuple[Tokens, Tokens]],
    *,
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    progress: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """The log-probability of each continuation given what stands before it, summed over its tokens.

    Rows of similar length are computed together, padded on the right, and only the logits of continuations are made.

    Args:
        model: a causal language model of transformers, on any device.
        rows: what is given, one token at least, and the continuation, as token ids without padding.
        max_batch_tokens: of a batch, padding included; a longer row is a batch of its own. Fewer where the vocabulary
            is so large that their logits would fill the memory.
        progress: called with the number of rows that are done.

    Returns:
        (N,), float64, on the CPU, in the order of ``rows``.
    """
    if not all(given and continuation for given, continuation in rows):
        raise CtwaError("a text has no token, or nothing before its first one; leave out empty texts and prompts")
    lengths = [len(given) + len(continuation) for given, continuation in rows]
    max_batch_tokens = min(max_batch_tokens, _MAX_LOGITS // model.config.get_text_config().vocab_size)
    order = sorted(range(len(rows)), key=lambda n: -lengths[n])  # the longest first: what does not fit, fails at once
    sums_N = torch.zeros(len(rows), dtype=torch.float64)
    done = 0
    while done < len(order):
        batch = order[done : done + max(1, max_batch_tokens // lengths[order[done]])]
        sums_N[batch] = _batch_sums(model, [rows[n] for n in batch])
        done += len(batch)
        progress(done)
    return sums_N


def response_log_probs(
    model: Any,
    token_set: TokenSet,
    *,
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the chosen and the rejected responses under a policy, summed over their tokens.

    What PeCAID's and MODPO's pre-aligned policies and a reference are asked for; ``cached_reference`` keeps them.

    Args:
        model: a causal language model of transformers, on any device.
        token_set: P pairs.
        max_batch_tokens: of a batch, padding included.
        progress: called with the number of responses that are done.

    Returns:
        ``chosen_P`` and ``rejected_P``, float64, on the CPU, in the pairs' order.
    """
    rows = [(pair.prompt, pair.chosen) for pair in token_set.pairs]
    rows += [(pair.prompt, pair.rejected) for pair in token_set.pairs]
    chosen_P, rejected_P = continuation_log_probs(
        model, rows, max_batch_tokens=max_batch_tokens, progress=progress
    ).chunk(2)
    return chosen_P, rejected_P


def _batch_sums(model: Any, rows: Sequence[tuple[Tokens, Tokens]]) -> Tensor:
    device = next(model.parameters()).device
    length = max(len(given) + len(continuation) for given, continuation in rows)
    first = min(len(given) for given, _ in rows)  # no continuation begins before it
    ids_NT = torch.zeros(len(rows), length, dtype=torch.int64)
    mask_NT = torch.zeros_like(ids_NT)
    scored_NT = torch.zeros(len(rows), length, dtype=torch.bool)
    for n, (given, continuation) in enumerate(rows):
        end = len(given) + len(continuation)
        ids_NT[n, :end] = torch.tensor([*given, *continuation])
        mask_NT[n, :end] = 1
        scored_NT[n, len(given) : end] = True
    ids_NT, mask_NT, scored_NT = ids_NT.to(device), mask_NT.to(device), scored_NT.to(device)
    logits_NTV = model(
        input_ids=ids_NT, attention_mask=mask_NT, use_cache=False, logits_to_keep=length - first + 1
    ).logits[:, :-1]
    targets_NT, scored_NT = ids_NT[:, first:], scored_NT[:, first:]
    sums = []
    # In float32 they take twice the memory or more: never all of them at once.
    num_rows = max(1, _LOGITS_AT_ONCE // (logits_NTV.shape[1] * logits_NTV.shape[2]))
    for start in range(0, len(rows), num_rows):
        part = slice(start, start + num_rows)
        losses_NT = torch.nn.functional.cross_entropy(
            logits_NTV[part].float().transpose(1, 2), targets_NT[part], reduction="none"
        )
        sums.append(-torch.where(scored_NT[part], losses_NT, 0).double().sum(1))
    return torch.cat(sums).cpu()
