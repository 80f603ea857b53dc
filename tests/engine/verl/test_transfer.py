"""The columns that a step's rows get, without a queue."""

import torch

from ctwa.batch import RewardMatrix, Rollout
from ctwa.engine.verl.columns import ROW_COLUMN, advantages_column
from ctwa.engine.verl.transfer import advantage_columns, padding_columns

MASK = torch.nested.as_nested_tensor([torch.ones(3), torch.ones(1)], layout=torch.jagged)


def rollout() -> Rollout:
    rewards = RewardMatrix(
        ("accuracy", "clarity"),
        torch.tensor([[1.0, 0.5], [0.0, 0.25]], dtype=torch.float64),
        torch.ones(2, 2, dtype=torch.bool),
    )
    mask_NT = torch.tensor([[1, 1, 1], [1, 0, 0]])
    return Rollout(rewards, torch.zeros(2, dtype=torch.int64), mask_NT)


def rows(column):
    return [row.tolist() for row in column.unbind()]


def test_the_columns_have_each_row_s_own_length_and_the_score_at_its_end():
    advantages_NT = torch.tensor([[0.5, 0.25, -1.0], [2.0, 0.0, 0.0]])
    weights = {"accuracy": 0.75, "clarity": 0.5}
    columns = advantage_columns(rollout(), advantages_NT, torch.stack([advantages_NT, -advantages_NT]), weights, MASK)
    assert rows(columns["advantages"]) == rows(columns["returns"]) == [[0.5, 0.25, -1.0], [2.0]]
    assert rows(columns["rm_scores"]) == [[0.0, 0.0, 1.0], [0.125]]
    assert columns[ROW_COLUMN].tolist() == [0, 1]
    assert rows(columns[advantages_column(1)]) == [[-0.5, -0.25, 1.0], [-2.0]]
    assert advantages_column(2) not in columns


def test_added_rows_have_the_same_columns_and_weigh_nothing():
    advantages_NT = torch.ones(2, 3)
    columns = advantage_columns(rollout(), advantages_NT, advantages_NT[None], {"accuracy": 1, "clarity": 1}, MASK)
    added = padding_columns(
        columns, torch.nested.as_nested_tensor([torch.ones(2, dtype=torch.int64)], layout=torch.jagged)
    )
    assert added.keys() == columns.keys()
    assert added.pop(ROW_COLUMN).tolist() == [-1]
    assert all(rows(column) == [[0.0, 0.0]] and column.dtype == torch.float32 for column in added.values())
