"""The samples of CAID: responses to the prompts, and what they were scored."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from ctwa import metrics as key_of
from ctwa.engine.caid_settings import CaidSettings
from ctwa.engine.data import data_settings
from ctwa.engine.pairs.data import load_policy
from ctwa.engine.recorder import Recorder
from ctwa.engine.sampling import Sampler
from ctwa.errors import CtwaError
from ctwa.objectives.completion import Moment
from ctwa.preference.caid import implicit_reward
from ctwa.preference.log_probs import continuation_log_probs
from ctwa.run.jsonl import write_atomically

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


class PolicySampler:
    """Samples a policy, and scores its samples with reward functions and pre-aligned policies.

    Args:
        config: the resolved config.
        settings: our part of it.
        sampler: the engine, and the reward functions.
        recorder: keeps a few of the samples for people.
    """

    def __init__(self, config: DictConfig, settings: CaidSettings, sampler: Sampler, recorder: Recorder) -> None:
        self.config = config
        self.settings = settings
        self.sampler = sampler
        self.recorder = recorder
        #: of the last samples: how long reward functions ran while others were written, and how long afterwards
        self.seconds: dict[str, float] = {}
        self._policies = {name: load_policy(model) for name, model in settings.policies.items()}
        self._reference_policy = load_policy(config.actor_rollout_ref.model.path) if self._policies else None

    def reference(self) -> Samples:
        """Those of the run's folder, or new ones: the policy is the reference still.

        Raises:
            CtwaError: those of the folder come of something else.
        """
        path = self.recorder.run.path / REFERENCE_FILE
        if path.exists():
            samples = Samples.read(path, origin_of(self.config, self.settings))
            # No checkpoint knows them where the run broke off before its first.
            self.sampler.start_lengths([len(response) for of_prompt in samples.responses for response in of_prompt])
            return samples
        samples = self.sample("reference", step=0)
        samples.write(path, origin_of(self.config, self.settings))
        return samples

    def sample(self, seed_name: str, *, step: int) -> Samples:
        """Of the policy after a step; the replicas make room for training afterwards."""
        rows, _ = self.sampler.held_out(
            step, Moment.of_run("val", step, self.config.trainer.total_training_steps), seed_name
        )
        self.sampler.session.sleep()
        scored = self.sampler.score(rows)
        self.seconds = {
            key_of.VALIDATION_HIDDEN_SECONDS: scored.evaluation.hidden_seconds,
            key_of.VALIDATION_WAITED_SECONDS: scored.evaluation.waited_seconds,
        }
        data = rows.read("prompts", "responses")
        prompts = [tuple(row.tolist()) for row in data["prompts"].unbind()]
        responses = [tuple(row.tolist()) for row in data["responses"].unbind()]
        rows.clear()
        self.recorder.samples(step, scored.completions, scored.evaluation, split="held-out")
        num_samples = int(self.config.actor_rollout_ref.rollout.val_kwargs.n)
        matrix = scored.shaped.matrix
        scores = dict(zip(matrix.names, matrix.filled_NM(scored.rollout.group_N).unbind(1), strict=True))
        if self._policies:
            scores |= self._implicit_scores(list(zip(prompts, responses, strict=True)))
        return Samples(
            prompts[::num_samples],
            [responses[start : start + num_samples] for start in range(0, len(responses), num_samples)],
            {name: values_N.double().reshape(-1, num_samples) for name, values_N in scores.items()},
        )

    def _implicit_scores(self, rows: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> dict[str, Tensor]:
        """The rewards that pre-aligned policies stand for."""
        reference_N = continuation_log_probs(self._reference_policy, rows)
        return {
            name: implicit_reward(
                continuation_log_probs(policy, rows) - reference_N,
                self.settings.caid.beta,
                scale=self.settings.implicit_scale,
            )
            for name, policy in self._policies.items()
        }


def origin_of(config: DictConfig, settings: CaidSettings) -> str:
    """All that the reference's samples and their scores depend on."""
    rollout, data = config.actor_rollout_ref.rollout, config.data
    scorers = settings.model_dump(mode="json", include={"policies", "implicit_scale", "seed"})
    objectives = {name: each.model_dump(mode="json", exclude={"target"}) for name, each in settings.objectives.items()}
    return json.dumps(
        {
            **scorers,
            "objectives": objectives,
            "reference_length": settings.reference_length and settings.reference_length.model_dump(mode="json"),
            "model": config.actor_rollout_ref.model.path,
            "prompts": [OmegaConf.to_container(data.val_files), data.val_max_samples],
            "rows": data_settings(config).model_dump(),
            "sampling": [OmegaConf.to_container(rollout.val_kwargs), rollout.response_length, rollout.name],
            "beta": settings.caid.beta if settings.policies else None,
        },
        sort_keys=True,
        default=str,
    )
