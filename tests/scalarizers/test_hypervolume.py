import itertools
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ctwa.errors import CtwaError
from ctwa.scalarizers import Scalarizer, build_scalarizer
from ctwa.scalarizers.hypervolume import HypervolumeConfig, hypervolume, multiplier
from ctwa.scalarizers.linear import Linear, LinearConfig
from tests.scalarizers.rollouts import Scores, rollout_of, update_of

WEIGHTS = {"a": 0.7, "b": 0.3}


def guided(*, weights: dict = WEIGHTS, scale_invariant: bool = False, **options) -> Scalarizer:
    return build_scalarizer(HypervolumeConfig(**options), weights, scale_invariant=scale_invariant)


def observe(scalarizer: Scalarizer, a: list = (0.0, 1.0), b: list = (0.0, 1.0)) -> dict[str, float]:
    rollout = rollout_of({"a": a, "b": b})
    return scalarizer.observe_update(update_of(rollout, scalarizer.advantages(rollout, Scores())))


def validate(scalarizer: Scalarizer, points: list) -> None:
    for step, (a, b) in enumerate(points):
        scalarizer.observe_validation(step, {"a": a, "b": b})


class TestVolume:
    def test_goldens(self, goldens):
        golden = goldens["S7_hv2d"]
        points, new = golden["pts"], golden["new"]

        assert hypervolume(points, golden["ref"]) == pytest.approx(golden["hv"], abs=1e-9)
        assert hypervolume([*points, new], golden["ref"]) == pytest.approx(golden["hv_new"], abs=1e-9)
        assert multiplier(golden["dHV"]) == pytest.approx(golden["meta"], abs=1e-9)
        assert multiplier(0.0) == golden["dominated_new_meta"]
        three = [[0.5, 0.2, 0.9], [0.4, 0.6, 0.5], [0.7, 0.1, 0.3]]
        assert hypervolume(three, [0, 0, 0]) == pytest.approx(0.176, abs=1e-9)

    def test_one_objective(self):
        assert hypervolume([[0.5], [0.75], [-1.0]], [0.25]) == 0.5

    def test_no_points(self):
        assert hypervolume([], [0.0, 0.0]) == 0

    def test_a_point_not_above_the_reference_adds_nothing(self):
        """It must neither add nor take away: in the published code one such point ends the run."""
        assert hypervolume([[1.0, 1.0], [5.0, -1.0], [-2.0, -2.0], [9.0, 0.0]], [0.0, 0.0]) == 1

    @settings(max_examples=50)
    @given(st.data())
    def test_against_counting_cells(self, data):
        """On a grid of integers the volume is a number of unit cells."""
        num_objectives = data.draw(st.integers(1, 4))
        point = st.lists(st.integers(0, 3), min_size=num_objectives, max_size=num_objectives)
        points = data.draw(st.lists(point, min_size=1, max_size=6))
        cells = sum(
            any(all(cell[m] < each[m] for m in range(num_objectives)) for each in points)
            for cell in itertools.product(range(3), repeat=num_objectives)
        )

        assert hypervolume([[float(x) for x in each] for each in points], [0.0] * num_objectives) == cells


class TestFront:
    def test_the_first_scores_are_the_reference_point(self):
        scalarizer = guided()
        validate(scalarizer, [(0.25, 0.5)])
        metrics = observe(scalarizer)

        assert metrics["hypervolume/reference/a"] == 0.25
        assert metrics["hypervolume/reference/b"] == 0.5
        assert metrics["hypervolume/volume"] == metrics["hypervolume/num_points"] == 0
        assert metrics["hypervolume/multiplier"] == 1

    def test_gains(self, goldens):
        golden = goldens["S7_hv2d"]
        scalarizer = guided()
        validate(scalarizer, [golden["ref"], *golden["pts"], golden["new"]])
        metrics = observe(scalarizer)

        assert metrics["hypervolume/volume"] == pytest.approx(golden["hv_new"], abs=1e-9)
        assert metrics["hypervolume/gain"] == pytest.approx(golden["dHV"], abs=1e-9)
        assert metrics["hypervolume/multiplier"] == pytest.approx(golden["meta"], abs=1e-9)

    def test_dominated_points_are_dropped_and_change_no_volume(self):
        scalarizer = guided()
        validate(scalarizer, [(0, 0), (1, 3), (2, 2), (3, 1), (2.5, 2.5), (1, 1)])
        metrics = observe(scalarizer)

        assert metrics["hypervolume/num_points"] == 3  # (2, 2) is dominated by (2.5, 2.5), and (1, 1) never came in
        assert metrics["hypervolume/volume"] == 7.25
        assert metrics["hypervolume/multiplier"] == 0.5

    def test_worse_than_the_reference_is_no_gain(self):
        scalarizer = guided()
        validate(scalarizer, [(0.5, 0.5), (0.25, 0.875)])

        assert observe(scalarizer)["hypervolume/gain"] == 0

    def test_units_matter_and_scales_undo_them(self, goldens):
        golden = goldens["S7_hv_scale"]
        for scales, gain, meta in (({}, "dHV_raw", "meta_raw"), ({"b": 1000.0}, "dHV_norm", "meta_norm")):
            scalarizer = guided(scales=scales)
            validate(scalarizer, [(0.30, -500), (0.31, -480)])
            metrics = observe(scalarizer)
            assert metrics["hypervolume/gain"] == pytest.approx(golden[gain], abs=1e-9)
            assert metrics["hypervolume/multiplier"] == pytest.approx(golden[meta], abs=1e-9)
            assert metrics["hypervolume/reference/b"] == -500

    def test_the_front_is_bounded_by_dropping_what_adds_least(self):
        scalarizer = guided(num_points=2)
        validate(scalarizer, [(0, 0), (1, 4), (2, 2), (4, 1)])

        assert [tuple(point.values()) for point in scalarizer.state_dict()["points"]] == [(1, 4), (4, 1)]


class TestWhereThePointsComeFrom:
    def test_without_validation_the_batch_means(self):
        scalarizer = guided()
        first = observe(scalarizer, [0.0, 1.0], [0.5, 0.5])
        second = observe(scalarizer, [1.0, 1.0], [1.0, 1.0])

        assert first["hypervolume/multiplier"] == 1
        assert second["hypervolume/gain"] == 0.25
        assert second["hypervolume/multiplier"] == multiplier(0.25)

    def test_a_validation_after_the_first_step_does_not_mix_with_batches(self):
        scalarizer = guided()
        observe(scalarizer)
        scalarizer.observe_validation(10, {"a": 100.0, "b": 100.0})

        assert observe(scalarizer)["hypervolume/gain"] == 0

    def test_a_validation_without_a_score_is_held(self):
        scalarizer = guided()
        validate(scalarizer, [(0.0, 0.0), (0.5, None)])

        assert observe(scalarizer)["hypervolume/num_held"] == 1

    def test_batches_do_not_mix_with_validations(self):
        scalarizer = guided()
        validate(scalarizer, [(0.0, 0.0), (0.5, 0.5)])

        assert observe(scalarizer, [100.0, 100.0], [100.0, 100.0])["hypervolume/volume"] == 0.25

    def test_asked_for_validation_it_waits_for_one(self):
        scalarizer = guided(scores="validation")

        assert "hypervolume/volume" not in observe(scalarizer)

    def test_asked_for_the_batch_it_passes_over_validations(self):
        scalarizer = guided(scores="batch")
        validate(scalarizer, [(5.0, 5.0)])

        assert observe(scalarizer, [0.0, 1.0])["hypervolume/reference/a"] == 0.5

    def test_the_multiplier_holds_between_validations(self):
        scalarizer = guided()
        validate(scalarizer, [(0.0, 0.0), (0.5, 0.5)])

        assert [observe(scalarizer)["hypervolume/multiplier"] for _ in range(3)] == [multiplier(0.25)] * 3

    def test_a_repeated_validation_of_a_resumed_run_is_passed_over(self):
        """Otherwise it would be a point without a gain, and halve the next step."""
        scalarizer, resumed = guided(), guided()
        validate(scalarizer, [(0.0, 0.0), (0.5, 0.5)])
        resumed.load_state_dict(scalarizer.state_dict())
        resumed.observe_validation(1, {"a": 0.5, "b": 0.5})

        assert resumed.state_dict() == scalarizer.state_dict()

    def test_scores_that_lack_an_objective_are_held(self):
        scalarizer = guided()
        observe(scalarizer, [0.0, 0.0], [0.0, 0.0])
        observe(scalarizer, [0.5, 0.5], [0.5, 0.5])
        metrics = observe(scalarizer, [None, None], [9.0, 9.0])

        assert metrics["hypervolume/multiplier"] == multiplier(0.25)
        assert metrics["hypervolume/num_held"] == 1

    def test_an_objective_of_weight_zero_is_no_dimension(self):
        scalarizer = guided(weights={"a": 1.0, "b": 0.0})
        observe(scalarizer, [0.0, 0.0], [0.0, 0.0])
        metrics = observe(scalarizer, [0.5, 0.5], [None, None])

        assert metrics["hypervolume/gain"] == 0.5
        assert "hypervolume/reference/b" not in metrics


class TestWhatIsMultiplied:
    """Two validations make the multiplier multiplier(0.25), about 0.867."""

    def advantages(self, batch, *, scale_invariant: bool, **options) -> torch.Tensor:
        scalarizer = guided(scale_invariant=scale_invariant, **options)
        validate(scalarizer, [(0.0, 0.0), (0.5, 0.5)])
        return scalarizer.advantages(batch.rollout, batch.estimate(scale_invariant=scale_invariant))

    def linear(self, batch, *, scale_invariant: bool) -> torch.Tensor:
        scalarizer = Linear(LinearConfig(), WEIGHTS)
        return scalarizer.advantages(batch.rollout, batch.estimate(scale_invariant=scale_invariant))

    def test_standardised_advantages_cancel_a_common_factor(self, make_batch):
        """The no-op itself, for the least and the greatest multiplier: advantages of the multiplied rewards."""
        batch = make_batch(["a", "b"])
        estimate = batch.estimate(scale_invariant=True)
        scores_N = batch.rollout.rewards.rewards_NM @ torch.tensor([0.7, 0.3]).double()
        for factor in (0.5, 1.9):
            torch.testing.assert_close(estimate(factor * scores_N), estimate(scores_N), rtol=0, atol=1e-4)

    def test_off_by_default_where_it_is_cancelled(self, make_batch, caplog):
        batch = make_batch(["a", "b"])
        with caplog.at_level(logging.WARNING):
            got = self.advantages(batch, scale_invariant=True)

        assert torch.equal(got, self.linear(batch, scale_invariant=True))
        assert "cancels the multiplier; it is traced and not applied" in caplog.text

    def test_on_rewards_by_default_elsewhere(self, make_batch, caplog):
        batch = make_batch(["a", "b"])
        expected = multiplier(0.25) * self.linear(batch, scale_invariant=False)
        with caplog.at_level(logging.WARNING):
            got = self.advantages(batch, scale_invariant=False)

        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
        assert caplog.text == ""

    @pytest.mark.parametrize("scale_invariant", [True, False])
    def test_loss_multiplies_the_advantages(self, make_batch, scale_invariant):
        batch = make_batch(["a", "b"])
        got = self.advantages(batch, scale_invariant=scale_invariant, apply_to="loss")

        assert torch.equal(got, multiplier(0.25) * self.linear(batch, scale_invariant=scale_invariant))

    @pytest.mark.parametrize("scale_invariant", [True, False])
    def test_off_is_linear_to_the_last_bit_and_still_traced(self, make_batch, scale_invariant):
        batch = make_batch(["a", "b"])
        got = self.advantages(batch, scale_invariant=scale_invariant, apply_to="off")
        scalarizer = guided(scale_invariant=scale_invariant, apply_to="off")
        validate(scalarizer, [(0.0, 0.0), (0.5, 0.5)])
        metrics = observe(scalarizer)

        assert torch.equal(got, self.linear(batch, scale_invariant=scale_invariant))
        assert (metrics["hypervolume/gain"], metrics["hypervolume/applied"]) == (0.25, 0.0)

    def test_rewards_are_refused_where_it_is_cancelled(self):
        with pytest.raises(CtwaError, match="which cancels a factor common to all of them; write apply_to: loss"):
            guided(scale_invariant=True, apply_to="rewards")

    def test_weights_are_the_objectives_own(self):
        scalarizer = guided()
        validate(scalarizer, [(0.0, 0.0), (0.5, 0.5)])

        assert scalarizer.weights == WEIGHTS


def test_the_front_survives_a_restart():
    scalarizer, restarted = guided(), guided()
    validate(scalarizer, [(0.1, 0.2), (0.5, 0.3), (0.3, 0.7)])
    restarted.load_state_dict(scalarizer.state_dict())
    for each in (scalarizer, restarted):
        each.observe_validation(7, {"a": 0.4, "b": 0.45})

    assert observe(restarted) == observe(scalarizer)
    assert restarted.state_dict() == scalarizer.state_dict()


def test_a_front_in_other_units_is_refused():
    with pytest.raises(CtwaError, match=r"scales .* where this run has"):
        guided(scales={"a": 10.0}).load_state_dict(guided().state_dict())


@pytest.mark.parametrize(("written", "read"), [("off", "off"), (False, "off"), ("auto", "auto")])
def test_off_as_yaml_reads_it(written, read):
    assert HypervolumeConfig(apply_to=written).apply_to == read


def test_mistakes_are_named():
    with pytest.raises(CtwaError, match=r"scales names \['style'\], which are not objectives"):
        guided(scales={"style": 1.0})
    for options in ({"scales": {"a": 0.0}}, {"num_points": 0}, {"apply_to": True}, {"scores": "test"}):
        with pytest.raises(ValidationError):
            HypervolumeConfig(**options)
