"""Completions and their rewards."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

from ctwa.errors import CtwaError
from ctwa.evaluation import generation
from ctwa.evaluation.config import GenerationConfig
from ctwa.evaluation.generation import (
    check_ground_truths,
    generate,
    ratios,
    read_prompts,
    sample_rows,
    score,
    tokenize_prompts,
)
from ctwa.evaluation.models import Model
from ctwa.objectives.config import parse_objectives
from ctwa.objectives.evaluator import RewardEvaluator
from ctwa.objectives.reference import FixedReferenceConfig, build_reference


@pytest.fixture(scope="module")
def model(places: SimpleNamespace) -> Model:
    return Model("base", str(places.base), device="cpu")


@pytest.fixture
def config(places: SimpleNamespace) -> GenerationConfig:
    return GenerationConfig(data=places.testbed / "held_out.parquet", num_samples=3, max_tokens=10, batch_size=8)


def samples_of(model: Model, config: GenerationConfig, cache: Path) -> list[generation.Sample]:
    rows = read_prompts(config)
    return generate(model, tokenize_prompts(model, rows, config), config, cache, lambda _: None)


class TestCompletions:
    def test_a_seed_gives_the_same_completions_whatever_the_batches(self, model, config, tmp_path: Path) -> None:
        first = samples_of(model, config, tmp_path / "a")
        whole = samples_of(model, config.model_copy(update={"batch_size": 1000}), tmp_path / "b")
        other = samples_of(model, config.model_copy(update={"seed": 1}), tmp_path / "c")

        assert [(sample.row, sample.index) for sample in first] == [(n // 3, n % 3) for n in range(30)]
        assert whole == first
        assert other != first
        assert len({tuple(sample.token_ids) for sample in first[:3]}) == 3

    def test_a_prompts_completions_do_not_depend_on_the_others(self, model, config, tmp_path: Path) -> None:
        few = samples_of(model, config.model_copy(update={"limit": 4}), tmp_path / "a")

        assert few == samples_of(model, config, tmp_path / "b")[:12]

    def test_greedy_ones_are_all_the_same(self, model, config, tmp_path: Path) -> None:
        greedy = samples_of(model, config.model_copy(update={"temperature": 0.0}), tmp_path)

        assert greedy[0].token_ids == greedy[1].token_ids == greedy[2].token_ids

    def test_finished_ones_end_with_the_end_of_sequence(self, model, config, tmp_path: Path) -> None:
        long = config.model_copy(update={"max_tokens": 80})
        found = samples_of(model, long, tmp_path)

        assert {sample.finished for sample in found} == {True, False}
        for sample in found:
            assert sample.finished == (sample.token_ids[-1] == model.tokenizer.eos_token_id)
            assert len(sample.token_ids) == 80 or sample.finished
            assert "<eos>" not in sample.response

    def test_a_model_whose_config_names_no_end_has_its_tokenizers(self, config, places, tmp_path: Path) -> None:
        nameless = Model("nameless", str(places.base), device="cpu")
        nameless.weights.generation_config = None
        nameless.weights.config.eos_token_id = nameless.weights.config.pad_token_id = None
        long = config.model_copy(update={"num_samples": 8, "max_tokens": 80})
        found = samples_of(nameless, long, tmp_path)

        assert {sample.finished for sample in found} == {True, False}

    def test_they_are_kept(self, model, config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = samples_of(model, config, tmp_path)
        monkeypatch.setattr(generation, "with_transformers", lambda *_: pytest.fail("generated again"))

        assert samples_of(model, config, tmp_path) == first

    def test_vllm_that_is_not_installed_is_said(self, model, config, tmp_path: Path) -> None:
        if importlib.util.find_spec("vllm"):
            pytest.skip("vLLM is installed")
        with pytest.raises(CtwaError, match="backend is vllm, which is not installed; write transformers"):
            samples_of(model, config.model_copy(update={"backend": "vllm"}), tmp_path)


class TestPrompts:
    def test_messages_are_written_by_the_chat_template_and_text_as_it_stands(self, model, lines) -> None:
        prompts = ["3 + 4 ?", [{"role": "user", "content": "3 + 4 ?"}]]
        path = lines([{"prompt": prompt} for prompt in prompts])
        as_it_stands, as_in_training = GenerationConfig(data=path, chat=False), GenerationConfig(data=path)
        text, chat = tokenize_prompts(model, read_prompts(as_it_stands), as_it_stands)
        same, again = tokenize_prompts(model, read_prompts(as_in_training), as_in_training)

        assert model.tokenizer.decode(text) == "3 + 4 ?"
        assert model.tokenizer.decode(chat) == "<bos> 3 + 4 ?"
        assert same == again == chat

    @pytest.mark.parametrize("prompt", [None, "", " \n", [], 7, {}])
    def test_a_row_without_one(self, prompt: Any, lines) -> None:
        with pytest.raises(CtwaError, match=r"row 1 \(from 0\): .*; write "):
            read_prompts(GenerationConfig(data=lines([{"prompt": "a"}, {"prompt": prompt}])))

    @pytest.mark.parametrize(
        ("prompt", "fault"),
        [
            ([{"role": "user", "content": " "}], "message 0 of its prompt is a user's and empty"),
            ([{"role": "user"}], "message 0 of its prompt has no content"),
            ([{"role": "user", "content": "a"}, "b"], "message 1 of its prompt is the text 'b'"),
            ("a\ud83d", "message 0 of its prompt has half a surrogate pair"),
        ],
    )
    def test_a_row_whose_prompt_says_nothing(self, prompt: Any, fault: str, lines) -> None:
        with pytest.raises(CtwaError, match=rf"row 0 \(from 0\): {fault}"):
            read_prompts(GenerationConfig(data=lines([{"prompt": prompt}])))

    def test_a_chat_template_that_does_not_take_a_prompt(self, config, places) -> None:
        strict = Model("strict", str(places.base), device="cpu")
        strict.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"

        with pytest.raises(
            CtwaError, match=r"row 0 \(from 0\), model 'strict': the chat template.*roles must alternate"
        ):
            tokenize_prompts(strict, read_prompts(config), config)

    def test_rendered_text_gets_no_second_beginning(self, model, places) -> None:
        opened = Model("opened", str(places.base), device="cpu")
        opened.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
        )
        rows = [{"prompt": "<bos> 3 + 4 ?"}, {"prompt": "3 + 4 ?"}]
        first, second = tokenize_prompts(opened, rows, GenerationConfig(data="prompts.jsonl"))

        assert first == second
        assert opened.tokenizer.decode(first) == "<bos> 3 + 4 ?"

    def test_a_list_of_rows(self, tmp_path: Path) -> None:
        (tmp_path / "a.json").write_text(json.dumps([{"prompt": "a"}, {"prompt": "b"}]))

        (row,) = read_prompts(GenerationConfig(data=tmp_path / "a.json", limit=1))
        assert row["prompt"] == [{"role": "user", "content": "a"}]
        assert len(read_prompts(GenerationConfig(data=tmp_path / "a.json"))) == 2
        (tmp_path / "a.json").write_text(json.dumps([{"prompt": "a"}, "b"]))
        with pytest.raises(CtwaError, match=r"a\.json, row 1 \(from 0\): it is the text 'b'; write an object"):
            read_prompts(GenerationConfig(data=tmp_path / "a.json"))

    def test_prompts_are_drawn_as_a_run_draws_its_own(self, model, lines) -> None:
        data = lines([{"prompt": str(number)} for number in range(20)])
        template = "7 {{ messages[0]['content'] }} 7"
        config = GenerationConfig(data=data, limit=5, limit_seed=3, template_kwargs={"chat_template": template})
        rows = read_prompts(config)

        of_verl = np.random.default_rng(3).choice(20, size=5, replace=False)
        assert [row["prompt"][0]["content"] for row in rows] == [str(number) for number in of_verl]
        assert tokenize_prompts(model, rows, config) == [
            model.tokenizer.encode(f"7 {number} 7", add_special_tokens=False) for number in of_verl
        ]

    def test_objectives_need_a_ground_truth(self, lines) -> None:
        objectives = parse_objectives({"a": {"reward_fn": "ctwa.testbed.rewards:accuracy"}})
        config = GenerationConfig(data=lines([{"prompt": "a"}]), objectives=objectives)

        with (
            RewardEvaluator(objectives, num_workers=1) as evaluator,
            pytest.raises(
                CtwaError, match=r"row 0 \(from 0\): it has no reward_model, which the objectives \('a'\) ask"
            ),
        ):
            check_ground_truths(config, read_prompts(config), evaluator)

    def test_a_context_that_is_too_short(self, model, config) -> None:
        long = config.model_copy(update={"max_tokens": 4090})

        with pytest.raises(CtwaError, match=r"row 0 .* exceed the context of model 'base', 4096; write a smaller"):
            tokenize_prompts(model, read_prompts(long), long)

    def test_a_tokenizer_without_a_chat_template(self, config, places) -> None:
        plain = Model("plain", str(places.base), device="cpu")
        plain.tokenizer.chat_template = None

        with pytest.raises(CtwaError, match="the tokenizer of model 'plain' no chat template"):
            tokenize_prompts(plain, read_prompts(config), config)


class TestRewards:
    def test_means_are_over_prompts_and_what_could_not_be_scored_is_left_out(
        self, model, config, tmp_path: Path
    ) -> None:
        (tmp_path / "mine.py").write_text(
            "def short(response_tokens, reference_tokens): return float(response_tokens < reference_tokens)\n"
            "def picky(response): return None if len(response) % 2 else float(len(response))\n"
        )
        objectives = parse_objectives(
            {name: {"reward_fn": f"{tmp_path / 'mine.py'}:{name}"} for name in ("short", "picky")}
        )
        rows, samples = read_prompts(config), samples_of(model, config, tmp_path)
        with RewardEvaluator(objectives, max_unscored=1.0) as evaluator:
            evaluation = score(samples, rows, evaluator, build_reference(FixedReferenceConfig(tokens=10)))
        rows = [row | {"data_source": ("odd", "even")[index % 2]} for index, row in enumerate(rows)]
        found = ratios(samples, evaluation, rows)
        even = [len(sample.response) for sample in samples if len(sample.response) % 2 == 0]
        records = sample_rows(model, samples, rows, evaluation)

        assert found["objective/picky/mean"].value == pytest.approx(sum(even) / len(even))
        assert found["objective/picky/scored_frac"].value == pytest.approx(len(even) / len(samples))
        assert found["objective/short/mean"].value == sum(len(sample.token_ids) < 10 for sample in samples) / len(
            samples
        )
        even_rows = [len(each.response) for each in samples if len(each.response) % 2 == each.row % 2 == 0]
        assert found["objective_source/picky/odd"].value == pytest.approx(sum(even_rows) / len(even_rows))
        assert found["objective_source/short/odd"].num + found["objective_source/short/even"].num == len(rows)
        assert "objective_source/short/odd" not in ratios(samples, evaluation, rows[:1] * len(rows))
        assert found["response_tokens"].denominators_P.tolist() == [3.0] * len(rows)
        assert records[0]["prompt"] == rows[0]["prompt"]
        assert [record["rewards"]["picky"] is None for record in records] == [
            len(sample.response) % 2 == 1 for sample in samples
        ]
