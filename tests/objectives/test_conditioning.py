"""Weights that are drawn for a prompt, and written into it."""

from __future__ import annotations

import pytest
import torch

from ctwa.batch import RewardMatrix, Rollout
from ctwa.errors import CtwaError
from ctwa.objectives.conditioning import Conditioning, Template, conditioning_metrics, weights_of

WEIGHTS = {"right": 2.0, "brief": 1.0, "clear": 1.0, "seen": 0.0}
NINTHS = Conditioning(Template(resolution=9, template="{brief} {clear} {right} : {prompt}"), WEIGHTS)


def test_weights_are_whole_parts_that_add_up() -> None:
    assert NINTHS.names == ("brief", "clear", "right")
    assert NINTHS.told(NINTHS.own) == "brief 2, clear 2, right 5"  # of 2.25, 2.25, 4.5: the largest rest is rounded up
    assert NINTHS.told(NINTHS.rounded({"brief": 3, "right": 1})) == "brief 7, clear 0, right 2"
    assert NINTHS.scale(NINTHS.own) == {"seen": 0.0, "brief": 8 / 9, "clear": 8 / 9, "right": pytest.approx(20 / 9)}
    assert all(abs(sum(weights.values()) - 1) < 1e-12 for weights in NINTHS.unlike())


def test_a_seed_draws_the_same_weights_and_the_mean_of_many_is_the_objectives_own() -> None:
    assert NINTHS.draw(3, 1.0) == NINTHS.draw(3, 1.0) != NINTHS.draw(4, 1.0)
    exact = Conditioning(Template(resolution=10_000), WEIGHTS)
    for concentration in (0.01, 1.0, 100.0):
        drawn = torch.tensor([list(exact.draw(seed, concentration).values()) for seed in range(2000)])
        # The variance of a Dirichlet: a share times the rest, over the sum of its parameters and 1.
        variance = torch.tensor([0.25 * 0.75, 0.25 * 0.75, 0.25]) / (3 * concentration + 1)
        assert torch.allclose(
            drawn.mean(0), torch.tensor([0.25, 0.25, 0.5]), atol=4 * float(variance.max() / 2000) ** 0.5
        )
        assert torch.allclose(drawn.var(0), variance, rtol=0.2)


def test_the_last_message_of_the_user_is_written_anew() -> None:
    told = Conditioning(Template(template="{weights}. {prompt} ({right})"), WEIGHTS)
    first = {"role": "user", "content": "a {brief} word"}  # braces of a prompt are its own
    messages = [{"role": "system", "content": "s"}, first, {"role": "assistant", "content": "x"}]

    written = told.write(messages, told.own)

    assert written[1] == {"role": "user", "content": "brief 25, clear 25, right 50. a {brief} word (50)"}
    assert (written[0], written[2], messages[1]) == (messages[0], messages[2], first)
    assert NINTHS.write("1 + 1", {"brief": 0.0, "clear": 1 / 9, "right": 8 / 9}) == "0 1 8 : 1 + 1"
    image = {"role": "user", "content": [{"type": "image"}]}
    assert NINTHS.write([image], NINTHS.own)[0]["content"] == [{"type": "text", "text": "2 2 5 : "}, {"type": "image"}]


@pytest.mark.parametrize(
    ("template", "weights", "said"),
    [
        ("{brief} {clear} {prompt}", WEIGHTS, "template leaves out right: write {right} where"),
        (
            "{weights} {rigth} {prompt}",
            WEIGHTS,
            r"has {rigth}, which is no objective with a weight; .*did you mean 'right'",
        ),
        ("{weights} {seen} {prompt}", WEIGHTS, "has {seen}, which is no objective with a weight"),
        ("{weights} {prompt}", {"right": 1.0, "seen": 0.0}, "right is the only objective with a weight"),
        ("{weights} {prompt}", {"prompt": 1.0, "right": 1.0}, "give the objective another name"),
    ],
)
def test_a_template_that_does_not_fit_the_objectives_is_refused(
    template: str, weights: dict[str, float], said: str
) -> None:
    with pytest.raises(CtwaError, match=said):
        Conditioning(Template(template=template), weights)


@pytest.mark.parametrize(("resolution", "middle", "least"), [(2, 1.0, 3), (100, 1000.0, 1002)])
def test_an_objective_with_a_weight_is_not_rounded_to_none(resolution: int, middle: float, least: int) -> None:
    weights = {"a": 1.0, "b": middle, "c": 1.0}
    with pytest.raises(CtwaError, match=rf"resolution={resolution} rounds the weight of .* to 0, .* write {least} or"):
        Conditioning(Template(resolution=resolution), weights)
    assert min(Conditioning(Template(resolution=least), weights).own.values()) > 0


def test_no_resolution_is_advised_that_is_refused() -> None:
    with pytest.raises(CtwaError, match=r"would not ask for it: write a larger weight$"):
        Conditioning(Template(), {"a": 1.0, "b": 1e-5})


def test_weights_that_a_policy_knows_nothing_of_are_refused() -> None:
    with pytest.raises(CtwaError, match="name 'seen', which the policy is told nothing of; write some of brief, clear"):
        NINTHS.rounded({"seen": 1.0, "brief": 1.0})
    assert NINTHS.rounded({"seen": 0.0, "brief": 1.0})["brief"] == 1


def test_a_policy_that_heeds_its_weights_is_told_from_one_that_does_not() -> None:
    weights_G = [{"a": 0.0, "b": 1.0}, {"a": 0.5, "b": 0.5}, {"a": 1.0, "b": 0.0}]
    rewards = RewardMatrix.from_columns({"a": [0, 0, 0, 1, 1, 1], "b": [1, 0, 0, 1, 1, 0]})
    told = weights_of([weights for weights in weights_G for _ in range(2)])
    rollout = Rollout(rewards, torch.tensor([0, 0, 1, 1, 2, 2]), torch.ones(6, 1), weights=told)

    metrics = conditioning_metrics(rollout, split="train")

    assert metrics["conditioning/weight/a"] == 0.5
    assert metrics["conditioning/heed/a"] == pytest.approx(1)
    assert "conditioning/heed/b" not in metrics  # all prompts have the same mean
    assert conditioning_metrics(rollout, split="val") == {
        "conditioning/validated/a": 0.5,
        "conditioning/validated/b": 0.5,
    }
    assert weights_of([None, None]) is None
