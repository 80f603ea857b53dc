"""Which prompts say something about the objectives."""

from __future__ import annotations

import pytest
import torch

from ctwa.batch import RewardMatrix
from ctwa.objectives.signal import Keep, Signal

NA = "not_applicable"
GROUP_N = torch.tensor([5, 5, 5, 2, 2, 2, 9, 9, 9, 7, 7, 7])
# The prompts in the order of their numbers: 2, 5, 7, 9.
SIGNAL = Signal.of(
    RewardMatrix.from_columns(
        {
            "a": [1.0, 1.0, 0.0, 0.5, 0.5, 0.5, 1.0, None, 1.0, NA, NA, NA],
            "b": [0.3, 0.3, 0.3, 0.1, 0.2, 0.1, 2.0, 2.0, 2.0, 1.0, 0.0, 0.0],
            "c": [0.0, 1.0, 0.0, None, 4.0, None, None, None, None, NA, NA, NA],
            "seen only": [0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0],
        }
    ),
    GROUP_N,
)
WEIGHTS = {"a": 1.0, "b": 2.0, "c": 1.0, "seen only": 0.0}


def test_each_prompt_may_have_weights_of_its_own() -> None:
    weights = {
        "a": torch.tensor([0.0, 1.0, 1.0, 1.0]),
        "b": torch.tensor([1.0, 3.0, 0.0, 0.0]),
        "c": 0.0,
        "seen only": 0.0,
    }

    assert SIGNAL.counts_G("any", weights).tolist() == [True, True, False, False]
    assert SIGNAL.counts_G(0.5, weights).tolist() == [True, False, False, False]


def test_it_varies_where_two_scored_completions_differ() -> None:
    assert SIGNAL.varies_GM.int().tolist() == [[0, 1, 0, 1], [1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 1]]
    assert SIGNAL.scored_GM.int().tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 0, 1], [1, 1, 0, 1]]
    assert SIGNAL.prompt_N.tolist() == [1] * 3 + [0] * 3 + [3] * 3 + [2] * 3


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        # What has no weight is not asked, and neither is what no completion was scored by.
        ("any", [True, True, True, False]),
        ("all", [False, False, True, False]),
        (0.5, [True, True, True, False]),  # 2 of 4, 2 of 4, 2 of 2, 0 of 3
        (0.6, [False, False, True, False]),
        (1.0, [False, False, True, False]),
    ],
)
def test_which_prompts_count(keep: Keep, expected: list[bool]) -> None:
    assert SIGNAL.counts_G(keep, WEIGHTS).tolist() == expected


def test_the_shares_without_a_signal() -> None:
    assert SIGNAL.metrics() == {
        "rollout/no_signal_frac": 0.0,
        "objective/a/no_signal_frac": pytest.approx(2 / 3),
        "objective/b/no_signal_frac": 0.5,
        "objective/c/no_signal_frac": 0.5,
        "objective/seen only/no_signal_frac": 0.25,
    }


def test_without_a_prompt_there_is_nothing_to_say() -> None:
    nothing = RewardMatrix(("a",), torch.zeros(0, 1, dtype=torch.float64), torch.zeros(0, 1, dtype=torch.bool))
    assert Signal.of(nothing, torch.zeros(0, dtype=torch.int64)).metrics() == {}
