import math

import numpy as np
import pytest
import torch

import ctwa
from ctwa.batch import RewardMatrix
from ctwa.errors import CtwaError

NAN = math.nan


def test_what_is_not_a_finite_number_is_not_scored():
    matrix = RewardMatrix.from_columns({"a": [1.0, None, 3], "b": [NAN, math.inf, -1.0]})
    assert matrix.names == ("a", "b")
    assert matrix.rewards_NM.tolist() == [[1, 0], [0, 0], [3, -1]]
    assert matrix.scored_NM.tolist() == [[True, False], [False, False], [True, True]]
    assert matrix.rewards_NM.dtype == torch.float64


@pytest.mark.parametrize("column", [[1.0, np.ma.masked], np.ma.array([1.0, 2.0], mask=[False, True])])
def test_what_numpy_masks_is_not_scored(column):
    assert RewardMatrix.from_columns({"a": column}).to_columns() == {"a": [1.0, None]}


@pytest.mark.parametrize("time", [np.timedelta64(5, "ns"), np.timedelta64(5, "s"), np.datetime64(5, "ns")])
def test_a_time_is_no_reward(time):
    with pytest.raises(CtwaError, match=r"objective 'a' has the reward '.*' in row 1; pass a number"):
        RewardMatrix.from_columns({"a": [1.0, time]})


def test_column_and_select_go_by_name():
    matrix = RewardMatrix.from_columns({"a": [1.0, None], "b": [2.0, 3.0]})
    rewards_N, scored_N = matrix.column("a")
    assert (rewards_N.tolist(), scored_N.tolist()) == ([1, 0], [True, False])
    swapped = matrix.select(["b", "a"])
    assert swapped.names == ("b", "a")
    assert swapped.rewards_NM.tolist() == [[2, 1], [3, 0]]
    with pytest.raises(CtwaError, match=r"no objective 'c'.*write one of"):
        matrix.column("c")


def test_unscored_entries_are_filled_with_the_mean_of_prompt_then_batch_then_zero():
    matrix = RewardMatrix.from_columns(
        {"a": [1.0, None, 3.0, None, 5.0], "b": [None] * 5, "c": [0.5, 0.5, 0.5, 0.5, 0.5]}
    )
    filled_NM = matrix.filled_NM(torch.tensor([7, 7, 7, 2, 9]))
    assert filled_NM[:, 0].tolist() == [1, 2, 3, 3, 5]
    assert filled_NM[:, 1].tolist() == [0] * 5
    assert filled_NM[:, 2].tolist() == [0.5] * 5


def test_garbage_in_unscored_entries_is_gone():
    matrix = RewardMatrix(("a",), torch.tensor([[NAN], [2.0]], dtype=torch.float64), torch.tensor([[False], [True]]))
    assert matrix.rewards_NM.tolist() == [[0], [2]]


@pytest.mark.parametrize(
    ("names", "rewards", "scored", "message"),
    [
        (("a", "a"), [[1.0, 2.0]], [[True, True]], "names must differ"),
        (("a",), [[1.0, 2.0]], [[True, True]], "for 1 objectives"),
        (("a", "b"), [[1.0, 2.0]], [[True]], "scored_NM has the shape"),
        (("a", "b"), [[1.0, NAN]], [[True, True]], "objective 'b' has the reward nan in row 0"),
    ],
)
def test_mistakes_are_named(names, rewards, scored, message):
    with pytest.raises(CtwaError, match=message):
        RewardMatrix(names, torch.tensor(rewards, dtype=torch.float64), torch.tensor(scored))


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(CtwaError, match="pass one a completion"):
        RewardMatrix.from_columns({"a": (each for each in (1.0, 2.0))})
    with pytest.raises(CtwaError, match="scored_NM is of type list"):
        RewardMatrix(("a",), torch.zeros(1, 1, dtype=torch.float64), [[True]])
    with pytest.raises(CtwaError, match="different numbers of rewards"):
        RewardMatrix.from_columns({"a": [1.0], "b": [1.0, 2.0]})


def test_a_matrix_of_no_completions_has_no_means_and_no_shares() -> None:
    assert RewardMatrix.from_columns({"a": []}).metrics() == {}


def test_single_precision_is_refused():
    with pytest.raises(CtwaError, match="pass float64"):
        RewardMatrix(("a",), torch.ones(1, 1), torch.ones(1, 1).bool())


def test_what_does_not_apply_is_told_from_what_failed() -> None:
    columns = {"a": [1.0, None, ctwa.NOT_APPLICABLE], "b": [ctwa.NOT_APPLICABLE, 2.0, 3.0]}
    matrix = RewardMatrix.from_columns(columns)
    assert matrix.applicable_NM.tolist() == [[True, False], [True, True], [False, True]]
    assert matrix.scored_NM.tolist() == [[True, False], [False, True], [False, True]]
    assert matrix.to_columns() == columns
    assert matrix.select(["b", "a"]).applicable("a").tolist() == [True, True, False]
    with pytest.raises(CtwaError, match="objective 'a' has a reward in row 0, which it does not apply to"):
        RewardMatrix(("a",), torch.ones(1, 1).double(), torch.ones(1, 1).bool(), torch.zeros(1, 1).bool())
