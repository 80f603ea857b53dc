import math
from dataclasses import replace

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.nn.functional import logsigmoid

from ctwa.errors import CtwaError
from ctwa.preference import (
    LOSSES,
    CpoLoss,
    DpoLoss,
    IpoLoss,
    PairLogProbs,
    PreferenceLossConfig,
    SimpoLoss,
    objective_losses,
    objective_means,
    pair_losses,
    preference_metrics,
    soft_losses,
    sum_log_probs,
)

ALL = [
    DpoLoss(beta=0.3),
    IpoLoss(beta=0.3),
    IpoLoss(beta=0.3, form="appendix-e"),
    CpoLoss(beta=0.3),
    CpoLoss(beta=0.3, likelihood="mean"),
    SimpoLoss(beta=1.5, gamma=0.7),
    DpoLoss(beta=0.3, label_smoothing=0.2),
    CpoLoss(beta=0.3, label_smoothing=0.2),
]
ALL += [loss() for loss in LOSSES.values() if not any(isinstance(each, loss) for each in ALL)]
every_loss = pytest.mark.parametrize("loss", ALL, ids=str)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def close(actual, expected, atol=1e-9):
    torch.testing.assert_close(actual, tensor(expected), rtol=0, atol=atol)


def swapped(log_probs: PairLogProbs) -> PairLogProbs:
    return PairLogProbs(
        log_probs.rejected_P,
        log_probs.chosen_P,
        log_probs.rejected_lengths_P,
        log_probs.chosen_lengths_P,
        log_probs.reference_rejected_P,
        log_probs.reference_chosen_P,
    )


class TestGoldens:
    """Numbers computed independently of this project."""

    @pytest.mark.parametrize("key", ["L9_losses_0", "L9_losses_1", "L9_losses_2"])
    def test_losses(self, goldens, log_probs, key):
        golden = goldens[key]
        pairs = log_probs(
            [golden["logp_w"]],
            [golden["logp_l"]],
            ([golden["ref_w"]], [golden["ref_l"]]),
            ([golden["len_w"]], [golden["len_l"]]),
        )
        beta, gamma = golden["beta"], golden["gamma"]
        losses = {
            "dpo": DpoLoss(beta=beta),
            "ipo": IpoLoss(beta=beta),
            "cpo": CpoLoss(beta=beta),
            "simpo": SimpoLoss(beta=beta, gamma=gamma),
        }
        for name, loss in losses.items():
            close(pair_losses(loss, pairs), [golden[name]])

    def test_two_objectives_that_disagree_about_one_pair(self, goldens, log_probs):
        golden = goldens["B1_dpo_lw"]
        pairs = log_probs([golden["delta"]], [0.0], ([0.0], [0.0]))
        pairs.chosen_P.requires_grad_()
        losses_PM = objective_losses(DpoLoss(beta=golden["beta"]), pairs, tensor([golden["signs"]]))
        weighted = losses_PM[0] @ tensor(golden["w"])
        weighted.backward()

        close(weighted.detach(), golden["loss"])
        close(pairs.chosen_P.grad, [golden["dloss_ddelta"]])

    def test_the_static_amopo_loss_is_simpo_without_a_margin(self, goldens, log_probs):
        golden = goldens["B3_amopo_static"]
        pairs = log_probs([golden["logp"][0]], [golden["logp"][1]], lengths=([golden["lens"][0]], [golden["lens"][1]]))
        losses_PM = objective_losses(SimpoLoss(beta=golden["beta"], gamma=0), pairs, tensor([golden["signs"]]))

        close(losses_PM[0] @ tensor(golden["alpha"]), golden["loss"])

    def test_a_soft_label(self, goldens, log_probs):
        golden = goldens["D8_mocaid_label"]
        pairs = log_probs([0.2], [0.0], ([0.0], [0.0]))

        close(soft_losses(DpoLoss(beta=1.0), pairs, tensor([golden["P_y0_pref"]])), [golden["soft_loss_h02"]])


class TestAgainstTheFormulasOfTrl:
    """The sigmoid losses of TRL's DPO and CPO trainers, written from their formulas."""

    @pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
    @pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
    def test_dpo(self, random_log_probs, label_smoothing, dtype, atol):
        pairs = random_log_probs(0, 200, dtype)
        logits = (pairs.chosen_P - pairs.rejected_P) - (pairs.reference_chosen_P - pairs.reference_rejected_P)
        expected = -logsigmoid(0.1 * logits) * (1 - label_smoothing) - logsigmoid(-0.1 * logits) * label_smoothing
        actual = pair_losses(DpoLoss(beta=0.1, label_smoothing=label_smoothing), pairs)

        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=atol)

    def test_simpo_asks_for_gamma_over_beta_in_log_probabilities(self, random_log_probs):
        pairs = random_log_probs(1, 50)
        means = pairs.chosen_P / pairs.chosen_lengths_P - pairs.rejected_P / pairs.rejected_lengths_P
        expected = -logsigmoid(2.0 * (means - 0.5 / 2.0)) * 0.9 - logsigmoid(-2.0 * (means - 0.5 / 2.0)) * 0.1
        smoothed = pair_losses(SimpoLoss(beta=2.0, gamma=0.5), pairs)

        torch.testing.assert_close(smoothed, -logsigmoid(2.0 * (means - 0.5 / 2.0)))
        # Smoothing differs: the opposite label asks for the same margin in the other direction.
        ours = pair_losses(SimpoLoss(beta=2.0, gamma=0.5, label_smoothing=0.1), pairs)
        assert not torch.allclose(ours, expected)
        torch.testing.assert_close(ours, 0.9 * -logsigmoid(2.0 * means - 0.5) + 0.1 * -logsigmoid(-2.0 * means - 0.5))

    def test_cpo(self, random_log_probs):
        pairs = random_log_probs(2, 50)
        logits = 0.1 * (pairs.chosen_P - pairs.rejected_P)
        expected = -logsigmoid(logits) * 0.8 - logsigmoid(-logits) * 0.2 - pairs.chosen_P

        torch.testing.assert_close(pair_losses(CpoLoss(label_smoothing=0.2), pairs), expected)


class TestTables:
    """The formulas in the papers' own notation."""

    def test_ipo_and_the_form_of_the_appendix(self, random_log_probs):
        pairs = random_log_probs(4, 50)
        delta = (pairs.chosen_P - pairs.reference_chosen_P) - (pairs.rejected_P - pairs.reference_rejected_P)

        torch.testing.assert_close(pair_losses(IpoLoss(beta=0.1), pairs), (delta - 5).square())
        torch.testing.assert_close(pair_losses(IpoLoss(beta=0.1, form="appendix-e"), pairs), (0.1 * delta - 1).square())

    def test_cpo_with_the_mean_likelihood(self, log_probs):
        pairs = log_probs([-10.0], [-12.0], lengths=([5], [8]))
        difference = pair_losses(CpoLoss(), pairs) - pair_losses(CpoLoss(likelihood="mean"), pairs)

        close(difference, [10 - 2])

    def test_the_fixed_point_of_a_conflict_is_the_logarithm_of_the_odds(self, log_probs):
        delta = math.log(0.8 / 0.2) / 0.2
        pairs = log_probs([delta], [0.0], ([0.0], [0.0]))
        pairs.chosen_P.requires_grad_()
        (objective_losses(DpoLoss(beta=0.2), pairs, tensor([[1, -1]]))[0] @ tensor([0.8, 0.2])).backward()

        close(pairs.chosen_P.grad, [0.0])


@every_loss
class TestEveryLoss:
    def test_the_opposite_label_is_the_swapped_pair(self, loss, random_log_probs):
        pairs = random_log_probs(5, 30)
        losses_PM = objective_losses(loss, pairs, tensor([[1, -1]] * 30))

        torch.testing.assert_close(losses_PM[:, 0], pair_losses(loss, pairs))
        torch.testing.assert_close(losses_PM[:, 1], pair_losses(loss, swapped(pairs)))

    def test_a_tie_is_a_constant_without_a_gradient(self, loss, random_log_probs):
        pairs = random_log_probs(6, 30)
        pairs.chosen_P.requires_grad_()
        losses_PM = objective_losses(loss, pairs, torch.zeros(30, 1, dtype=torch.int8))
        losses_PM.sum().backward()

        assert losses_PM.unique().numel() == 1
        torch.testing.assert_close(losses_PM[0, 0], loss.of_margin(tensor(0.0)))
        assert not pairs.chosen_P.grad.any()

    def test_the_gradient_is_the_finite_difference(self, loss, random_log_probs):
        pairs = random_log_probs(7, 3)

        def total(chosen_P, rejected_P):
            moved = replace(pairs, chosen_P=chosen_P, rejected_P=rejected_P)
            return objective_losses(loss, moved, tensor([[1, -1], [0, 1], [-1, -1]])).sum()

        torch.autograd.gradcheck(total, (pairs.chosen_P.requires_grad_(), pairs.rejected_P.requires_grad_()))

    def test_certain_soft_labels_are_labels(self, loss, random_log_probs):
        pairs = random_log_probs(8, 4)
        hard_P = objective_losses(loss, pairs, tensor([[1], [-1], [1], [-1]]))[:, 0]

        torch.testing.assert_close(soft_losses(loss, pairs, tensor([1, 0, 1, 0])), hard_P)

    def test_only_a_loss_with_a_reference_reads_it(self, loss, random_log_probs):
        pairs = replace(random_log_probs(9, 4), reference_chosen_P=None, reference_rejected_P=None)
        if loss.needs_reference:
            with pytest.raises(CtwaError, match="needs the reference's log-probabilities"):
                pair_losses(loss, pairs)
        else:
            assert pair_losses(loss, pairs).shape == (4,)

    def test_half_precision_labels_do_not_widen_the_losses(self, loss, random_log_probs):
        pairs = random_log_probs(10, 4, torch.float32)

        assert objective_losses(loss, pairs, torch.ones(4, 2, dtype=torch.int8)).dtype == torch.float32

    def test_margins_of_a_thousand_stay_finite(self, loss, log_probs):
        pairs = log_probs([-1e4, -1.0], [-1.0, -1e4], ([-1.0, -1.0], [-1.0, -1.0]), dtype=torch.float32)

        assert pair_losses(loss, pairs).isfinite().all()


class TestMeans:
    def test_a_mean_is_over_labelled_pairs_and_counts_ties(self):
        losses_PM = tensor([[1.0, 5.0], [2.0, 7.0], [6.0, math.nan]])
        labelled_PM = torch.tensor([[True, True], [True, True], [True, False]])

        close(objective_means(losses_PM, labelled_PM), [3.0, 6.0])

    def test_an_objective_without_labels_is_zero_without_a_gradient(self):
        losses_PM = tensor([[1.0], [2.0]]).requires_grad_()
        mean_M = objective_means(losses_PM, torch.zeros(2, 1, dtype=torch.bool))
        mean_M.sum().backward()

        assert mean_M.tolist() == [0.0]
        assert losses_PM.grad.tolist() == [[0.0], [0.0]]

    def test_micro_batches_add_up_to_the_batch(self, random_log_probs):
        pairs = random_log_probs(11, 10)
        losses_PM = objective_losses(DpoLoss(), pairs, tensor([[1, -1]] * 10))
        labelled_PM = torch.arange(20).view(10, 2) % 3 > 0
        parts = [
            objective_means(losses_PM[part], labelled_PM[part], labelled_PM.sum(0))
            for part in (slice(0, 3), slice(3, 10))
        ]

        torch.testing.assert_close(sum(parts), objective_means(losses_PM, labelled_PM))


class TestSums:
    def test_only_the_response_is_summed(self):
        log_probs_NT = torch.tensor([[-9.0, -1.0, -2.0, math.nan], [-9.0, -9.0, -4.0, -math.inf]])
        sums_N, lengths_N = sum_log_probs(log_probs_NT, torch.tensor([[0, 1, 1, 0], [0, 0, 1, 0]]))

        assert sums_N.tolist() == [-3.0, -4.0]
        assert lengths_N.tolist() == [2, 1]

    def test_padding_has_no_gradient(self):
        log_probs_NT = torch.tensor([[-1.0, math.nan]], requires_grad=True)
        sum_log_probs(log_probs_NT, torch.tensor([[True, False]]))[0].sum().backward()

        assert log_probs_NT.grad.tolist() == [[1.0, 0.0]]

    def test_half_precision_is_summed_in_single(self):
        log_probs_NT = torch.full((1, 4096), -1.0, dtype=torch.bfloat16)

        assert sum_log_probs(log_probs_NT, torch.ones(1, 4096))[0].item() == -4096


class TestMetrics:
    @pytest.fixture
    def metrics(self, log_probs):
        # Log-ratios 2, -1, 3 and 0 for the chosen responses, 0 for the rejected.
        pairs = log_probs([2.0, -1.0, 3.0, 0.0], [0.0] * 4, ([0.0] * 4, [0.0] * 4))
        labels_PM = torch.tensor([[1, -1, 0], [1, -1, 0], [-1, 0, 0], [1, 0, 0]], dtype=torch.int8)
        labelled_PM = torch.tensor([[True, True, False]] * 3 + [[True, False, False]])
        return preference_metrics(DpoLoss(beta=0.5), pairs, labels_PM, labelled_PM, ["help", "harm", "none"])

    def test_accuracy_counts_a_margin_of_zero_half(self, metrics):
        assert metrics["preference/help/accuracy"] == pytest.approx((1 + 0 + 0 + 0.5) / 4)

    def test_margins_are_the_preferred_response_less_the_other(self, metrics):
        assert metrics["preference/help/margin"] == pytest.approx(0.5 * (2 - 1 - 3 + 0) / 4)
        assert metrics["preference/harm/margin"] == pytest.approx(0.5 * (-2 + 1) / 2)
        assert metrics["preference/harm/reward_preferred"] == 0
        assert metrics["preference/harm/reward_dispreferred"] == pytest.approx(0.5 * (2 - 1) / 2)

    def test_ties_count_in_the_loss_alone(self, metrics):
        expected = (math.log1p(math.exp(1)) + math.log1p(math.exp(-0.5)) + math.log(2)) / 3

        assert metrics["preference/harm/loss"] == pytest.approx(expected)
        assert metrics["preference/harm/tie_frac"] == pytest.approx(1 / 3)
        assert metrics["preference/harm/accuracy"] == pytest.approx(1 / 2)

    def test_an_objective_without_labels_has_no_metrics(self, metrics):
        assert not [name for name in metrics if "none" in name]

    def test_ties_alone_have_a_loss_and_no_accuracy(self, log_probs):
        pairs = log_probs([1.0], [0.0], ([0.0], [0.0]))
        metrics = preference_metrics(DpoLoss(), pairs, torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), ["a"])

        assert metrics.keys() == {"preference/a/loss", "preference/a/tie_frac"}


class TestConfig:
    @pytest.mark.parametrize("name", sorted(LOSSES))
    def test_a_type_chooses_the_loss(self, name):
        assert TypeAdapter(PreferenceLossConfig).validate_python({"type": name}).type == name

    @pytest.mark.parametrize(
        "config",
        [
            {"type": "kto"},
            {"type": "dpo", "gamma": 1},
            {"type": "dpo", "beta": 0},
            {"type": "dpo", "beta": math.inf},
            {"type": "dpo", "label_smoothing": 0.5},
            {"type": "simpo", "gamma": -1},
            {"type": "cpo", "likelihood": "none"},
        ],
    )
    def test_what_it_does_not_know_is_refused(self, config):
        with pytest.raises(ValidationError):
            TypeAdapter(PreferenceLossConfig).validate_python(config)


INF = math.inf


class TestLogProbsThatAreNotFinite:
    """A response that the policy cannot write: -inf for one pair, and nothing of it in what does not look at it."""

    def gradient(self, loss, chosen, rejected, labels, objective, labelled=None):
        """Of one objective's mean loss in the policy's log-probabilities, and that loss."""
        both = tensor([chosen, rejected]).requires_grad_()
        ones_P = torch.ones(len(chosen))
        log_probs = PairLogProbs(*both, 3 * ones_P, 2 * ones_P, -0.5 * ones_P.double(), -0.7 * ones_P.double())
        labels_PM = torch.tensor(labels)
        labelled_PM = torch.ones_like(labels_PM).bool() if labelled is None else torch.tensor(labelled)
        mean = objective_means(objective_losses(loss, log_probs, labels_PM), labelled_PM)[objective]
        mean.backward()
        return mean.item(), both.grad

    @every_loss
    @pytest.mark.parametrize(
        ("chosen", "rejected"), [(-INF, -1.0), (-1.0, -INF), (-INF, -INF), (math.nan, -1.0), (INF, -1.0)]
    )
    @pytest.mark.parametrize("labelled", [True, False])
    @pytest.mark.parametrize("other", [1, -1])
    def test_ties_and_pairs_of_others_are_as_without_it(self, loss, chosen, rejected, labelled, other):
        labels = [[1, 0], [-1, other]]
        labelled = [[True, labelled], [True, True]]
        value, gradient = self.gradient(loss, [chosen, -1.0], [rejected, -2.0], labels, 1, labelled)
        expected, expected_gradient = self.gradient(loss, [-1.0, -1.0], [-1.0, -2.0], labels, 1, labelled)
        assert value == pytest.approx(expected, rel=1e-12)
        assert torch.equal(gradient, expected_gradient)

    @every_loss
    def test_the_objective_that_looks_at_it_shows_it(self, loss):
        value, _ = self.gradient(loss, [-INF, -1.0], [-INF, -2.0], [[1, 0], [-1, 1]], 0)
        assert math.isnan(value)

    @every_loss
    @pytest.mark.parametrize("probability", [0.0, 1.0])
    def test_a_label_that_is_never_drawn(self, loss, probability):
        both = tensor([[-1.0], [-INF]]).requires_grad_()
        log_probs = PairLogProbs(*both, torch.ones(1), torch.ones(1), tensor([-0.5]), tensor([-0.7]))
        soft_P = soft_losses(loss, log_probs, tensor([probability]))
        label = torch.tensor([[1 if probability else -1]])
        assert soft_P.tolist() == objective_losses(loss, log_probs, label)[:, 0].tolist()

    def test_they_are_counted(self, log_probs):
        pairs = log_probs([-1.0, -INF, -INF], [-2.0, -1.0, -INF], ([-1.0] * 3, [-1.0] * 3), ([1] * 3, [1] * 3))
        labels_PM = torch.tensor([[1, 1], [1, 0], [-1, 0]])
        found = preference_metrics(DpoLoss(), pairs, labels_PM, torch.ones_like(labels_PM).bool(), ["a", "b"])
        assert found["preference/a/num_not_finite"] == 2
        assert found["preference/a/accuracy"] == 0.5  # one right, one wrong; of the third nothing is known
        assert not math.isfinite(found["preference/a/loss"])
        assert "preference/b/num_not_finite" not in found
        assert all(math.isfinite(value) for key, value in found.items() if key.startswith("preference/b/"))


@every_loss
def test_the_reference_and_the_labels_are_constants(loss):
    sums_4P = tensor([[-10.0, -20.0], [-12.0, -19.0], [-11.0, -21.0], [-11.5, -18.0]]).requires_grad_()
    lengths_P = tensor([5.0, 8.0])
    chosen_P, rejected_P, *reference = (2 * sums_4P).unbind()
    probability_P = torch.sigmoid(sums_4P[0] - sums_4P[1])
    pairs = PairLogProbs(chosen_P, rejected_P, lengths_P, lengths_P, *reference)
    found = torch.autograd.grad(
        soft_losses(loss, pairs, probability_P).sum(), [sums_4P, probability_P], allow_unused=True
    )
    assert found[0][:2].any()
    assert not found[0][2:].any()
    assert found[1] is None
