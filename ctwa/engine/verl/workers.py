"""The workers that hold the policy: verl's own, with what a multi-objective trainer asks of them.

Beside verl's calls they answer two more: the token log-probs behind a statistic of the update (those the update itself
computed, at no extra pass, or those of the updated policy), and the gradients of the objectives.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal

import torch
import torch.distributed as dist
from tensordict import TensorDict
from verl.plugin.platform import get_platform
from verl.single_controller.base.decorator import Dispatch, make_nd_compute_dataproto_dispatch_fn, register
from verl.utils import tensordict_utils as tu
from verl.utils.distributed import initialize_global_process_group_ray
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from ctwa.engine.checkpoint import correct_config, num_ranks_of, shard_file
from ctwa.engine.objective_losses import OBJECTIVE_LOSSES, ObjectiveLosses, policy_losses
from ctwa.engine.pairs.objective import PairLoss
from ctwa.engine.probe import PreviousWeights
from ctwa.engine.replaced import replaced
from ctwa.engine.verl.columns import MINI_BATCH_ROWS, ROW_COLUMN
from ctwa.engine.verl.registry import install
from ctwa.engine.verl.resharding import PREVIOUS, previous_weights
from ctwa.engine.verl.rows import RowValues
from ctwa.errors import CtwaError
from ctwa.gradients.plan import GradientPlan
from ctwa.gradients.store import local_part
from ctwa.models.adapter import ADAPTER, keep_adapter, merge_adapter, scale_of
from ctwa.run.text import listed

LogProbs = Literal["in_update", "post_update"]
UPDATES_LEFT_OUT = "updates_left_out"
"""Among the metrics of an update: how many of its mini-batches were left out, their gradients not being finite."""


class PolicyWorker(TrainingWorker):
    """verl's training worker, on CPUs too, with log-probs and gradients for the methods."""

    def __init__(self, config: Any) -> None:
        if get_platform().device_name == "cpu":
            # verl would ask for "cpu:gloo,cpu:gloo", which torch refuses; a group that exists is left alone.
            initialize_global_process_group_ray(backend="gloo")
        self._source: LogProbs | None = None
        self._log_probs: dict[int, torch.Tensor] = {}
        self._previous: PreviousWeights | None = None
        self.loss_fn: Callable
        super().__init__(config=config)

    def set_loss_fn(self, loss_fn: Callable) -> None:
        """Train on this loss; where asked for, record the log-probs behind it and take each objective's loss."""

        def loss(model_output: dict, data: TensorDict, dp_group: Any = None) -> tuple[torch.Tensor, dict]:
            if self._source == "in_update" and self.engine.is_mp_src_rank_with_outputs():
                self._record(model_output["log_probs"], data)
            if not getattr(self.engine, "collects", False):
                return loss_fn(model_output=model_output, data=data, dp_group=dp_group)
            losses, shared, metrics = policy_losses(loss_fn, model_output, data, dp_group, self.engine.plan)
            return losses[0], {**metrics, OBJECTIVE_LOSSES: ObjectiveLosses(losses, shared)}

        super().set_loss_fn(loss)

    def train_mini_batch(self, data: TensorDict) -> TensorDict:
        """Update the policy as verl does; then, where that was asked for, take the batch's log-probs under it.

        The pass after the update runs here, on rows that are here already, and not as a call of its own.
        """
        if size := tu.pop(data, MINI_BATCH_ROWS, default=None):
            tu.assign_non_tensor(data, mini_batch_size=size)
        again = data.clone(recurse=False) if self._source == "post_update" else None
        self.engine.num_left_out = 0
        output = super().train_mini_batch(data)
        if output is not None:
            metrics = tu.get(output, "metrics")
            tu.assign_non_tensor(output, metrics={**metrics, UPDATES_LEFT_OUT: [self.engine.num_left_out]})
        if again is not None:
            tu.assign_non_tensor(again, calculate_entropy=False, compute_loss=False)
            measured = self.infer_batch(again)
            if measured is not None:  # sequence parallel ranks share their rows, and the first of them answers
                self._record(measured["log_probs"], again)
        return output

    def set_preference(self, objective: PairLoss) -> None:
        """Train on pairs, with a plan that says how the objectives' losses are combined."""
        self._preference = objective

        def loss(model_output: dict, data: TensorDict, dp_group: Any = None) -> tuple[torch.Tensor, dict]:
            del dp_group
            losses = objective.losses(model_output, data)
            # What verl reports; the engine differentiates the objectives' own.
            weights = self.engine.plan.aggregator.preference_M.tolist()
            return sum(
                (w * each.detach() for w, each in zip(weights, losses, strict=True) if each is not None),
                start=torch.zeros((), device=data["pair"].device),
            ), {OBJECTIVE_LOSSES: ObjectiveLosses(losses)}

        super().set_loss_fn(loss)

    def update_preferences(self, data: TensorDict) -> TensorDict | None:
        """One optimizer step on a batch of pairs.

        Returns:
            The pairs of this rank, as :meth:`PairLoss.take` gives them: their log-probabilities before the
            step, and the update's ``metrics``.
        """
        return self._pairs(self.train_batch(data))

    def preference_log_probs(self, data: TensorDict) -> TensorDict | None:
        """The pairs of this rank with their log-probabilities, as :meth:`update_preferences` gives them."""

        def only_record(model_output: dict, data: TensorDict, dp_group: Any = None) -> tuple[torch.Tensor, dict]:
            del dp_group
            self._preference.record(model_output, data)
            return torch.zeros(()), {}

        with replaced(self, "loss_fn", only_record):
            return self._pairs(self.infer_batch(data))

    def _pairs(self, output: TensorDict | None) -> TensorDict | None:
        pairs = self._preference.take()
        if output is None:
            return None
        tu.assign_non_tensor(pairs, metrics=tu.get(output, "metrics"))
        return pairs

    def _record(self, log_probs: torch.Tensor, data: TensorDict) -> None:
        """Keep the response tokens' log-probs of rows, which are nested: prompt and response one after the other."""
        # One copy from the device for all rows; what it holds of a row is copied out when it is sent.
        values = log_probs.detach().values().float().cpu()
        ends_N = log_probs.offsets()[1:].tolist()  # type: ignore[attr-defined]  # of the jagged layout alone
        lengths_N = data["response_mask"].offsets().diff().tolist()
        for row, end, length in zip(data[ROW_COLUMN].tolist(), ends_N, lengths_N, strict=True):
            # The log-probability at a position is that of the token behind it.
            self._log_probs[row] = values[end - length - 1 : end - 1]

    def save_checkpoint(self, local_path: str, *arguments: Any, **options: Any) -> None:
        """Save as verl does, and what a probe keeps; the model for ``transformers`` says what type its tensors have.

        Raises:
            CtwaError: a weight is not finite, which nobody would want to go on from.
        """
        self._refuse_non_finite()
        super().save_checkpoint(local_path, *arguments, **options)
        if self._previous is not None:
            torch.save(self._previous.copies, shard_file(Path(local_path), PREVIOUS, self.world_size, self.rank))
        model = Path(local_path) / "huggingface"
        if self.rank == 0 and any(model.glob("*.safetensors")):
            # PEFT's own, as it computes with them: verl's lora_train_meta.json rounds the scale down.
            if (adapters := getattr(self.engine.module, "peft_config", None)) is not None:
                keep_adapter(model, Path(local_path) / ADAPTER, adapters["default"])
                merge_adapter(model, scale=scale_of(self.engine.module))
            correct_config(model)

    def _refuse_non_finite(self) -> None:
        weights = self.engine.module.named_parameters()
        wrong = [name for name, weight in weights if not local_part(weight).isfinite().all()]
        count = torch.tensor(float(len(wrong)), device=get_platform().device_name)
        if dist.is_initialized():  # one answer for all ranks: those that save wait for each other
            dist.all_reduce(count)
        if count > 0:
            named = f" ({', '.join(wrong[:3])})" if wrong else ""
            raise CtwaError(
                f"weights of the policy are not finite{named}: this step is not saved; look which reward, weight or "
                "gradient of the steps before was not, and go on from a checkpoint before that"
            )

    def load_checkpoint(self, local_path: str, *arguments: Any, **options: Any) -> None:
        """Load as verl does, and what a probe kept; of another number of ranks, too."""
        super().load_checkpoint(local_path, *arguments, **options)
        self._previous = None
        policy = Path(local_path)
        num_saved = num_ranks_of(policy) or self.world_size
        if not shard_file(policy, PREVIOUS, num_saved, 0).exists():
            return
        self._previous = PreviousWeights(self.engine.trained())
        if num_saved == self.world_size:
            self._previous.copies = torch.load(shard_file(policy, PREVIOUS, num_saved, self.rank))
        else:
            self._previous.copies = previous_weights(policy, num_saved, self.engine.trained_by_name())

    def keep_weights(self) -> None:
        """Copy the weights, before an update that a probe is to measure."""
        if self._previous is None:
            self._previous = PreviousWeights(self.engine.trained())
        self._previous.keep()

    def swap_weights(self) -> None:
        """Exchange the weights with the kept ones."""
        assert self._previous is not None
        self._previous.swap()
        self.engine.reshard()

    def record_update(self, source: LogProbs) -> None:
        """Keep the log-probs of the next update, by row; with several epochs the last one's."""
        self._source = source

    def take_update(self) -> RowValues:
        """Hand out what was kept, and keep no more."""
        log_probs, self._log_probs, self._source = self._log_probs, {}, None
        return RowValues.of(log_probs)

    def plan_gradients(self, plan: GradientPlan) -> None:
        """Take the objectives' gradients in the next update."""
        self.engine.plan = plan

    def take_gradients(self) -> GradientPlan:
        """The plan with its records and its method's state, once the update is done."""
        plan, self.engine.plan = self.engine.plan, None
        return plan


class MultiObjectiveWorker(ActorRolloutRefWorker):
    """verl's hybrid worker (policy, rollout, reference) over :class:`PolicyWorker`."""

    actor_worker_cls = PolicyWorker
    ref_worker_cls = PolicyWorker

    def __init__(self, *arguments: Any, **options: Any) -> None:
        install()
        super().__init__(*arguments, **options)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def record_update(self, source: LogProbs) -> None:
        """Keep the log-probs of the next update on every rank."""
        self.actor.record_update(source)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def take_update(self) -> RowValues:
        """The log-probs of this rank's rows."""
        return self.actor.take_update()

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def plan_gradients(self, plan: GradientPlan) -> None:
        """Take the objectives' gradients in the next update, on every rank."""
        self.actor.plan_gradients(plan)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def take_gradients(self) -> GradientPlan | None:
        """What the update measured; it is the same on all ranks, so the first one's alone is sent."""
        plan = self.actor.take_gradients()
        return plan if self.rank == 0 else None

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def set_preference(self, objective: PairLoss) -> None:
        """Train on pairs from now on."""
        self.actor.set_preference(objective)

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="actor"))
    def update_preferences(self, data: TensorDict) -> TensorDict | None:
        """One optimizer step on a batch of pairs, which is dealt out to the ranks; the pairs come back."""
        return self.actor.update_preferences(data)

    @register(dispatch_mode=make_nd_compute_dataproto_dispatch_fn(mesh_name="actor"))
    def preference_log_probs(self, data: TensorDict) -> TensorDict | None:
        """The log-probabilities of pairs, without a gradient."""
        return self.actor.preference_log_probs(data)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def sees(self, path: str) -> str | None:
        """Whether each rank finds a file: None, or the name of its machine where it does not."""
        return None if Path(path).is_file() else socket.gethostname()

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def keep_weights(self) -> None:
        """Copy the weights on every rank."""
        self.actor.keep_weights()

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def swap_weights(self) -> None:
        """Exchange the weights with the kept ones on every rank."""
        self.actor.swap_weights()


def num_data_ranks(group: Any) -> int:
    """The data-parallel ranks of a group of workers, over which verl deals out rows."""
    return int(max(group._query_dispatch_info("actor"))) + 1


def check_folder(group: Any, folder: Path) -> None:
    """See that all ranks have the run's folder, into which each saves its part of a checkpoint.

    Raises:
        CtwaError: the machine of a rank has not.
    """
    with NamedTemporaryFile(dir=folder.resolve(), prefix=".seen-by-ranks-") as file:
        blind = {rank: machine for rank, machine in enumerate(group.sees(file.name)) if machine is not None}
    if blind:
        named = listed([f"rank {rank} (on {machine})" for rank, machine in blind.items()])
        raise CtwaError(
            f"{named} does not see the run folder {folder}, into which it would save its part of a checkpoint: give a "
            "folder on a file system that all nodes share (docs/cluster.md)"
        )
