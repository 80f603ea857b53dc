"""The training on rewards of several objectives: :meth:`MultiObjectiveTrainer.step` is what it does.

It knows no method by name: a scalarizer says what it needs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor
from verl.utils.debug import marked_timer
from verl.utils.transferqueue_utils import KVBatchMeta

from ctwa import metrics as key_of
from ctwa.batch import Rollout, Update
from ctwa.covariance.diagnostics import diagnostics, sampled_entropy
from ctwa.covariance.probe import Progress
from ctwa.engine.by_source import training_by_source, validation_by_source
from ctwa.engine.dynamic_sampling import Round, known_weights, left_out, refill
from ctwa.engine.loop import Trainer
from ctwa.engine.probe import build_probe
from ctwa.engine.recorder import Recorder
from ctwa.engine.sampling import Sampler, Scored, validation_metrics
from ctwa.engine.settings import Settings
from ctwa.engine.verl.estimate import VerlEstimate
from ctwa.engine.verl.transfer import QueuedRows, advantage_columns, correct, hand_over, kl_rewards, leave_out, recorded
from ctwa.engine.verl.workers import UPDATES_LEFT_OUT
from ctwa.engine.watchdog import Watchdog
from ctwa.gradients.plan import GradientPlan, combined_advantages, gradient_metrics, make_cross_fitted, make_plan
from ctwa.objectives.completion import Moment
from ctwa.objectives.conditioning import conditioning_metrics
from ctwa.objectives.evaluator import Evaluation
from ctwa.objectives.log_probs import from_log_probs
from ctwa.objectives.signal import Signal
from ctwa.scalarizers.base import Scalarizer


@dataclass
class Step:
    """One training step: what its stages hand to each other.

    Attributes:
        number: from 1.
        watchdog: sees to it that its phases end.
        metrics: what is known of it so far.
        seconds: that its phases took.
        batch: its rows in the order of the ranks, as verl's calls want them, with those that fill it up.
        rows: its rows in its own order: prompt, then completion, then sequence.
        rollout: rewards, prompts and masks of the completions.
        advantages_NT: what the policy is trained on.
        objective_advantages_MNT: the objectives' own; None where no gradient of theirs is wanted.
        plan: what the workers do with the objectives' gradients; None for nothing.
        num_left_out: of its mini-batches: their gradients were not finite.
    """

    number: int
    watchdog: Watchdog
    metrics: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    batch: KVBatchMeta = None  # until it is sampled
    rows: QueuedRows = field(default_factory=lambda: QueuedRows((), "train"))
    rollout: Rollout = None  # type: ignore[assignment]  # until it is scored
    advantages_NT: Tensor = None  # type: ignore[assignment]  # until they are estimated
    objective_advantages_MNT: Tensor | None = None
    plan: GradientPlan | None = None
    num_left_out: int = 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure how long a phase takes, and see to it that it ends."""
        with self.watchdog.phase(name), marked_timer(name, self.seconds):
            yield


class MultiObjectiveTrainer(Trainer):
    """Trains a policy on the rewards of several objectives.

    Args:
        config: the resolved config, verl's and ours.
        settings: our part of it, validated.
        scalarizer: the method.
        sampler: the engine, and the reward functions.
        recorder: writes the run folder.
    """

    def __init__(
        self, config: DictConfig, settings: Settings, scalarizer: Scalarizer, sampler: Sampler, recorder: Recorder
    ) -> None:
        super().__init__(config, sampler.session, recorder, num_steps=sampler.session.num_steps)
        self.settings = settings
        self.scalarizer = scalarizer
        self.sampler = sampler
        self.session = sampler.session
        self.workers = sampler.session.actor_rollout_wg
        self.probe = build_probe(config, settings, scalarizer)
        every = settings.diagnostics.gradients_every
        self.cross_fitted = make_cross_fitted(settings.gradients, scalarizer, every=every)

    # -- the step -----------------------------------------------------------------------------------------------------

    def step(self, number: int) -> dict[str, Any]:
        """Make a step: what becomes of the next prompts, stage by stage."""
        session, step, began = self.session, Step(number, self.recorder.watchdog), time.perf_counter()
        with session.profiled(number):
            with self.saves_the_step_before(session.kept):
                self.complete(step)
            step.batch = session.deal(step.batch, step.rows)
            with step.phase("old_log_prob"):
                step.batch = session.old_log_probs(step.batch, step.metrics)
            if session.use_reference_policy:
                with step.phase("ref"):
                    step.batch = session.reference_log_probs(step.batch, step.metrics)
            if self.probe.source == "backward" and self.probe.has_weights:
                with step.phase("probe"):
                    self.measure_last_update(step)
            with step.phase("adv"):
                self.fill_in(step)
                self.estimate_advantages(step)
            with step.phase("update_actor"):
                self.update(step)
            with step.phase("statistic"):
                self.observe(step)
        step.seconds["step"] = time.perf_counter() - began
        step.metrics = session.with_metrics(step.batch, step.metrics, step.seconds, step=number)
        if session.curriculum is not None:
            step.metrics |= session.curriculum.metrics()
        QueuedRows(step.batch.keys, step.batch.partition_id).clear()
        return step.metrics | {f"time/{phase}": seconds for phase, seconds in step.seconds.items()}

    def complete(self, step: Step) -> None:
        """Complete prompts and score them: the part of a step in which rewards may end the run."""
        with step.phase("update_weights"):
            self.session.wake(step.number - 1)
        with step.phase("gen"):
            self.sample(step)
            if not self.settings.dynamic_sampling.refills:
                self.session.sleep()
        with step.phase("reward"):
            self.score(step)
        if self.settings.dynamic_sampling.refills:
            with step.phase("refill"):
                self.refill(step)
                self.session.sleep()

    def sample(self, step: Step) -> None:
        """Complete the next prompts; each one's completions are scored from when they are there."""
        step.batch, step.metrics = self.sampler.next_rows(step.number, self._moment(step))

    def _moment(self, step: Step) -> Moment:
        return Moment.of_run("train", step.number - 1, self.num_steps)

    def score(self, step: Step) -> None:
        """Wait for the last rewards of the completions."""
        step.rows, step.metrics["rollout/missing_rows"] = self.sampler.in_order(step.batch)
        scored = self.sampler.score(step.rows)
        step.rollout = scored.rollout
        step.metrics |= scored.evaluation.metrics() | self.sampler.shaping.metrics(scored.shaped)
        step.metrics |= self.sampler.learn_lengths(scored)
        if self.sampler.has_several_sources:
            step.metrics |= training_by_source(scored.completions, scored.evaluation.matrix)
        step.metrics |= Signal.of(step.rollout.rewards, step.rollout.group_N).metrics()
        step.metrics |= conditioning_metrics(step.rollout, split="train")
        step.metrics[key_of.HIDDEN_SECONDS] = scored.evaluation.hidden_seconds
        step.metrics[key_of.WAITED_SECONDS] = scored.evaluation.waited_seconds
        self.recorder.samples(step.number, scored.completions, scored.evaluation, split="train")

    def refill(self, step: Step) -> None:
        """Complete further prompts in place of those that do not count."""

        def complete() -> Round:
            batch, _ = self.sampler.more_rows(step.number, self._moment(step))
            rows, missing = self.sampler.in_order(batch)
            step.metrics[key_of.MISSING_ROWS[0]] += missing
            return Round(batch, rows, self.sampler.score(rows).rollout)

        chosen, step.metrics[key_of.REFILL_ROUNDS] = refill(
            Round(step.batch, step.rows, step.rollout),
            complete,
            self.settings.dynamic_sampling,
            known_weights(self.settings),
            num_prompts=self.config.data.train_batch_size,
        )
        step.batch, step.rows, step.rollout = chosen.batch, chosen.rows, chosen.rollout

    def fill_in(self, step: Step) -> None:
        """Give the objectives that are read off log-probabilities their values, which are known now."""
        quantities = self.settings.from_log_probs
        if not quantities:
            return
        rollout, has_kl = step.rollout, "kl" in quantities.values()
        data = step.rows.read("old_log_probs", *(["ref_log_prob"] if has_kl else [])).to_padded_tensor(0.0)
        reference_NT = data["ref_log_prob"] if has_kl else None
        measured = from_log_probs(quantities, rollout.mask_NT, data["old_log_probs"], reference_NT)
        shaped = self.sampler.shaping.shape(measured, rollout.group_N, train=True)
        step.metrics |= Evaluation(measured, (), dict.fromkeys(quantities, 0.0)).metrics()
        step.metrics |= self.sampler.shaping.metrics(shaped)
        step.rollout = replace(rollout, rewards=rollout.rewards.with_columns(shaped.matrix))

    def measure_last_update(self, step: Step) -> None:
        """What the last update did, by the completions of this step under the weights before it."""
        old_NT = step.rows.joined(step.rows.old_log_probs)
        before_NT = self.session.previous_log_probs(step.batch, step.rows)
        step.metrics |= self._measured(self.probe.backward(step.rollout, old_NT, before_NT))

    def estimate_advantages(self, step: Step) -> None:
        """Let the scalarizer turn the rewards into advantages, and hand them to the workers."""
        columns = self._correct(step)
        rollout, algorithm = step.rollout, self.config.algorithm
        estimate = VerlEstimate(algorithm, rollout.mask_NT, rollout.group_N, rollout.loss_mask_NT)
        of_score, kl_rewards_NT = estimate, None
        if algorithm.use_kl_in_reward:
            kl_rewards_NT, metrics = kl_rewards(self.session.kl_ctrl_in_reward, algorithm.kl_penalty, step.rows)
            of_score = estimate.with_rewards(kl_rewards_NT)
            step.metrics |= metrics
        # Prompts that the probe holds out get no gradient.
        untrained_NT = ~rollout.loss_mask_NT.bool() | self.probe.held_out(rollout)[:, None]
        step.advantages_NT = self.scalarizer.advantages(rollout, of_score).float().masked_fill(untrained_NT, 0.0)
        self._plan_gradients(step, estimate, untrained_NT)
        weights, objective_MNT = self.scalarizer.weights, step.objective_advantages_MNT
        columns |= advantage_columns(rollout, step.advantages_NT, objective_MNT, weights, step.rows, kl_rewards_NT)
        step.batch.fields = hand_over(columns, step.rows, step.batch)

    def _correct(self, step: Step) -> dict[str, Tensor]:
        """Mask the tokens and completions that do not train; returns the columns of the workers' rows that change."""
        correction = self.config.algorithm.get("rollout_correction")
        step.rollout, columns, metrics = correct(correction, step.rows, step.rollout)
        step.metrics |= metrics
        left_out_N = left_out(step.rollout, self.settings.dynamic_sampling, known_weights(self.settings))
        if left_out_N is not None:
            step.rollout, masked = leave_out(left_out_N, step.rows, step.rollout)
            columns |= masked
            step.metrics[key_of.LEFT_OUT] = float(left_out_N.double().mean())
        return columns

    def _plan_gradients(self, step: Step, estimate: VerlEstimate, untrained_NT: Tensor) -> None:
        step.plan = make_plan(
            self.settings.gradients,
            self.scalarizer,
            step.rollout,
            step=step.number,
            every=self.settings.diagnostics.gradients_every,
            cross_fitted=self.cross_fitted,
            trained_N=~untrained_NT.all(dim=1),
        )
        if step.plan is None:
            return
        if step.plan.half_N is not None:
            step.plan.half_N = step.rows.of_rows(step.plan.half_N)
        objective_MNT = self.scalarizer.objective_advantages(step.rollout, estimate)
        step.objective_advantages_MNT = objective_MNT.float().masked_fill(untrained_NT, 0.0)

    def update(self, step: Step) -> None:
        """Update the policy, with what is to be recorded of it."""
        if self._source != "none":
            self.workers.record_update(self._source)
        if self.probe.source == "backward":
            self.workers.keep_weights()
        if step.plan is not None:
            self.workers.plan_gradients(step.plan)
        step.batch = self.session.update(step.batch, step.metrics)
        step.num_left_out = int(step.metrics.pop(f"actor/{UPDATES_LEFT_OUT}"))
        self.probe.has_weights = self.probe.source == "backward" and step.num_left_out == 0
        if step.plan is not None:
            step.plan = next(plan for plan in self.workers.take_gradients() if plan is not None)
            self.cross_fitted = step.plan.cross_fitted or self.cross_fitted
            step.metrics |= gradient_metrics(step.plan)
        step.metrics[key_of.SKIPPED_UPDATES] = step.num_left_out

    def observe(self, step: Step) -> None:
        """Show the scalarizer, the diagnostics and the probe what the update did."""
        if step.plan is not None and step.plan.aggregator is not None:
            assert step.objective_advantages_MNT is not None
            self.scalarizer.aggregator = step.plan.aggregator
            combined_NT = combined_advantages(step.plan, step.objective_advantages_MNT)
            step.advantages_NT = step.advantages_NT if combined_NT is None else combined_NT
        update = self._update_of(step)
        # verl computes the entropy with the old log-probs; where they are the rollout's, they give an estimate.
        step.metrics.setdefault(key_of.ENTROPY, sampled_entropy(update.log_probs_old_NT, update.rollout.mask_NT))
        if self._source != "none":
            step.metrics |= diagnostics(update)
        step.metrics |= self.scalarizer.observe_update(update)
        self.probe.step_covariance(step.metrics)
        progress = self.probe.forward(update)
        if progress is not None:
            step.metrics |= self._measured(progress)
        step.metrics |= key_of.of_weights(self.scalarizer.weights)  # of the next step

    @property
    def _source(self) -> str:
        return self.settings.log_probs_source(self.scalarizer.requirements)

    def _measured(self, progress: Progress) -> dict[str, float]:
        return self.probe.metrics(progress) | self.scalarizer.observe_probe(progress)

    def _update_of(self, step: Step) -> Update:
        """The new log-probs are those of the policy after the update, or of the one that each mini-batch met.

        They are NaN, which is to say not observed, where nobody asks for them, and where some of the update was left
        out: it is not the one that the advantages tell of.
        """
        old_NT = step.rows.joined(step.rows.old_log_probs)
        new_NT = torch.full_like(old_NT, math.nan)
        if self._source != "none":
            found_NT = recorded(self.workers.take_update(), step.rows)
            new_NT = found_NT if step.num_left_out == 0 else new_NT
        return Update(
            rollout=step.rollout,
            advantages_NT=step.advantages_NT,
            log_probs_old_NT=old_NT,
            log_probs_new_NT=new_NT,
            loss=self.settings.policy_loss,
        )

    # -- between the steps --------------------------------------------------------------------------------------------

    def start(self) -> dict[str, Any]:
        """The validation of the model as it came, and the weights that the first step begins with."""
        metrics = super().start()
        return metrics and metrics | key_of.of_weights(self.scalarizer.weights)

    def validate(self) -> dict[str, Any]:
        """Complete and evaluate the held-out prompts: ``val/<objective>`` and its standard error; by source, too."""
        scored, missing = self.held_out()
        group_N = scored.rollout.group_N
        self.recorder.samples(self.steps_made, scored.completions, scored.evaluation, split="held-out")
        metrics: dict[str, Any] = {
            key_of.VALIDATION_LENGTH: sum(scored.lengths_N) / len(scored.lengths_N),
            "val_rollout/missing_rows": missing,
            key_of.VALIDATION_HIDDEN_SECONDS: scored.evaluation.hidden_seconds,
            key_of.VALIDATION_WAITED_SECONDS: scored.evaluation.waited_seconds,
            **conditioning_metrics(scored.rollout, split="val"),
        }
        if self.sampler.has_several_sources:
            metrics |= validation_by_source(scored.completions, scored.evaluation.matrix, group_N)
        means: dict[str, float] = {}
        for name in scored.evaluation.matrix.names:
            rewards_N, scored_N = scored.evaluation.matrix.column(name)
            if scored_N.any():
                metrics |= validation_metrics(name, rewards_N[scored_N], group_N[scored_N])
            shaped_N, counts_N = scored.shaped.matrix.column(name)
            if counts_N.any():
                means[name] = float(shaped_N[counts_N].mean())
        changed = self.sampler.shaping.changes_held_out
        metrics |= {key_of.shaped_validation(name): mean for name, mean in means.items() if name in changed}
        # The method sees held-out rewards of the kind that it trains on.
        means = {name: mean for name, mean in means.items() if name in self.settings.trained}
        self.scalarizer.observe_validation(self.steps_made, means)
        return metrics

    def held_out(self) -> tuple[Scored, int]:
        """The held-out prompts' completions by the policy as it is, scored; and how many are missing."""
        # The seed does not name the step: every validation draws with the same numbers.
        rows, missing = self.sampler.held_out(
            self.steps_made, Moment.of_run("val", self.steps_made, self.num_steps), "val"
        )
        scored = self.sampler.score(rows)
        rows.clear()
        return scored, missing

    def state_dict(self) -> dict[str, Any]:
        """Of the method, the probe and the sampler, and the coefficient of a KL penalty that adapts."""
        return {
            "scalarizer": self.scalarizer.state_dict(),
            "probe": self.probe.state_dict(),
            **({} if self.cross_fitted is None else {"cross_fitted": self.cross_fitted.state_dict()}),
            **self.sampler.state_dict(),
            **({"kl_coefficient": float(self.session.kl_ctrl_in_reward.value)} if self._adapts_kl else {}),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` gave."""
        self.scalarizer.load_state_dict(state["scalarizer"])
        self.probe.load_state_dict(state["probe"])
        if self.cross_fitted is not None:
            self.cross_fitted.load_state_dict(state["cross_fitted"])
        self.sampler.load_state_dict(state)
        if self._adapts_kl:
            self.session.kl_ctrl_in_reward.value = state["kl_coefficient"]

    @property
    def _adapts_kl(self) -> bool:
        return bool(self.config.algorithm.use_kl_in_reward and self.config.algorithm.kl_ctrl.type == "adaptive")
