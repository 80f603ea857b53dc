"""Perplexity on held-out text, weighted by tokens; text longer than a window is read in windows that overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctwa.data.files import KNOWN, SUFFIXES, open_rows
from ctwa.data.rows import text_fault
from ctwa.errors import CtwaError
from ctwa.evaluation.config import PerplexityConfig
from ctwa.evaluation.intervals import Ratio
from ctwa.evaluation.models import Model
from ctwa.preference.log_probs import continuation_log_probs
from ctwa.run.cache import cached, digest

Window = tuple[list[int], list[int]]  # what the model sees before, and the tokens that count


def read_texts(config: PerplexityConfig) -> list[str]:
    """The texts.

    Raises:
        CtwaError: there is no such file or column, or a text is none or empty.
    """
    if config.data.suffix not in SUFFIXES and not config.data.is_dir():
        if not config.data.is_file():
            raise CtwaError(f"there is no file {config.data}; give perplexity.data text, or a {KNOWN} file")
        try:
            texts: list[Any] = [config.data.read_text(encoding="utf-8-sig")]
        except UnicodeDecodeError as error:
            raise CtwaError(f"{config.data} is not text in UTF-8 ({error}); give another file") from error
    else:
        texts = _column(config)
    for index, text in enumerate(texts):
        if not (isinstance(text, str) and text.strip()):
            raise CtwaError(f"{config.data}, row {index} (from 0) has no text; mend or delete that row")
        if fault := text_fault(text):
            raise CtwaError(f"{config.data}, row {index} (from 0) has {fault}; mend or delete that row")
    return texts


def _column(config: PerplexityConfig) -> list[Any]:
    file = open_rows(config.data)
    rows = file.head(file.num_rows if config.limit is None else config.limit)
    if not rows:
        raise CtwaError(f"{config.data} has no row; give another file")
    for row in rows:
        if row.unreadable is not None:
            raise CtwaError(f"{config.data}, row {row.index} (from 0): {row.unreadable}")
    if config.column not in rows[0].values:
        raise CtwaError(
            f"{config.data} has no column '{config.column}' but {', '.join(rows[0].values)}; write perplexity.column"
        )
    return [row.values.get(config.column, "") for row in rows]


def windows(ids: Sequence[int], window: int, stride: int) -> list[Window]:
    """Cut a text of tokens into windows.

    Every token but the first counts once. The first window counts all of its tokens; each further one moves on by
    `stride` and counts its last `stride` tokens, which so have `window - stride` tokens before them at least.
    """
    cut: list[Window] = []
    done = 1
    while done < len(ids):
        end = min(done + stride, len(ids)) if done > 1 else min(window, len(ids))
        cut.append((list(ids[max(0, end - window) : done]), list(ids[done:end])))
        done = end
    return cut


def tokenize_texts(model: Model, texts: Sequence[str], config: PerplexityConfig) -> list[list[Window]]:
    """Every text in windows of tokens, as the model's tokenizer writes them.

    Raises:
        CtwaError: the window exceeds the model's context, or a text has fewer than two tokens.
    """
    if model.context is not None and config.window > model.context:
        raise CtwaError(
            f"perplexity.window is {config.window} tokens and the context of model '{model.name}' {model.context}; "
            "write a smaller one"
        )
    stride = config.stride or config.window // 2
    cut = []
    for index, text in enumerate(texts):
        ids = model.tokenizer(text, verbose=False)["input_ids"]
        if len(ids) < 2:
            raise CtwaError(
                f"{config.data}, row {index} (from 0) is one token for model '{model.name}', and nothing comes before "
                "it; delete that row"
            )
        cut.append(windows(ids, config.window, stride))
    return cut


def perplexity(
    model: Model,
    texts: Sequence[str],
    cut: Sequence[Sequence[Window]],
    config: PerplexityConfig,
    cache: Path,
    progress: Callable[[int], None],
) -> dict[str, Ratio]:
    """`perplexity`, per token of the model's own, and `bits_per_byte`, to compare models of different tokenizers by."""
    rows = [window for of_text in cut for window in of_text]
    text_N = np.repeat(np.arange(len(cut)), [len(of_text) for of_text in cut])
    wanted = ["perplexity", 1, model.fingerprint, model.dtype, model.device, rows]
    sums_N = cached(
        cache / f"perplexity-{digest(wanted)}.json",
        lambda: continuation_log_probs(
            model.weights, rows, max_batch_tokens=config.batch_tokens, progress=progress
        ).tolist(),
    )
    if not np.isfinite(sums_N).all():
        row = int(text_N[~np.isfinite(sums_N)][0])
        raise CtwaError(
            f"model '{model.name}' gives {config.data}, row {row} (from 0), a log-probability that is not finite; "
            "write dtype: float32, or give another model"
        )
    nats_P = -np.bincount(text_N, weights=sums_N).astype(np.float64)
    tokens_P = np.bincount(text_N, weights=[len(scored) for _, scored in rows]).astype(np.float64)
    bytes_P = np.array([len(text.encode()) for text in texts], dtype=np.float64)
    return {"perplexity": Ratio(nats_P, tokens_P, np.exp), "bits_per_byte": Ratio(nats_P / np.log(2), bytes_P)}
