"""Rows in verl's transfer queue, in the trainer's own order, and the columns that the trainer gives them.

A row is a sequence of tokens that the policy's workers read, and mostly a completion. A session of an agent loop may
yield several: then a completion is several rows, and has one reward. The trainer, the methods and the covariances know
completions alone, (N, T), with the tokens of their rows one row behind the other; ``QueuedRows`` joins and parts them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import transfer_queue as tq
from omegaconf import DictConfig
from tensordict import TensorDict
from torch import Tensor
from verl.protocol import DataProto
from verl.trainer.ppo.core_algos import kl_penalty
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_add_to_batch
from verl.utils.transferqueue_utils import KVBatchMeta
from verl.workers.utils.padding import response_to_nested

from ctwa import metrics as key_of
from ctwa.batch import Rollout
from ctwa.engine.verl.columns import ROW_COLUMN, advantages_column, is_policy_column
from ctwa.engine.verl.rows import RowValues, in_order, place_of


@dataclass(frozen=True)
class QueuedRows:
    """Rows in the transfer queue.

    Attributes:
        keys: their names there, in the order in which everything is read and written.
        partition: where they are.
    """

    keys: Sequence[str]
    partition: str

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def bounds(self) -> Tensor:
        """int64 (N + 1,): where the rows of each completion begin; behind the last, their number."""
        completions = [place_of(key)[:2] for key in self.keys]
        begins = [row for row, each in enumerate(completions) if row == 0 or each != completions[row - 1]]
        return torch.tensor([*begins, len(completions)])

    @property
    def completions(self) -> list[str]:
        """Of each completion the name of its first row."""
        return [self.keys[row] for row in self.bounds[:-1].tolist()]

    def of_rows(self, values_N: Tensor) -> Tensor:
        """A value of each completion, for each of its rows."""
        return values_N.repeat_interleave(self.bounds.diff())

    def some(self, chosen_N: Tensor) -> QueuedRows:
        """The rows of some completions."""
        chosen = self.of_rows(chosen_N).tolist()
        return QueuedRows([key for key, is_chosen in zip(self.keys, chosen, strict=True) if is_chosen], self.partition)

    @cached_property
    def response_mask(self) -> Any:
        """Of the rows, nested, as the rollout gave it; read once, for it tells how long each row is, too."""
        return self.read("response_mask")["response_mask"]

    @cached_property
    def old_log_probs(self) -> Any:
        """Of the response tokens, nested, once the policy before the update has been asked for them; read once."""
        return self.read("old_log_probs")["old_log_probs"]

    @cached_property
    def mask_NT(self) -> Tensor:
        """(N, T) of it."""
        return self.joined(self.response_mask)

    def tokens(self, column: str) -> Tensor:
        """(N, T) of a column that has a value for each response token, 0 behind a completion's end."""
        return self.joined(self.read(column)[column])

    def joined(self, column: Any) -> Tensor:
        """(N, T) of such a column as it is in the queue: nested, a line a row."""
        return self._of_completions(column).to_padded_tensor(0)

    def parted(self, values_NT: Tensor) -> Any:
        """A column as the queue has it, of (N, T)."""
        values = response_to_nested(values_NT, self._of_completions(self.response_mask)).values()
        return _nested(values, self.response_mask.offsets())

    def _of_completions(self, column: Any) -> Any:
        """A nested column with a line a completion."""
        return _nested(column.values(), column.offsets()[self.bounds])

    def read(self, *columns: str) -> TensorDict:
        """Some of their columns."""
        return tq.kv_batch_get(keys=list(self.keys), partition_id=self.partition, select_fields=list(columns))

    def write(self, columns: Mapping[str, Tensor]) -> list[str]:
        """Add columns to them; returns the names of all that they have then."""
        fields = TensorDict(dict(columns), batch_size=len(self))
        written = tq.kv_batch_put(keys=list(self.keys), partition_id=self.partition, fields=fields)
        return list(written.fields)

    def clear(self) -> None:
        """Take them out of the queue."""
        tq.kv_clear(keys=list(self.keys), partition_id=self.partition)


def _nested(values: Tensor, offsets: Tensor) -> Any:
    """Told of no longest line, torch pads to the length of all of them together."""
    return torch.nested.nested_tensor_from_jagged(values, offsets, max_seqlen=int(offsets.diff().max()))


def advantage_columns(
    rollout: Rollout,
    advantages_NT: Tensor,
    objective_advantages_MNT: Tensor | None,
    weights: Mapping[str, float],
    rows: QueuedRows,
    kl_rewards_NT: Tensor | None = None,
) -> dict[str, Tensor]:
    """What the rows of a step get from the scalarizer.

    Args:
        rollout: the step's rewards.
        advantages_NT: what the policy is trained on.
        objective_advantages_MNT: the objectives' own, where their gradients are wanted.
        weights: of the objectives, for ``rm_scores``: verl's metrics show the weighted sum of the rewards.
        rows: the step's.
        kl_rewards_NT: what a KL penalty takes from each token's reward, for ``token_level_rewards``: verl's metrics
            show the rewards with it.
    """
    weights_M = torch.tensor([weights[name] for name in rollout.rewards.names], dtype=torch.float64)
    scores_N = (rollout.rewards.filled_NM(rollout.group_N) * weights_M).sum(dim=1)
    scores_NT = torch.zeros_like(advantages_NT)
    lengths_N = rows.response_mask.offsets()[rows.bounds].diff()
    scores_NT[torch.arange(len(scores_NT)), lengths_N - 1] = scores_N.float()
    advantages = rows.parted(advantages_NT)
    columns = {
        "advantages": advantages,
        "returns": advantages,
        "rm_scores": rows.parted(scores_NT),
        ROW_COLUMN: torch.arange(len(rows)),
    }
    if kl_rewards_NT is not None:
        columns["token_level_rewards"] = rows.parted(scores_NT + kl_rewards_NT)
    for place, objective_NT in enumerate(() if objective_advantages_MNT is None else objective_advantages_MNT):
        columns[advantages_column(place)] = rows.parted(objective_NT)
    return columns


def hand_over(columns: Mapping[str, Tensor], rows: QueuedRows, batch: KVBatchMeta) -> list[str]:
    """Write a step's columns into the queue; returns the names of those that the policy's workers are to read.

    Rows that verl adds to fill a batch up (a prompt whose rollout failed is missing) carry no advantage.

    Args:
        columns: one value a row.
        rows: the step's.
        batch: them, and those that fill it up.
    """
    own = set(rows.keys)
    padding = QueuedRows([key for key in batch.keys if key not in own], rows.partition)
    if padding:
        padding.write(padding_columns(columns, padding.read("response_mask")["response_mask"]))
    return [column for column in rows.write(columns) if is_policy_column(column)]


def padding_columns(names: Iterable[str], response_mask: Any) -> dict[str, Tensor]:
    """The same columns for rows that verl adds to fill a batch up: no advantage, and no place in the step.

    Args:
        names: of the columns.
        response_mask: of the added rows, nested.
    """
    zeros = torch.zeros_like(response_mask.values(), dtype=torch.float32)
    columns = {
        name: torch.nested.nested_tensor_from_jagged(zeros.clone(), response_mask.offsets())
        for name in names
        if name not in (ROW_COLUMN, "response_mask")  # verl's mask of them is empty
    }
    return columns | {ROW_COLUMN: torch.full((response_mask.shape[0],), -1)}


def recorded(by_worker: Iterable[RowValues], rows: QueuedRows) -> Tensor:
    """(N, T) of what each worker recorded of a step's rows; 0 behind a completion's end."""
    offsets = rows.response_mask.offsets()
    return rows.joined(_nested(in_order(by_worker, offsets.diff()), offsets))


def leave_out(left_out_N: Tensor, rows: QueuedRows, rollout: Rollout) -> tuple[Rollout, dict[str, Tensor]]:
    """Keep completions out of the loss; returns the rollout without them, and the column in which the loss finds that.

    Args:
        left_out_N: bool, which.
        rows: the step's.
        rollout: the step's, corrected where it is to be.
    """
    rejected_NT = rollout.mask_NT.bool() & left_out_N[:, None]
    if rollout.rejected_NT is not None:
        rejected_NT = rejected_NT | rollout.rejected_NT
    rollout = replace(rollout, rejected_NT=rejected_NT)
    return rollout, {"response_mask": rows.parted(rollout.loss_mask_NT)}


def kl_rewards(controller: Any, kind: str, rows: QueuedRows) -> tuple[Tensor, dict[str, float]]:
    """What a KL penalty adds to each token's reward, (N, T): ``-beta KL``; and its metrics, by verl's names.

    The KL is that of the policy before the update towards the reference, by an estimate from each sampled token. As in
    verl, the controller is told of its mean over the completions, each the mean of its tokens, and so sets the beta of
    the next step.

    Args:
        controller: verl's, which has beta.
        kind: of the estimate, the config's ``algorithm.kl_penalty``.
        rows: the step's, whose old and reference log-probs are there.
    """
    columns = (rows.response_mask, rows.old_log_probs, rows.read("ref_log_prob")["ref_log_prob"])
    mask_NT, old_NT, reference_NT = (rows.joined(column).float() for column in columns)
    kl_NT = kl_penalty(old_NT, reference_NT, kind) * mask_NT
    mean, beta = float((kl_NT.sum(1) / mask_NT.sum(1)).mean()), controller.value
    if math.isfinite(mean):  # else beta would never be a number again
        controller.update(current_kl=mean, n_steps=len(rows.completions))
    return -beta * kl_NT, {key_of.REWARD_KL: mean, key_of.REWARD_KL_COEFFICIENT: float(beta)}


def correct(
    correction: DictConfig | None, rows: QueuedRows, rollout: Rollout
) -> tuple[Rollout, dict[str, Tensor], dict[str, float]]:
    """Correct for a rollout whose probabilities differ from the trainer's, where the config asks for it.

    Where the trainer takes the rollout's own log-probabilities (``bypass_mode``) there is nothing to correct. Where a
    completion is several rows, each is corrected by itself.

    Args:
        correction: the config's ``algorithm.rollout_correction``.
        rows: the step's, whose old log-probs are there.
        rollout: the step's.

    Returns:
        The rollout with what is rejected of it and its importance weights; the columns in which verl's loss finds
        them; and verl's metrics of how the two differ, whether anything is corrected or not.
    """
    if correction is None or correction.get("bypass_mode"):
        return rollout, {}, {}
    data = rows.read("response_mask", "rollout_log_probs")
    if "rollout_log_probs" not in data:
        return rollout, {}, {}
    data["old_log_probs"] = rows.old_log_probs
    corrected, metrics = compute_rollout_correction_and_add_to_batch(
        DataProto(batch=data.to_padded_tensor(0)), correction
    )

    def found(name: str) -> Tensor:
        """(N, T) of what verl found for the rows."""
        return rows.joined(response_to_nested(corrected.batch[name], data["response_mask"]))

    columns = {}
    if correction.get("rollout_rs"):
        rejected_NT = rollout.mask_NT.bool() & ~found("response_mask").bool()
        rollout = replace(rollout, rejected_NT=rejected_NT)
        columns["response_mask"] = rows.parted(rollout.loss_mask_NT)
    if correction.get("rollout_is"):
        importance_NT = found("rollout_is_weights")
        rollout = replace(rollout, importance_NT=importance_NT)
        columns["rollout_is_weights"] = rows.parted(importance_NT)
    return rollout, columns, metrics
