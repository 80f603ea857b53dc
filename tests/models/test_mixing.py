"""Models that decode as one: what is drawn, and from which distribution."""

from __future__ import annotations

import pytest
import torch
from transformers import Qwen2ForCausalLM

from ctwa.models.mixing import Mixture
from tests.models.models import PROMPTS, build, generate


@pytest.fixture(scope="module")
def models() -> tuple[Qwen2ForCausalLM, Qwen2ForCausalLM]:
    return build(0), build(1)


def test_a_token_is_drawn_from_the_weighted_sum_of_log_probabilities(models) -> None:
    """Beside prompts of other lengths and rows that end sooner, so that a cache that is off would show."""
    completions = generate(Mixture(models, (0.3, 0.7)), [*PROMPTS, PROMPTS[0]], [*range(len(PROMPTS) + 1)])

    assert len({len(each.token_ids) for each in completions}) > 1
    for prompt, completion in zip([*PROMPTS, PROMPTS[0]], completions, strict=True):
        tokens = torch.tensor([prompt + completion.token_ids])
        with torch.no_grad():
            first_TV, second_TV = (model(tokens).logits[0, len(prompt) - 1 : -1].log_softmax(-1) for model in models)
        expected_TV = (0.3 * first_TV + 0.7 * second_TV).log_softmax(-1)
        expected_T = expected_TV.gather(1, tokens[0, len(prompt) :, None])[:, 0]
        torch.testing.assert_close(torch.tensor(completion.log_probs), expected_T, atol=1e-5, rtol=0)


def test_a_mixture_of_a_model_with_itself_is_the_model(models) -> None:
    model, other = models

    assert [each.token_ids for each in generate(Mixture([model, model], (0.5, 0.5)))] == [
        each.token_ids for each in generate(model)
    ]
    assert generate(Mixture([model, other], (0.5, 0.5))) != generate(model)
