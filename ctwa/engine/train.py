"""The multi-objective trainer: verl's synchronous trainer with a reward vector where it has a reward.

It fetches the completions of a step in an order of its own (prompt, then completion), evaluates the objectives, lets
the scalarizer turn their rewards into advantages, and shows it afterwards what the update did. It knows no method by
name: a scalarizer says what it needs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from tensordict import TensorDict
from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.debug import marked_timer
from verl.utils.transferqueue_utils import KVBatchMeta
from verl.workers.utils.padding import response_from_nested

from ctwa import metrics as key_of
from ctwa.batch import Rollout, Update
from ctwa.covariance.diagnostics import diagnostics, sampled_entropy
from ctwa.covariance.probe import Progress
from ctwa.engine import checkpoint
from ctwa.engine.gradients import (
    GradientPlan,
    advantages_field,
    combined_advantages,
    gradient_metrics,
    make_plan,
)
from ctwa.engine.probe import build_probe
from ctwa.engine.recorder import Recorder, Stop, numbers
from ctwa.engine.settings import Settings
from ctwa.engine.signals import end_request
from ctwa.engine.verl.estimate import VerlEstimate
from ctwa.engine.verl.rows import Prompts, deal_rows, in_order, num_missing, place_of, prompt_name
from ctwa.engine.verl.transfer import QueuedRows, advantage_columns, correct, padding_columns
from ctwa.engine.verl.workers import ROW_FIELD, MultiObjectiveWorker
from ctwa.errors import CtwaError
from ctwa.objectives.completion import Completion
from ctwa.objectives.evaluator import Evaluation, RewardEvaluator
from ctwa.run.alarms import Alarm
from ctwa.scalarizers.base import Scalarizer

POLICY_FIELDS = (
    *("input_ids", "position_ids", "loss_mask", "response_mask", "prompts", "responses", "multi_modal_inputs"),
    *("old_log_probs", "ref_log_prob", "advantages", "rollout_is_weights", ROW_FIELD),
)
"""What the policy's workers read of a row; without the list verl sends them every column of the data, at every call."""
SAMPLED_FIELDS = POLICY_FIELDS[:7]


class NoRewardLoop:
    """Stands where verl keeps its reward workers: rewards are computed on the driver, a whole step at once."""

    reward_loop_worker_handles = None


class MultiObjectiveTrainer(PPOTrainerSync):
    """verl's synchronous trainer over several objectives.

    Args:
        config: the resolved config, verl's and ours.
        settings: our part of it, validated.
        scalarizer: the method.
        evaluator: the reward functions.
        recorder: writes the run folder.
    """

    def __init__(
        self,
        config: DictConfig,
        *,
        settings: Settings,
        scalarizer: Scalarizer,
        evaluator: RewardEvaluator,
        recorder: Recorder,
    ) -> None:
        self.settings = settings
        self.scalarizer = scalarizer
        self.evaluator = evaluator
        self.recorder = recorder
        self.reference_length = settings.build_reference_length()
        self.probe = build_probe(config, settings, scalarizer)
        self.train_dataloader_it: Iterator[dict[str, Any]] | None = None
        self._prompts = Prompts(settings.seed)
        self._rows = QueuedRows((), "train")
        self._rollout: Rollout | None = None
        self._gradient_plan: GradientPlan | None = None
        self._objective_advantages_MNT: torch.Tensor | None = None
        self._step_metrics: dict[str, Any] = {}
        self._keep: int | None = config.trainer.max_actor_ckpt_to_keep
        with open_dict(config):
            # verl forgets at a restart what it has saved, and deletes parts of a folder: `saving` does it.
            config.trainer.max_actor_ckpt_to_keep = None
        super().__init__(config)

    @property
    def max_missing(self) -> float:
        """The share of a step's completions that may be lost."""
        return self.settings.rollout.max_missing

    # -- set-up ---------------------------------------------------------------------------------------------------

    def _build_replay_buffer(self) -> ReplayBuffer:
        replay_buffer = super()._build_replay_buffer()
        # verl polls every 2 s, so each step waits for whole multiples of it.
        replay_buffer.poll_interval = self.settings.poll_interval
        return replay_buffer

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        policy_roles = [role for role, cls in self.role_worker_mapping.items() if "Critic" not in str(role)]
        for role in policy_roles:
            self.role_worker_mapping[role] = ray.remote(MultiObjectiveWorker)

    def _setup(self) -> None:
        super()._setup()
        self.reward_loop_manager = NoRewardLoop()
        missing = {
            name for known in self.actor_rollout_wg.registrations() for name, there in known.items() if not there
        }
        if missing:
            raise CtwaError(
                f"a worker process does not know {sorted(missing)}: set "
                "VERL_USE_EXTERNAL_MODULES=ctwa.engine.verl.plugin on every node"
            )

    def get_reward_handles(self) -> None:
        """No reward workers: see :class:`NoRewardLoop`."""
        return

    # -- prompts --------------------------------------------------------------------------------------------------

    def _fetch_one_gen_batch(self) -> TensorDict:
        if self.train_dataloader_it is None:
            self.train_dataloader_it = iter(self.train_dataloader)
        batch_dict = next(self.train_dataloader_it, None)
        if batch_dict is None:  # the next epoch
            self.train_dataloader_it = iter(self.train_dataloader)
            batch_dict = next(self.train_dataloader_it)
        step = self.global_steps
        return tu.get_tensordict(self._prompts.name(batch_dict, "train", step, f"train/{step}"))

    def _next_train_batch(self, num_prompts: int | None = None) -> TensorDict:
        self._prompts.clear()
        return super()._next_train_batch(num_prompts)

    def on_step_begin(self) -> None:
        """A signal now waits for the step's end."""
        end_request.step_begins()
        super().on_step_begin()

    def prepare_step(self) -> dict:
        """Send out the step's prompts; the time is generation's, where the rollout answers before it returns."""
        with marked_timer("gen", self.timing_raw):
            return super().prepare_step()

    # -- rewards --------------------------------------------------------------------------------------------------

    def _compute_reward_colocate(self, batch: KVBatchMeta, metrics: dict | None = None) -> KVBatchMeta:
        """Evaluate the objectives on the step's completions (verl calls this between sampling and balancing)."""
        assert metrics is not None
        self._rows = QueuedRows(sorted(batch.keys, key=place_of), batch.partition_id)
        num_asked = self.config.data.train_batch_size * self.config.actor_rollout_ref.rollout.n
        metrics["rollout/missing_rows"] = num_missing(self._rows.keys, num_asked, limit=self.max_missing)
        evaluation, rollout, completions = self._evaluate(self._rows)
        self._rollout = rollout
        lengths_N = [completion.response_tokens for completion in completions]
        if self.reference_length is not None:
            self.reference_length.update(lengths_N)
        metrics.update(evaluation.metrics())
        metrics["response_length/mean"] = float(np.mean(lengths_N))
        metrics["response_length/finished_frac"] = float(np.mean([completion.finished for completion in completions]))
        self.recorder.samples(self.global_steps, completions, evaluation, split="train")
        return batch

    def _evaluate(self, rows: QueuedRows) -> tuple[Evaluation, Rollout, list[Completion]]:
        data = rows.read("responses", "response_mask")
        responses = [row.tolist() for row in data["responses"].unbind()]
        texts = self.tokenizer.batch_decode(responses, skip_special_tokens=True)
        names = [prompt_name(key) for key in rows.keys]
        places = {name: place for place, name in enumerate(dict.fromkeys(names))}
        group_N = torch.tensor([places[name] for name in names])
        lengths_N = [len(response) for response in responses]
        references_N: Sequence[float | None] = [None] * len(rows)
        if self.reference_length is not None:
            references_N = self.reference_length.reference(lengths_N, group_N.tolist())
        completions = [
            Completion.from_row(
                self._prompts.rows[name],
                response=text,
                response_tokens=length,
                reference_tokens=reference,
                finished=response[-1] in self._eos_ids if response else False,
            )
            for name, text, response, length, reference in zip(
                names, texts, responses, lengths_N, references_N, strict=True
            )
        ]
        evaluation = self.evaluator.evaluate(completions, group_N.tolist())
        mask_NT = data["response_mask"].to_padded_tensor(0)
        return evaluation, Rollout(evaluation.matrix, group_N, mask_NT), completions

    def _init_tokenizer(self) -> None:
        super()._init_tokenizer()
        generation = omega_conf_to_dataclass(self.config.actor_rollout_ref.model).generation_config
        ends = [] if generation is None else generation.eos_token_id  # a chat model may have several
        self._eos_ids = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}

    # -- the update -----------------------------------------------------------------------------------------------

    def _balance_batch(
        self, batch: KVBatchMeta, metrics: dict, logging_prefix: str = "global_seqlen", keep_minibatch: bool = True
    ) -> KVBatchMeta:
        """Deal whole mini-batches of prompts, in the step's order, out to the ranks: see :func:`deal_rows`."""
        del metrics, logging_prefix, keep_minibatch  # of verl's signature: its statistics of the balance are not ours
        actor = self.config.actor_rollout_ref
        num_ranks = max(self.actor_rollout_wg._query_dispatch_info("actor")) + 1
        tags = dict(zip(batch.keys, batch.tags, strict=True))
        batch.keys[:], batch.tags[:] = self._rows.keys, [tags[key] for key in self._rows.keys]
        batch = upsample_batch_to_divisible_size(
            batch, self._get_required_batch_multiple(num_ranks), self.tokenizer.eos_token_id
        )
        rows_per_minibatch = actor.actor.ppo_mini_batch_size * actor.rollout.n
        seq_lens_N = [tag["seq_len"] for tag in batch.tags]
        rows_of_rank = deal_rows(seq_lens_N, rows_per_minibatch=rows_per_minibatch, num_ranks=num_ranks)
        batch.reorder([row for rows in rows_of_rank for row in rows])
        batch.fields = list(SAMPLED_FIELDS)
        return batch

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """Let the scalarizer turn the rewards into advantages, and hand them to the workers."""
        assert self._rollout is not None
        rollout = self._rollout
        if self.probe.source == "backward" and self.probe.has_weights:
            with marked_timer("probe", self.timing_raw):
                metrics.update(self._measured(self._probe_backward(batch)))
        rollout, corrected, correction_metrics = correct(
            self.config.algorithm.get("rollout_correction"), self._rows, rollout
        )
        self._rollout = rollout
        metrics.update(correction_metrics)
        estimate = VerlEstimate(self.config.algorithm, rollout.mask_NT, rollout.group_N, rollout.loss_mask_NT)
        # Prompts that the probe holds out get no gradient.
        untrained_NT = ~rollout.loss_mask_NT.bool() | self.probe.held_out(rollout)[:, None]
        advantages_NT = self.scalarizer.advantages(rollout, estimate).float().masked_fill(untrained_NT, 0.0)
        self._advantages_NT = advantages_NT
        self._gradient_plan = make_plan(
            self.settings.gradients,
            self.scalarizer,
            rollout,
            step=self.global_steps,
            every=self.settings.diagnostics.gradients_every,
        )
        self._objective_advantages_MNT = None
        if self._gradient_plan is not None:
            objective_MNT = self.scalarizer.objective_advantages(rollout, estimate)
            self._objective_advantages_MNT = objective_MNT.float().masked_fill(untrained_NT, 0.0)

        response_mask = self._rows.read("response_mask")["response_mask"]
        columns = corrected | advantage_columns(
            rollout, advantages_NT, self._objective_advantages_MNT, self.scalarizer.weights, response_mask
        )
        self._neutralise_padding(batch, columns)
        num_objectives = 0 if self._gradient_plan is None else len(self._gradient_plan.names)
        wanted = {*POLICY_FIELDS, *map(advantages_field, range(num_objectives))}
        batch.fields = [column for column in self._rows.write(columns) if column in wanted]
        return batch

    def _probe_backward(self, batch: KVBatchMeta) -> Progress:
        """What the last update did: one forward pass of the weights before it over the completions of this step."""
        assert self._rollout is not None
        batch.extra_info.update(
            calculate_entropy=False, compute_loss=False, temperature=self.config.actor_rollout_ref.rollout.temperature
        )
        self.actor_rollout_wg.swap_weights()
        self.actor_rollout_wg.compute_log_prob(batch)
        self.actor_rollout_wg.swap_weights()
        data = self._rows.read("log_probs", "old_log_probs", "response_mask")
        before = response_from_nested(data["log_probs"], data["response_mask"]).to_padded_tensor(0.0)
        return self.probe.backward(self._rollout, data["old_log_probs"].to_padded_tensor(0.0), before)

    def _measured(self, progress: Progress) -> dict[str, float]:
        return self.probe.metrics(progress) | self.scalarizer.observe_probe(progress)

    def _neutralise_padding(self, batch: KVBatchMeta, columns: dict[str, torch.Tensor]) -> None:
        """Rows that verl adds to fill a batch up (a prompt whose rollout failed is missing) carry no advantage."""
        own = set(self._rows.keys)
        padding = QueuedRows([key for key in batch.keys if key not in own], batch.partition_id)
        if padding:
            padding.write(padding_columns(columns, padding.read("response_mask")["response_mask"]))

    def _update_actor(self, batch: KVBatchMeta, metrics: dict) -> KVBatchMeta:
        """Update the policy, then show the scalarizer what the update did."""
        source = self.settings.log_probs_source(self.scalarizer.requirements)
        if source != "none":
            self.actor_rollout_wg.record_update(source)
        if self.probe.source == "backward":
            self.actor_rollout_wg.keep_weights()
            self.probe.has_weights = True
        if self._gradient_plan is not None:
            self.actor_rollout_wg.plan_gradients(self._gradient_plan)
        batch = super()._update_actor(batch, metrics)
        if self._gradient_plan is not None:
            metrics.update(self._take_gradients())
        with marked_timer("statistic", self.timing_raw):
            update = self._update(recorded=source != "none")
            # verl computes the entropy with the old log-probs; where they are the rollout's, they give an estimate.
            metrics.setdefault("actor/entropy", sampled_entropy(update.log_probs_old_NT, update.rollout.mask_NT))
            if source != "none":
                metrics.update(diagnostics(update))
            metrics.update(self.scalarizer.observe_update(update))
            self.probe.step_covariance(metrics)
            progress = self.probe.forward(update)
            if progress is not None:
                metrics.update(self._measured(progress))
        # The weights of the next step, as the method left them.
        metrics.update({key_of.weight(name): weight for name, weight in self.scalarizer.weights.items()})
        self._step_metrics = metrics
        return batch

    def _take_gradients(self) -> dict[str, float]:
        plan = next(plan for plan in self.actor_rollout_wg.take_gradients() if plan is not None)
        if plan.aggregator is not None:
            assert self._objective_advantages_MNT is not None
            self.scalarizer.aggregator = plan.aggregator
            combined_NT = combined_advantages(plan, self._objective_advantages_MNT)
            if combined_NT is not None:
                self._advantages_NT = combined_NT
        return gradient_metrics(plan)

    def _update(self, *, recorded: bool) -> Update:
        """What the last update did, as the scalarizer sees it.

        The new log-probs are those of the policy after it, or of the one that each mini-batch met.
        """
        assert self._rollout is not None
        old_NT = self._rows.read("old_log_probs")["old_log_probs"].to_padded_tensor(0.0)
        new_NT = torch.full_like(old_NT, math.nan)
        if recorded:
            new_NT = in_order(self.actor_rollout_wg.take_update(), self._rollout.mask_NT.shape)
        return Update(
            rollout=self._rollout,
            advantages_NT=self._advantages_NT,
            log_probs_old_NT=old_NT,
            log_probs_new_NT=new_NT,
            clip=self.settings.clip,
        )

    # -- validation -----------------------------------------------------------------------------------------------

    def _validate(self) -> dict[str, float]:
        """Complete and evaluate the held-out prompts: ``val/<objective>`` and its standard error."""
        # The seed does not name the step: every validation draws with the same numbers.
        rows = self._complete_held_out("val")
        evaluation, _, completions = self._evaluate(rows)
        rows.clear()
        self.recorder.samples(self.global_steps, completions, evaluation, split="held-out")
        metrics: dict[str, float] = {
            "val/response_length": float(np.mean([completion.response_tokens for completion in completions])),
            "val_rollout/missing_rows": self._missing_held_out,
        }
        for name in evaluation.matrix.names:
            rewards_N, scored_N = evaluation.matrix.column(name)
            values = rewards_N[scored_N]
            metrics[f"val/{name}"] = float(values.mean())
            metrics[f"val_standard_error/{name}"] = float(values.std() / len(values) ** 0.5)
        self.scalarizer.observe_validation(
            self.global_steps, {name: metrics[f"val/{name}"] for name in evaluation.matrix.names}
        )
        if self.global_steps == 0:
            self.recorder.step(0, metrics)
        return metrics

    def _complete_held_out(self, seed_name: str) -> QueuedRows:
        """Complete the held-out prompts."""
        self._prompts.clear()
        keys: list[str] = []
        num_asked = 0
        for batch_dict in self.val_dataloader:
            batch = tu.get_tensordict(self._prompts.name(batch_dict, "val", self.global_steps, seed_name))
            tu.assign_non_tensor_data(batch, "global_steps", self.global_steps)
            tu.assign_non_tensor_data(batch, "validate", True)
            tags = [{"is_prompt": True, "status": "pending", "global_steps": self.global_steps}] * len(batch)
            tq.kv_batch_put(keys=list(batch["uid"]), partition_id="val", tags=tags)
            self.agent_loop_manager.generate_sequences(batch)
            sampled, _ = self.replay_buffer.sample(
                global_steps=self.global_steps, partition_id="val", batch_size=len(batch)
            )
            keys.extend(sampled.keys)
            num_asked += len(batch) * self.config.actor_rollout_ref.rollout.val_kwargs.n
        self._missing_held_out = num_missing(keys, num_asked, limit=self.max_missing)
        rows = QueuedRows(sorted(keys, key=place_of), "val")
        if self.global_steps == 0 and self.reference_length is not None:
            self.reference_length.start(rows.read("responses")["responses"].offsets().diff().tolist())
        return rows

    # -- records and checkpoints ------------------------------------------------------------------------------------

    def _compute_metrics(
        self, batch: KVBatchMeta, metrics: dict, timing_raw: dict, global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps=global_steps, epoch=epoch)
        stop = None if global_steps >= self.total_training_steps else self.recorder.stopping(global_steps, metrics)
        if isinstance(stop, Alarm) and self.config.trainer.test_freq > 0 and "testing" not in timing_raw:
            with marked_timer("testing", timing_raw):
                self.on_validate_begin()
                metrics.update(self._validate())
                self.on_validate_end()
        # verl times the whole of `_update_actor`, the statistic with it: each phase is to stand for itself.
        phases = {**timing_raw, "update_actor": timing_raw["update_actor"] - timing_raw.get("statistic", 0.0)}
        metrics.update({f"time/{phase}": seconds for phase, seconds in phases.items()})
        self.recorder.step(global_steps, metrics)
        if stop is not None:
            self._end_run(stop)

    def _end_run(self, stop: Stop) -> None:
        """Let this step be the last, with a checkpoint of it."""
        if not checkpoint.is_complete(self._checkpoint_folder()):
            self.checkpoint_manager.sleep_replicas()  # verl saves before it wakes them, when there is room
            self._save_checkpoint()
        self.recorder.stop(stop)
        self.total_training_steps = self.global_steps

    def _checkpoint_folder(self) -> Path:
        return checkpoint.step_folder(Path(self.config.trainer.default_local_dir), self.global_steps)

    def _save_checkpoint(self) -> None:
        state = {
            "step": self.global_steps,
            "scalarizer": self.scalarizer.state_dict(),
            "probe": self.probe.state_dict(),
            "reference_length": self.reference_length.state_dict() if self.reference_length else None,
            # verl saves before it measures: should the run die in between, the resumed one still has the step's record.
            "metrics": numbers(self._step_metrics),
        }
        with checkpoint.saving(self._checkpoint_folder(), state, keep=self._keep):
            super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        self.global_steps = 0
        folder = self.recorder.resume_from
        if folder is None:
            return
        with open_dict(self.config):
            self.config.trainer.resume_mode, self.config.trainer.resume_from_path = "resume_path", str(folder)
        super()._load_checkpoint()
        state = checkpoint.read_state(folder)
        self.scalarizer.load_state_dict(state["scalarizer"])
        self.probe.load_state_dict(state["probe"])
        if self.reference_length is not None:
            self.reference_length.load_state_dict(state["reference_length"])
        self.recorder.step(state["step"], state["metrics"])
