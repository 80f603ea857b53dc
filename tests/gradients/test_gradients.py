"""The objectives' gradients on shards: what two ranks measure and combine is what one process does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ctwa.aggregators.cross_fit import CrossFittedGram
from ctwa.aggregators.gradnorm import GradNormConfig
from ctwa.aggregators.mgda import MgdaConfig
from ctwa.aggregators.registry import build_aggregator
from ctwa.batch import RewardMatrix, Rollout
from ctwa.gradients.plan import (
    GradientPlan,
    GradientRecord,
    combined_advantages,
    gradient_metrics,
    make_cross_fitted,
    make_plan,
)
from ctwa.gradients.settings import GradientSettings
from ctwa.gradients.store import GradientStore
from ctwa.scalarizers.base import Scalarizer
from ctwa.scalarizers.linear import LinearConfig
from ctwa.scalarizers.registry import build_scalarizer
from tests.gradients.gradient_ranks import PREFERENCE, losses_of, measure, small_model

NAMES = ("accuracy", "clarity", "conciseness")
CONFIGS = {"mgda": MgdaConfig(), "gradnorm": GradNormConfig()}


@pytest.fixture(scope="module")
def tokens_NT() -> torch.Tensor:
    return torch.randint(0, 11, (8, 9), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def ranks(tokens_NT: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> list[dict[bool, tuple]]:
    """What each of two ranks measured, without an adapter and with one."""
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(tokens_NT, folder / "tokens.pt")
    script = str(Path(__file__).with_name("gradient_ranks.py"))
    running = [subprocess.Popen([sys.executable, script, str(rank), str(folder)]) for rank in range(2)]
    assert [rank.wait(timeout=120) for rank in running] == [0, 0]
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("lora", [False, True])
def test_two_ranks_measure_and_combine_as_one_process_does(
    lora: bool, tokens_NT: torch.Tensor, ranks: list[dict[bool, tuple]]
) -> None:
    model = small_model(lora=lora)
    gram_MM, combined = measure(model, [tokens_NT], scale=1.0)
    # The oracle: every gradient by itself, of the whole batch.
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, trained, retain_graph=True)]).double()
        for loss in losses_of(model, tokens_NT)
    ]
    torch.testing.assert_close(gram_MM, torch.stack(rows) @ torch.stack(rows).T, rtol=1e-12, atol=0)

    for rank in ranks:
        gram_of_rank_MM, combined_of_rank, (weights_M, skipped, state) = rank[lora]
        solved = build_aggregator(MgdaConfig(), PREFERENCE)
        torch.testing.assert_close(weights_M, solved.solve(gram_MM).weights_M, rtol=1e-9, atol=1e-9)
        assert not skipped
        assert state["num_skipped"] == 0
        torch.testing.assert_close(gram_of_rank_MM, gram_MM, rtol=1e-12, atol=0)
        assert combined_of_rank.keys() == combined.keys() != set()
        for name, gradient in combined.items():
            torch.testing.assert_close(combined_of_rank[name], gradient, rtol=1e-9, atol=1e-12)
    (first_MM, _, (first_M, *_)), (second_MM, _, (second_M, *_)) = (rank[lora] for rank in ranks)
    assert torch.equal(first_MM, second_MM)
    assert torch.equal(first_M, second_M)


def test_a_loss_that_no_weight_takes_part_in_has_a_row_of_zeros() -> None:
    parameters = [nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([3.0]))]
    store = GradientStore(parameters, 3)
    store.backward(0, (parameters[0] * torch.tensor([2.0, 1.0])).sum(), retain_graph=False)
    store.backward(2, (parameters[0].sum() + 4 * parameters[1]).sum(), retain_graph=False)
    assert store.gram(3).tolist() == [[5, 0, 3], [0, 0, 0], [3, 0, 18]]
    store.combine([0.5, 7.0, 2.0])
    assert [parameter.grad.tolist() for parameter in parameters] == [[3.0, 2.5], [8.0]]


# -- the driver's side --------------------------------------------------------------------------------------------


def plan_with(records: list[GradientRecord]) -> GradientPlan:
    return GradientPlan(NAMES, build_aggregator(CONFIGS["mgda"], PREFERENCE), GradientSettings(), records=records)


def test_norms_and_cosines_are_means_over_the_mini_batches() -> None:
    first = torch.tensor([[4.0, 0.0, 2.0], [0.0, 1.0, 0.0], [2.0, 0.0, 4.0]], dtype=torch.float64)
    second = torch.tensor([[16.0, 4.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    weights = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    nan = torch.full((3, 3), torch.nan, dtype=torch.float64)
    records = [GradientRecord(gram, weights, False, {}) for gram in (first, second)]
    records.append(GradientRecord(nan, weights, True, {}))
    metrics = gradient_metrics(plan_with(records))
    assert metrics["gradient/skipped"] == 1
    assert metrics["gradient/norm/accuracy"] == 3
    assert metrics["gradient/norm/conciseness"] == 1
    assert metrics["gradient/cosine/accuracy:clarity"] == 0.25
    assert metrics["gradient/cosine/accuracy:conciseness"] == 0.5  # the other has no direction
    assert metrics["gradient/cosine/clarity:conciseness"] == 0


def test_the_advantages_of_a_step_are_combined_by_the_weights_it_used() -> None:
    advantages_MNT = torch.arange(6.0).reshape(3, 2, 1)
    weights = [torch.tensor(w, dtype=torch.float64) for w in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [9.0, 9.0, 9.0])]
    records = [GradientRecord(None, w, skipped, {}) for w, skipped in zip(weights, (False, False, True), strict=True)]
    combined_NT = combined_advantages(plan_with(records), advantages_MNT)
    assert combined_NT is not None
    assert combined_NT.tolist() == [[1.0], [2.0]]
    assert combined_advantages(plan_with(records[2:]), advantages_MNT) is None


def test_without_an_aggregator_the_steps_own_gradient_says_what_it_is_to_do() -> None:
    """Two halves of four gradients in two dimensions: accuracy, clarity, conciseness and the step's."""
    plan = make_plan(GradientSettings(gram="cross_fitted"), build_linear(), rollout(), step=1, every=1)
    assert plan is not None
    plan.cross_fitted = make_cross_fitted(GradientSettings(gram="cross_fitted"), build_linear(), every=1)
    halves_HD = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [2, 1], [3, 0], [0, 1], [-1, 2], [0, 1]], dtype=torch.float64)
    plain_RR = plan.observe(halves_HD @ halves_HD.T, [4, 4])
    metrics = plan.progress(plain_RR, None, learning_rate=0.5)
    # (a + b) . (a + b) of the step, and 2 (a . b' + b . a'), each times the learning rate.
    assert [metrics[f"gradient/progress/{name}"] for name in NAMES] == [4.0, 2.0, 0.0]
    assert [metrics[f"conflict/progress/{name}"] for name in NAMES] == [6.0, 2.0, 0.0]
    assert "conflict/progress_error/accuracy" not in metrics  # of one measurement nobody knows
    assert make_cross_fitted(GradientSettings(gram="cross_fitted"), build_linear(), every=0) is None
    assert make_cross_fitted(GradientSettings(), build_linear(), every=1) is None


def test_of_an_update_that_is_left_out_nothing_is_learnt() -> None:
    """Neither by the method nor by the mean of cross-fitted matrices; and what was learnt before stays."""
    cross_fitted = CrossFittedGram(NAMES, half_life=10.0)
    plan = GradientPlan(NAMES, build_aggregator(CONFIGS["gradnorm"], PREFERENCE), GradientSettings())
    plan.cross_fitted = cross_fitted
    halves_HD = torch.tensor([[1.0, 0], [0, 2], [-1, 0], [2, 1], [1, 1], [-1, 3]], dtype=torch.float64)

    def measured(scale: float) -> list[torch.Tensor]:
        gram_MM = plan.observe(scale * halves_HD @ halves_HD.T, [4, 4])
        plan.weigh(gram_MM, torch.ones(3), 0.1)
        return remembered()

    def remembered() -> list[torch.Tensor]:
        assert plan.aggregator is not None
        assert plan.cross_fitted is not None
        mean = plan.cross_fitted
        num = torch.tensor(mean.num)
        return [plan.aggregator.last_weights_M, num, mean.gram_RR, mean.plain_RR, mean.errors_RR]

    first = measured(1.0)
    assert not all(torch.equal(*each) for each in zip(measured(9.0), first, strict=True))
    plan.leave_out()
    assert all(torch.equal(*each) for each in zip(remembered(), first, strict=True))
    assert [record.skipped for record in plan.records] == [False, True]
    plan.hold()
    plan.leave_out()  # of which nothing was measured
    assert all(torch.equal(*each) for each in zip(remembered(), first, strict=True))
    assert plan.aggregator is not None
    assert plan.aggregator.num_skipped == 2

    shown = GradientPlan(NAMES, None, GradientSettings(), first_only=True)  # a diagnostic
    shown.cross_fitted = CrossFittedGram(shown.measured_names, half_life=10.0)
    eight_HD = torch.cat([halves_HD[:3], halves_HD[:1], halves_HD[3:], halves_HD[:1]])
    for left_out, num in ((True, 0), (False, 1)):
        shown.observe(eight_HD @ eight_HD.T, [4, 4])
        if left_out:
            shown.leave_out()
        assert shown.cross_fitted.num == num
    assert shown.hold() is None
    shown.leave_out()
    assert shown.cross_fitted.num == 1


@pytest.mark.parametrize("method", ["mgda", "gradnorm"])
def test_a_method_sees_the_mean_and_its_errors_mended_where_it_needs_that(method: str) -> None:
    cross_fitted = CrossFittedGram(NAMES, half_life=10.0)
    aggregator = build_aggregator(CONFIGS[method], PREFERENCE)
    plan = GradientPlan(NAMES, aggregator, GradientSettings(), cross_fitted=cross_fitted)
    plain_MM = torch.eye(3, dtype=torch.float64)
    nothing_MM, _ = plan.for_solver(plain_MM)
    assert aggregator.solve(nothing_MM, losses_M=torch.ones(3)).weights_M.tolist() == list(PREFERENCE.values())
    conflict_MM = plain_MM.clone()
    conflict_MM[0, 1] = conflict_MM[1, 0] = -1.5
    cross_fitted.observe(conflict_MM, plain_MM)
    gram_MM, errors_MM = plan.for_solver(plain_MM)
    assert errors_MM is not None
    assert (float(torch.linalg.eigvalsh(gram_MM)[0]) > -1e-12) == (method == "mgda")
    spoiled_MM = plain_MM * torch.nan
    assert plan.for_solver(spoiled_MM)[0] is spoiled_MM
    plan.observe(torch.full((6, 6), torch.nan, dtype=torch.float64), [4, 4])
    assert cross_fitted.num == 1


def build_linear() -> Scalarizer:
    built: Scalarizer = build_scalarizer(LinearConfig(), PREFERENCE, scale_invariant=True)
    return built


def rollout() -> Rollout:
    rewards = RewardMatrix.from_columns({name: [0.0, 1.0, 1.0, 1.0] for name in NAMES[::-1]})
    return Rollout(rewards, torch.tensor([0, 0, 1, 1]), torch.ones(4, 2))


def scalarizer(method: str) -> Scalarizer:
    built: Scalarizer = build_scalarizer(CONFIGS[method], PREFERENCE, scale_invariant=True)
    return built


def test_a_method_solves_at_every_kth_step_and_keeps_its_weights_in_between() -> None:
    settings = GradientSettings(refresh_every=3)
    solves = []
    for step in range(1, 8):
        plan = make_plan(settings, scalarizer("mgda"), rollout(), step=step, every=0)
        assert plan is not None
        solves.append(plan.measures)
    assert solves == [True, False, False, True, False, False, True]


def test_gradnorm_is_told_how_far_each_objective_is_from_its_ceiling() -> None:
    plan = make_plan(GradientSettings(), scalarizer("gradnorm"), rollout(), step=1, every=0)
    assert plan is not None
    assert plan.losses_M is not None
    assert plan.losses_M.tolist() == [0.25, 0.25, 0.25]
