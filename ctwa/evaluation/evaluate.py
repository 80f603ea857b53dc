"""An evaluation from its configuration to its results: everything is read and checked before a model is loaded."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ctwa.chat.client import check_endpoint
from ctwa.chat.ledger import ReplyFolder
from ctwa.errors import CtwaError
from ctwa.evaluation import generation, judge, perplexity, preferences
from ctwa.evaluation.config import EvalConfig, GenerationConfig, JudgeConfig, PerplexityConfig, PreferencesConfig
from ctwa.evaluation.front import Fronts
from ctwa.evaluation.intervals import Measured, Ratio, measure
from ctwa.evaluation.models import Model
from ctwa.evaluation.results import Results, Section
from ctwa.evaluation.steered import Steered, steered_models, told_nothing
from ctwa.objectives.evaluator import RewardEvaluator
from ctwa.objectives.reference import build_reference
from ctwa.preference.reference import ReferenceLogProbs
from ctwa.run.cores import reward_workers
from ctwa.run.jsonl import SCHEMA, write_atomically

# Called with what is being done, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]
_FILES = ("config.yaml", "results.json", "samples.jsonl", "judgements.jsonl")


def evaluate(config: EvalConfig, out: Path, progress: Progress = lambda *_: None) -> Results:
    """Evaluate, and write results.json, samples.jsonl and judgements.jsonl to `out`.

    What was computed is kept in `out`/cache: the same evaluation goes on where it was broken off, and another one
    in the same folder uses what it can. Its earlier results are then put aside, in `out`/earlier-1, -2, ...

    Raises:
        CtwaError: what the configuration names is not there or not usable, before a model is loaded; an objective
            could not score its completions; the judge does not answer.
    """
    return _Evaluation(config, out, progress).run()


@dataclass
class _Inputs:
    """What is read before a model is loaded; windows of the texts and tokens of the prompts (rows) by model."""

    pairs: preferences.Pairs | None = None
    texts: list[str] = field(default_factory=list)
    windows: dict[str, list[list[perplexity.Window]]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    prompts: dict[str, list[list[int]]] = field(default_factory=dict)


@dataclass
class _Outputs:
    """What models make of it, by model: log-probs of each data set of pairs, perplexities by metric, completions."""

    log_probs: dict[str, list[ReferenceLogProbs]] = field(default_factory=dict)
    perplexities: dict[str, dict[str, Ratio]] = field(default_factory=dict)
    samples: dict[str, list[generation.Sample]] = field(default_factory=dict)


class _Evaluation:
    def __init__(self, config: EvalConfig, out: Path, progress: Progress) -> None:
        self.config, self.out, self.cache, self._progress = config, out, out / "cache", progress
        self.seconds: defaultdict[str, float] = defaultdict(float)
        options: dict[str, Any] = {
            "device": config.device,
            "dtype": config.dtype,
            "trust_remote_code": config.trust_remote_code,
        }
        self.steered = steered_models(config, options)
        self.models = [*(Model(name, source, **options) for name, source in config.models.items()), *self.steered]
        self.names = [model.name for model in self.models]
        self.reference: Model | None = None
        if config.preferences and config.preferences.loss.needs_reference:
            assert config.reference is not None
            reference = Model("reference", config.reference, **options)
            same = (model for model in self.models if model.location == reference.location)
            self.reference = next(same, reference)  # which is then loaded once
        for model in dict.fromkeys([*self.models, *([self.reference] if self.reference else [])]):
            model.look()

    def run(self) -> Results:
        """Check everything, compute, write."""
        config, sections = self.config, []
        if config.judge:
            check_endpoint(config.judge)
        inputs = self._read()
        with self._evaluator() as evaluator:
            if config.generation and evaluator is not None:
                generation.check_ground_truths(config.generation, inputs.rows, evaluator)
            self._prepare_folder()
            outputs = self._compute(inputs)
            if config.preferences and inputs.pairs:
                sections.append(self._preferences(config.preferences, inputs.pairs, outputs.log_probs))
            if config.perplexity:
                sections.append(self._perplexity(config.perplexity, inputs.windows, outputs.perplexities))
            if config.generation:
                sections.append(self._generation(config.generation, inputs.rows, outputs.samples, evaluator))
        if config.judge:
            sections.append(self._judge(config.judge, inputs.rows, outputs.samples))
        results = Results(
            models={model.name: self._about(model) for model in self.models},
            sections=sections,
            config=config.model_dump(mode="json"),
            versions={name: version(name) for name in ("torch", "transformers", "numpy")},
            seconds={name: round(seconds, 3) for name, seconds in self.seconds.items()},
        )
        results.write(self.out / "results.json")
        return results

    def _read(self) -> _Inputs:
        config, models = self.config, self.models
        inputs = _Inputs()
        if config.preferences:
            inputs.pairs = preferences.read_pairs(config.preferences, models, self.reference)
        if config.perplexity:
            inputs.texts = perplexity.read_texts(config.perplexity)
            for model in models:
                inputs.windows[model.name] = perplexity.tokenize_texts(model, inputs.texts, config.perplexity)
        if config.generation:
            inputs.rows = generation.read_prompts(config.generation)
            for model in models:
                inputs.prompts[model.name] = generation.tokenize_prompts(model, inputs.rows, config.generation)
        return inputs

    def _evaluator(self) -> AbstractContextManager[RewardEvaluator | None]:
        config = self.config.generation
        if config is None or not config.objectives:
            return nullcontext()
        workers = reward_workers(config.num_workers)
        return RewardEvaluator(config.objectives, num_workers=workers, max_unscored=config.max_unscored)

    def _compute(self, inputs: _Inputs) -> _Outputs:
        """All that needs a model's weights, model by model, so that few are in memory at a time."""
        outputs = _Outputs()
        first = [self.reference] if self.reference and self.reference not in self.models else []
        order = [*first, *self.models]
        for model, following in zip(order, [*order[1:], None], strict=True):
            self._compute_with(model, inputs, outputs)
            needed = () if following is None else following.loads
            for loaded in {*model.loads} - {*needed}:
                loaded.release()
        return outputs

    def _compute_with(self, model: Model, inputs: _Inputs, outputs: _Outputs) -> None:
        config, name = self.config, model.name
        if config.preferences and inputs.pairs:
            outputs.log_probs[name] = self._log_probs(model, inputs.pairs, config.preferences)
        if config.perplexity and name in inputs.windows:
            windows = inputs.windows[name]
            with self._timed("perplexity", name) as report:
                outputs.perplexities[name] = perplexity.perplexity(
                    model, inputs.texts, windows, config.perplexity, self.cache, report(sum(map(len, windows)))
                )
        if config.generation and name in inputs.prompts:
            total = len(inputs.rows) * config.generation.num_samples
            with self._timed("generation", name) as report:
                outputs.samples[name] = generation.generate(
                    model, inputs.prompts[name], config.generation, self.cache, report(total)
                )

    def _prepare_folder(self) -> None:
        if self.out.exists() and not self.out.is_dir():
            raise CtwaError(f"{self.out} is a file; give a folder for the results")
        text = yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True).encode()
        written = self.out / "config.yaml"
        if written.is_file() and written.read_bytes() != text:
            number = 1
            while (aside := self.out / f"earlier-{number}").exists():
                number += 1
            aside.mkdir()
            for name in _FILES:
                if (self.out / name).exists():
                    (self.out / name).rename(aside / name)
        self.cache.mkdir(parents=True, exist_ok=True)
        write_atomically(written, text)

    @contextmanager
    def _timed(self, what: str, whose: str = "") -> Iterator[Callable[[int], Callable[[int], None]]]:
        """Times a part, and gives what makes its progress shown: from a total to what is called with what is done."""
        started = time.perf_counter()
        label = f"{what} {whose}".strip()
        yield lambda total: lambda done: self._progress(label, done, total)
        self.seconds[label] += time.perf_counter() - started

    def _about(self, model: Model) -> dict[str, Any]:
        steered = {"front": model.front, "weights": model.told} if isinstance(model, Steered) else {}
        return {
            **steered,
            "source": model.source,
            "location": str(model.location),
            "fingerprint": model.fingerprint,
            "dtype": model.dtype,
            "device": model.device,
        }

    def _log_probs(self, model: Model, pairs: preferences.Pairs, config: PreferencesConfig) -> list[ReferenceLogProbs]:
        with self._timed("preferences", model.name) as report:
            return [
                preferences.log_probs(model, token_set, config, self.cache, report(2 * len(token_set.pairs)))
                for token_set in pairs.tokens[model.name]
            ]

    def _preferences(
        self, config: PreferencesConfig, pairs: preferences.Pairs, log_probs: Mapping[str, list[ReferenceLogProbs]]
    ) -> Section:
        references = log_probs[self.reference.name] if self.reference else [None] * len(pairs.sources)
        by_model: dict[str, dict[str, dict[str, Ratio]]] = {}
        for name in self.names:
            by_model[name] = {}
            for token_set, policy, reference in zip(pairs.tokens[name], log_probs[name], references, strict=True):
                by_model[name] |= preferences.ratios(config.loss, token_set, policy, reference)
        metrics = self._measured(
            {
                name: {
                    f"preference/{objective}/{metric}": ratio
                    for objective in config.objectives
                    for metric, ratio in by_model[name][objective].items()
                }
                for name in self.names
            }
        )
        about = {
            "loss": config.loss.model_dump(mode="json"),
            "reference": self._about(self.reference) if self.reference else None,
            "objectives": {
                objective: {"data": token_set.source, "num_pairs": len(token_set.pairs), "num_skipped": dict(skipped)}
                for token_set, skipped in zip(pairs.sources, pairs.num_skipped, strict=True)
                for objective in token_set.objectives
            },
        }
        against = f" against {self.config.reference}" if self.reference else ""
        sources = ", ".join(f"{len(each.pairs)} pairs of {each.source}" for each in pairs.sources)
        first = self.names[0]
        ties = {name: by_model[first][name]["tie_frac"].value or 0.0 for name in config.objectives}
        notes = []
        if any(ties.values()):
            shares = ", ".join(f"{name} {share:.1%}" for name, share in ties.items())
            notes.append(f"Ties, which have a loss and nothing else: {shares}.")
        if skipped := sum((Counter(each) for each in pairs.num_skipped), Counter[str]()):
            notes.append(f"Pairs left out: {', '.join(f'{count} {reason}' for reason, count in skipped.items())}.")
        return Section("preferences", f"preferences: {sources}; {config.loss.type}{against}", about, metrics, notes)

    def _perplexity(
        self,
        config: PerplexityConfig,
        windows: Mapping[str, Sequence[Sequence[perplexity.Window]]],
        found: Mapping[str, dict[str, Ratio]],
    ) -> Section:
        num_tokens = {
            name: sum(len(scored) for of_text in windows[name] for _, scored in of_text) for name in self.names
        }
        num_texts = len(windows[self.names[0]])
        metrics = self._measured(found)
        about = {"data": str(config.data), "num_texts": num_texts, "num_tokens": num_tokens}
        notes = []
        if len(set(num_tokens.values())) > 1:
            notes.append("The models write the texts in different tokens: compare their bits_per_byte.")
        if num_texts == 1:
            notes.append("One text has no interval: intervals are over texts.")
        title = f"perplexity: {_texts(num_texts)} of {config.data}, windows of {config.window} tokens"
        return Section("perplexity", title, about, metrics, notes)

    def _generation(
        self,
        config: GenerationConfig,
        rows: Sequence[Mapping[str, Any]],
        samples: Mapping[str, list[generation.Sample]],
        evaluator: RewardEvaluator | None,
    ) -> Section:
        reference = None if config.reference_length is None else build_reference(config.reference_length)
        if reference is not None:
            reference.start([len(sample.token_ids) for sample in samples[self.names[0]]])
        found, records, failures = {}, [], {}
        for model in self.models:
            of_model = samples[model.name]
            evaluation = None
            if evaluator is not None:
                with self._timed("rewards", model.name):
                    evaluation = generation.score(of_model, rows, evaluator, reference)
                counts = Counter(f"{failure.objective}: {failure.reason}" for failure in evaluation.failures)
                failures[model.name] = dict(counts)
            found[model.name] = generation.ratios(of_model, evaluation, rows)
            records += generation.sample_rows(model, of_model, rows, evaluation)
        self._write_lines("samples.jsonl", records)
        metrics = self._measured(found)
        about = {
            "data": str(config.data),
            "num_prompts": len(rows),
            "num_samples": config.num_samples,
            "failures": failures,
            "reference_length": None if reference is None else reference.state_dict(),
        }
        how = "greedy" if config.temperature == 0 else f"temperature {config.temperature:g}"
        each = "1 completion" if config.num_samples == 1 else f"{config.num_samples} completions"
        notes = [
            f"{name} could not be scored: {', '.join(f'{what} {count}' for what, count in counts.items())}."
            for name, counts in failures.items()
            if counts
        ]
        notes += [
            f"{name} was trained with ctwa.conditioning, and its prompts are told no weights here: under conditioned "
            "they are (docs/weights.md)."
            for name in told_nothing(self.models)
        ]
        fronts = Fronts.of(self.models, found) if self.steered else None
        title = f"generation: {len(rows)} prompts of {config.data}, {each} each, {how}"
        return Section("generation", title, about, metrics, notes, fronts)

    def _judge(
        self, config: JudgeConfig, rows: Sequence[Mapping[str, Any]], samples: Mapping[str, list[generation.Sample]]
    ) -> Section:
        baseline, *others = self.names
        num = len(rows) if config.limit is None else min(config.limit, len(rows))
        firsts = {name: [sample for sample in samples[name] if sample.index == 0][:num] for name in self.names}
        measured, outcomes, unparsed, records, notes = {}, {}, {}, [], []
        replies = ReplyFolder(self.cache / "judge")
        for name in others:
            duels = [
                judge.Duel(ours.row, judge.prompt_of(rows[ours.row]), ours.response, theirs.response)
                for ours, theirs in zip(firsts[name], firsts[baseline], strict=True)
            ]
            with self._timed("judge", name) as report:
                judgements = judge.judge(duels, config, replies, report(num))
            scores = [each.score for each in judgements]
            ratio = Ratio(
                np.array([score or 0.0 for score in scores]), np.array([float(s is not None) for s in scores])
            )
            measured[name] = measure({name: [ratio]})[name][0]
            outcomes[name] = dict(Counter(each.outcome for each in judgements))
            unparsed[name] = judge.reasons(judgements)
            records += [{"schema": SCHEMA, "model": name, "baseline": baseline, **vars(each)} for each in judgements]
            notes += judge.notes(name, judgements)
        self._write_lines("judgements.jsonl", records)
        about = {
            "model": config.model,
            "base_url": config.base_url,
            "num_prompts": num,
            "outcomes": outcomes,
            "answers_without_verdict": unparsed,
        }
        title = f"judge: {config.model}, {num} prompts in both orders; win rate over {baseline}, a tie counts half"
        return Section("judge", title, about, {"judge/win_rate": measured}, notes)

    def _measured(self, found: Mapping[str, Mapping[str, Ratio]]) -> dict[str, dict[str, Measured]]:
        """Numbers with intervals, by metric and model, of ratios by model and metric."""
        metrics = {metric: [found[name][metric] for name in self.names] for metric in found[self.names[0]]}
        measured = measure(metrics)
        return {metric: dict(zip(self.names, measured[metric], strict=True)) for metric in metrics}

    def _write_lines(self, name: str, records: Sequence[Mapping[str, Any]]) -> None:
        lines = [json.dumps(record, allow_nan=False, default=str).encode() + b"\n" for record in records]
        write_atomically(self.out / name, b"".join(lines))


def _texts(num: int) -> str:
    return "1 text" if num == 1 else f"{num} texts"
