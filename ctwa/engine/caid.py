"""The iterations of CAID on the engine: sample, score, weigh, train on the pairs of the reference's samples, again."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from omegaconf import OmegaConf
from torch import Tensor
from verl.utils.tracking import Tracking

from ctwa import metrics as key_of
from ctwa.aggregators.linear import Linear, LinearConfig
from ctwa.engine import checkpoint
from ctwa.engine.caid_settings import REWARD, CaidSettings
from ctwa.engine.gradients import GradientPlan
from ctwa.engine.pairs.batches import PairBatch
from ctwa.engine.pairs.data import load_policy
from ctwa.engine.pairs.objective import SOFT_LABEL, PairLoss
from ctwa.engine.pairs.workers import PreferenceWorkers
from ctwa.engine.prefer import Scored
from ctwa.engine.recorder import numbers
from ctwa.engine.signals import end_request
from ctwa.engine.train import MultiObjectiveTrainer
from ctwa.errors import CtwaError
from ctwa.preference.caid import Caid, composite_reward, draw_pairs, implicit_reward, label_probability
from ctwa.preference.dual import Dual
from ctwa.preference.log_probs import continuation_log_probs
from ctwa.preference.losses import DpoLoss, preference_metrics
from ctwa.preference.sampling import PairSampler
from ctwa.preference.tokenization import PairTokens
from ctwa.run.alarms import Alarm
from ctwa.run.jsonl import write_atomically

COMPOSITE = "composite"
REFERENCE_FILE = "reference-samples.parquet"


@dataclass(frozen=True)
class Samples:
    """S responses to each of P prompts, and what they were scored.

    Attributes:
        prompts: token ids, P of them.
        responses: token ids, S of them a prompt.
        scores_PS: by objective, float64.
    """

    prompts: list[tuple[int, ...]]
    responses: list[list[tuple[int, ...]]]
    scores_PS: dict[str, Tensor]

    def write(self, path: Path, origin: str = "") -> None:
        """Keep them: they cost more than anything else to make. The file appears complete or not at all.

        Args:
            path: the file.
            origin: what they come of, in words that :meth:`read` compares.
        """
        num_samples = len(self.responses[0])
        columns: dict[str, Any] = {
            "prompt": [list(prompt) for prompt in self.prompts for _ in range(num_samples)],
            "response": [list(response) for of_prompt in self.responses for response in of_prompt],
            **{f"score/{name}": values_PS.flatten().tolist() for name, values_PS in self.scores_PS.items()},
        }
        metadata = {"samples_a_prompt": str(num_samples), "origin": origin}
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.table(columns).replace_schema_metadata(metadata), buffer)
        write_atomically(path, buffer.getvalue().to_pybytes())

    @classmethod
    def read(cls, path: Path, origin: str = "") -> Samples:
        """What :meth:`write` kept.

        Raises:
            CtwaError: they come of something else.
        """
        table = pq.read_table(path)
        if origin and table.schema.metadata[b"origin"].decode() != origin:
            raise CtwaError(
                f"{path} holds samples of another model, other prompts, or other scorers than this configuration's: "
                "resume with the configuration that the run began with, or delete the file to sample anew"
            )
        num_samples = int(table.schema.metadata[b"samples_a_prompt"])
        responses = [tuple(response) for response in table["response"].to_pylist()]
        return cls(
            [tuple(prompt) for prompt in table["prompt"].to_pylist()[::num_samples]],
            [responses[start : start + num_samples] for start in range(0, len(responses), num_samples)],
            {
                name.removeprefix("score/"): torch.tensor(table[name].to_numpy().reshape(-1, num_samples))
                for name in table.column_names
                if name.startswith("score/")
            },
        )


class CaidTrainer(MultiObjectiveTrainer):
    """Alternates between multipliers and policies; it samples and scores as the multi-objective trainer does.

    The samples of the reference are drawn and scored once; every policy is trained on pairs of them, labelled with its
    multipliers, and measured by samples of its own on the same prompts.
    """

    settings: CaidSettings
    max_missing = 0.0  # of a policy's samples: each prompt is to have as many

    def fit(self, agent_loop_manager: Any) -> None:
        """Run the iterations, from wherever a checkpoint left them."""
        self.agent_loop_manager = agent_loop_manager
        self.logger = Tracking(
            project_name=self.config.trainer.project_name,
            experiment_name=self.config.trainer.experiment_name,
            default_backend=self.config.trainer.logger,
            config=OmegaConf.to_container(self.config, resolve=True),
        )
        settings = self.settings
        self._aggregator = Linear(LinearConfig(), {COMPOSITE: 1.0})
        self._loss = DpoLoss(beta=settings.caid.beta)
        actor = self.config.actor_rollout_ref.actor
        self._workers = PreferenceWorkers(
            self.actor_rollout_wg,
            PairLoss(self._loss, (COMPOSITE,), skip_absent=False),
            pad_token_id=self.tokenizer.pad_token_id,
            micro_batch=1 if actor.use_dynamic_bsz else actor.ppo_micro_batch_size_per_gpu,
        )
        self._policies = {name: load_policy(model) for name, model in settings.policies.items()}
        reference = self._reference_samples()
        self._draw_pairs(reference)
        self._reference_P2 = torch.stack(self._workers.log_probs(self._pairs), 1)
        self.caid = Caid(settings.caid)
        self._last = self._load()
        if self.caid.multipliers is None:
            self._start(reference)
        while not self.caid.finished and self.recorder.stopped_by is None:
            if self._last is None:
                self._last = self.global_steps + settings.steps_per_iteration
            if self.global_steps < self._last:
                self._train(reference)
            if interruption := self.recorder.interruption(self.global_steps):
                self.recorder.stop(interruption)
                return
            end_request.all_is_saved()
            self._measure(reference)
            self._last = None
        self.recorder.event("caid", self._verdict(), step=self.global_steps)

    # -- samples and scores -----------------------------------------------------------------------------------------

    def _reference_samples(self) -> Samples:
        """Those of the run's folder, or new ones: the policy is the reference still."""
        path = self.recorder.run.path / REFERENCE_FILE
        if path.exists():
            self.checkpoint_manager.sleep_replicas()
            return Samples.read(path, self._origin())
        samples = self._sample("reference")
        samples.write(path, self._origin())
        return samples

    def _origin(self) -> str:
        """All that the reference's samples and their scores depend on."""
        rollout, data, settings = self.config.actor_rollout_ref.rollout, self.config.data, self.settings
        scorers = settings.model_dump(mode="json", include={"objectives", "policies", "implicit_scale", "seed"})
        return json.dumps(
            {
                **scorers,
                "reference_length": settings.reference_length and settings.reference_length.model_dump(mode="json"),
                "model": self.config.actor_rollout_ref.model.path,
                "prompts": [OmegaConf.to_container(data.val_files), data.val_max_samples],
                "sampling": [OmegaConf.to_container(rollout.val_kwargs), rollout.response_length, rollout.name],
                "beta": settings.caid.beta if settings.policies else None,
            },
            sort_keys=True,
            default=str,
        )

    def _sample(self, seed_name: str) -> Samples:
        """Of the policy that the replicas have; they make room for training afterwards."""
        rows = self._complete_held_out(seed_name)
        self.checkpoint_manager.sleep_replicas()
        evaluation, rollout, completions = self._evaluate(rows)
        data = rows.read("prompts", "responses")
        prompts = [tuple(row.tolist()) for row in data["prompts"].unbind()]
        responses = [tuple(row.tolist()) for row in data["responses"].unbind()]
        rows.clear()
        self.recorder.samples(self.global_steps, completions, evaluation, split="held-out")
        num_samples = int(self.config.actor_rollout_ref.rollout.val_kwargs.n)
        filled_NM = evaluation.matrix.filled_NM(rollout.group_N)
        scores = dict(zip(evaluation.matrix.names, filled_NM.unbind(1), strict=True))
        if self._policies:
            scores |= self._implicit_scores(list(zip(prompts, responses, strict=True)))
        return Samples(
            prompts[::num_samples],
            [responses[start : start + num_samples] for start in range(0, len(responses), num_samples)],
            {name: values_N.double().reshape(-1, num_samples) for name, values_N in scores.items()},
        )

    def _implicit_scores(self, rows: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> dict[str, Tensor]:
        """The rewards that pre-aligned policies stand for."""
        if not hasattr(self, "_reference_policy"):
            self._reference_policy = load_policy(self.config.actor_rollout_ref.model.path)
        reference_N = continuation_log_probs(self._reference_policy, rows)
        return {
            name: implicit_reward(
                continuation_log_probs(policy, rows) - reference_N,
                self.settings.caid.beta,
                scale=self.settings.implicit_scale,
            )
            for name, policy in self._policies.items()
        }

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
        self._sampler = PairSampler(
            [len(self._pairs)], batch_size=self.config.data.train_batch_size, seed=self.settings.seed
        )

    # -- iterations -------------------------------------------------------------------------------------------------

    def _start(self, reference: Samples) -> None:
        caid = self.settings.caid
        solution = Dual(self._rewards(reference), self._constraints(reference), caid.thresholds, beta=caid.beta).solve(
            cap=caid.cap
        )
        self.caid.start(solution)
        self._record(0, {**solution.metrics(), **self._means(reference), **self._weights()})
        told = ", ".join(f"{name} {value:.4g}" for name, value in solution.multipliers.items())
        self.recorder.event("caid", f"one-shot multipliers: {told}", step=0)

    def _train(self, reference: Samples) -> None:
        """The next policy: from the last one, on the pairs labelled with the multipliers, with the fixed reference.

        A signal ends it early, with a checkpoint to go on from.
        """
        assert self.caid.multipliers is not None
        composite_PS = composite_reward(self._rewards(reference), self._constraints(reference), self.caid.multipliers)
        prompt_Q, first_Q, second_Q = self._places.unbind(1)
        probability_Q = label_probability(composite_PS[prompt_Q, first_Q], composite_PS[prompt_Q, second_Q])
        if self.settings.labels == "drawn":
            generator = torch.Generator().manual_seed(self.settings.seed * 1000 + self.caid.num_policies)
            probability_Q = torch.bernoulli(probability_Q, generator=generator)
        assert self._last is not None
        metrics: dict[str, Any] = {}
        while self.global_steps < self._last and self.recorder.interruption(self.global_steps) is None:
            end_request.step_begins()
            began = time.perf_counter()
            self.global_steps += 1
            metrics = self._update(probability_Q)
            metrics["time/update_actor"] = metrics["time/step"] = time.perf_counter() - began
            if self.global_steps < self._last:
                self._record(self.global_steps, metrics)
        self._trained_metrics = metrics
        self._save_checkpoint()

    def _update(self, probability_Q: Tensor) -> dict[str, Any]:  # type: ignore[override]
        (indices,) = self._sampler.step(self.global_steps)
        index_P = torch.tensor(indices)
        probability_P = probability_Q[index_P]
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
        scored = Scored.of(batch, log_probs_P2, (COMPOSITE,))
        return {
            "actor/loss": verl_metrics["loss"],
            "actor/grad_norm": verl_metrics["grad_norm"],
            "actor/lr": verl_metrics["lr"],
            **preference_metrics(self._loss, scored.log_probs, scored.labels_PM, scored.labelled_PM, (COMPOSITE,)),
            **self._weights(),
        }

    def _measure(self, reference: Samples) -> None:
        """Sample the last policy, and move the multipliers by how far it misses the thresholds."""
        began = time.perf_counter()
        self.checkpoint_manager.update_weights(self.global_steps)
        policy = self._sample(f"policy/{self.caid.num_policies}")
        metrics = {
            **self._trained_metrics,
            **self._means(policy),
            **self.caid.observe(self._constraints(policy), self._constraints(reference)),
            "time/testing": time.perf_counter() - began,
        }
        stop = self.recorder.stopping(self.global_steps, metrics)
        self._record(self.global_steps, metrics)
        told = "; ".join(
            f"{name}: slack {values['slack']:+.4g} (standard error {values['standard_error']:.2g}) with the multiplier "
            f"{values['multiplier']:.4g}"
            for name, values in self.caid.history[-1].items()
        )
        self.recorder.event("caid", f"policy {len(self.caid.history)}: {told}", step=self.global_steps)
        if stop is not None and not self.caid.finished:
            self.recorder.stop(stop)

    def _means(self, samples: Samples) -> dict[str, float]:
        """``val/<objective>``: the mean score, and its standard error over prompts."""
        metrics = {}
        for name, values_PS in {**samples.scores_PS, REWARD: self._rewards(samples)}.items():
            mean_P = values_PS.mean(1)
            metrics[f"val/{name}"] = float(mean_P.mean())
            metrics[f"val_standard_error/{name}"] = float(mean_P.std() / len(mean_P) ** 0.5)
        return metrics

    def _weights(self) -> dict[str, float]:
        assert self.caid.multipliers is not None
        weights = {**self.settings.reward_weights, **self.caid.multipliers}
        return {key_of.weight(name): weight for name, weight in weights.items()}

    def _record(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.recorder.step(step, metrics)
        self.logger.log(data=numbers(metrics), step=step)

    def _verdict(self) -> str:
        caid = self.caid
        ended = f"ended after {len(caid.history)} policies"
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

    # -- checkpoints: one an iteration, before it is measured, and one where a signal ended it ------------------------

    def _save_checkpoint(self) -> None:
        folder = checkpoint.step_folder(self.recorder.run.checkpoints, self.global_steps)
        state = {
            "step": self.global_steps,
            "last": self._last,  # step of this iteration
            "caid": self.caid.state_dict(),
            "reference_length": self.reference_length.state_dict() if self.reference_length else None,
            "metrics": numbers(self._trained_metrics),
        }
        with checkpoint.saving(folder, state, keep=self._keep):
            self.actor_rollout_wg.save_checkpoint(str(folder / "actor"), None, self.global_steps, None)

    def _load_checkpoint(self) -> None:
        """Nothing, while the reference is still to be asked: see :meth:`_load`."""
        self.global_steps = 0

    def _load(self) -> int | None:
        """The last step of the iteration that was saved, which is trained so far and not measured; None without any."""
        folder = self.recorder.resume_from
        if folder is None:
            return None
        self.actor_rollout_wg.load_checkpoint(str(folder / "actor"))
        state = checkpoint.read_state(folder)
        self.global_steps = state["step"]
        self.caid.load_state_dict(state["caid"])
        if self.reference_length is not None:
            self.reference_length.load_state_dict(state["reference_length"])
        self._trained_metrics = state["metrics"]
        last: int = state.get("last", self.global_steps)  # absent before an iteration could be left halfway
        return last
