"""The training loop of preference alignment: pairs in, one optimizer step, one record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from verl.utils.tracking import Tracking

from ctwa import metrics as key_of
from ctwa.aggregators.base import Aggregator
from ctwa.engine import checkpoint
from ctwa.engine.gradients import GradientPlan, gradient_metrics
from ctwa.engine.pairs.batches import PairBatch
from ctwa.engine.pairs.data import Part, PreferenceData
from ctwa.engine.pairs.workers import PreferenceWorkers
from ctwa.engine.prefer_settings import PreferenceSettings
from ctwa.engine.recorder import Recorder, numbers
from ctwa.engine.signals import end_request
from ctwa.models.locate import BEST
from ctwa.preference.early_stopping import EarlyStopping
from ctwa.preference.losses import DpoLoss, PairLogProbs, PreferenceLoss, objective_losses, preference_metrics
from ctwa.preference.sampling import PairSampler
from ctwa.run.alarms import Alarm


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
        return cls(log_probs, *batch.labels(names))


class PreferenceTrainer:
    """Trains a policy on preference pairs of several objectives.

    A step draws its pairs, lets the workers take each objective's gradient where the method looks at gradients, and
    moves along their combination. Which pairs a step draws follows from its number and the seed.

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
        self.config = config
        self.settings = settings
        self.data = data
        self.workers = workers
        self.recorder = recorder
        self.num_steps = num_steps
        self.names, self.trained = settings.names, settings.trained
        self.aggregator: Aggregator = settings.build_aggregator()
        self.sampler = PairSampler(
            [len(part.pairs) for part in data.train], batch_size=config.data.train_batch_size, seed=settings.seed
        )
        self.early_stopping = (
            EarlyStopping(settings.early_stopping, settings.weights) if settings.early_stopping is not None else None
        )
        self.step = 0
        self._tracking = Tracking(
            project_name=config.trainer.project_name,
            experiment_name=config.trainer.experiment_name,
            default_backend=config.trainer.logger,
            config=OmegaConf.to_container(config, resolve=True),
        )

    def fit(self) -> None:
        """Train to the last step, or until early stopping says so."""
        self._load()
        if self.step == 0:
            self._finish_step(self._validate(), save=False)
        while self.step < self.num_steps and not self._is_over():
            end_request.step_begins()
            began = time.perf_counter()
            self.step += 1
            metrics = self._update()
            metrics["time/update_actor"] = time.perf_counter() - began
            stop = self.recorder.stopping(self.step, metrics)
            last = self.step == self.num_steps
            if last or isinstance(stop, Alarm) or self._is_due(self.config.trainer.test_freq):
                metrics |= self._validate()
                metrics["time/testing"] = time.perf_counter() - began - metrics["time/update_actor"]
            save = (
                last
                or stop is not None
                or self._is_over()
                or self._is_due(self.config.trainer.save_freq)
                or self._is_best()
            )
            metrics["time/step"] = time.perf_counter() - began
            self._finish_step(metrics, save=save)
            if stop is not None and not last:
                self.recorder.stop(stop)
        if self.early_stopping is not None:
            self._point_to_best()
        self._tracking.finish()

    def _is_over(self) -> bool:
        """Whether early stopping, an alarm or a signal has ended the run."""
        return self.recorder.stopped_by is not None or (self.early_stopping is not None and self.early_stopping.stop)

    def _update(self) -> dict[str, Any]:
        batch = self._draw()
        log_probs_P2, verl_metrics, plan = self.workers.update(batch, self._plan())
        assert plan.aggregator is not None
        self.aggregator = plan.aggregator
        scored = Scored.of(batch, log_probs_P2, self.trained)
        found = preference_metrics(
            self.settings.training_loss, scored.log_probs, scored.labels_PM, scored.labelled_PM, self.trained
        )
        metrics = {
            "actor/loss": verl_metrics["loss"],
            "actor/grad_norm": verl_metrics["grad_norm"],
            "actor/lr": verl_metrics["lr"],
            "perf/max_memory_allocated_gb": verl_metrics["perf/max_memory_allocated_gb"],
            **found,
            **gradient_metrics(plan),
        }
        last_M = self.aggregator.last_weights_M
        metrics |= {key_of.weight(name): weight for name, weight in self.aggregator.named(last_M).items()}
        for name in self.names:
            if f"preference/{name}/accuracy" in metrics:
                metrics[f"objective/{name}/mean"] = metrics[f"preference/{name}/accuracy"]
        return metrics

    def _draw(self) -> PairBatch:
        drawn = self.sampler.step(self.step)
        parts = list(zip(self.data.train, drawn, strict=True))
        references = [part.reference(indices) for part, indices in parts]
        return PairBatch(
            [part.pairs[index] for part, indices in parts for index in indices],
            [len(indices) for indices in drawn],
            torch.cat(references) if all(each is not None for each in references) else None,  # type: ignore[arg-type]
        )

    def _plan(self) -> GradientPlan:
        every = self.settings.diagnostics.gradients_every
        due = (self.step - 1) % self.settings.gradients.refresh_every == 0
        solve = (due and not self.aggregator.has_fixed_weights) or bool(every and (self.step - 1) % every == 0)
        return GradientPlan(self.trained, self.aggregator, self.settings.gradients, solve=solve)

    def _validate(self) -> dict[str, Any]:
        """``val/<name>``, the share of validation pairs ranked as the objective prefers; its error, and the losses."""
        scored = [self._score(part) for part in self.data.validation]
        metrics: dict[str, Any] = {}
        dpo: dict[str, float] = {}
        for each in scored:
            found = preference_metrics(self.settings.loss, each.log_probs, each.labels_PM, each.labelled_PM, self.names)
            metrics |= {f"val_{key}": value for key, value in found.items()}
            for m, name in enumerate(self.names):
                labelled_P = each.labelled_PM[:, m]
                if not labelled_P.any():
                    continue
                accuracy = found.get(f"preference/{name}/accuracy")
                if accuracy is not None:
                    num_decided = int((each.labels_PM[:, m] != 0).sum())
                    metrics[f"val/{name}"] = accuracy
                    metrics[f"val_standard_error/{name}"] = (accuracy * (1 - accuracy) / num_decided) ** 0.5
                if self.early_stopping is not None:
                    dpo[name] = mean_loss(_dpo(self.settings.loss), each, m)
        if self.early_stopping is not None:
            metrics |= self.early_stopping.observe(self.step, dpo)
        return metrics

    def _score(self, part: Part) -> Scored:
        batch = PairBatch(part.pairs, [len(part.pairs)], part.reference_P2)
        return Scored.of(batch, torch.stack(self.workers.log_probs(part.pairs), 1), self.names)

    def _is_due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _is_best(self) -> bool:
        return self.early_stopping is not None and self.early_stopping.best_step == self.step

    # -- records and checkpoints ------------------------------------------------------------------------------------

    def _finish_step(self, metrics: Mapping[str, Any], *, save: bool) -> None:
        if save:
            self._save(metrics)
        self.recorder.step(self.step, metrics)
        self._tracking.log(data=numbers(metrics), step=self.step)

    def _save(self, metrics: Mapping[str, Any]) -> None:
        folder = checkpoint.step_folder(self.recorder.run.checkpoints, self.step)
        state = {
            "step": self.step,
            "aggregator": self.aggregator.state_dict(),
            "early_stopping": self.early_stopping.state_dict() if self.early_stopping else None,
            # Should the run die before its record is written, the resumed one still has it.
            "metrics": numbers(metrics),
        }
        best = self.early_stopping.best_step if self.early_stopping else None
        with checkpoint.saving(folder, state, keep=self.config.trainer.max_actor_ckpt_to_keep, spare=best):
            self.workers.group.save_checkpoint(str(folder / "actor"), None, self.step, max_ckpt_to_keep=None)

    def _point_to_best(self) -> None:
        assert self.early_stopping is not None
        best = self.early_stopping.best_step
        if not best:  # no step was better than the model the run began with
            self.recorder.event("best", "no step was better than the model the run began with", step=self.step)
            return
        link = self.recorder.run.checkpoints / BEST
        link.unlink(missing_ok=True)
        link.symlink_to(checkpoint.step_folder(Path(), best))
        self.recorder.event("best", f"step {best} has the least validation loss: it is kept as checkpoints/{BEST}")

    def _load(self) -> None:
        folder = self.recorder.resume_from
        if folder is None:
            return
        self.workers.group.load_checkpoint(str(folder / "actor"))
        state = checkpoint.read_state(folder)
        self.step = state["step"]
        self.aggregator.load_state_dict(state["aggregator"])
        if self.early_stopping is not None and state["early_stopping"] is not None:
            self.early_stopping.load_state_dict(state["early_stopping"])
        self.recorder.step(self.step, state["metrics"])


def mean_loss(loss: PreferenceLoss, scored: Scored, objective: int) -> float:
    """The mean loss of one objective over its labelled pairs."""
    losses_PM = objective_losses(loss, scored.log_probs, scored.labels_PM)
    return float(losses_PM[scored.labelled_PM[:, objective], objective].mean())


def _dpo(loss: PreferenceLoss) -> DpoLoss:
    """What early stopping looks at, whatever is trained with; at the trained loss's own beta where that is DPO."""
    return loss if isinstance(loss, DpoLoss) else DpoLoss()
