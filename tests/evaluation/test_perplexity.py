"""Perplexity against a direct formula, whole and in windows."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ctwa.errors import CtwaError
from ctwa.evaluation import models
from ctwa.evaluation.config import PerplexityConfig
from ctwa.evaluation.models import Model
from ctwa.evaluation.perplexity import perplexity, read_texts, tokenize_texts, windows

TEXTS = ["Compute mod 10 : 3 + 4 ?", "Step 1 : 3 + 4 = 7 . Step 2 : 7 + 1 = 8 . \\boxed{ 8 }", "so the answer is 7"]


@pytest.fixture(scope="module")
def model(places: SimpleNamespace) -> Model:
    return Model("base", str(places.base), device="cpu")


def measured(model: Model, texts: list[str], config: PerplexityConfig, cache: Path) -> dict:
    return perplexity(model, texts, tokenize_texts(model, texts, config), config, cache, lambda _: None)


def nats(model: Model, ids: list[int], first: int) -> float:
    """Of the tokens from `first` on, given all before them."""
    with torch.no_grad():
        logits = model.weights(torch.tensor([ids])).logits[0].double()
    loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")
    return float(loss[first - 1 :].sum())


def test_it_is_the_exponential_of_the_mean_loss_of_a_token(model: Model, tmp_path: Path) -> None:
    config = PerplexityConfig(data=Path("x.jsonl"))
    found = measured(model, TEXTS, config, tmp_path)
    ids = [model.tokenizer(text)["input_ids"] for text in TEXTS]
    total = sum(nats(model, each, 1) for each in ids)

    assert found["perplexity"].value == pytest.approx(math.exp(total / sum(len(each) - 1 for each in ids)), rel=1e-5)
    expected = total / math.log(2) / sum(len(text.encode()) for text in TEXTS)
    assert found["bits_per_byte"].value == pytest.approx(expected, rel=1e-5)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_a_large_model_on_a_cpu_computes_by_packed_weights_and_measures_the_same(
    model: Model, places: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "is_small", lambda _: False)
    monkeypatch.setattr(models, "prefers_onednn", lambda: True)
    packed = Model("packed", str(places.base), device="cpu")
    assert any(not parameter.numel() for parameter in packed.weights.parameters())

    ids = torch.tensor([model.tokenizer(TEXTS[1])["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(packed.weights(ids).logits, model.weights(ids).logits, rtol=1e-4, atol=1e-4)


def test_long_text_is_read_in_windows_that_overlap(model: Model, tmp_path: Path) -> None:
    config = PerplexityConfig(data=Path("x.jsonl"), window=8, stride=3)
    found = measured(model, TEXTS[1:2], config, tmp_path)
    ids = model.tokenizer(TEXTS[1])["input_ids"]
    total, done = nats(model, ids[:8], 1), 8
    while done < len(ids):
        end = min(done + 3, len(ids))
        total, done = total + nats(model, ids[end - 8 : end], done - (end - 8)), end

    assert found["perplexity"].value == pytest.approx(math.exp(total / (len(ids) - 1)), rel=1e-5)


@pytest.mark.parametrize("length", [2, 7, 8, 9, 11, 40])
@pytest.mark.parametrize("stride", [1, 4, 7])
def test_every_token_but_the_first_counts_once(length: int, stride: int) -> None:
    ids = list(range(length))
    cut = windows(ids, 8, stride)

    assert [token for _, scored in cut for token in scored] == ids[1:]
    assert all(len(given) + len(scored) <= 8 for given, scored in cut)
    assert all(given[-1] + 1 == scored[0] for given, scored in cut)
    assert all(len(given) >= 8 - stride for given, _ in cut[1:])


def test_it_is_not_computed_twice(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = PerplexityConfig(data=Path("x.jsonl"))
    first = measured(model, TEXTS, config, tmp_path)
    monkeypatch.setattr("ctwa.evaluation.perplexity.continuation_log_probs", lambda *_, **__: pytest.fail("again"))

    again = measured(model, TEXTS, config, tmp_path)
    assert np.array_equal(again["perplexity"].numerators_P, first["perplexity"].numerators_P)


def test_a_model_that_gives_no_number_is_named(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = torch.full((len(TEXTS),), float("nan"))
    monkeypatch.setattr("ctwa.evaluation.perplexity.continuation_log_probs", lambda *_, **__: nothing)

    with pytest.raises(CtwaError, match=r"model 'base' gives x.jsonl, row 0 .* not finite; write dtype: float32"):
        measured(model, TEXTS, PerplexityConfig(data=Path("x.jsonl")), tmp_path)


class TestData:
    def test_a_column_of_rows(self, lines) -> None:
        path = lines([{"body": text} for text in TEXTS])

        assert read_texts(PerplexityConfig(data=path, column="body", limit=2)) == TEXTS[:2]

    def test_a_plain_file_is_one_text(self, tmp_path: Path) -> None:
        path = tmp_path / "book.txt"
        path.write_text("one\n\ntwo\n")

        assert read_texts(PerplexityConfig(data=path)) == ["one\n\ntwo\n"]

    @pytest.mark.parametrize(
        ("rows", "said"),
        [
            ([{"body": "a"}], "no column 'text' but body; write perplexity.column"),
            ([{"text": "a b"}, {"text": " "}], "row 1 .* has no text"),
            ([], "has no row"),
        ],
    )
    def test_rows_that_cannot_be_used(self, rows: list, said: str, lines) -> None:
        with pytest.raises(CtwaError, match=said):
            read_texts(PerplexityConfig(data=lines(rows)))

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(CtwaError, match="there is no file"):
            read_texts(PerplexityConfig(data=tmp_path / "book.txt"))

    def test_a_text_of_one_token(self, model: Model) -> None:
        with pytest.raises(CtwaError, match=r"row 0 .* is one token for model 'base'"):
            tokenize_texts(model, ["7"], PerplexityConfig(data=Path("x.jsonl")))

    def test_a_window_beyond_the_context(self, model: Model) -> None:
        with pytest.raises(CtwaError, match=r"window is 5000 tokens and the context of model 'base' 4096"):
            tokenize_texts(model, TEXTS, PerplexityConfig(data=Path("x.jsonl"), window=5000))


def test_a_byte_order_mark_is_no_text_and_half_a_character_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf3 + 4")
    (tmp_path / "b.jsonl").write_text('{"text": "3 + 4"}\n{"text": "\\ud83d"}\n')

    assert read_texts(PerplexityConfig(data=tmp_path / "a.txt")) == ["3 + 4"]
    with pytest.raises(CtwaError, match=r"row 1 \(from 0\) has half a surrogate pair"):
        read_texts(PerplexityConfig(data=tmp_path / "b.jsonl"))
