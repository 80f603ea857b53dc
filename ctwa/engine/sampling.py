"""Prompts in, scored completions out: what every training that samples has of the engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from verl.utils.transferqueue_utils import KVBatchMeta

from ctwa import metrics as key_of
from ctwa.batch import Rollout
from ctwa.engine.data import RunData
from ctwa.engine.ray_session import ray_session
from ctwa.engine.recorder import Recorder
from ctwa.engine.settings import Settings
from ctwa.engine.verl.rows import Prompts, num_missing, place_of, prompt_name
from ctwa.engine.verl.session import Session
from ctwa.engine.verl.transfer import QueuedRows
from ctwa.objectives.completion import Completion, Moment
from ctwa.objectives.evaluator import Evaluation, RewardEvaluator
from ctwa.objectives.shaping import Shaped


@dataclass(frozen=True)
class Scored:
    """Completions and what they were scored, in the order of their rows.

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
        """Tokens of the responses."""
        return [completion.response_tokens for completion in self.completions]


class Sampler:
    """Lets the engine complete prompts, and scores the completions.

    Prompts have names and completions have places, so rows are in the same order in whichever order they came.

    Args:
        session: the engine.
        settings: seed, and the length that conciseness is measured against.
        evaluator: the reward functions.
        max_missing: the share of the completions asked for that may be lost.
    """

    def __init__(self, session: Session, settings: Settings, evaluator: RewardEvaluator, *, max_missing: float) -> None:
        self.session = session
        self.evaluator = evaluator
        self.reference_length = settings.build_reference_length()
        self.shaping = settings.build_shaping()
        self._max_missing = max_missing
        self._prompts = Prompts(settings.seed)
        self._end_tokens = session.end_tokens()

    def next_rows(self, step: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """Complete the next prompts to train on; returns their completions in the transfer queue, and metrics."""
        self._prompts.clear()
        return self.more_rows(step)

    def more_rows(self, step: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """The same of further prompts of the step, beside those that there are."""
        chunks = [
            self._prompts.name(columns, "train", step, f"train/{step}") for columns in self.session.next_prompts()
        ]
        return self.session.complete(chunks, "train", step=step)

    def in_order(self, batch: KVBatchMeta) -> tuple[QueuedRows, int]:
        """The rows of a step in its order, and how many are missing.

        Raises:
            CtwaError: more than may be lost.
        """
        config = self.session.config
        num_asked = config.data.train_batch_size * config.actor_rollout_ref.rollout.n
        rows = QueuedRows(sorted(batch.keys, key=place_of), batch.partition_id)
        return rows, num_missing(rows.keys, num_asked, limit=self._max_missing)

    def held_out(self, step: int, seed_name: str) -> tuple[QueuedRows, int]:
        """Complete the held-out prompts with the policy after a step; the rows in order, and how many are missing.

        Raises:
            CtwaError: more than may be lost.
        """
        session = self.session
        session.wake(step)
        self._prompts.clear()
        keys: list[str] = []
        num_asked = 0
        for columns in session.val_dataloader:
            named = self._prompts.name(columns, "val", step, seed_name)
            sampled, _ = session.complete([named], "val", step=step)
            keys.extend(sampled.keys)
            num_asked += len(named["uid"]) * session.config.actor_rollout_ref.rollout.val_kwargs.n
        missing = num_missing(keys, num_asked, limit=self._max_missing)
        rows = QueuedRows(sorted(keys, key=place_of), "val")
        if step == 0:
            self.start_lengths(rows.read("responses")["responses"].offsets().diff().tolist())
        return rows, missing

    def start_lengths(self, lengths_N: Sequence[int]) -> None:
        """Let the reference length begin at the completions of the model before the first step."""
        if self.reference_length is not None:
            self.reference_length.start(lengths_N)

    def score(self, rows: QueuedRows, moment: Moment) -> Scored:
        """Evaluate the objectives on rows whose prompts were the last to be completed.

        Args:
            rows: the completions.
            moment: when in the run they were sampled, and what for.
        """
        data = rows.read("responses", "response_mask")
        responses = [row.tolist() for row in data["responses"].unbind()]
        texts = self.session.tokenizer.batch_decode(responses, skip_special_tokens=True)
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
                finished=response[-1] in self._end_tokens if response else False,
                moment=moment,
            )
            for name, text, response, length, reference in zip(
                names, texts, responses, lengths_N, references_N, strict=True
            )
        ]
        evaluation = self.evaluator.evaluate(completions, group_N.tolist())
        mask_NT = data["response_mask"].to_padded_tensor(0)
        shaped = self.shaping.shape(evaluation.matrix, group_N, train=moment.split == "train")
        return Scored(completions, evaluation, shaped, Rollout(shaped.matrix, group_N, mask_NT))

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
        self.shaping.load_state_dict(state.get("shaping"))  # absent where nothing could be shaped yet


def validation_metrics(name: str, values: Tensor) -> dict[str, float]:
    """What a validation found of an objective: the mean of some values that are independent, and its error."""
    error = float(values.std() / len(values) ** 0.5)
    return {key_of.validation(name): float(values.mean()), key_of.validation_error(name): error}


@contextmanager
def sampling_engine(
    config: DictConfig, settings: Settings, data: RunData, recorder: Recorder, *, max_missing: float
) -> Iterator[Sampler]:
    """Start reward functions, Ray, workers and rollout; end all of it at the end.

    Args:
        config: the resolved config, checked.
        settings: our part of it.
        data: the rows, which are written into the run's folder where verl cannot read them as they are.
        recorder: is told when the engine is up.
        max_missing: the share of the completions asked for that may be lost.
    """
    rewards, config = settings.rewards, data.hand_over(config, recorder)
    recorder.begins("starting the reward functions and Ray")
    with (
        RewardEvaluator(
            settings.objectives, num_workers=rewards.num_workers, max_unscored=rewards.max_unscored
        ) as evaluator,
        ray_session(config, transfer_queue=True) as wait_for_queue,
    ):
        num_ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
        recorder.begins(f"loading the model into {num_ranks} ranks and the rollout, each of which imports torch first")
        session = Session(config, poll_interval=settings.poll_interval, wait_for_queue=wait_for_queue)
        recorder.engine_is_up()
        yield Sampler(session, settings, evaluator, max_missing=max_missing)
