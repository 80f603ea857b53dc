"""Prompts in, scored completions out: what every training that samples has of the engine."""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from verl.utils.transferqueue_utils import KVBatchMeta

from ctwa import metrics as key_of
from ctwa.batch import Rollout
from ctwa.engine.by_source import has_several_sources
from ctwa.engine.checks.look import room_for_weights
from ctwa.engine.data import READERS, RunData
from ctwa.engine.left_processes import left_metrics
from ctwa.engine.ray_servers import processes
from ctwa.engine.ray_session import ray_session
from ctwa.engine.recorder import Recorder
from ctwa.engine.reward_nodes import join_nodes
from ctwa.engine.settings import Settings
from ctwa.engine.verl.rows import Prompts, check_sequences, num_missing, place_of, prompt_name
from ctwa.engine.verl.session import Session
from ctwa.engine.verl.transfer import QueuedRows
from ctwa.engine.verl.turns import Turns, read_turns
from ctwa.models.seeds import completion_seed
from ctwa.objectives.completion import Completion, Moment
from ctwa.objectives.conditioning import weights_of
from ctwa.objectives.evaluator import Evaluation, Failure, RewardEvaluator, Scoring
from ctwa.objectives.shaping import Shaped
from ctwa.run.cores import reward_workers
from ctwa.statistics import clustered_error

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scored:
    """Completions and what they were scored, in their order.

    Attributes:
        evaluation: what the reward functions returned.
        shaped: what is made of it (``ctwa.objectives.shaping``); the rollout's rewards.
    """

    completions: list[Completion]
    evaluation: Evaluation
    shaped: Shaped
    rollout: Rollout

    @property
    def lengths_N(self) -> list[int]:
        """Tokens of the responses that the policy wrote."""
        return [completion.response_tokens for completion in self.completions]


class Sampler:
    """Lets the engine complete prompts, and scores each prompt's completions as soon as they are there.

    Prompts have names and completions have places, so rows are in the same order in whichever order they came.

    Args:
        session: the engine.
        settings: seed, and the length that conciseness is measured against.
        evaluator: the reward functions.
        max_missing: the share of the completions asked for that may be lost.
        has_several_sources: whether the rows are of several tasks, so that there are curves of each.
    """

    def __init__(
        self,
        session: Session,
        settings: Settings,
        evaluator: RewardEvaluator,
        *,
        max_missing: float,
        has_several_sources: bool = False,
    ) -> None:
        self.session = session
        self.has_several_sources = has_several_sources
        self.evaluator = evaluator
        self.reference_length = settings.build_reference_length()
        self.shaping = settings.build_shaping()
        self._policy_loss = settings.policy_loss
        self._max_missing = max_missing
        self.conditioning = settings.build_conditioning()
        self._prompts = Prompts(settings.seed, None if self.conditioning is None else self._tell)
        self._concentration = settings.conditioning.concentration
        self._end_tokens = session.end_tokens()
        self._scoring: Scoring | None = None
        self._moment = Moment()
        self._num_samples = 0
        self._first = 0
        self._completions: dict[int, Completion] = {}

    def next_rows(self, step: int, moment: Moment) -> tuple[KVBatchMeta, dict[str, Any]]:
        """Complete the next prompts to train on; returns their completions in the transfer queue, and metrics.

        Args:
            step: that trains on them.
            moment: what the reward functions are told of it.
        """
        self._prompts.clear()
        if self.session.curriculum is not None:
            self.session.curriculum.begin_step()
        return self.more_rows(step, moment)

    def more_rows(self, step: int, moment: Moment) -> tuple[KVBatchMeta, dict[str, Any]]:
        """The same of further prompts of the step, beside those that there are."""
        first = len(self._prompts.rows)
        chunks = [
            self._prompts.name(columns, "train", step, f"train/{step}") for columns in self.session.next_prompts()
        ]
        self._begin(moment, self.session.config.actor_rollout_ref.rollout.n, first)
        return self.session.complete(chunks, "train", step=step, arrived=lambda keys: self._submit(keys, "train"))

    def _tell(self, prompt: Any, split: str, seed: str) -> tuple[Any, dict[str, float]]:
        """A prompt that is told weights: drawn in training, in a validation always the objectives' own; and these."""
        conditioning, concentration = self.conditioning, self._concentration
        assert conditioning is not None
        assert concentration is not None
        weights = conditioning.own
        if split == "train":
            weights = conditioning.draw(completion_seed(f"{seed}/weights", 0), concentration)
        return conditioning.write(prompt, weights), conditioning.scale(weights)

    def _begin(self, moment: Moment, num_samples: int, first: int = 0) -> None:
        """Score what comes from now on, ``num_samples`` completions of each prompt named since the ``first``."""
        self._moment, self._num_samples, self._first = moment, num_samples, first
        self._completions = {}
        self._scoring = self.evaluator.begin((len(self._prompts.rows) - first) * num_samples)

    def _submit(self, keys: Sequence[str], partition: str) -> None:
        """Let the completions of whole prompts be scored."""
        assert self._scoring is not None
        if partition == "train":
            actor = self.session.config.actor_rollout_ref.actor
            check_sequences(keys, self._policy_loss, f"{actor.policy_loss.loss_mode}, {actor.loss_agg_mode}")
        if not keys:
            self._scoring.check()
            return
        queued = QueuedRows(sorted(keys, key=place_of), partition)
        data = queued.read(*self.session.generation.columns)
        sequences = read_turns(data, self.session.tokenizer, self._end_tokens)
        written = [Turns.joined(sequences[begin:end]) for begin, end in pairwise(queued.bounds.tolist())]
        keys = queued.completions
        prompts = [place_of(key)[0] for key in keys]
        lengths = [len(each.token_ids) for each in written]
        references: Sequence[float | None] = [None] * len(keys)
        if self.reference_length is not None:
            references = self.reference_length.reference(lengths, prompts)
        completions = [
            Completion.from_row(
                self._prompts.rows[prompt_name(key)],
                response=each.response,
                response_tokens=length,
                reference_tokens=reference,
                finished=each.finished,
                token_ids=each.token_ids,
                moment=self._moment,
                turns=each.messages,
                tool_rewards=each.tool_rewards,
                weights=self._prompts.weights.get(prompt_name(key)),
            )
            for key, each, length, reference in zip(keys, written, lengths, references, strict=True)
        ]
        rows = [
            (prompt - self._first) * self._num_samples + place_of(key)[1]
            for key, prompt in zip(keys, prompts, strict=True)
        ]
        self._completions.update(zip(rows, completions, strict=True))
        self._scoring.submit(rows, completions, prompts)

    def in_order(self, batch: KVBatchMeta) -> tuple[QueuedRows, int]:
        """The rows of a step in its order, and how many completions are missing.

        Raises:
            CtwaError: more than may be lost.
        """
        config = self.session.config
        num_asked = config.data.train_batch_size * config.actor_rollout_ref.rollout.n
        rows = QueuedRows(sorted(batch.keys, key=place_of), batch.partition_id)
        return rows, num_missing(len(rows.completions), num_asked, limit=self._max_missing)

    def held_out(self, step: int, moment: Moment, seed_name: str) -> tuple[QueuedRows, int]:
        """Complete the held-out prompts with the policy after a step; their rows in order, and how many are missing.

        Raises:
            CtwaError: more than may be lost.
        """
        session = self.session
        session.wake(step)
        self._prompts.clear()
        chunks = [self._prompts.name(columns, "val", step, seed_name) for columns in session.val_dataloader]
        self._begin(moment, session.config.actor_rollout_ref.rollout.val_kwargs.n)
        # A reference length that begins at the mean of these completions is not known before the last of them.
        is_known = step > 0 or self.reference_length is None or self.reference_length.is_known

        def arrived(keys: list[str]) -> None:
            if is_known:
                self._submit(keys, "val")

        keys: list[str] = []
        for named in chunks:
            sampled, _ = session.complete([named], "val", step=step, arrived=arrived)
            keys.extend(sampled.keys)
        rows = QueuedRows(sorted(keys, key=place_of), "val")
        num_asked = len(self._prompts.rows) * self._num_samples
        missing = num_missing(len(rows.completions), num_asked, limit=self._max_missing)
        if step == 0:
            self.start_lengths(rows.mask_NT.sum(1).tolist())
        if not is_known:
            self._submit(rows.keys, "val")
        return rows, missing

    def start_lengths(self, lengths_N: Sequence[int]) -> None:
        """Let the reference length begin at the completions of the model before the first step."""
        if self.reference_length is not None:
            self.reference_length.start(lengths_N)

    def score(self, rows: QueuedRows) -> Scored:
        """Wait for the rewards of the rows, whose prompts were the last to be completed."""
        assert self._scoring is not None
        evaluation = self._scoring.finish()
        for line in told_of(evaluation.failures):
            _log.warning(line)  # into engine.log, where the alarm of unscored completions sends people
        completions = [completion for _, completion in sorted(self._completions.items())]
        prompts_N = torch.tensor([place_of(key)[0] for key in rows.completions])
        group_N = prompts_N.unique(return_inverse=True)[1]
        if self.session.curriculum is not None and self._moment.split == "train":
            self.session.curriculum.observe(prompts_N.tolist(), evaluation.matrix)
        shaped = self.shaping.shape(
            evaluation.matrix, group_N, train=self._moment.split == "train", further=self._first > 0
        )
        weights = weights_of([completion.weights for completion in completions])
        rollout = Rollout(shaped.matrix, group_N, rows.mask_NT, weights=weights)
        return Scored(completions, evaluation, shaped, rollout)

    def learn_lengths(self, scored: Scored) -> dict[str, float]:
        """Let the reference length follow a step's completions; their lengths as metrics."""
        if self.reference_length is not None:
            self.reference_length.update(scored.lengths_N)
        return {
            key_of.RESPONSE_LENGTH: float(np.mean(scored.lengths_N)),
            "response_length/finished_frac": float(np.mean([each.finished for each in scored.completions])),
        }

    def state_dict(self) -> dict[str, Any]:
        """The reference length's state, None without one, and the shaping's."""
        reference = self.reference_length
        return {
            "reference_length": None if reference is None else reference.state_dict(),
            "shaping": self.shaping.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` gave, among the state of others."""
        if self.reference_length is not None and state["reference_length"] is not None:
            self.reference_length.load_state_dict(state["reference_length"])
        self.shaping.load_state_dict(state["shaping"])


def validation_metrics(name: str, values_N: Tensor, group_N: Tensor) -> dict[str, float]:
    """What a validation found of an objective: the mean of the values, and its error over groups, a prompt's each."""
    error = clustered_error(values_N.numpy(), group_N.numpy())
    return {key_of.validation(name): float(values_N.mean()), key_of.validation_error(name): error}


def with_reference(config: DictConfig) -> DictConfig:
    """The config as verl is to read it: it has a reference policy only where one of its own terms asks for it."""
    of_verl = copy.deepcopy(config)
    of_verl.algorithm.use_kl_in_reward = True  # which nobody but the trainer acts on, by its own config
    return of_verl


def handed_over(config: DictConfig, settings: Settings, data: RunData, recorder: Recorder) -> DictConfig:
    """The config as verl is to read it, with the rows that are its own.

    What leaves overlong prompts out measures them as the data has them: it is to leave room for what they are told.
    """
    config, conditioning = data.hand_over(config, recorder), settings.build_conditioning()
    if conditioning is None or not config.data.filter_overlong_prompts:
        return config
    config = copy.deepcopy(config)
    config.data.max_prompt_length -= room_for_weights(config, data, conditioning)
    return config


def note_overlong(session: Session, data: RunData, recorder: Recorder) -> None:
    """Say how many rows the engine has left out, for their prompts are too long."""
    config = session.config.data
    if not config.filter_overlong_prompts or config.custom_cls.path != READERS:
        return
    for part, taken, most in (
        (data.train, session.train_dataset, config.train_max_samples),
        (data.validation, session.val_dataset, config.val_max_samples),
    ):
        num_rows = min(part.num_rows, most) if most > 0 else part.num_rows
        if num := num_rows - len(taken):
            recorder.event(
                "skipped",
                f"data.{part.key}: {num} of {num_rows} rows are left out, whose prompts are longer than "
                "data.max_prompt_length (data.filter_overlong_prompts)",
            )


@contextmanager
def sampling_engine(
    config: DictConfig,
    settings: Settings,
    data: RunData,
    recorder: Recorder,
    *,
    max_missing: float,
    say: Callable[[str], None] | None = None,
) -> Iterator[Sampler]:
    """Start reward functions, Ray, workers and rollout; end all of it at the end.

    Args:
        config: the resolved config, checked.
        settings: our part of it.
        data: the rows, which are written into the run's folder where verl cannot read them as they are.
        recorder: is told when the engine is up.
        max_missing: the share of the completions asked for that may be lost.
        say: told in a sentence of a process of Ray's without which the engine goes on; the recorder's run by default.
    """
    rewards, config = settings.rewards, handed_over(config, settings, data, recorder)
    recorder.begins("starting the reward functions and Ray")
    with (
        RewardEvaluator(
            settings.objectives,
            num_workers=reward_workers(rewards.num_workers),
            max_unscored=rewards.max_unscored,
            max_memory=rewards.max_memory,
        ) as evaluator,
        ray_session(config, transfer_queue=True, say=say or recorder.watchdog.say) as wait_for_queue,
        closing(evaluator),  # while Ray is there, which its workers on other nodes are ended by
        recorder.watchdog.sees(processes, lambda: left_metrics(evaluator.processes)),
    ):
        join_nodes(evaluator, rewards.num_workers, max_memory=rewards.max_memory)
        num_ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
        recorder.begins(
            f"loading the model into {num_ranks} rank{'s' * (num_ranks > 1)} and the rollout; each imports torch first"
        )
        with recorder.watchdog.phase("start"):
            session = Session(
                with_reference(config) if "kl" in settings.from_log_probs.values() else config,
                settings.curriculum,
                poll_interval=settings.poll_interval,
                wait_for_queue=wait_for_queue,
            )
        recorder.engine_is_up()
        note_overlong(session, data, recorder)
        yield Sampler(
            session, settings, evaluator, max_missing=max_missing, has_several_sources=has_several_sources(data)
        )


def told_of(failures: Sequence[Failure]) -> list[str]:
    """Of each objective the first completion of a batch that it could not score, and how many there are."""
    first: dict[str, Failure] = {}
    for each in failures:
        first.setdefault(each.objective, each)
    num = Counter(each.objective for each in failures)
    return [
        f"objective '{name}' could not score {num[name]} completions; first row {each.row}: {each.reason}: {each.text}"
        for name, each in first.items()
    ]
