import pytest
import torch

import ctwa
from ctwa.scalarizers.pama import Pama, PamaConfig, nearest_to_zero
from tests.scalarizers.rollouts import Scores, rollout_of, update_of

VARIANTS = ["completion", "objective", "published-code"]


def pama(variant: str = "completion", weights: dict | None = None) -> Pama:
    return Pama(PamaConfig(variant=variant), weights or {"a": 1.0, "b": 1.0})


def columns_of(golden: dict) -> dict:
    return dict(zip(("a", "b"), golden["A_raw"], strict=True))


class TestGoldens:
    def test_projection_of_zero(self, goldens):
        golden = goldens["S8_pama_interval"]
        for values, expected in zip(golden["cases"], golden["s"], strict=True):
            assert float(nearest_to_zero(torch.tensor(values, dtype=torch.float64))) == pytest.approx(
                expected, abs=1e-9
            )

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_variants(self, goldens, variant):
        golden = goldens["S8_pama_modes"]
        rows = {
            "completion": golden["per_completion_s"],
            "objective": golden["A_noon"][golden["argmin_objective"]],
            "published-code": [golden["batch_scalar_s"]] * 4,
        }[variant]
        scalarizer = pama(variant)
        rollout = rollout_of(columns_of(golden))
        advantages_NT = scalarizer.advantages(rollout, Scores())
        metrics = scalarizer.observe_update(update_of(rollout, advantages_NT))

        assert advantages_NT[:, 0].tolist() == pytest.approx(rows, abs=1e-9)
        means = [metrics[f"pama/noon/{name}"] for name in ("a", "b")]
        assert means == pytest.approx(golden["objective_means"], abs=1e-9)
        assert metrics["pama/zero_rows"] == {"completion": 0.75, "objective": 0.5, "published-code": 0.0}[variant]


def test_published_code_prefers_no_completion(make_batch):
    """One number for every token of the batch: the update cannot go with any reward, whatever the rewards are."""
    batch = make_batch(["a", "b"])
    advantages_NT = pama("published-code").advantages(batch.rollout, batch.estimate())

    assert len(advantages_NT.unique()) == 1
    assert float(advantages_NT[0, 0]) > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_advantage_is_negative(make_batch, variant):
    batch = make_batch(["a", "b", "c"])
    scalarizer = pama(variant, dict.fromkeys("abc", 1.0))

    assert (scalarizer.advantages(batch.rollout, batch.estimate()) >= 0).all()


def test_completion_rewards_only_what_every_objective_likes():
    columns = {"a": [1.0, 1.0, -1.0, -1.0], "b": [0.5, -1.0, 1.0, -1.0]}

    assert pama().advantages(rollout_of(columns), Scores())[:, 0].tolist() == [0.5, 0, 0, 0]


def test_opposite_objectives_leave_nothing():
    columns = {"a": [1.0, -1.0], "b": [-1.0, 1.0]}
    scalarizer = pama()
    rollout = rollout_of(columns)
    advantages_NT = scalarizer.advantages(rollout, Scores())

    assert not advantages_NT.any()
    assert scalarizer.observe_update(update_of(rollout, advantages_NT))["pama/zero_rows"] == 1


def test_the_mean_is_over_response_tokens():
    """Padding does not dilute it, and a long completion has more tokens."""
    scalarizer = pama("published-code", {"a": 1.0})

    got = scalarizer.advantages(rollout_of({"a": [4.0, 1.0]}, lengths=[1, 2]), Scores())

    assert got.unique().tolist() == [2.0]


def test_an_objective_of_weight_zero_takes_no_part():
    columns = {"a": [1.0, 2.0], "b": [-1.0, -1.0]}

    assert pama(weights={"a": 1.0, "b": 0.0}).advantages(rollout_of(columns), Scores())[:, 0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("variant", "away", "expected"),
    [
        ("completion", ctwa.NOT_APPLICABLE, [2, 3, 0, 0]),
        ("objective", ctwa.NOT_APPLICABLE, [0, 3, 1, 0]),
        ("published-code", ctwa.NOT_APPLICABLE, [2, 2, 2, 0]),
        # What lacks a reward is left out.
        ("completion", None, [0, 3, 0, 0]),
        ("objective", None, [0, 3, 1, 0]),
        ("published-code", None, [0, 2, 2, 0]),
    ],
)
def test_a_completion_is_judged_by_the_objectives_that_apply_to_it(variant, away, expected):
    columns = {"a": [2.0, 5.0, -1.0, away], "b": [away, 3.0, 1.0, away], "c": [away] * 4}
    scalarizer = pama(variant, dict.fromkeys("abc", 1.0))
    rollout = rollout_of(columns)
    advantages_NT = scalarizer.advantages(rollout, Scores())

    # The positive parts of a have the mean 7 / 3, those of b 2; c has nothing to say.
    assert advantages_NT[:, 0].tolist() == pytest.approx(expected)
    assert scalarizer.observe_update(update_of(rollout, advantages_NT)).keys() == {
        "pama/noon/a",
        "pama/noon/b",
        "pama/zero_rows",
    }
