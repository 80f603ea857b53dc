import pytest
import torch
from pydantic import ValidationError

import ctwa
from ctwa.errors import CtwaError
from ctwa.scalarizers.tchebycheff import Tchebycheff, TchebycheffConfig
from tests.scalarizers.rollouts import Scores, rollout_of, standardised, update_of

WEIGHTS = {"accuracy": 0.333, "clarity": 0.333, "conciseness": 0.334}


def tchebycheff(weights: dict = WEIGHTS, **options) -> Tchebycheff:
    return Tchebycheff(TchebycheffConfig(**options), weights)


def scores(scalarizer: Tchebycheff, columns: dict, **shape) -> list[float]:
    return scalarizer.advantages(rollout_of(columns, **shape), Scores())[:, 0].tolist()


def columns_of(rewards: list[list[float]], names: list[str]) -> dict:
    return {name: [row[m] for row in rewards] for m, name in enumerate(names)}


class TestGoldens:
    def test_a_small_difference_of_weights_becomes_the_whole_signal(self, goldens):
        golden = goldens["S4_tcheb_tiebreak"]
        weights = dict(zip(WEIGHTS, golden["w"], strict=True))
        columns = columns_of(golden["R"], list(WEIGHTS))
        fixed = {"reference": "fixed", "reference_point": dict(zip(WEIGHTS, golden["z"], strict=True))}

        assert scores(tchebycheff(weights, **fixed), columns) == pytest.approx(golden["s"], abs=1e-9)
        advantages = tchebycheff(weights, **fixed).advantages(rollout_of(columns), Scores(transform=standardised))
        assert advantages[:, 0].tolist() == pytest.approx(golden["grpo_adv"], abs=1e-9)
        equal = tchebycheff(dict.fromkeys(WEIGHTS, 1 / 3), **fixed)
        assert scores(equal, columns) == pytest.approx(golden["s_equal_w"], abs=1e-9)

    def test_the_score_is_of_the_completion_not_of_its_tokens(self, goldens):
        """A cost on every token would rank a short wrong answer above a long correct one."""
        golden = goldens["S4_tcheb_token_pitfall"]
        columns = {"accuracy": [0.0, 1.0], "clarity": [1.0, 1.0], "conciseness": [0.0, 1.0]}
        got = scores(tchebycheff(), columns, lengths=[1, 2])

        assert got == pytest.approx([golden["short_wrong"]["completion_level"], 0.0], abs=1e-9)
        assert golden["short_wrong"]["masked_return"] > golden["long_right"]["masked_return"]  # the pitfall

    def test_running_reference(self):
        scalarizer = tchebycheff({"a": 0.7, "b": 0.3}, reference_point={"a": 0.6, "b": 2.5})

        got = scores(scalarizer, {"a": [0.2, 0.8, 0.5], "b": [3.0, 1.0, 2.0]})

        assert got == pytest.approx([-0.42, -0.6, -0.3], abs=1e-9)
        assert scalarizer.state_dict()["reference_point"] == {"a": 0.8, "b": 3.0}


class TestReference:
    def test_running_never_falls_and_takes_in_its_batch_first(self):
        scalarizer = tchebycheff({"a": 1.0})

        assert scores(scalarizer, {"a": [0.2, 0.5]}) == [-0.3, 0.0]
        assert scores(scalarizer, {"a": [0.25, 0.125]}) == [-0.25, -0.375]
        assert scalarizer.state_dict()["reference_point"] == {"a": 0.5}

    def test_running_may_start_below_zero(self):
        """It starts at what was seen, not at 0."""
        assert scores(tchebycheff({"a": 1.0}), {"a": [-3.0, -2.0]}) == [-1.0, 0.0]

    def test_batch_forgets(self):
        scalarizer = tchebycheff({"a": 1.0}, reference="batch")

        assert scores(scalarizer, {"a": [0.25, 0.5]}) == [-0.25, 0.0]
        assert scores(scalarizer, {"a": [0.25, 0.125]}) == [0.0, -0.125]
        assert scalarizer.state_dict()["reference_point"] == {}

    def test_fixed_stays_even_below_the_rewards(self):
        scalarizer = tchebycheff({"a": 1.0, "b": 1.0}, reference="fixed", reference_point={"a": 0.5, "b": 0.5})

        assert scores(scalarizer, {"a": [1.0, 0.0], "b": [0.75, 1.0]}) == [0.25, -0.5]

    def test_a_resumed_run_has_the_reference_that_is_written(self):
        before = tchebycheff({"a": 1.0, "b": 1.0})
        scores(before, {"a": [0.5, 0.25], "b": [0.0, 0.5]})
        for options, expected in (
            ({"reference": "fixed", "reference_point": {"a": 1.0, "b": 1.0}}, [-1.0, -0.75]),
            ({"reference_point": {"a": 0.25, "b": 2.0}}, [-2.0, -1.5]),  # running: the best of both
            ({"reference": "batch"}, [-0.5, 0.0]),
        ):
            resumed = tchebycheff({"a": 1.0, "b": 1.0}, **options)
            resumed.load_state_dict(before.state_dict())
            assert scores(resumed, {"a": [0.0, 0.25], "b": [0.0, 0.5]}) == expected


class TestUnscored:
    def test_what_lacks_a_reward_has_no_score_and_an_unscored_entry_does_not_move_the_reference(self):
        scalarizer = tchebycheff({"a": 1.0, "b": 1.0})
        rollout = rollout_of({"a": [None, -1.0, -3.0], "b": [-4.0, -3.0, 0.0]})
        advantages_NT = scalarizer.advantages(rollout, Scores())

        assert advantages_NT[:, 0].tolist() == [0.0, -3.0, -2.0]
        assert scalarizer.state_dict()["reference_point"] == {"a": -1.0, "b": 0.0}
        metrics = scalarizer.observe_update(update_of(rollout, advantages_NT))
        assert (metrics["tchebycheff/binding/a"], metrics["tchebycheff/binding/b"]) == (0.5, 0.5)

    def test_an_objective_without_a_score_in_the_batch_takes_no_part_in_it(self):
        scalarizer = tchebycheff({"a": 1.0, "b": 1.0})
        scores(scalarizer, {"a": [5.0, 1.0], "b": [0.5, 0.0]})

        assert scores(scalarizer, {"a": [None, None], "b": [0.5, 0.25]}) == [0.0, -0.25]
        assert scalarizer.state_dict()["reference_point"] == {"a": 5.0, "b": 0.5}

    @pytest.mark.parametrize("reference", ["running", "batch"])
    def test_nothing_scored_at_all_gives_equal_scores(self, reference):
        scalarizer = tchebycheff({"a": 1.0, "b": 1.0}, reference=reference)
        rollout = rollout_of({"a": [None, None], "b": [None, None]})

        advantages_NT = scalarizer.advantages(rollout, Scores())

        assert advantages_NT.tolist() == [[0.0, 0.0], [0.0, 0.0]]
        assert scalarizer.state_dict()["reference_point"] == {}
        assert scalarizer.observe_update(update_of(rollout, advantages_NT)) == {}


def test_an_objective_of_weight_zero_never_decides():
    scalarizer = tchebycheff({"a": 1.0, "b": 0.0}, reference="fixed", reference_point={"a": 0.0})

    assert scores(scalarizer, {"a": [2.0, 1.0], "b": [0.0, 9.0]}) == [2.0, 1.0]


def test_metrics_name_the_reference_and_what_decides():
    scalarizer = tchebycheff({"a": 1.0, "b": 1.0})
    rollout = rollout_of({"a": [1.0, 0.0, 0.5, 1.0], "b": [0.0, 1.0, 0.5, 1.0]})
    advantages_NT = scalarizer.advantages(rollout, Scores())

    assert scalarizer.observe_update(update_of(rollout, advantages_NT)) == {
        "tchebycheff/reference/a": 1.0,
        "tchebycheff/reference/b": 1.0,
        "tchebycheff/binding/a": 0.75,
        "tchebycheff/binding/b": 0.75,
    }


def test_the_reference_survives_a_restart(make_batch):
    names = ["a", "b"]
    scalarizer, restarted = tchebycheff(dict.fromkeys(names, 1.0)), tchebycheff(dict.fromkeys(names, 1.0))
    make_batch(names, seed=1).step(scalarizer)
    restarted.load_state_dict(scalarizer.state_dict())
    batch = make_batch(names, seed=2)

    one, other = (each.advantages(batch.rollout, batch.estimate()) for each in (scalarizer, restarted))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "fixed"}, "add reference_point"),
        ({"reference": "batch", "reference_point": {"a": 1.0}}, "makes its own reference_point"),
        ({"reference": "best"}, "running"),
        ({"reference_point": {"a": float("inf")}}, "finite"),
    ],
)
def test_mistakes_in_the_config(options, message):
    with pytest.raises(ValidationError, match=message):
        TchebycheffConfig(**options)


def test_mistakes_in_the_names():
    with pytest.raises(CtwaError, match=r"reference_point names \['style'\], which are not objectives"):
        tchebycheff(reference_point={"style": 1.0})
    with pytest.raises(CtwaError, match=r"leaves out \['conciseness'\]"):
        tchebycheff(reference="fixed", reference_point={"accuracy": 1.0, "clarity": 1.0})


def test_a_completion_is_judged_by_the_objectives_that_apply_to_it():
    away = ctwa.NOT_APPLICABLE
    fixed = {"reference": "fixed", "reference_point": {"a": 1.0, "b": 1.0}}
    scalarizer = tchebycheff({"a": 0.5, "b": 0.5}, **fixed)
    rollout = rollout_of({"a": [0.0, 0.8, away, away], "b": [away, 0.2, 0.6, away]})
    advantages_NT = scalarizer.advantages(rollout, Scores())

    assert advantages_NT[:, 0].tolist() == pytest.approx([-0.5, -0.4, -0.2, 0])
    metrics = scalarizer.observe_update(update_of(rollout, advantages_NT))
    assert (metrics["tchebycheff/binding/a"], metrics["tchebycheff/binding/b"]) == (0.5, 1)  # of two completions each
