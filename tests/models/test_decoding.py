"""The decode loop: what is drawn, from which distribution, with which seeds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, Qwen2ForCausalLM

from ctwa.models.decoding import end_tokens
from tests.models.models import PAD, PROMPTS, SAMPLING, SEEDS, VOCABULARY, build, generate


@pytest.fixture(scope="module")
def model() -> Qwen2ForCausalLM:
    return build()


def log_probs_of(model: Qwen2ForCausalLM, prompt: list[int], tokens: list[int]) -> torch.Tensor:
    """The model's own log-distributions (tokens, vocabulary) at each token, in one pass without padding."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1)


class TestSampling:
    def test_log_probs_are_the_models_own(self, model: Qwen2ForCausalLM) -> None:
        """Beside prompts of other lengths, so that padding or positions that are off would show."""
        for prompt, completion in zip(PROMPTS, generate(model), strict=True):
            expected_TV = log_probs_of(model, prompt, completion.token_ids)
            expected_T = expected_TV.gather(1, torch.tensor(completion.token_ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(completion.log_probs), expected_T, atol=1e-5, rtol=0)

    def test_the_same_seeds_give_the_same_completions(self, model: Qwen2ForCausalLM) -> None:
        assert generate(model) == generate(model)
        assert generate(model) != generate(model, seeds=[seed + 1 for seed in SEEDS])

    def test_the_global_random_state_has_no_say_and_is_left_alone(self, model: Qwen2ForCausalLM) -> None:
        torch.manual_seed(1)
        first = generate(model)
        state = torch.get_rng_state()
        torch.manual_seed(2)

        assert generate(model) == first
        torch.manual_seed(1)
        assert torch.equal(torch.get_rng_state(), state)

    def test_the_order_of_the_prompts_does_not_matter(self, model: Qwen2ForCausalLM) -> None:
        order = [4, 2, 0, 5, 1, 3]
        mixed = generate(model, [PROMPTS[i] for i in order], [SEEDS[i] for i in order])

        assert mixed == [generate(model)[i] for i in order]

    def test_a_completion_depends_on_its_own_seed_alone(self, model: Qwen2ForCausalLM) -> None:
        others = generate(model, seeds=[SEEDS[0], *(seed + 50 for seed in SEEDS[1:])])

        assert others[0].token_ids == generate(model)[0].token_ids

    def test_completions_of_one_prompt_are_those_that_it_has_alone(self, model: Qwen2ForCausalLM) -> None:
        """A prompt that is there several times is read once, whatever stands between."""
        prompts = [PROMPTS[0], PROMPTS[2], PROMPTS[0], PROMPTS[1], PROMPTS[2], PROMPTS[0]]
        for seed, prompt, completion in zip(SEEDS, prompts, generate(model, prompts), strict=True):
            (alone,) = generate(model, [prompt], [seed])
            assert completion.token_ids == alone.token_ids
            assert completion.log_probs == pytest.approx(alone.log_probs, abs=1e-5)

    def test_draws_follow_the_models_distribution(self, model: Qwen2ForCausalLM) -> None:
        num = 4000
        drawn = generate(model, [PROMPTS[0]] * num, list(range(num)), max_tokens=1)
        counts = torch.bincount(torch.tensor([completion.token_ids[0] for completion in drawn]), minlength=VOCABULARY)
        probabilities = log_probs_of(model, PROMPTS[0], [0])[0].exp()

        deviation = (counts / num - probabilities) / (probabilities * (1 - probabilities) / num).sqrt()
        assert deviation.abs().max() < 4.5

    def test_a_completion_ends_with_its_first_end_token(self, model: Qwen2ForCausalLM) -> None:
        # Half of the vocabulary ends a completion, so that some do early and some late.
        ends = frozenset(range(12, VOCABULARY))
        completions = generate(model, PROMPTS * 4, list(range(24)), eos_ids=ends)

        lengths = {len(completion.token_ids) for completion in completions}
        assert len(lengths) > 1
        for completion in completions:
            *before, last = completion.token_ids
            assert not ends & set(before)
            assert last in ends or len(completion.token_ids) == SAMPLING.max_tokens
            assert len(completion.log_probs) == len(completion.token_ids)


class TestSettings:
    def test_temperature_0_is_the_greedy_search_of_transformers(self, model: Qwen2ForCausalLM) -> None:
        for prompt, completion in zip(PROMPTS, generate(model, temperature=0.0), strict=True):
            with torch.no_grad():
                output = model.generate(
                    torch.tensor([prompt]),
                    attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                    max_new_tokens=SAMPLING.max_tokens,
                    do_sample=False,
                    pad_token_id=PAD,
                )
            assert completion.token_ids == output[0, len(prompt) :].tolist()

    def test_greedy_log_probs_are_the_models_own(self, model: Qwen2ForCausalLM) -> None:
        completion = generate(model, PROMPTS[:1], SEEDS[:1], temperature=0.0)[0]

        expected_TV = log_probs_of(model, PROMPTS[0], completion.token_ids)
        torch.testing.assert_close(torch.tensor(completion.log_probs), expected_TV.max(-1).values, atol=1e-5, rtol=0)

    def test_log_probs_are_of_the_distribution_at_the_temperature(self, model: Qwen2ForCausalLM) -> None:
        completion = generate(model, PROMPTS[:1], SEEDS[:1], temperature=0.5)[0]

        tokens = torch.tensor(completion.token_ids)[:, None]
        expected_TV = (log_probs_of(model, PROMPTS[0], completion.token_ids) / 0.5).log_softmax(-1)
        torch.testing.assert_close(
            torch.tensor(completion.log_probs), expected_TV.gather(1, tokens)[:, 0], atol=1e-5, rtol=0
        )

    def test_top_k_leaves_the_k_most_probable(self, model: Qwen2ForCausalLM) -> None:
        likely = set(log_probs_of(model, PROMPTS[0], [0])[0].topk(3).indices.tolist())
        completions = generate(model, [PROMPTS[0]] * 200, list(range(200)), top_k=3, max_tokens=1)

        assert {completion.token_ids[0] for completion in completions} == likely

    def test_top_p_leaves_the_smallest_set_of_that_mass(self, model: Qwen2ForCausalLM) -> None:
        probabilities, tokens = log_probs_of(model, PROMPTS[0], [0])[0].exp().sort(descending=True)
        num = int((probabilities.cumsum(0) < 0.6).sum()) + 1
        completions = generate(model, [PROMPTS[0]] * 400, list(range(400)), top_p=0.6, max_tokens=1)

        assert {completion.token_ids[0] for completion in completions} == set(tokens[:num].tolist())
        log_probs = {completion.token_ids[0]: completion.log_probs[0] for completion in completions}
        assert torch.tensor(list(log_probs.values())).exp().sum() == pytest.approx(1.0, abs=1e-5)


NOTHING: dict[str, Any] = {"eos_token_id": None, "pad_token_id": None}


class TestEnds:
    @pytest.mark.parametrize(
        ("generation", "config", "tokenizer", "expected"),
        [
            ({"eos_token_id": 1, "pad_token_id": 3}, NOTHING, NOTHING, ({1}, 3)),
            ({"eos_token_id": [5, 1]}, {"eos_token_id": 1, "pad_token_id": None}, NOTHING, ({1, 5}, 1)),
            ({}, {"eos_token_id": 4, "pad_token_id": 0}, NOTHING, ({4}, 0)),
            ({}, {"eos_token_id": [4, 6], "pad_token_id": None}, None, ({4, 6}, 4)),
            ({}, NOTHING, {"eos_token_id": 2, "pad_token_id": 7}, ({2}, 7)),
            (None, NOTHING, {"eos_token_id": 2, "pad_token_id": None}, ({2}, 2)),
            ({}, NOTHING, NOTHING, (set(), 0)),
            (None, NOTHING, None, (set(), 0)),
            ({"eos_token_id": 1, "pad_token_id": -1}, NOTHING, None, ({1}, 1)),
            ({"eos_token_id": 1}, {"pad_token_id": VOCABULARY}, {"pad_token_id": VOCABULARY}, ({1}, 1)),
            ({"eos_token_id": 0}, NOTHING, None, ({0}, 0)),
        ],
    )
    def test_the_first_that_names_any_counts(self, generation, config, tokenizer, expected) -> None:
        model = build()
        model.generation_config = None if generation is None else GenerationConfig(**generation)
        for name, value in config.items():
            setattr(model.config, name, value)

        assert end_tokens(model, None if tokenizer is None else SimpleNamespace(**tokenizer)) == expected

    def test_without_any_a_completion_ends_at_its_limit(self, model: Qwen2ForCausalLM) -> None:
        found = generate(model, eos_ids=frozenset(), max_tokens=5)

        assert [len(each.token_ids) for each in found] == [5] * len(PROMPTS)
