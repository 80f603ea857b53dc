"""What `ctwa eval` evaluates, as one YAML file: models, and what to measure of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ctwa.chat.client import Count, EndpointConfig, ExtraBody
from ctwa.data.settings import RowSettings
from ctwa.errors import CtwaError, did_you_mean
from ctwa.objectives.conditioning import Template
from ctwa.objectives.config import Objectives
from ctwa.objectives.reference import FixedReferenceConfig, GroupReferenceConfig
from ctwa.preference.data import PreferenceSource
from ctwa.preference.losses import DpoLoss
from ctwa.preference.registry import PreferenceLossConfig
from ctwa.run.documents import read_document
from ctwa.strict import StrictModel, validated

TEMPLATE = """\
Two assistants answered the same request. Decide which answer serves the one who asked better: correct first, then \
helpful, clear, and no longer than it needs to be. The order of the answers and their names mean nothing, and length \
is no merit.

[Request]
{prompt}

[Answer A]
{first}

[Answer B]
{second}

Give your reasons in a few sentences. Then end with one line that holds your verdict alone: [[A]] if answer A is \
better, [[B]] if answer B is better, [[tie]] if they are equally good."""


class PreferencesConfig(StrictModel):
    """Losses and implicit rewards on preference pairs.

    Attributes:
        objectives: where each objective's pairs are (docs/preference.md).
        loss: which loss, with its options.
        max_length: of prompt and response together, in tokens.
        validation_share: only the share of the prompts that `ctwa prefer` holds out of its data; None for all of them.
        limit: only so many pairs of each data set, from the first.
        template_kwargs: variables of the chat template.
        batch_tokens: of a batch, padding included.
    """

    objectives: Annotated[dict[str, PreferenceSource], Field(min_length=1)]
    loss: PreferenceLossConfig = Field(default_factory=DpoLoss)
    max_length: Count = 1024
    validation_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    limit: Count | None = None
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    batch_tokens: Count = 8192


class PerplexityConfig(StrictModel):
    """Perplexity on held-out text.

    Attributes:
        data: a parquet, JSON or CSV file (or a folder of `datasets.save_to_disk`) with a text a row, or any other file:
            one text.
        column: which column the texts are.
        window: how many tokens the model sees at once; a longer text is read in windows.
        stride: by how much the windows move on; half a window by default. The last `stride` tokens of a window count.
        limit: only so many texts, from the first.
        batch_tokens: of a batch, padding included.
    """

    data: Path
    column: str = "text"
    window: Annotated[int, Field(ge=2)] = 1024
    stride: Count | None = None
    limit: Count | None = None
    batch_tokens: Count = 8192

    @model_validator(mode="after")
    def _windows_overlap(self) -> PerplexityConfig:
        if self.stride is not None and self.stride >= self.window:
            raise ValueError(f"stride {self.stride} is not below window {self.window}; write half of it, or nothing")
        return self


class GenerationConfig(RowSettings):
    """Completions of prompts, and what the objectives make of them.

    Attributes:
        data: a file or folder of prompts, or a data set on the hub (docs/data.md); how its rows are read is said as in
            training.
        chat: whether a prompt that is text becomes a user's message, as in training; else it is taken as it stands.
        objectives: as in training (docs/rewards.md); None only to generate, for the judge.
        limit: only so many prompts, from the first.
        limit_seed: draws these prompts at random, as a run draws those of `data.val_max_samples`.
        num_samples: completions of each prompt.
        temperature, top_p, top_k: how tokens are drawn; temperature 0 is greedy, top_k below 1 is off.
        max_tokens: of a completion.
        seed: of the draws.
        backend: what generates.
        gpu_memory_utilization: the share of the device's memory that vLLM takes; on a CPU, of main memory.
        batch_size: completions at once.
        template_kwargs: variables of the chat template.
        reference_length: for rewards that ask for `reference_tokens`; `fixed` without a number is the mean length of
            the first model's completions.
        num_workers: processes for the reward functions; ``auto`` is one a core, and at most 16.
        max_unscored: the share of completions that an objective may fail to score.
    """

    data: Annotated[str, BeforeValidator(str)]
    chat: bool = True
    objectives: Objectives | None = None
    limit: Count | None = None
    limit_seed: Annotated[int, Field(ge=0)] | None = None
    num_samples: Count = 1
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: int = -1
    max_tokens: Count = 512
    seed: Annotated[int, Field(ge=0)] = 0
    backend: Literal["transformers", "vllm"] = "transformers"
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    batch_size: Count = 64
    template_kwargs: dict[str, Any] = Field(default_factory=dict)
    reference_length: Annotated[FixedReferenceConfig | GroupReferenceConfig, Field(discriminator="type")] | None = None
    num_workers: Count | Literal["auto"] = "auto"
    max_unscored: Annotated[float, Field(ge=0, le=1)] = 0.05


class JudgeConfig(EndpointConfig):
    """A language model behind an OpenAI-compatible endpoint that compares completions.

    Attributes:
        base_url: what stands before `/chat/completions`.
        model: its name there.
        api_key_env: the NAME of the environment variable that holds the key; None where none is needed.
        limit: only so many prompts, from the first.
        system: a system message; none by default.
        template: the message, with `{prompt}`, `{first}` and `{second}`; it asks for [[A]], [[B]] or [[tie]].
        max_tokens: of an answer.
        seed: sent with every request, beside temperature 0.
        extra_body: further fields of every request, but messages and model; null leaves one of ours out.
        concurrency: requests under way at once.
        timeout: seconds a request may take.
        max_attempts: how often a request is sent before the evaluation stops.
    """

    model: str
    limit: Count | None = None
    system: str | None = None
    template: str = TEMPLATE
    max_tokens: Count = 1024
    seed: int = 0
    extra_body: ExtraBody = Field(default_factory=dict)

    @field_validator("template")
    @classmethod
    def _has_its_fields(cls, template: str) -> str:
        needed = ("{prompt}", "{first}", "{second}", "[[A]]", "[[B]]")
        if missing := [each for each in needed if each not in template]:
            raise ValueError(f"the template lacks {', '.join(missing)}; write it where it belongs")
        return template


Combination = Literal["mod", "soup"]


class ConditionedConfig(Template):
    """A policy that reads in its prompt how to weigh the objectives.

    Attributes:
        model: as one of `models`.
        objectives: the names of those that it was trained on.
    """

    model: str
    objectives: Annotated[list[str], Field(min_length=2)]


class EvalConfig(StrictModel):
    """An evaluation.

    Attributes:
        models: name -> a folder that transformers loads, a run's (``ctwa.models.locate`` says which of its
            checkpoints), a checkpoint of one, or a name on the hub. The first is the baseline.
        reference: what a loss with a reference compares with, likewise.
        device: `auto` takes a GPU where there is one.
        dtype: `auto` is that of the saved weights on a GPU and float32 on the CPU.
        trust_remote_code: as transformers has it.
        preferences, perplexity, generation, judge: what to measure.
        conditioned: name -> a policy that is told weights.
        experts: by objective, a model that was trained on it.
        combine: how experts become one: `mod` mixes their log-probabilities at every token, `soup` merges them.
        weights: of the objectives: at each of these conditioned policies and combined experts are evaluated, as models
            beside the others. Only their ratios matter, and an objective that is not named has none.
    """

    models: dict[str, str] = Field(default_factory=dict)
    reference: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    trust_remote_code: bool = False
    preferences: PreferencesConfig | None = None
    perplexity: PerplexityConfig | None = None
    generation: GenerationConfig | None = None
    judge: JudgeConfig | None = None
    conditioned: dict[str, ConditionedConfig] = Field(default_factory=dict)
    experts: dict[str, str] = Field(default_factory=dict)
    combine: Annotated[list[Combination], Field(min_length=1)] = Field(default=["mod", "soup"])
    weights: list[dict[str, Annotated[float, Field(ge=0)]]] = Field(default_factory=list)

    def idle(self) -> Mapping[str, str]:
        """What experts alone have a use for."""
        return {} if self.experts else {"combine": "no experts"}

    @field_validator("models", "conditioned")
    @classmethod
    def _names_can_be_shown(cls, models: dict[str, Any]) -> dict[str, Any]:
        for name in models:
            if not name.strip() or not name.isprintable() or name == "reference":
                raise ValueError(f"{name!r} cannot be a model's name; write another, such as base")
        return models

    @model_validator(mode="after")
    def _is_whole(self) -> EvalConfig:
        if not (self.models or self.conditioned or self.experts):
            raise ValueError("models: there is none to evaluate; write name: <folder or name>")
        if not (self.preferences or self.perplexity or self.generation):
            raise ValueError("nothing is to be measured; write a section preferences, perplexity or generation")
        if self.preferences and self.preferences.loss.needs_reference and self.reference is None:
            raise ValueError(
                f"the loss {self.preferences.loss.type} compares with a reference; write reference: <folder or name>, "
                "or preferences.loss: {type: simpo}"
            )
        if self.judge and not self.generation:
            raise ValueError("the judge has no completions to compare; write a section generation")
        if self.judge and len(self.models) < 2:
            raise ValueError("the judge compares models; write at least two under models")
        return self

    @model_validator(mode="after")
    def _weights_have_a_use(self) -> EvalConfig:
        takes_weights = bool(self.conditioned or self.experts)
        if takes_weights != bool(self.weights):
            lacking = "weights" if takes_weights else "conditioned or experts"
            raise ValueError(f"weights are chosen for conditioned policies and experts: write {lacking}, too")
        if not takes_weights:
            return self
        if self.generation is None or self.generation.objectives is None:
            raise ValueError("weights are chosen for completions that objectives score; write generation.objectives")
        if self.preferences or self.perplexity or self.judge:
            raise ValueError("weights are chosen for completions alone; write the other sections into another file")
        if len(self.experts) == 1:
            raise ValueError("experts are combined; give at least two, each for its objective")
        if self.experts and self.generation.backend != "transformers":
            raise ValueError("experts are combined by plain transformers; write generation.backend: transformers")
        if taken := {*self.conditioned} & {*self.models, *(self.combine if self.experts else ())}:
            raise ValueError(f"{min(taken)!r} is the name of two models; give one another name")
        scored = self.generation.objectives
        for where, name in self._named_objectives():
            if name not in scored:
                raise ValueError(
                    f"{where} names {name!r}, which generation.objectives does not score; write one of "
                    f"{', '.join(scored)}, or have it scored" + did_you_mean(name, scored)
                )
        return self

    def _named_objectives(self) -> Iterator[tuple[str, str]]:
        """The objectives that are named beside those that are scored, each with the key it is under."""
        for model, conditioned in self.conditioned.items():
            yield from ((f"conditioned.{model}.objectives", name) for name in conditioned.objectives)
        yield from (("experts", name) for name in self.experts)
        yield from ((f"weights.{place}", name) for place, weights in enumerate(self.weights) for name in weights)


def read_config(path: Path) -> EvalConfig:
    """Read an evaluation's YAML file.

    Raises:
        CtwaError: it is missing, no YAML, or says what cannot be; every mistake with its key.
    """
    if not path.is_file():
        raise CtwaError(f"there is no file {path}; give the YAML file of an evaluation")
    return parse_config(read_document(path, "write models: and a section, as docs/eval.md shows"), str(path))


def parse_config(content: Mapping[str, Any], where: str) -> EvalConfig:
    """Validate an evaluation's content; `where` names it in messages. Raises CtwaError as :func:`read_config`."""
    config: EvalConfig = validated(EvalConfig, content, heading=where)
    return config
