"""The training on preference pairs: :meth:`PreferenceTrainer.step` is what it does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from ctwa import metrics as key_of
from ctwa.aggregators.base import Aggregator
from ctwa.engine.loop import Trainer
from ctwa.engine.pairs.batches import PairBatch
from ctwa.engine.pairs.data import Part, PreferenceData
from ctwa.engine.pairs.workers import PreferenceWorkers
from ctwa.engine.prefer_settings import PreferenceSettings
from ctwa.engine.recorder import Recorder
from ctwa.gradients.plan import GradientPlan, gradient_metrics
from ctwa.models.locate import BEST, step_folder
from ctwa.preference.early_stopping import EarlyStopping
from ctwa.preference.losses import (
    DpoLoss,
    PairLogProbs,
    PreferenceLoss,
    objective_losses,
    preference_metrics,
    ranked_right,
)
from ctwa.preference.sampling import PairSampler
from ctwa.preference.tokenization import label_matrices, prompt_indices
from ctwa.statistics import clustered_error


@dataclass(frozen=True)
class Scored:
    """Pairs with all their log-probabilities."""

    log_probs: PairLogProbs
    labels_PM: Tensor
    labelled_PM: Tensor

    @classmethod
    def of(cls, batch: PairBatch, log_probs_P2: Tensor, names: tuple[str, ...]) -> Scored:
        """The pairs of a batch."""
        chosen_lengths_P, rejected_lengths_P = batch.lengths()
        log_probs = PairLogProbs(log_probs_P2[:, 0], log_probs_P2[:, 1], chosen_lengths_P, rejected_lengths_P)
        if batch.reference_P2 is not None:
            log_probs = replace(
                log_probs, reference_chosen_P=batch.reference_P2[:, 0], reference_rejected_P=batch.reference_P2[:, 1]
            )
        return cls(log_probs, *label_matrices(batch.pairs, names))

    def metrics(self, loss: PreferenceLoss, names: tuple[str, ...]) -> dict[str, float]:
        """``preference/<name>/...`` under a loss."""
        return preference_metrics(loss, self.log_probs, self.labels_PM, self.labelled_PM, names)


def update_metrics(of_verl: Mapping[str, Any]) -> dict[str, Any]:
    """What verl says of an optimizer step, under the names that a step on rewards gives it."""
    return {f"actor/{key}": of_verl[key] for key in ("loss", "grad_norm", "lr")}


class PreferenceTrainer(Trainer):
    """Trains a policy on preference pairs of several objectives.

    Which pairs a step draws follows from its number and the seed.

    Args:
        config: the resolved config, verl's and ours.
        settings: our part of it, validated.
        data: the pairs, with the reference's log-probabilities where the loss needs them.
        workers: the policy.
        recorder: writes the run folder.
        num_steps: of the run.
    """

    def __init__(
        self,
        config: DictConfig,
        *,
        settings: PreferenceSettings,
        data: PreferenceData,
        workers: PreferenceWorkers,
        recorder: Recorder,
        num_steps: int,
    ) -> None:
        super().__init__(config, workers, recorder, num_steps=num_steps)
        self.settings = settings
        self.data = data
        self.workers = workers
        self.names, self.trained = settings.names, settings.trained
        self.aggregator: Aggregator = settings.build_aggregator()
        self.sampler = PairSampler(
            [len(part.pairs) for part in data.train], batch_size=config.data.train_batch_size, seed=settings.seed
        )
        self.early_stopping = (
            EarlyStopping(settings.early_stopping, settings.weights) if settings.early_stopping is not None else None
        )

    # -- the step -----------------------------------------------------------------------------------------------------

    def step(self, number: int) -> dict[str, Any]:
        """Draw pairs, let the workers take each objective's gradient where that is due, and move along their sum."""
        began = time.perf_counter()
        batch = self._draw(number)
        log_probs_P2, verl_metrics, plan = self.workers.update(batch, self._plan(number))
        seconds = time.perf_counter() - began
        assert plan.aggregator is not None
        self.aggregator = plan.aggregator
        scored = Scored.of(batch, log_probs_P2, self.trained)
        metrics = {
            **update_metrics(verl_metrics),
            "perf/max_memory_allocated_gb": verl_metrics["perf/max_memory_allocated_gb"],
            **scored.metrics(self.settings.training_loss, self.trained),
            **gradient_metrics(plan),
            "time/update_actor": seconds,
        }
        metrics |= self._weights()
        for name in self.names:
            if f"preference/{name}/accuracy" in metrics:
                metrics[key_of.objective_mean(name)] = metrics[f"preference/{name}/accuracy"]
        return metrics

    def _weights(self) -> dict[str, float]:
        return key_of.of_weights(self.aggregator.named(self.aggregator.last_weights_M))

    def _draw(self, number: int) -> PairBatch:
        drawn = self.sampler.step(number)
        parts = list(zip(self.data.train, drawn, strict=True))
        references = [part.reference(indices) for part, indices in parts]
        return PairBatch(
            [part.pairs[index] for part, indices in parts for index in indices],
            [len(indices) for indices in drawn],
            torch.cat(references) if all(each is not None for each in references) else None,  # type: ignore[arg-type]
        )

    def _plan(self, number: int) -> GradientPlan:
        every = self.settings.diagnostics.gradients_every
        due = (number - 1) % self.settings.gradients.refresh_every == 0
        solve = (due and not self.aggregator.has_fixed_weights) or bool(every and (number - 1) % every == 0)
        return GradientPlan(self.trained, self.aggregator, self.settings.gradients, solve=solve)

    def start(self) -> dict[str, Any]:
        """The validation of the model as it came, and the weights that the first step begins with."""
        metrics = super().start()
        return metrics and metrics | self._weights()

    def validate(self) -> dict[str, Any]:
        """``val/<name>``, the share of validation pairs ranked as the objective prefers; its error, and losses."""
        metrics: dict[str, Any] = {}
        dpo: dict[str, float] = {}
        for part in self.data.validation:
            each = self._score(part)
            found = each.metrics(self.settings.loss, self.names)
            metrics |= {f"val_{key}": value for key, value in found.items()}
            for m, name in enumerate(self.names):
                labelled_P = each.labelled_PM[:, m]
                if not labelled_P.any():
                    continue
                right_P = ranked_right(self.settings.loss, each.log_probs, each.labels_PM[:, m])
                if (ranked_P := ~right_P.isnan()).any():
                    prompt_P = prompt_indices(part.pairs)[ranked_P]
                    metrics[key_of.validation(name)] = found[f"preference/{name}/accuracy"]
                    metrics[key_of.validation_error(name)] = clustered_error(
                        right_P[ranked_P].numpy(), prompt_P.numpy()
                    )
                if self.early_stopping is not None:
                    dpo[name] = mean_loss(_dpo(self.settings.loss), each, m)
        if self.early_stopping is not None:
            metrics |= self.early_stopping.observe(self.steps_made, dpo)
        return metrics

    def _score(self, part: Part) -> Scored:
        batch = PairBatch(part.pairs, [len(part.pairs)], part.reference_P2)
        return Scored.of(batch, torch.stack(self.workers.log_probs(part.pairs), 1), self.names)

    # -- what early stopping says -------------------------------------------------------------------------------------

    def is_over(self) -> bool:
        """Whether the last step is made, or early stopping has ended the run."""
        return super().is_over() or (self.early_stopping is not None and self.early_stopping.stop)

    def validates_at_the_end(self) -> bool:
        """Whatever ``trainer.test_freq`` says."""
        return True

    def saves(self) -> bool:
        """At the last step and the best one too, whatever ``trainer.save_freq`` says."""
        return super().saves() or self.is_over() or self.steps_made == self.spared()

    def spared(self) -> int | None:
        """The best step."""
        return self.early_stopping.best_step if self.early_stopping is not None else None

    def end(self) -> None:
        """Point to the best checkpoint."""
        if self.early_stopping is None:
            return
        best = self.early_stopping.best_step
        if not best:
            self.recorder.event("best", "no step was better than the model the run began with", step=self.steps_made)
            return
        link = self.recorder.run.checkpoints / BEST
        link.unlink(missing_ok=True)
        link.symlink_to(step_folder(Path(), best))
        self.recorder.event("best", f"step {best} has the least validation loss: it is kept as checkpoints/{BEST}")

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Of the method and of early stopping."""
        return {
            "aggregator": self.aggregator.state_dict(),
            "early_stopping": self.early_stopping.state_dict() if self.early_stopping else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` gave."""
        self.aggregator.load_state_dict(state["aggregator"])
        if self.early_stopping is not None and state["early_stopping"] is not None:
            self.early_stopping.load_state_dict(state["early_stopping"])


def mean_loss(loss: PreferenceLoss, scored: Scored, objective: int) -> float:
    """The mean loss of one objective over its labelled pairs."""
    losses_PM = objective_losses(loss, scored.log_probs, scored.labels_PM)
    return float(losses_PM[scored.labelled_PM[:, objective], objective].mean())


def _dpo(loss: PreferenceLoss) -> DpoLoss:
    """What early stopping looks at, whatever is trained with; at the trained loss's own beta where that is DPO."""
    return loss if isinstance(loss, DpoLoss) else DpoLoss()
