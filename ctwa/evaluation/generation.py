"""Completions of prompts by plain transformers or vLLM, each from a seed of its own, and their rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import ctwa
from ctwa import metrics as key_of
from ctwa.data.reading import first_rows
from ctwa.data.rows import ground_truth_fault
from ctwa.errors import CtwaError
from ctwa.evaluation.config import GenerationConfig
from ctwa.evaluation.intervals import Floats, Ratio
from ctwa.evaluation.models import Model
from ctwa.models.decoding import Sampling, end_tokens, generate_batch
from ctwa.models.libraries import without_progress_bars
from ctwa.models.seeds import completion_seed
from ctwa.objectives.completion import Completion
from ctwa.objectives.contract import need_ground_truth
from ctwa.objectives.curriculum import MOST_SOURCES, source_named
from ctwa.objectives.evaluator import Evaluation, RewardEvaluator
from ctwa.objectives.reference import ReferenceLength
from ctwa.preference.schemas import BadRow
from ctwa.preference.tokenization import ConversationTokenizer
from ctwa.run.cache import cached, digest
from ctwa.run.jsonl import SCHEMA

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Sample:
    """One completion of a prompt: its tokens, the end of sequence included, and its text without special tokens."""

    row: int
    index: int
    token_ids: list[int]
    response: str
    finished: bool


def read_prompts(config: GenerationConfig) -> list[dict[str, Any]]:
    """Rows in verl's format; prompts that are text stay text where they are to be taken as they stand.

    Raises:
        CtwaError: there is no such file, its columns are not known, or a row has no prompt.
    """
    drawn = config.limit_seed is not None
    limit = None if drawn else config.limit
    rows = first_rows(config.data, config, lambda name: f"generation.{name}", limit, chat=config.chat)
    if not drawn or config.limit is None or config.limit >= len(rows):
        return rows
    chosen = np.random.default_rng(config.limit_seed).choice(len(rows), size=config.limit, replace=False)
    return [rows[index] for index in chosen.tolist()]


def check_ground_truths(
    config: GenerationConfig, rows: Sequence[Mapping[str, Any]], evaluator: RewardEvaluator
) -> None:
    """See that every row has the ground truth that the objectives need.

    Raises:
        CtwaError: the first row that lacks it.
    """
    needed_by = need_ground_truth(evaluator.contracts)
    for index, row in enumerate(rows):
        if fault := ground_truth_fault(row, needed_by):
            raise CtwaError(f"{config.data}, row {index} (from 0): {fault}")


def tokenize_prompts(model: Model, rows: Sequence[Mapping[str, Any]], config: GenerationConfig) -> list[list[int]]:
    """Every prompt's tokens: messages by the tokenizer's chat template, text as it stands.

    Raises:
        CtwaError: the tokenizer has no chat template, or one that does not take a prompt; or prompt and completion
            exceed the model's context.
    """
    tokenizer = ConversationTokenizer(model.tokenizer, config.template_kwargs)
    prompts: list[list[int]] = []
    for index, row in enumerate(rows):
        has_template = getattr(model.tokenizer, "chat_template", None) or config.template_kwargs.get("chat_template")
        if not isinstance(row["prompt"], str) and not has_template:
            raise CtwaError(
                f"{config.data} has chat messages and the tokenizer of model '{model.name}' no chat template; give "
                "prompts that are text, with generation.chat: false"
            )
        try:
            ids = tokenizer.prompt(model.read(row["prompt"]))
        except BadRow as error:
            raise CtwaError(f"{config.data}, row {index} (from 0), model '{model.name}': {error}") from error
        if not ids:
            raise CtwaError(f"{config.data}, row {index} (from 0): its prompt has no token for model '{model.name}'")
        if model.context is not None and len(ids) + config.max_tokens > model.context:
            raise CtwaError(
                f"{config.data}, row {index} (from 0): a prompt of {len(ids)} tokens and a completion of up to "
                f"{config.max_tokens} exceed the context of model '{model.name}', {model.context}; write a smaller "
                "generation.max_tokens"
            )
        prompts.append(list(ids))
    return prompts


def generate(
    model: Model, prompts: Sequence[list[int]], config: GenerationConfig, cache: Path, progress: Progress
) -> list[Sample]:
    """The completions, prompt by prompt, from the cache where they are there.

    A completion's seed is made of the configured one, the prompt's row and its index: it is the same for every model.
    """
    sampling = Sampling(config.temperature, config.top_p, config.top_k, config.max_tokens)
    num = config.num_samples
    rows = [prompt for prompt in prompts for _ in range(num)]
    seeds = [completion_seed(f"{config.seed}/eval/{row}", i) for row in range(len(prompts)) for i in range(num)]
    wanted = [
        "completions", 1, model.fingerprint, model.dtype, model.device, config.backend, asdict(sampling), rows, seeds,
    ]  # fmt: skip
    backend = with_vllm if config.backend == "vllm" else with_transformers
    found = cached(
        cache / f"completions-{digest(wanted)}.json", lambda: backend(model, rows, seeds, sampling, config, progress)
    )
    texts = model.tokenizer.batch_decode([ids for ids, _ in found], skip_special_tokens=True)
    return [
        Sample(n // num, n % num, ids, text, finished)
        for n, ((ids, finished), text) in enumerate(zip(found, texts, strict=True))
    ]


def with_transformers(
    model: Model,
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    config: GenerationConfig,
    progress: Progress,
) -> list[tuple[list[int], bool]]:
    """Completions (tokens, whether they ended by themselves) by our own decode loop, in batches of similar length."""
    eos_ids, pad_id = end_tokens(model.weights, model.tokenizer)
    order = sorted(range(len(prompts)), key=lambda n: -len(prompts[n]))
    found: dict[int, tuple[list[int], bool]] = {}
    for start in range(0, len(order), config.batch_size):
        batch = order[start : start + config.batch_size]
        completions = generate_batch(
            model.weights, [prompts[n] for n in batch], sampling, [seeds[n] for n in batch], eos_ids, pad_id
        )
        for n, completion in zip(batch, completions, strict=True):
            found[n] = completion.token_ids, completion.token_ids[-1] in eos_ids
        progress(len(found))
    return [found[n] for n in range(len(prompts))]


def with_vllm(
    model: Model,
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    config: GenerationConfig,
    progress: Progress,
) -> list[tuple[list[int], bool]]:
    """As :func:`with_transformers`, by vLLM's offline engine, which forms its batches itself.

    Raises:
        CtwaError: vLLM is not installed.
    """
    try:
        from vllm import LLM, SamplingParams  # slow to import, and often not there
    except ImportError as error:
        raise CtwaError("generation.backend is vllm, which is not installed; write transformers") from error
    from transformers import GenerationConfig as Defaults

    try:
        defaults = Defaults.from_pretrained(model.location)
    except OSError:  # a model need not have any
        defaults = Defaults()
    eos_ids, _ = end_tokens(SimpleNamespace(generation_config=defaults, config=model.config), model.tokenizer)
    model.release()  # vLLM loads weights of its own
    with without_progress_bars():
        engine = LLM(
            model=str(model.location),
            dtype=model.dtype,
            trust_remote_code=model.trust_remote_code,
            max_model_len=max(map(len, prompts)) + sampling.max_tokens,
            max_num_seqs=config.batch_size,
            gpu_memory_utilization=config.gpu_memory_utilization,
            generation_config="vllm",  # and not a model's own temperature and penalties
            seed=0,
        )
        params = [
            SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=max(sampling.top_k, 0),
                max_tokens=sampling.max_tokens,
                seed=seed,
                stop_token_ids=sorted(eos_ids),
                detokenize=False,
            )
            for seed in seeds
        ]
        outputs = engine.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        engine.llm_engine.engine_core.shutdown()  # its process has the weights, and the next model needs the room
    progress(len(prompts))
    completions = [list(output.outputs[0].token_ids) for output in outputs]
    return [(ids, ids[-1] in eos_ids) for ids in completions]


def score(
    samples: Sequence[Sample],
    rows: Sequence[Mapping[str, Any]],
    evaluator: RewardEvaluator,
    reference: ReferenceLength | None,
) -> Evaluation:
    """The completions' rewards, as in training.

    Raises:
        CtwaError: an objective could not score more of them than it may.
    """
    group_N = [sample.row for sample in samples]
    lengths = [len(sample.token_ids) for sample in samples]
    references: Sequence[float | None] = [None] * len(samples)
    if reference is not None:
        references = reference.reference(lengths, group_N)
    completions = [
        Completion.from_row(
            rows[sample.row],
            response=sample.response,
            response_tokens=len(sample.token_ids),
            reference_tokens=reference_tokens,
            finished=sample.finished,
            token_ids=sample.token_ids,
        )
        for sample, reference_tokens in zip(samples, references, strict=True)
    ]
    return evaluator.evaluate(completions, group_N)


def ratios(
    samples: Sequence[Sample], evaluation: Evaluation | None, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Ratio]:
    """By metric, summed over the completions of each prompt: the objectives' means, then lengths.

    Where the rows are from several data sources, each objective's mean follows over those of each source.
    """
    num_prompts, source_P = len(rows), np.array([source_named(row.get("data_source")) for row in rows])
    sources = sorted(set(source_P))
    row_N = np.array([sample.row for sample in samples])

    def by_prompt(values: Floats) -> Floats:
        return np.bincount(row_N, weights=values, minlength=num_prompts).astype(np.float64)

    def over_prompts(values: Any, counts: Any = None) -> Ratio:
        counts = np.ones(len(samples)) if counts is None else counts
        return Ratio(by_prompt(np.asarray(values, dtype=np.float64) * counts), by_prompt(counts))

    found: dict[str, Ratio] = {}
    if evaluation is not None:
        for name in evaluation.matrix.names:
            rewards_N, scored_N = (column.numpy() for column in evaluation.matrix.column(name))
            found[key_of.objective_mean(name)] = over_prompts(rewards_N, scored_N.astype(np.float64))
            applicable_N = evaluation.matrix.applicable(name).numpy()
            found[key_of.objective(name, "scored_frac")] = over_prompts(scored_N, applicable_N.astype(np.float64))
            for source in sources if 1 < len(sources) <= MOST_SOURCES else []:
                of_source_N = scored_N & (source_P[row_N] == source)
                found[key_of.objective_of_source(name, source)] = over_prompts(rewards_N, of_source_N.astype(float))
    found["response_tokens"] = over_prompts([len(sample.token_ids) for sample in samples])
    found["finished_frac"] = over_prompts([sample.finished for sample in samples])
    return found


def sample_rows(
    model: Model, samples: Sequence[Sample], rows: Sequence[Mapping[str, Any]], evaluation: Evaluation | None
) -> list[dict[str, Any]]:
    """The completions as records of samples.jsonl."""
    columns = {} if evaluation is None else evaluation.matrix.to_columns()
    return [
        {
            "schema": SCHEMA,
            "model": model.name,
            "row": sample.row,
            "sample": sample.index,
            "prompt": rows[sample.row]["prompt"],
            "response": sample.response,
            "response_tokens": len(sample.token_ids),
            "finished": sample.finished,
            "rewards": {name: values_N[n] for name, values_N in columns.items() if values_N[n] != ctwa.NOT_APPLICABLE},
        }
        for n, sample in enumerate(samples)
    ]
