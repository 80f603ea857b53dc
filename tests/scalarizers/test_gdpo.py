import pytest
import torch

from ctwa.errors import CtwaError
from ctwa.scalarizers import Scalarizer, build_scalarizer
from ctwa.scalarizers.gdpo import GdpoConfig
from ctwa.scalarizers.linear import Linear, LinearConfig
from tests.scalarizers.rollouts import Scores, rollout_of, standardised


def gdpo(weights: dict, *, scale_invariant: bool = True, **options) -> Scalarizer:
    return build_scalarizer(GdpoConfig(**options), weights, scale_invariant=scale_invariant)


def test_standardises_each_objective_then_sums():
    columns = {"a": [0.0, 1.0, 0.0, 3.0], "b": [50.0, 90.0, 20.0, 40.0]}
    one, other = (standardised(torch.tensor(column).double()) for column in columns.values())

    got = gdpo({"a": 1.0, "b": 0.5}, batch_normalize=False).advantages(
        rollout_of(columns), Scores(transform=standardised)
    )

    torch.testing.assert_close(got[:, 0], one + 0.5 * other, rtol=0, atol=1e-12)


def test_it_tells_apart_what_a_sum_of_rewards_does_not():
    """The paper's example: with two 0/1 rewards (0, 1) | (0, 2) have the same advantages as sums, not here."""
    sums, decoupled = [], []
    for columns in ({"a": [0.0, 1.0], "b": [0.0, 0.0]}, {"a": [0.0, 1.0], "b": [0.0, 1.0]}):
        rollout, estimate = rollout_of(columns), Scores(transform=standardised)
        weights = {"a": 1.0, "b": 1.0}
        sums.append(Linear(LinearConfig(), weights).advantages(rollout, estimate))
        decoupled.append(gdpo(weights, batch_normalize=False).advantages(rollout, estimate))

    torch.testing.assert_close(sums[0], sums[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(2 * decoupled[0], decoupled[1], rtol=0, atol=1e-5)


def test_the_batch_is_brought_to_mean_0_and_spread_1_over_completions():
    columns = {"a": [1.0, 2.0, 3.0, 6.0]}
    got = gdpo({"a": 5.0}).advantages(rollout_of(columns, lengths=[1, 2, 2, 1]), Scores())

    # mean 3 and standard deviation sqrt(3.5) of the rewards, whatever the weight and the lengths
    expected = (torch.tensor([1.0, 2.0, 3.0, 6.0]).double() - 3) / (3.5**0.5 + 1e-4)
    torch.testing.assert_close(got[:, 0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_objectives", [1, 2, 8])
def test_its_size_does_not_depend_on_the_number_of_objectives(make_batch, num_objectives):
    names = [f"objective-{i}" for i in range(num_objectives)]
    batch = make_batch(names)
    advantages_NT = gdpo(dict.fromkeys(names, 1.0)).advantages(batch.rollout, batch.estimate())

    assert float(advantages_NT[:, 0].std(correction=0)) == pytest.approx(1, abs=1e-3)
    assert float(advantages_NT[:, 0].mean()) == pytest.approx(0, abs=1e-12)


def test_nothing_to_learn_from_a_batch_without_differences():
    got = gdpo({"a": 1.0}).advantages(rollout_of({"a": [0.1] * 4}), Scores(transform=standardised))

    assert got.abs().max() < 1e-6


def test_a_single_completion_has_no_spread():
    assert gdpo({"a": 1.0}).advantages(rollout_of({"a": [3.0]}), Scores()).tolist() == [[0.0, 0.0]]


def test_without_the_last_step_it_is_mo_grpo(make_batch):
    """Ichihara et al. 2025: the sum of the rewards' own z-scores within the prompt, written out."""
    names = ["a", "b", "c"]
    batch = make_batch(names)
    method = gdpo(dict.fromkeys(names, 1.0), batch_normalize=False)
    got = method.advantages(batch.rollout, batch.estimate())

    rewards_BKM = batch.rollout.rewards.rewards_NM.view(8, 4, 3)
    z_BKM = (rewards_BKM - rewards_BKM.mean(1, keepdim=True)) / rewards_BKM.std(1, keepdim=True)
    torch.testing.assert_close(got[:, 0], z_BKM.sum(2).view(-1), rtol=0, atol=1e-4)


def test_each_objective_counts_alike_whatever_its_unit_is(make_batch):
    """What MO-GRPO promises: the same correlation with every reward's advantage under any scale and shift of it."""
    columns = {"a": [0.0, 1.0, 0.0, 3.0, 2.0], "b": [5.0, 9.0, 2.0, 4.0, 4.0]}
    other = {"a": columns["a"], "b": [1000 * value - 7 for value in columns["b"]]}
    one, scaled = (
        gdpo({"a": 1.0, "b": 1.0}).advantages(rollout_of(each), Scores(transform=standardised))
        for each in (columns, other)
    )
    torch.testing.assert_close(one, scaled, rtol=0, atol=1e-5)


def test_an_estimator_that_does_not_standardise_is_refused():
    with pytest.raises(CtwaError, match="gdpo lets the advantage estimator standardise each objective"):
        gdpo({"a": 1.0}, scale_invariant=False)


def test_objectives_that_cancel_each_other_have_no_advantage():
    """In float32 their sum is rounding noise, which a small standard deviation would make large."""
    rewards = torch.rand(64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rollout = rollout_of({"a": (100 + rewards).tolist(), "b": (3 - rewards).tolist()})
    got = gdpo({"a": 0.3, "b": 0.3}).advantages(
        rollout, Scores(transform=lambda scores_N: standardised(scores_N).float())
    )
    assert (got == 0).all()


def test_equal_rewards_have_no_advantage():
    got = gdpo({"a": 1.0, "b": 2.0}).advantages(rollout_of({"a": [100.1] * 7, "b": [1 / 3] * 7}), Scores())
    assert got.abs().max() < 1e-9
