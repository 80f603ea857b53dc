import json
import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from ctwa.errors import CtwaError
from ctwa.preference.caid import (
    Caid,
    CaidConfig,
    Slack,
    composite_reward,
    draw_pairs,
    implicit_reward,
    label_probability,
    measure_slack,
    next_multiplier,
)
from ctwa.preference.dual import Dual

GOLDENS = json.loads((Path(__file__).parents[1] / "goldens" / "constrained_alignment.json").read_text())


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def near(value):
    return pytest.approx(value, abs=1e-9)


@pytest.fixture
def one_shot():
    golden = GOLDENS["D1"]
    return Dual(tensor(golden["r"]), {"safety": tensor(golden["g"])}, {"safety": 0.3}, beta=1.0).solve()


@pytest.fixture
def started(one_shot):
    def started(**options):
        caid = Caid(CaidConfig(thresholds={"safety": 0.3}, beta=1.0, **options))
        caid.start(one_shot)
        return caid

    return started


def scores_with(slack, standard_error, num_prompts=50, num_samples=3, threshold=0.3):
    """Scores of policy and reference whose slack and its standard error over prompts are these."""
    generator = torch.Generator().manual_seed(0)
    reference_PS = 5 * torch.randn(num_prompts, num_samples, dtype=torch.float64, generator=generator)
    change_P = torch.randn(num_prompts, dtype=torch.float64, generator=generator)
    change_P = (change_P - change_P.mean()) / change_P.std() * standard_error * math.sqrt(num_prompts)
    policy_PS = reference_PS + (change_P + slack + threshold)[:, None]
    return {"safety": policy_PS}, {"safety": reference_PS}


class TestGoldens:
    def test_steps_of_the_multiplier(self):
        for step in GOLDENS["D6_subgradient"]["steps"]:
            slack = step["Eg"] - step["gref"] - step["b"]
            assert slack == near(step["u"])
            assert next_multiplier(step["lam"], slack, eta=step["eta"]) == near(step["lam_next"])

    def test_a_label_of_mocaid(self):
        golden = GOLDENS["D8_mocaid_label"]
        rewards = composite_reward(tensor(golden["r"]), {"g": tensor(golden["g"])}, {"g": golden["lam"]})
        assert rewards.tolist() == [near(value) for value in golden["R"]]
        probability = label_probability(rewards[0], rewards[1])
        assert float(probability) == near(golden["P_y0_pref"])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(tensor(0.2), probability)
        assert float(loss) == near(golden["soft_loss_h02"])

    @pytest.mark.parametrize(("scale", "probability"), [("paper", 0.549833997312), ("published-code", 0.880797077978)])
    def test_a_label_of_pecaid(self, scale, probability):
        reward = implicit_reward(tensor([3.0, -1.0]), 0.1, scale=scale)
        score = implicit_reward(tensor([-2.0, 2.0]), 0.1, scale=scale)
        first, second = composite_reward(reward, {"g": score}, {"g": 0.5})
        assert float(first) == near(0.2 if scale == "paper" else 2.0)
        assert float(second) == near(0)
        assert float(label_probability(first, second)) == near(probability)


class TestSlack:
    def test_it_is_the_mean_over_prompts(self):
        slack = measure_slack(tensor([[1.0, 3.0], [5.0, 5.0]]), tensor([[0.0], [1.0]]), 0.5)
        assert slack.value == near(3 - 0.5)
        assert slack.standard_error == near(1.0)  # changes of 2 and 4: deviation sqrt 2, over sqrt 2

    def test_what_prompts_differ_in_cancels(self):
        generator = torch.Generator().manual_seed(0)
        reference_PS = torch.randn(20, 4, dtype=torch.float64, generator=generator)
        policy_PS = torch.randn(20, 4, dtype=torch.float64, generator=generator)
        offset_P1 = 1e3 * torch.randn(20, 1, dtype=torch.float64, generator=generator)
        plain = measure_slack(policy_PS, reference_PS, 0.0)
        shifted = measure_slack(policy_PS + offset_P1, reference_PS + offset_P1, 0.0)
        assert shifted.value == near(plain.value)
        assert shifted.standard_error == near(plain.standard_error)

    def test_the_standard_error_is_that_of_repeated_measurements(self):
        generator = torch.Generator().manual_seed(0)
        slacks = []
        for _ in range(400):
            reference_PS = torch.randn(30, 5, generator=generator)
            slacks.append(measure_slack(reference_PS + 1 + torch.randn(30, 5, generator=generator), reference_PS, 1.0))
        spread = torch.tensor([slack.value for slack in slacks]).std()
        assert sum(slack.standard_error for slack in slacks) / 400 == pytest.approx(float(spread), rel=0.15)

    def test_mistakes_are_named(self):
        with pytest.raises(CtwaError, match="3 prompts with samples of the policy and 2"):
            measure_slack(torch.zeros(3, 2), torch.zeros(2, 2), 0.0)
        with pytest.raises(CtwaError, match="two or more"):
            measure_slack(torch.zeros(1, 2), torch.zeros(1, 2), 0.0)
        with pytest.raises(CtwaError, match="nan for prompt 1, sample 0"):
            measure_slack(tensor([[0.0], [math.nan]]), torch.zeros(2, 2), 0.0)


class TestIterations:
    def test_the_first_policy_is_the_one_shot_one(self, started):
        caid = started()
        assert caid.multipliers == {"safety": near(GOLDENS["D1"]["lam_star"])}
        assert caid.step_sizes == {"safety": near(0.5 / GOLDENS["D1"]["hess_star"])}
        assert (caid.num_policies, caid.finished) == (1, False)

    def test_a_violated_constraint_gets_a_larger_multiplier(self, started):
        caid = started(eta=0.1)
        metrics = caid.observe(*scores_with(-2.0, 0.1))
        assert caid.multipliers == {"safety": near(GOLDENS["D1"]["lam_star"] + 0.2)}
        assert metrics == {
            "caid/policies": 2.0,
            "caid/converged": 0.0,
            "caid/slack/safety": near(-2.0),
            "caid/slack_standard_error/safety": near(0.1),
            "caid/multiplier/safety": near(GOLDENS["D1"]["lam_star"] + 0.2),
        }

    def test_multipliers_stay_within_their_bounds(self, started):
        for slack, expected in ((100.0, 0.0), (-100.0, 5.0)):
            caid = started(eta=1.0, cap=5.0)
            caid.observe(*scores_with(slack, 0.1))
            assert caid.multipliers == {"safety": expected}

    @pytest.mark.parametrize(("slack", "converged"), [(0.19, True), (-0.19, True), (0.21, False), (-0.21, False)])
    def test_it_stops_within_two_standard_errors(self, started, slack, converged):
        caid = started()
        before = dict(caid.multipliers)
        caid.observe(*scores_with(slack, 0.1))
        assert caid.converged == caid.finished == converged
        assert (caid.multipliers == before) == converged
        assert caid.num_policies == (1 if converged else 2)

    def test_it_stops_where_a_constraint_is_met_without_a_multiplier(self, started):
        caid = started(eta=10.0)
        caid.observe(*scores_with(1.0, 0.01))
        assert (caid.multipliers, caid.finished) == ({"safety": 0}, False)
        caid.observe(*scores_with(0.5, 0.01))
        assert caid.converged
        violated = started(eta=10.0)
        violated.observe(*scores_with(1.0, 0.01))
        violated.observe(*scores_with(-0.5, 0.01))
        assert not violated.converged

    @pytest.mark.parametrize(("slack", "missed"), [(0.5, False), (-0.19, False), (-0.21, True)])
    def test_a_constraint_is_missed_by_more_than_its_standard_errors(self, started, slack, missed):
        caid = started()
        caid.observe(*scores_with(slack, 0.1))
        assert caid.missed == ({"safety": Slack(near(slack), near(0.1))} if missed else {})

    def test_it_stops_after_so_many_policies_the_one_shot_one_among_them(self, started):
        caid = started(iterations=3)
        for expected in (2, 3, 3):
            assert not caid.finished
            caid.observe(*scores_with(-1.0, 0.01))
            assert caid.num_policies == expected
        assert caid.finished
        assert not caid.converged
        assert [entry["safety"]["slack"] for entry in caid.history] == [near(-1.0)] * 3
        multipliers = [entry["safety"]["multiplier"] for entry in caid.history]
        assert multipliers == sorted(multipliers)
        assert caid.multipliers == {"safety": multipliers[-1]}
        with pytest.raises(RuntimeError):
            caid.observe(*scores_with(-1.0, 0.01))

    def test_newtons_step_meets_the_threshold_where_the_model_is_exact(self):
        """Policies that are the tilt itself, started from a wrong multiplier."""
        generator = torch.Generator().manual_seed(0)
        rewards_PS, safety_PS, tone_PS = torch.randn(3, 40, 64, dtype=torch.float64, generator=generator)
        thresholds = {"safety": 0.4, "tone": 0.3}
        dual = Dual(rewards_PS, {"safety": safety_PS, "tone": tone_PS}, thresholds, beta=1.0)
        solution = dual.solve()
        caid = Caid(CaidConfig(thresholds=thresholds, beta=1.0, iterations=40, stop_at=0.0, damping=1.0))
        caid.start(solution)
        caid.multipliers = {"safety": 1.5, "tone": 0.0}
        distances = []
        while not caid.finished:
            weights_PS = 64 * dual.weights(tensor([caid.multipliers[name] for name in dual.names]))
            policy_PS = {"safety": weights_PS * safety_PS, "tone": weights_PS * tone_PS}
            distances.append(max(abs(caid.multipliers[name] - solution.multipliers[name]) for name in thresholds))
            caid.observe(policy_PS, {"safety": safety_PS, "tone": tone_PS})
        assert distances[4] < 0.1 * distances[0]
        assert distances[-1] < 1e-6

    def test_correlated_constraints_do_not_overshoot(self):
        """Steps are divided by whole rows of the curvature: with three times the same score by a third each."""
        generator = torch.Generator().manual_seed(0)
        rewards_PS, score_PS = torch.randn(2, 40, 16, dtype=torch.float64, generator=generator)
        names = ["a", "b", "c"]
        dual = Dual(rewards_PS, dict.fromkeys(names, score_PS), dict.fromkeys(names, 0.3), beta=1.0)
        alone = Dual(rewards_PS, {"a": score_PS}, {"a": 0.3}, beta=1.0).solve()
        solution = dual.solve()
        assert sum(solution.multipliers.values()) == pytest.approx(alone.multipliers["a"], abs=1e-6)
        for name in names:
            assert solution.curvature[name] == pytest.approx(3 * alone.curvature["a"], rel=1e-6)

    @pytest.mark.parametrize("num_before", [0, 1, 2, 3])
    def test_a_restart_changes_nothing(self, started, num_before):
        steps = [scores_with(slack, 0.05) for slack in (-1.0, 0.5, -0.2, 0.05)]
        whole, first = started(iterations=6), started(iterations=6)
        for step in steps:
            whole.observe(*step)
        for step in steps[:num_before]:
            first.observe(*step)
        second = Caid(CaidConfig(thresholds={"safety": 0.3}, beta=1.0, iterations=6))
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        for step in steps[num_before:]:
            second.observe(*step)
        assert second.state_dict() == whole.state_dict()
        assert second.converged

    def test_a_state_before_the_start(self):
        config = CaidConfig(thresholds={"safety": 0.3})
        caid = Caid(config)
        caid.load_state_dict(json.loads(json.dumps(Caid(config).state_dict())))
        assert caid.multipliers is None
        with pytest.raises(RuntimeError, match="after start"):
            caid.observe(*scores_with(0.0, 0.1))

    def test_mistakes_are_named(self, started, one_shot):
        with pytest.raises(CtwaError, match="\\['safety'\\], the thresholds of \\['tone'\\]"):
            Caid(CaidConfig(thresholds={"tone": 0.3})).start(one_shot)
        with pytest.raises(CtwaError, match="no scores of \\['safety'\\]"):
            started().observe({}, {"safety": torch.zeros(2, 2)})
        with pytest.raises(CtwaError, match="thresholds"):
            Caid(CaidConfig(thresholds={"safety": 0.4}, beta=1.0)).load_state_dict(started().state_dict())
        with pytest.raises(CtwaError, match="version 2"):
            started().load_state_dict(started().state_dict() | {"version": 2})
        constant = Dual(torch.zeros(3, 4), {"s": torch.ones(3, 4)}, {"s": 0.0}, beta=1.0).solve()
        with pytest.raises(CtwaError, match="write eta"):
            Caid(CaidConfig(thresholds={"s": 0.0})).start(constant)
        Caid(CaidConfig(thresholds={"s": 0.0}, eta=0.1)).start(constant)

    @pytest.mark.parametrize(
        "options", [{"thresholds": {}}, {"thresholds": {"s": math.inf}}, {"beta": 0}, {"damping": 2}, {"iteration": 3}]
    )
    def test_mistakes_in_the_config_are_named(self, options):
        with pytest.raises(ValidationError, match=next(iter(options))):
            CaidConfig(**{"thresholds": {"s": 0.1}, **options})


class TestLabels:
    def test_a_multiplier_of_0_is_the_reward_alone(self):
        """And then MoCAID is DPO on labels of the reward."""
        reward = torch.linspace(-1, 1, 10, dtype=torch.float64)
        assert composite_reward(reward, {}, {"safety": 0.0}) is reward

    def test_labels_of_a_swapped_pair_sum_to_1(self):
        first, second = torch.randn(2, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        total = label_probability(first, second) + label_probability(second, first)
        torch.testing.assert_close(total, torch.ones_like(total))

    def test_scores_have_to_be_there(self):
        with pytest.raises(CtwaError, match="no scores of 'safety'"):
            composite_reward(torch.zeros(2), {}, {"safety": 0.5})

    def test_pairs_are_different_repeat_from_the_seed_and_are_in_any_order(self):
        pairs = draw_pairs(200, 5, 4, seed=3)
        assert pairs.shape == (200, 4, 2)
        assert (pairs[..., 0] != pairs[..., 1]).all()
        for prompt in pairs.sort(2).values:
            assert len({tuple(pair) for pair in prompt.tolist()}) == 4
        assert torch.equal(draw_pairs(200, 5, 4, seed=3), pairs)
        assert not torch.equal(draw_pairs(200, 5, 4, seed=4), pairs)
        assert float((pairs[..., 0] < pairs[..., 1]).double().mean()) == pytest.approx(0.5, abs=0.07)
        counts = torch.bincount(pairs.flatten(), minlength=5)
        assert int(counts.amin()) > 250
        everything = draw_pairs(1, 4, 6, seed=0)[0].sort(1).values
        assert {tuple(pair) for pair in everything.tolist()} == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}

    @pytest.mark.parametrize(("num_samples", "num_pairs"), [(1, 1), (4, 7), (4, 0)])
    def test_more_pairs_than_there_are_cannot_be_drawn(self, num_samples, num_pairs):
        with pytest.raises(CtwaError, match="cannot be drawn"):
            draw_pairs(2, num_samples, num_pairs, seed=0)
