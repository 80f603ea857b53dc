"""verl's estimators as a function of one score a completion, against the formulas worked out here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from ctwa.batch import RewardMatrix, Rollout
from ctwa.engine.verl.estimate import VerlEstimate
from ctwa.scalarizers.group_relative import GroupRelative

# Two prompts, three completions each, of 1 to 4 tokens.
MASK_NT = torch.tensor(
    [[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.int64
)
GROUP_N = torch.tensor([0, 0, 0, 1, 1, 1])
SCORES_N = torch.tensor([1.0, 0.0, 0.5, 0.2, 0.2, 0.8], dtype=torch.float64)

Estimator = Callable[..., VerlEstimate]


@pytest.fixture
def estimator(testbed_config: DictConfig) -> Estimator:
    def build(mask_NT: torch.Tensor = MASK_NT, group_N: torch.Tensor = GROUP_N, **algorithm: object) -> VerlEstimate:
        return VerlEstimate(OmegaConf.merge(testbed_config.algorithm, algorithm), mask_NT, group_N)

    return build


def test_grpo_standardises_within_the_prompt(estimator: Estimator) -> None:
    groups = SCORES_N.view(2, 3)
    expected_N = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-6)).view(6)

    advantages_NT = estimator(adv_estimator="grpo")(SCORES_N)

    torch.testing.assert_close(advantages_NT.double(), expected_N[:, None] * MASK_NT, atol=1e-6, rtol=1e-5)
    assert advantages_NT.dtype == torch.float32


def test_grpo_without_the_standard_deviation_only_subtracts_the_mean(estimator: Estimator) -> None:
    groups = SCORES_N.view(2, 3)
    expected_N = (groups - groups.mean(1, keepdim=True)).view(6)

    advantages_NT = estimator(adv_estimator="grpo", norm_adv_by_std_in_grpo=False)(SCORES_N)

    torch.testing.assert_close(advantages_NT.double(), expected_N[:, None] * MASK_NT, atol=1e-6, rtol=1e-5)


def test_prompts_are_told_apart_by_number_wherever_their_rows_stand(estimator: Estimator) -> None:
    order = torch.tensor([3, 0, 4, 1, 5, 2])
    whole_NT = estimator(adv_estimator="grpo")(SCORES_N)

    mixed_NT = estimator(MASK_NT[order], GROUP_N[order], adv_estimator="grpo")(SCORES_N[order])

    torch.testing.assert_close(mixed_NT, whole_NT[order], atol=0, rtol=0)


def test_reinforce_whitens_over_the_tokens_of_the_batch(estimator: Estimator) -> None:
    """Each completion's tokens all have its score as return, so long completions weigh more in mean and variance."""
    tokens = SCORES_N.repeat_interleave(MASK_NT.sum(1))
    expected_N = (SCORES_N - tokens.mean()) / (tokens.var() + 1e-8).sqrt()

    advantages_NT = estimator(adv_estimator="reinforce_plus_plus")(SCORES_N)

    torch.testing.assert_close(advantages_NT.double() * MASK_NT, expected_N[:, None] * MASK_NT, atol=1e-5, rtol=1e-4)


def test_the_score_is_paid_on_the_last_token(estimator: Estimator) -> None:
    """With a discount, the return of a token says how far it is from the one that was paid."""
    gamma = 0.5
    steps_to_end_NT = (MASK_NT.sum(1, keepdim=True) - 1) - torch.arange(4)
    returns_NT = SCORES_N[:, None] * gamma**steps_to_end_NT * MASK_NT
    tokens = returns_NT[MASK_NT.bool()]
    expected_NT = (returns_NT - tokens.mean()) / (tokens.var() + 1e-8).sqrt() * MASK_NT

    advantages_NT = estimator(adv_estimator="reinforce_plus_plus", gamma=gamma)(SCORES_N)

    torch.testing.assert_close(advantages_NT.double() * MASK_NT, expected_NT, atol=1e-5, rtol=1e-4)


def test_a_tool_s_tokens_inside_a_response_do_not_move_the_last_token(estimator: Estimator) -> None:
    mask_NT = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0]])

    advantages_NT = estimator(mask_NT, torch.tensor([0, 0]), adv_estimator="grpo")(torch.tensor([1.0, 0.0]))

    half = 0.5 / (0.5**0.5)
    torch.testing.assert_close(
        advantages_NT, torch.tensor([[half, 0, half, 0], [-half, 0, 0, 0]]), atol=1e-5, rtol=1e-5
    )


def test_rewards_of_tokens_are_paid_beside_the_score(estimator: Estimator) -> None:
    """GRPO sees their sum over a completion; REINFORCE++ what a token still has before it."""
    rewards_NT = -0.1 * torch.arange(1, 25).view(6, 4) * MASK_NT
    grpo = estimator(adv_estimator="grpo", norm_adv_by_std_in_grpo=False)
    reinforce = estimator(adv_estimator="reinforce_plus_plus")
    returns_NT = SCORES_N[:, None] + rewards_NT.double().flip(1).cumsum(1).flip(1)
    tokens = returns_NT[MASK_NT.bool()]
    whitened_NT = (returns_NT - tokens.mean()) / (tokens.var() + 1e-8).sqrt() * MASK_NT

    torch.testing.assert_close(
        grpo.with_rewards(rewards_NT)(SCORES_N), grpo(SCORES_N + rewards_NT.sum(1)), atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(
        (reinforce.with_rewards(rewards_NT)(SCORES_N) * MASK_NT).double(), whitened_NT, atol=1e-5, rtol=1e-4
    )
    some_N = torch.tensor([True, True, True, True, False, True])
    torch.testing.assert_close(
        grpo.with_rewards(rewards_NT)(SCORES_N, some_N),
        grpo(SCORES_N + rewards_NT.sum(1), some_N),
        atol=1e-6,
        rtol=1e-5,
    )
    assert not estimator(adv_estimator="grpo", use_kl_in_reward=True).scale_invariant


def test_equal_scores_teach_nothing(estimator: Estimator) -> None:
    advantages_NT = estimator(adv_estimator="grpo")(torch.full((6,), 0.7, dtype=torch.float64))

    assert advantages_NT.abs().max() == 0


@pytest.mark.parametrize("name", ["grpo", "rloo", "opo"])
@pytest.mark.parametrize("score", [0.1, 1 / 3, 0.7])
def test_completions_of_one_prompt_with_equal_scores_have_no_advantage(
    name: str, score: float, estimator: Estimator
) -> None:
    """The mean of equal numbers in float32 is not that number; a standard deviation of 1e-6 would make 0.03 of it."""
    scores_N = torch.full((6,), score, dtype=torch.float64)
    scores_N[3:] = torch.tensor([0.0, 0.5, 1.0])

    advantages_NT = estimator(adv_estimator=name)(scores_N)

    assert (advantages_NT[:3] == 0).all()
    assert (advantages_NT[3:] != 0).any()


ESTIMATORS = ["grpo", "rloo", "opo", "reinforce_plus_plus", "reinforce_plus_plus_baseline"]


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """512 completions, 8 of each prompt, of 1 to 200 tokens."""
    generator = torch.Generator().manual_seed(0)
    lengths_N = torch.randint(1, 201, (512,), generator=generator)
    return (torch.arange(200) < lengths_N[:, None]).long(), torch.arange(64).repeat_interleave(8)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("score", [0.0, 1 / 3, 0.1, 0.7, 100.1, -3.3, 1e-9, 1e6 + 0.1])
def test_equal_scores_have_no_advantage(
    name: str, score: float, estimator: Estimator, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    advantages_NT = estimator(*batch, adv_estimator=name)(torch.full((512,), score, dtype=torch.float64))

    assert (advantages_NT == 0).all()


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("offset", [100.1, -7e3, 1e6])
def test_what_all_scores_have_in_common_is_not_seen(
    name: str, offset: float, estimator: Estimator, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """Nor does it take digits: in float32 the scores themselves would be equal."""
    generator = torch.Generator().manual_seed(1)
    scores_N = 1e-2 * torch.randint(0, 3, (512,), generator=generator).double()
    estimate = estimator(*batch, adv_estimator=name)

    torch.testing.assert_close(estimate(scores_N + offset), estimate(scores_N), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_scores_that_differ_by_the_rounding_of_their_sum_have_no_advantage(
    name: str, estimator: Estimator, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    scores_N = torch.tensor([0.1 + 0.2, 0.3], dtype=torch.float64).repeat(256)

    assert estimator(*batch, adv_estimator=name)(scores_N).abs().max() < 1e-9


@pytest.mark.parametrize(
    "algorithm",
    [
        {"adv_estimator": "grpo"},
        {"adv_estimator": "grpo", "norm_adv_by_std_in_grpo": False},
        {"adv_estimator": "rloo"},
        {"adv_estimator": "opo"},
        {"adv_estimator": "reinforce_plus_plus"},
        {"adv_estimator": "reinforce_plus_plus_baseline"},
    ],
    ids=lambda algorithm: "-".join(map(str, algorithm.values())),
)
def test_some_rows_are_estimated_as_if_they_were_the_batch(estimator: Estimator, algorithm: dict[str, object]) -> None:
    rows_N = torch.tensor([True, False, True, True, True, True])
    alone_NT = estimator(MASK_NT[rows_N], GROUP_N[rows_N], **algorithm)(SCORES_N[rows_N])

    advantages_NT = estimator(**algorithm)(SCORES_N, rows_N)

    torch.testing.assert_close(advantages_NT[rows_N], alone_NT, atol=0, rtol=0)
    assert not advantages_NT[~rows_N].any()
    assert not estimator(**algorithm)(SCORES_N, torch.zeros(6, dtype=torch.bool)).any()
    # One that is left alone of its prompt is compared with nothing, where an estimator compares within prompts.
    first_N = torch.tensor([True, False, False, True, True, True])
    is_compared = algorithm["adv_estimator"] == "reinforce_plus_plus"
    assert bool(estimator(**algorithm)(SCORES_N, first_N)[0].any()) == is_compared


@pytest.mark.parametrize("name", ["grpo", "reinforce_plus_plus"])
def test_tokens_of_tools_within_a_completion_get_no_advantage_and_change_none(estimator: Estimator, name: str) -> None:
    holes_NT = torch.tensor(
        [[1, 0, 1, 0, 1, 1, 0], [0, 1, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0]]
    )
    packed_NT = torch.tensor([[1, 1, 1, 1, 0], [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])

    with_holes_NT = estimator(holes_NT, GROUP_N[:4], adv_estimator=name)(SCORES_N[:4])
    packed = estimator(packed_NT, GROUP_N[:4], adv_estimator=name)(SCORES_N[:4])

    torch.testing.assert_close(with_holes_NT[holes_NT.bool()], packed[packed_NT.bool()])
    assert not with_holes_NT[~holes_NT.bool()].any()


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("rows", [None, [1, 1, 0, 0, 1, 0]])
def test_the_estimator_for_loops_without_verl_is_grpo_of_verl(
    estimator: Estimator, standardise: bool, rows: list[int] | None
) -> None:
    arguments = [SCORES_N] if rows is None else [SCORES_N, torch.tensor(rows).bool()]
    rewards = RewardMatrix.from_columns({"a": SCORES_N.tolist()})
    ours = GroupRelative(Rollout(rewards, GROUP_N, MASK_NT), standardise=standardise)
    verl = estimator(adv_estimator="grpo", norm_adv_by_std_in_grpo=standardise)

    assert ours.scale_invariant == verl.scale_invariant
    torch.testing.assert_close(ours(*arguments), verl(*arguments), atol=1e-6, rtol=1e-5)
    assert not ours(torch.full((6,), 0.1, dtype=torch.float64)).any()
