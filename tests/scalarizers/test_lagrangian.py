import pytest
import torch

from ctwa.errors import CtwaError
from ctwa.scalarizers.lagrangian import Lagrangian, LagrangianConfig
from tests.scalarizers.rollouts import Scores, rollout_of, standardised, update_of

TARGETS = {"clarity": 0.9, "conciseness": 0.9}
WEIGHTS = {"accuracy": 1.0, "clarity": 1.0, "conciseness": 1.0}


def lagrangian(
    *, weights: dict = WEIGHTS, objective: str = "accuracy", targets: dict = TARGETS, **options
) -> Lagrangian:
    config = LagrangianConfig(objective=objective, targets=targets, **options)
    return Lagrangian(config, weights)


def multipliers(scalarizer: Lagrangian) -> dict[str, float]:
    return scalarizer.state_dict()["multipliers"]


def step(scalarizer: Lagrangian, clarity: list, conciseness: list) -> dict[str, float]:
    rollout = rollout_of({"accuracy": [1.0, 0.0], "clarity": clarity, "conciseness": conciseness})
    return scalarizer.observe_update(update_of(rollout, scalarizer.advantages(rollout, Scores())))


class TestGolden:
    """Methods of the paper, appendix A.5, worked out by hand."""

    MEANS = ([0.4, 0.1], [0.95, 0.2], [1.0, 0.97])
    MULTIPLIERS = ([0.005, 0.008], [0.0045, 0.015], [0.0035, 0.0143])

    def test_multipliers(self):
        scalarizer = lagrangian()
        for (clarity, conciseness), expected in zip(self.MEANS, self.MULTIPLIERS, strict=True):
            step(scalarizer, [clarity] * 2, [conciseness] * 2)
            assert list(multipliers(scalarizer).values()) == pytest.approx(expected, abs=1e-9)

    def test_advantages(self):
        scalarizer = lagrangian()
        for clarity, conciseness in self.MEANS[:2]:
            step(scalarizer, [clarity] * 2, [conciseness] * 2)
        # The third batch moves the multipliers to their last values before they are used: dual step, then primal step.
        rollout = rollout_of({"accuracy": [1.0, 0.0], "clarity": [1.0, 1.0], "conciseness": [0.97, 0.97]})
        estimates = iter(torch.tensor([[1.0, -1.0], [0.5, 0.5], [-1.0, 2.0]], dtype=torch.float64))
        got = scalarizer.advantages(rollout, Scores(transform=lambda _: next(estimates)))

        assert got[:, 0].tolist() == pytest.approx([0.98745, -0.96965], abs=1e-9)

    def test_normalized_as_in_safe_rlhf(self):
        """Safe RLHF with a cost of 1 - reward: (1 - 1 * 0.5) / (1 + 1) = 0.25 and (1 + 3 * 0.5) / (1 + 3) = 0.625."""
        for multiplier, second, expected in ((1.0, -0.5, 0.25), (3.0, 0.5, 0.625)):
            scalarizer = lagrangian(
                weights={"a": 1.0, "b": 1.0}, objective="a", targets={"b": 0.5}, eta=0.0, normalize=True
            )
            scalarizer.load_state_dict(scalarizer.state_dict() | {"multipliers": {"b": multiplier}})
            got = scalarizer.advantages(rollout_of({"a": [1.0, 1.0], "b": [second, second]}), Scores())
            assert got[:, 0].tolist() == pytest.approx([expected] * 2, abs=1e-9)


def test_each_objective_is_estimated_by_itself():
    """Summing the rewards first would standardise their sum."""
    scalarizer = lagrangian(weights={"a": 1.0, "b": 1.0}, objective="a", targets={"b": 10.0}, eta=0.1)
    columns = {"a": [0.0, 1.0, 0.0, 3.0], "b": [5.0, 9.0, 2.0, 4.0]}

    got = scalarizer.advantages(rollout_of(columns), Scores(transform=standardised))

    one, other = (standardised(torch.tensor(column).double()) for column in columns.values())
    torch.testing.assert_close(got[:, 0], one + 0.5 * other, rtol=0, atol=1e-12)


def test_without_a_deficit_it_is_the_main_objective_alone():
    scalarizer = lagrangian()
    step(scalarizer, [1.0, 1.0], [1.0, 1.0])

    assert multipliers(scalarizer) == {"clarity": 0.0, "conciseness": 0.0}
    assert scalarizer.weights == {"accuracy": 1.0, "clarity": 0.0, "conciseness": 0.0}


def test_multipliers_fall_again_and_never_below_zero():
    scalarizer = lagrangian(eta=1.0, targets={"clarity": 0.5, "conciseness": 0.5})
    step(scalarizer, [0.0, 0.5], [0.5, 0.5])
    metrics = step(scalarizer, [1.0, 0.5], [1.0, 1.0])

    assert multipliers(scalarizer) == {"clarity": 0.0, "conciseness": 0.0}
    assert metrics["lagrangian/growth/clarity"] == -0.25
    assert metrics["lagrangian/growth/conciseness"] == 0.0


def test_the_cap_and_its_report():
    """A target out of reach grows its multiplier at one rate for ever; the cap ends that and says so."""
    scalarizer = lagrangian(eta=1.0, targets={"clarity": 2.0, "conciseness": 0.0}, cap=3.0)
    reports = [step(scalarizer, [1.0, 0.0], [1.0, 0.0]) for _ in range(3)]

    assert [report["lagrangian/multiplier/clarity"] for report in reports] == [1.5, 3.0, 3.0]
    assert [report["lagrangian/growth/clarity"] for report in reports] == [1.5, 1.5, 0.0]
    assert [report["lagrangian/capped/clarity"] for report in reports] == [0.0, 1.0, 1.0]
    assert {report["lagrangian/capped/conciseness"] for report in reports} == {0.0}
    assert {report["lagrangian/shortfall/clarity"] for report in reports} == {1.5}


def test_without_a_cap_growth_is_linear():
    scalarizer = lagrangian(eta=1.0, targets={"clarity": 2.0, "conciseness": 0.0})
    values = [step(scalarizer, [1.0, 0.0], [1.0, 0.0])["lagrangian/multiplier/clarity"] for _ in range(4)]

    assert values == [1.5, 3.0, 4.5, 6.0]


def test_a_batch_without_a_score_holds_the_multiplier():
    scalarizer = lagrangian(eta=1.0)
    step(scalarizer, [0.5, 0.5], [0.5, 0.5])
    before = multipliers(scalarizer)
    metrics = step(scalarizer, [None, float("nan")], [0.5, 0.5])

    assert multipliers(scalarizer)["clarity"] == before["clarity"]
    assert multipliers(scalarizer)["conciseness"] > before["conciseness"]
    assert metrics["lagrangian/num_held/clarity"] == 1
    assert metrics["lagrangian/growth/clarity"] == 0
    assert "lagrangian/shortfall/clarity" not in metrics


def test_the_mean_is_of_what_was_scored():
    scalarizer = lagrangian(eta=1.0, targets={"clarity": 1.0, "conciseness": 1.0})
    step(scalarizer, [0.5, None], [1.0, 1.0])

    assert multipliers(scalarizer)["clarity"] == 0.5


def test_normalized_weights_sum_to_one():
    scalarizer = lagrangian(eta=1.0, normalize=True)
    step(scalarizer, [0.5, 0.0], [0.5, 0.5])

    assert sum(scalarizer.weights.values()) == pytest.approx(1, abs=1e-15)


def test_an_objective_of_weight_zero_is_only_measured():
    scalarizer = lagrangian(weights=WEIGHTS | {"style": 0.0})

    assert scalarizer.weights["style"] == 0
    assert "lagrangian/multiplier/style" not in step_with_style(scalarizer)


def step_with_style(scalarizer: Lagrangian) -> dict[str, float]:
    rollout = rollout_of({name: [0.0, 1.0] for name in (*WEIGHTS, "style")})
    return scalarizer.observe_update(update_of(rollout, scalarizer.advantages(rollout, Scores())))


def test_the_multipliers_survive_a_restart():
    scalarizer, restarted = lagrangian(), lagrangian()
    step(scalarizer, [0.1, 0.7], [None, None])
    restarted.load_state_dict(scalarizer.state_dict())

    assert restarted.state_dict() == scalarizer.state_dict()
    assert step(restarted, [0.3, 0.3], [0.2, 0.9]) == step(scalarizer, [0.3, 0.3], [0.2, 0.9])


RATED = {"a": [1.0, 0.0, 3.0, 0.0], "b": [0.9, 0.2, 0.4, 0.5]}


class TestViolationRates:
    """Constrained GRPO: the cost is 1 where a rule is broken, and its mean, the violation rate, is held at a limit."""

    def method(self, **options) -> Lagrangian:
        options = {"targets": {"b": 0.9}, "at_least": {"b": 0.5}, "eta": 1.0} | options
        return lagrangian(weights={"a": 1.0, "b": 1.0}, objective="a", **options)

    def test_the_multiplier_grows_by_the_rate_beyond_the_limit(self):
        """Half of the completions break it and a tenth may."""
        scalarizer, rollout = self.method(), rollout_of(RATED)
        got = scalarizer.advantages(rollout, Scores())
        assert multipliers(scalarizer) == {"b": pytest.approx(0.4)}
        # The satisfied are the first and the last; cost 1 - satisfied, up to a constant that an estimator takes away.
        assert got[:, 0].tolist() == pytest.approx([1.4, 0.0, 3.0, 0.4])
        assert scalarizer.observe_update(update_of(rollout, got))["lagrangian/shortfall/b"] == pytest.approx(0.4)

    def test_it_is_the_lagrangian_of_a_reward_of_0_and_1(self):
        one = self.method().advantages(rollout_of(RATED), Scores(transform=standardised))
        other = self.method(at_least={}).advantages(
            rollout_of(RATED | {"b": [1.0, 0.0, 0.0, 1.0]}), Scores(transform=standardised)
        )
        assert torch.equal(one, other)

    def test_what_was_not_scored_breaks_nothing(self):
        scalarizer = self.method()
        scalarizer.advantages(rollout_of(RATED | {"b": [0.9, None, 0.4, None]}), Scores())
        assert multipliers(scalarizer) == {"b": pytest.approx(0.4)}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"at_least": {"a": 1.0}}, r"at_least names \['a'\], which have no target"),
            ({"targets": {"b": 1.5}}, r"targets \{'b': 1\.5\} for objectives in at_least"),
        ],
    )
    def test_mistakes_are_named(self, options, message):
        with pytest.raises(CtwaError, match=message):
            self.method(**options)


def test_a_token_budget():
    """LACONIC: the task's reward less lambda times max(0, L / B - 1), and lambda by the mean of L / B - 1.

    Lengths 50, 150, 250 for a budget of 100, as the reward -L / B with the target -1.
    """
    scalarizer = lagrangian(
        weights={"right": 1.0, "length": 1.0}, objective="right", targets={"length": -1.0}, one_sided=True, eta=0.1
    )
    rollout = rollout_of({"right": [1.0, 0.0, 1.0], "length": [-0.5, -1.5, -2.5]})
    got = scalarizer.advantages(rollout, Scores(transform=lambda scores_N: scores_N - scores_N.mean()))

    assert multipliers(scalarizer) == {"length": pytest.approx(0.1 * 0.5)}
    total_N = torch.tensor([1.0, 0.0 - 0.05 * 0.5, 1.0 - 0.05 * 1.5], dtype=torch.float64)
    torch.testing.assert_close(got[:, 0], total_N - total_N.mean(), rtol=0, atol=1e-12)
    # Far below the budget the multiplier falls, although no completion is charged.
    scalarizer.advantages(rollout_of({"right": [1.0], "length": [-0.2]}), Scores())
    assert multipliers(scalarizer) == {"length": 0.0}


def test_a_budget_clamps_no_rate():
    """A completion that satisfies an objective is worth 1 beside a target of .6 of them, not .6."""
    weights = {"right": 1.0, "length": 1.0, "safe": 1.0}
    options = {"targets": {"length": -1.0, "safe": 0.6}, "at_least": {"safe": 0.5}, "eta": 10.0}
    rollout = rollout_of({"right": [0.0] * 4, "length": [-1.5] * 4, "safe": [0.9, 0.5, 0.4, 0.0]})
    both = [
        lagrangian(weights=weights, objective="right", one_sided=one_sided, **options).advantages(rollout, Scores())
        for one_sided in (False, True)
    ]

    assert torch.equal(*both)
    assert (both[0][0] - both[0][3]).tolist() == pytest.approx([1.0, 1.0])  # eta (0.6 - 0.5) times 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": {"accuracy": 1.0}, "targets": {}}, "an objective to maximise and at least one to hold"),
        ({"weights": {"accuracy": 1.0, "clarity": 0.0}, "targets": {}}, "an objective to maximise and at least one"),
        ({"objective": "style"}, r"objective names \['style'\], which are not objectives"),
        ({"targets": TARGETS | {"style": 1.0}}, r"targets names \['style'\]"),
        ({"targets": {"clarity": 0.9}}, "write one target for each of them except the maximised one"),
        ({"targets": TARGETS | {"accuracy": 0.9}}, "except the maximised one"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(CtwaError, match=message):
        lagrangian(**arguments)


def test_the_state_of_another_main_objective_is_refused():
    other = lagrangian(objective="clarity", targets={"accuracy": 0.9, "conciseness": 0.9})
    with pytest.raises(CtwaError, match="has multipliers for"):
        lagrangian().load_state_dict(other.state_dict())
