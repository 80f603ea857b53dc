"""The columns that a step's rows get, without a queue."""

import math
from dataclasses import dataclass

import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import get_kl_controller

from ctwa.batch import RewardMatrix, Rollout
from ctwa.engine.verl.columns import ROW_COLUMN, advantages_column
from ctwa.engine.verl.transfer import QueuedRows, advantage_columns, kl_rewards, padding_columns


def rollout() -> Rollout:
    rewards = RewardMatrix(
        ("accuracy", "clarity"),
        torch.tensor([[1.0, 0.5], [0.0, 0.25]], dtype=torch.float64),
        torch.ones(2, 2, dtype=torch.bool),
    )
    mask_NT = torch.tensor([[1, 1, 1], [1, 0, 0]])
    return Rollout(rewards, torch.zeros(2, dtype=torch.int64), mask_NT)


@dataclass(frozen=True)
class Rows(QueuedRows):
    """What is in a queue, without one."""

    data: TensorDict

    def read(self, *columns: str) -> TensorDict:
        return self.data.select(*columns)


def queued(keys: list[str], columns: dict[str, torch.Tensor]) -> Rows:
    return Rows(keys, "train", TensorDict(columns, batch_size=len(keys)))


KEYS = ["train000001-00000_0_0", "train000001-00000_1_0"]
MASK = torch.nested.as_nested_tensor([torch.ones(3), torch.ones(1)], layout=torch.jagged)
ROWS = queued(KEYS, {"response_mask": MASK})


def rows(column):
    return [row.tolist() for row in column.unbind()]


def test_the_columns_have_each_row_s_own_length_and_the_score_at_its_end():
    advantages_NT = torch.tensor([[0.5, 0.25, -1.0], [2.0, 0.0, 0.0]])
    weights = {"accuracy": 0.75, "clarity": 0.5}
    objective_MNT = torch.stack([advantages_NT, -advantages_NT])
    columns = advantage_columns(rollout(), advantages_NT, objective_MNT, weights, ROWS)
    assert rows(columns["advantages"]) == rows(columns["returns"]) == [[0.5, 0.25, -1.0], [2.0]]
    assert rows(columns["rm_scores"]) == [[0.0, 0.0, 1.0], [0.125]]
    assert columns[ROW_COLUMN].tolist() == [0, 1]
    assert rows(columns[advantages_column(1)]) == [[-0.5, -0.25, 1.0], [-2.0]]
    assert advantages_column(2) not in columns
    assert "token_level_rewards" not in columns
    penalised = advantage_columns(rollout(), advantages_NT, None, weights, ROWS, torch.full((2, 3), -0.5))
    assert rows(penalised["token_level_rewards"]) == [[-0.5, -0.5, 0.5], [-0.375]]


def test_a_kl_penalty_is_of_each_token_and_its_controller_follows_the_mean_of_the_completions():
    columns = {
        "response_mask": [[1, 0, 1], [1]],  # the second token of the first is a tool's
        "old_log_probs": [[-1.0, -5.0, -2.0], [-0.5]],
        "ref_log_prob": [[-1.5, -1.0, -2.25], [-0.25]],
    }
    nested = {
        name: torch.nested.as_nested_tensor([torch.tensor(row) for row in values], layout=torch.jagged)
        for name, values in columns.items()
    }
    queue = queued(KEYS, nested)
    control = {"type": "adaptive", "kl_coef": 0.2, "target_kl": 0.1, "horizon": 100}
    controller = get_kl_controller(OmegaConf.create(control))

    rewards_NT, metrics = kl_rewards(controller, "kl", queue)

    torch.testing.assert_close(rewards_NT, -0.2 * torch.tensor([[0.5, 0.0, 0.25], [-0.25, 0.0, 0.0]]))
    assert metrics == {
        "actor/reward_kl_penalty": pytest.approx((0.375 - 0.25) / 2),
        "actor/reward_kl_penalty_coeff": 0.2,
    }
    assert controller.value == pytest.approx(0.2 * (1 - 0.2 * 2 / 100))  # below the target, by a step of two rows

    before = controller.value
    nested["ref_log_prob"].values()[0] = math.nan
    kl_rewards(controller, "kl", queue)
    assert controller.value == before


def test_added_rows_have_the_same_columns_and_weigh_nothing():
    advantages_NT = torch.ones(2, 3)
    weights = {"accuracy": 1, "clarity": 1}
    columns = advantage_columns(rollout(), advantages_NT, advantages_NT[None], weights, ROWS)
    added = padding_columns(
        columns, torch.nested.as_nested_tensor([torch.ones(2, dtype=torch.int64)], layout=torch.jagged)
    )
    assert added.keys() == columns.keys()
    assert added.pop(ROW_COLUMN).tolist() == [-1]
    assert all(rows(column) == [[0.0, 0.0]] and column.dtype == torch.float32 for column in added.values())


def test_a_completion_of_several_rows_is_one_with_their_tokens_behind_each_other():
    keys = ["train000001-00000_0_0", "train000001-00000_0_1", "train000001-00000_0_2", "train000001-00000_1_0"]
    tokens = [[1.0, 2.0], [3.0], [4.0, 5.0], [6.0]]
    mask = torch.nested.as_nested_tensor([torch.tensor(row) for row in tokens], layout=torch.jagged)
    several = queued(keys, {"response_mask": mask})

    joined_NT = several.joined(mask)
    assert joined_NT.tolist() == [[1, 2, 3, 4, 5], [6, 0, 0, 0, 0]]
    assert several.completions == [keys[0], keys[3]]
    assert rows(several.parted(joined_NT)) == tokens
    columns = advantage_columns(rollout(), joined_NT, None, {"accuracy": 1, "clarity": 0}, several)
    assert rows(columns["advantages"]) == tokens
    assert rows(columns["rm_scores"]) == [[0, 0], [0], [0, 1], [0]]
    assert columns[ROW_COLUMN].tolist() == [0, 1, 2, 3]
    assert several.some(torch.tensor([False, True])).keys == keys[3:]
    assert several.some(torch.tensor([True, False])).keys == keys[:3]
