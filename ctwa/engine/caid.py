"""CAID on the engine: weigh, train on pairs of the reference's samples, sample the policy, again.

The samples of the reference are drawn and scored once. Every policy is trained on pairs of them, labelled with its
multipliers, and measured by samples of its own on the same prompts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from ctwa import metrics as key_of
from ctwa.aggregators.linear import FixedWeights, FixedWeightsConfig
from ctwa.engine.caid_samples import PolicySampler, Samples
from ctwa.engine.caid_settings import REWARD, CaidSettings
from ctwa.engine.loop import Trainer
from ctwa.engine.pairs.batches import PairBatch
from ctwa.engine.pairs.objective import SOFT_LABEL, PairLoss
from ctwa.engine.pairs.workers import PreferenceWorkers
from ctwa.engine.prefer import Scored, update_metrics
from ctwa.engine.recorder import Recorder
from ctwa.engine.sampling import Sampler, validation_metrics
from ctwa.engine.signals import Interruption, end_request
from ctwa.errors import CtwaError
from ctwa.gradients.plan import GradientPlan
from ctwa.preference.caid import Caid, composite_reward, draw_pairs, label_probability
from ctwa.preference.dual import Dual
from ctwa.preference.losses import DpoLoss
from ctwa.preference.sampling import PairSampler
from ctwa.preference.tokenization import PairTokens
from ctwa.run.alarms import Alarm

COMPOSITE = "composite"


class CaidTrainer(Trainer):
    """Alternates between multipliers and policies.

    Args:
        config: the resolved config, verl's and ours.
        settings: our part of it, validated.
        sampler: the engine, whose policy is the reference still, and the reward functions.
        recorder: writes the run folder.
    """

    def __init__(self, config: DictConfig, *, settings: CaidSettings, sampler: Sampler, recorder: Recorder) -> None:
        super().__init__(config, sampler.session, recorder, num_steps=config.trainer.total_training_steps)
        self.settings = settings
        self.sampler = sampler
        self.samples = PolicySampler(config, settings, sampler, recorder)
        self.caid = Caid(settings.caid)
        self._iteration_ends = settings.steps_per_iteration  # at this step
        self._probability_Q: Tensor | None = None  # of this iteration's labels, once they are wanted
        self._aggregator = FixedWeights(FixedWeightsConfig(), {COMPOSITE: 1.0})
        self._loss = DpoLoss(beta=settings.caid.beta)
        actor = config.actor_rollout_ref.actor
        self._workers = PreferenceWorkers(
            sampler.session.actor_rollout_wg,
            PairLoss(self._loss, (COMPOSITE,), skip_absent=False),
            pad_token_id=sampler.session.tokenizer.pad_token_id,
            micro_batch=1 if actor.use_dynamic_bsz else actor.ppo_micro_batch_size_per_gpu,
        )
        self.reference = self.samples.reference()
        self._draw_pairs(self.reference)
        self._reference_P2 = torch.stack(self._workers.log_probs(self._pairs), 1)

    # -- the step -----------------------------------------------------------------------------------------------------

    def step(self, number: int) -> dict[str, Any]:
        """Draw pairs of the reference's samples, and train on them as the multipliers label them."""
        began = time.perf_counter()
        (indices,) = self._pair_sampler.step(number)
        index_P = torch.tensor(indices)
        probability_P = self._label_probabilities()[index_P]
        pairs = [self._pairs[index] for index in indices]
        labels = [{COMPOSITE: 1 if p > 0.5 else -1 if p < 0.5 else 0} for p in probability_P.tolist()]
        batch = PairBatch(
            [PairTokens(p.prompt, p.chosen, p.rejected, of, p.row) for p, of in zip(pairs, labels, strict=True)],
            [len(pairs)],
            self._reference_P2[index_P],
            {SOFT_LABEL: probability_P.float()},
        )
        plan = GradientPlan((COMPOSITE,), self._aggregator, self.settings.gradients, solve=False)
        log_probs_P2, verl_metrics, _ = self._workers.update(batch, plan)
        metrics = Scored.of(batch, log_probs_P2, (COMPOSITE,)).metrics(self._loss, (COMPOSITE,))
        metrics["time/update_actor"] = time.perf_counter() - began
        return {**update_metrics(verl_metrics), **metrics, **self._weights()}

    def _label_probabilities(self) -> Tensor:
        """(Q,): that the first response of a pair is preferred; or, where labels are drawn, whether it is."""
        if self._probability_Q is not None:
            return self._probability_Q
        assert self.caid.multipliers is not None
        composite_PS = composite_reward(
            self._rewards(self.reference), self._constraints(self.reference), self.caid.multipliers
        )
        prompt_Q, first_Q, second_Q = self._places.unbind(1)
        probability_Q = label_probability(composite_PS[prompt_Q, first_Q], composite_PS[prompt_Q, second_Q])
        if self.settings.labels == "drawn":
            generator = torch.Generator().manual_seed(self.settings.seed * 1000 + self.caid.num_policies)
            probability_Q = torch.bernoulli(probability_Q, generator=generator)
        self._probability_Q = probability_Q
        return probability_Q

    # -- iterations ---------------------------------------------------------------------------------------------------

    def start(self) -> dict[str, Any]:
        """Take the one-shot multipliers, from the reference's samples."""
        caid, reference = self.settings.caid, self.reference
        solution = Dual(self._rewards(reference), self._constraints(reference), caid.thresholds, beta=caid.beta).solve(
            cap=caid.cap
        )
        self.caid.start(solution)
        told = ", ".join(f"{name} {value:.4g}" for name, value in solution.multipliers.items())
        self.recorder.event("caid", f"one-shot multipliers: {told}", step=0)
        return {**solution.metrics(), **self._means(reference), **self._weights()}

    def is_over(self) -> bool:
        """Whether the last policy measured is the result."""
        return self.caid.finished

    def validates(self) -> bool:
        """At the end of an iteration."""
        return self.steps_made == self._iteration_ends

    def finish_step(self, metrics: dict[str, Any]) -> None:
        """At the end of an iteration the policy is saved before it is measured: no signal has to wait for that."""
        if self.validates():
            self.save(metrics)
            if interruption := self.recorder.interruption(self.steps_made):
                self.recorder.stop(interruption)
                return
            end_request.all_is_saved()
        super().finish_step(metrics)

    def resume(self, metrics: Mapping[str, Any]) -> None:
        """Go on from a checkpoint: at the end of an iteration its policy is still to be measured."""
        if self.validates():
            self.finish_step(dict(metrics))
        else:
            super().resume(metrics)

    def validate(self) -> dict[str, Any]:
        """Sample the last policy, and move the multipliers by how far it misses the thresholds."""
        samples = self.samples.sample(f"policy/{self.caid.num_policies}", step=self.steps_made)
        metrics = {
            **self.samples.seconds,
            **self._means(samples),
            **self.caid.observe(self._constraints(samples), self._constraints(self.reference)),
        }
        self._iteration_ends = self.steps_made + self.settings.steps_per_iteration
        self._probability_Q = None  # the multipliers have moved
        told = "; ".join(
            f"{name}: slack {values['slack']:+.4g} (standard error {values['standard_error']:.2g}) with the multiplier "
            f"{values['multiplier']:.4g}"
            for name, values in self.caid.history[-1].items()
        )
        self.recorder.event("caid", f"policy {len(self.caid.history)}: {told}", step=self.steps_made)
        return metrics

    def end(self) -> None:
        """Say what came of it."""
        if not isinstance(self.recorder.stopped_by, Interruption):
            self.recorder.event("caid", self._verdict(), step=self.steps_made)

    def _verdict(self) -> str:
        caid = self.caid
        ended = f"ended after {len(caid.history)} {'policy' if len(caid.history) == 1 else 'policies'}"
        if isinstance(self.recorder.stopped_by, Alarm):
            return f"{ended}: the alarm {self.recorder.stopped_by.kind}"
        if caid.converged:
            return f"{ended}: every slack is within its standard errors"
        if not caid.missed:
            return f"{ended}: the last iteration is over"
        missed = ", ".join(
            f"{name} is below its threshold by {-slack.value:.3g} (standard error {slack.standard_error:.2g})"
            for name, slack in caid.missed.items()
        )
        steps = ", ".join(f"{caid.step_sizes[name]:.2g} for {name}" for name in caid.missed)
        return (
            f"{ended}: {missed}. Go on with ctwa.resume=true ctwa.caid.iterations={2 * caid.config.iterations}, or "
            f"begin again with larger steps of the multipliers: ctwa.caid.eta, here {steps}"
        )

    # -- samples ------------------------------------------------------------------------------------------------------

    def _rewards(self, samples: Samples) -> Tensor:
        parts = [weight * samples.scores_PS[name] for name, weight in self.settings.reward_weights.items()]
        return torch.stack(parts).sum(0)

    def _constraints(self, samples: Samples) -> dict[str, Tensor]:
        return {name: samples.scores_PS[name] for name in self.settings.caid.thresholds}

    def _draw_pairs(self, reference: Samples) -> None:
        """The pairs of all iterations, their samples' places, and the order in which steps take them."""
        num_prompts, num_samples = len(reference.prompts), len(reference.responses[0])
        drawn_PQ2 = draw_pairs(num_prompts, num_samples, self.settings.pairs_per_prompt, seed=self.settings.seed)
        self._pairs: list[PairTokens] = []
        places: list[tuple[int, int, int]] = []
        for prompt, pairs_Q2 in enumerate(drawn_PQ2.tolist()):
            for first, second in pairs_Q2:
                chosen, rejected = (reference.responses[prompt][sample] for sample in (first, second))
                if chosen == rejected:
                    continue  # nothing to learn
                self._pairs.append(PairTokens(reference.prompts[prompt], chosen, rejected, {}, len(self._pairs)))
                places.append((prompt, first, second))
        if len(self._pairs) < self.config.data.train_batch_size:
            raise CtwaError(
                f"only {len(self._pairs)} of the drawn pairs are of different responses, and a step takes "
                f"data.train_batch_size={self.config.data.train_batch_size}: write a smaller batch, or more prompts "
                "(data.val_max_samples), samples or pairs_per_prompt"
            )
        self._places = torch.tensor(places)
        self._pair_sampler = PairSampler(
            [len(self._pairs)], batch_size=self.config.data.train_batch_size, seed=self.settings.seed
        )

    def _means(self, samples: Samples) -> dict[str, float]:
        """``val/<objective>``: the mean score, and its standard error over prompts."""
        metrics: dict[str, float] = {}
        for name, values_PS in {**samples.scores_PS, REWARD: self._rewards(samples)}.items():
            metrics |= validation_metrics(name, values_PS.mean(1), torch.arange(len(values_PS)))
        return metrics

    def _weights(self) -> dict[str, float]:
        assert self.caid.multipliers is not None
        return key_of.of_weights({**self.settings.reward_weights, **self.caid.multipliers})

    # -- checkpoints: one an iteration, before it is measured, and one where a signal ended it ------------------------

    def state_dict(self) -> dict[str, Any]:
        """Of the iterations and the sampler."""
        return {
            "last": self._iteration_ends,
            "caid": self.caid.state_dict(),
            **self.sampler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` gave."""
        self._iteration_ends = state["last"]
        self.caid.load_state_dict(state["caid"])
        self.sampler.load_state_dict(state)
