"""Preference losses of whole models, against a computation by hand."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ctwa.errors import CtwaError
from ctwa.evaluation.config import PreferencesConfig
from ctwa.evaluation.models import Model
from ctwa.evaluation.preferences import log_probs, ratios, read_pairs
from ctwa.preference import DpoLoss, PreferenceSource
from ctwa.preference.reference import ReferenceLogProbs

NAMES = ("accuracy", "conciseness")


@pytest.fixture(scope="module")
def models(places: SimpleNamespace) -> tuple[Model, Model]:
    return Model("base", str(places.base), device="cpu"), Model("tuned", str(places.trained), device="cpu")


@pytest.fixture
def config(places: SimpleNamespace) -> PreferencesConfig:
    sources = {name: PreferenceSource(data=str(places.pairs), label=f"labels.{name}") for name in NAMES}
    return PreferencesConfig(objectives=sources, loss=DpoLoss(beta=0.5), max_length=120)


def by_hand(model: Model, given: tuple[int, ...], continuation: tuple[int, ...]) -> float:
    ids = torch.tensor([[*given, *continuation]])
    with torch.no_grad():
        log_probs_TV = model.weights(ids).logits[0].double().log_softmax(-1)
    return sum(log_probs_TV[len(given) - 1 + i, token].item() for i, token in enumerate(continuation))


def test_the_dpo_loss_is_that_of_a_computation_by_hand(models, config, tmp_path: Path) -> None:
    base, tuned = models
    (token_set,) = read_pairs(config, models, base).tokens["tuned"]
    policy, reference = (log_probs(model, token_set, config, tmp_path, lambda _: None) for model in (tuned, base))
    found = ratios(config.loss, token_set, policy, reference)

    for name in NAMES:
        losses, hits, margins = [], [], []
        for pair in token_set.pairs:
            chosen, rejected = (
                0.5 * (by_hand(tuned, pair.prompt, response) - by_hand(base, pair.prompt, response))
                for response in (pair.chosen, pair.rejected)
            )
            margin = pair.labels[name] * (chosen - rejected)
            losses.append(math.log1p(math.exp(-margin)))
            if pair.labels[name]:
                hits.append(margin > 0)
                margins.append(margin)
        assert found[name]["loss"].value == pytest.approx(sum(losses) / len(losses), abs=1e-5)
        assert found[name]["accuracy"].value == pytest.approx(sum(hits) / len(hits))
        assert found[name]["margin"].value == pytest.approx(sum(margins) / len(margins), abs=1e-4)
        assert found[name]["tie_frac"].value == pytest.approx(1 - len(hits) / len(losses))


def test_the_reference_itself_has_a_loss_of_log_two(models, config, tmp_path: Path) -> None:
    base, _ = models
    (token_set,) = read_pairs(config, [base], base).tokens["base"]
    policy = log_probs(base, token_set, config, tmp_path, lambda _: None)
    rounded = ReferenceLogProbs(policy.chosen_P + 1e-9, policy.rejected_P)  # of other batches

    for found in (ratios(config.loss, token_set, policy, each) for each in (policy, rounded)):
        assert found["accuracy"]["loss"].value == pytest.approx(math.log(2))
        assert found["accuracy"]["accuracy"].value == 0.5


def test_pairs_of_one_prompt_are_one_unit(models, lines, tmp_path: Path) -> None:
    pairs = [
        {"prompt": "3 + 4 ?", "chosen": "7", "rejected": "8"},
        {"prompt": "3 + 4 ?", "chosen": "7", "rejected": "9"},
        {"prompt": "1 + 1 ?", "chosen": "2", "rejected": "3"},
    ]
    config = PreferencesConfig(objectives={"a": PreferenceSource(data=str(lines(pairs)))})
    base, tuned = models
    (token_set,) = read_pairs(config, models, base).tokens["tuned"]
    policy, reference = (log_probs(model, token_set, config, tmp_path, lambda _: None) for model in (tuned, base))
    ratio = ratios(config.loss, token_set, policy, reference)["a"]["loss"]

    assert ratio.denominators_P.tolist() == [2, 1]
    assert ratio.num == 2


def test_a_limit_takes_the_first_pairs(models, config) -> None:
    few = config.model_copy(update={"limit": 2})

    assert [len(each.pairs) for each in read_pairs(few, models, None).sources] == [2]


def test_pairs_that_are_too_long_for_a_model_are_left_out_for_all_or_stop(models, config, places) -> None:
    (token_set,) = read_pairs(config, models, None).sources
    lengths = sorted(len(pair.prompt) + max(len(pair.chosen), len(pair.rejected)) for pair in token_set.pairs)
    short = config.model_copy(update={"max_length": lengths[0]})
    with pytest.raises(CtwaError, match="exceed"):
        read_pairs(short, models, None)

    skipping = {name: source.model_copy(update={"bad_rows": "skip"}) for name, source in config.objectives.items()}
    pairs = read_pairs(short.model_copy(update={"objectives": skipping}), models, None)
    assert len(pairs.sources[0].pairs) == lengths.count(lengths[0])
    assert pairs.num_skipped[0]["over-long"] == len(lengths) - lengths.count(lengths[0])


def test_a_reference_of_another_tokenizer_is_refused(models, config, tmp_path: Path, places) -> None:
    other = Model("reference", str(places.trained), device="cpu")
    other.tokenizer.add_tokens(["Step 1"])

    with pytest.raises(CtwaError, match=r"model 'base' and the reference .* write the pairs in different tokens"):
        read_pairs(config, models, other)
