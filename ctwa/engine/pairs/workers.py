"""The driver's side of the workers that hold the policy: start them, update on pairs, ask for log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from omegaconf import DictConfig
from torch import Tensor
from verl.single_controller.ray import RayClassWithInitArgs, RayResourcePool, RayWorkerGroup
from verl.single_controller.ray.base import create_colocated_worker_cls
from verl.utils import tensordict_utils as tu

from ctwa.engine.pairs.batches import PairBatch, to_rows
from ctwa.engine.pairs.objective import PairLoss
from ctwa.engine.verl.workers import MultiObjectiveWorker, check_folder, num_data_ranks
from ctwa.gradients.plan import GradientPlan
from ctwa.preference.tokenization import PairTokens

PAIRS_PER_CALL = 1024
"""Of a pass without a gradient, about: as many go to the workers at a time."""


class PreferenceWorkers:
    """The policy on verl's workers, for pairs.

    Args:
        group: of :class:`MultiObjectiveWorker`, their model built.
        objective: what is differentiated.
        pad_token_id: of the tokenizer.
        micro_batch: pairs of one pass of one rank, where that is fixed; 1 where tokens are counted.
    """

    def __init__(self, group: Any, objective: PairLoss, *, pad_token_id: int, micro_batch: int) -> None:
        self.group = group
        self.names = objective.names
        self._pad_token_id = pad_token_id
        group.set_preference(objective)
        self.num_ranks = num_data_ranks(group)
        self._granularity = self.num_ranks * micro_batch
        self._pairs_per_call = self._granularity * max(PAIRS_PER_CALL // self._granularity, 1)

    def update(self, batch: PairBatch, plan: GradientPlan) -> tuple[Tensor, dict[str, Any], GradientPlan]:
        """One optimizer step.

        Returns:
            (P, 2) float64: the log-probabilities of the batch's pairs before the step, chosen and rejected; verl's
            metrics; and the plan with what it measured.
        """
        self.group.plan_gradients(plan)
        rows = to_rows(batch, self.names, num_ranks=self.num_ranks, pad_token_id=self._pad_token_id)
        output = self.group.update_preferences(rows)
        plan = next(plan for plan in self.group.take_gradients() if plan is not None)
        return _in_order(output), dict(tu.get(output, "metrics")), plan

    def log_probs(self, pairs: Sequence[PairTokens]) -> tuple[Tensor, Tensor]:
        """Under the policy as it is: (P,) float64 each, of the chosen and of the rejected responses."""
        parts = []
        for start in range(0, len(pairs), self._pairs_per_call):
            part = list(pairs[start : start + self._pairs_per_call])
            # Every micro-batch of every rank is to be full: of the last pair, where there are too few.
            filled = part + [part[-1]] * (-len(part) % self._granularity)
            rows = to_rows(
                PairBatch(filled, [len(filled)]), self.names, num_ranks=self.num_ranks, pad_token_id=self._pad_token_id
            )
            parts.append(_in_order(self.group.preference_log_probs(rows))[: len(part)])
        chosen_P, rejected_P = torch.cat(parts).unbind(1)
        return chosen_P, rejected_P

    def save(self, folder: Path, *, step: int) -> None:
        """Write policy and optimizer into a checkpoint's folder."""
        self.group.save_checkpoint(str(folder / "actor"), None, step, max_ckpt_to_keep=None)

    def load(self, folder: Path) -> None:
        """Read what :meth:`save` wrote."""
        self.group.load_checkpoint(str(folder / "actor"))


def start_workers(config: DictConfig) -> Any:
    """Start the ranks and build the model on them; the scheduler's length is in the config already."""
    pool = RayResourcePool(process_on_nodes=[config.trainer.n_gpus_per_node] * config.trainer.nnodes)
    arguments = RayClassWithInitArgs(
        cls=ray.remote(MultiObjectiveWorker), config=config.actor_rollout_ref, role="actor", distillation_config=None
    )
    group = RayWorkerGroup(
        resource_pool=pool,
        ray_cls_with_init=create_colocated_worker_cls({"actor": arguments}),
        device_name=config.trainer.device,
    ).spawn(prefix_set={"actor"})["actor"]
    group.init_model()
    check_folder(group, Path(config.ctwa.run))
    return group


def _in_order(pairs: Any) -> Tensor:
    """The log-probabilities in the order of the batch."""
    log_probs_P2 = torch.empty(len(pairs["pair"]), 2, dtype=torch.float64)
    log_probs_P2[pairs["pair"]] = torch.stack([pairs["chosen"], pairs["rejected"]], 1)
    return log_probs_P2
