"""A whole evaluation, and the command: what is written, what goes on, what is refused before a model is loaded."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ctwa import cli
from ctwa.errors import CtwaError
from ctwa.evaluation import models as models_module
from ctwa.evaluation.command import default_folder
from ctwa.evaluation.config import EvalConfig, parse_config
from ctwa.evaluation.evaluate import evaluate
from ctwa.evaluation.results import results_text
from tests.chat.endpoint import Server
from tests.evaluation.test_judge import KEY

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def content(places: SimpleNamespace, server: Server, monkeypatch: pytest.MonkeyPatch, lines) -> dict[str, Any]:
    """All sections, small."""
    monkeypatch.setenv("JUDGE_KEY", KEY)
    texts = [{"text": "Compute mod 10 : 3 + 4 ? 7"}, {"text": "so the answer is 7 ."}, {"text": "Step 1 : 3 + 4 = 7"}]
    return {
        "models": {"base": str(places.base), "tuned": str(places.run)},
        "reference": str(places.base),
        "device": "cpu",
        "preferences": {
            "objectives": {
                name: {"data": str(places.pairs), "label": f"labels.{name}"} for name in ("accuracy", "conciseness")
            }
        },
        "perplexity": {"data": str(lines(texts, "texts.jsonl"))},
        "generation": {
            "data": str(places.testbed / "held_out.parquet"),
            "objectives": {name: {"reward_fn": f"ctwa.testbed.rewards:{name}"} for name in ("accuracy", "clarity")},
            "limit": 5,
            "num_samples": 2,
            "max_tokens": 8,
            "reference_length": {"type": "fixed"},
        },
        "judge": {"base_url": server.url, "model": "m", "api_key_env": "JUDGE_KEY", "max_attempts": 2},
    }


@pytest.fixture
def config(content: dict[str, Any]) -> EvalConfig:
    return parse_config(content, "eval.yaml")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ctwa", "eval", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capfd.readouterr()
        return end.value.code or 0, out, err

    return run


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = SimpleNamespace(from_pretrained=lambda *_, **__: pytest.fail("a model is loaded"))
    monkeypatch.setattr(models_module, "AutoModelForCausalLM", refuse)


class TestEvaluation:
    def test_a_model_with_more_layers_than_weights_is_not_filled_with_random_ones(
        self, config: EvalConfig, places: SimpleNamespace, tmp_path: Path
    ) -> None:
        copy = shutil.copytree(places.base, tmp_path / "model")
        content = json.loads((copy / "config.json").read_text())
        content |= {"num_hidden_layers": 5, "layer_types": ["full_attention"] * 5}
        (copy / "config.json").write_text(json.dumps(content))

        with pytest.raises(CtwaError, match=r"^model 'deep' \(.*\): .* lacks weights that its config\.json asks for"):
            evaluate(config.model_copy(update={"models": config.models | {"deep": str(copy)}}), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_it_writes_every_section_by_name(self, config: EvalConfig, tmp_path: Path) -> None:
        out = tmp_path / "out"
        results = evaluate(config, out)
        found = json.loads((out / "results.json").read_text())

        assert (found["schema"], found["confidence"], found["baseline"]) == (1, 0.95, "base")
        assert found == json.loads(json.dumps(results.as_json()))
        sections = found["sections"]
        assert list(sections) == ["preferences", "perplexity", "generation", "judge"]
        loss = sections["preferences"]["metrics"]["preference/accuracy/loss"]
        assert loss["base"]["value"] == pytest.approx(0.693147, abs=1e-6)  # its own reference
        assert loss["base"]["difference"] is None
        assert loss["tuned"]["difference"]["mean"] == pytest.approx(loss["tuned"]["value"] - loss["base"]["value"])
        assert sections["perplexity"]["metrics"]["perplexity"]["base"]["num_prompts"] == 3
        accuracy = sections["generation"]["metrics"]["objective/accuracy/mean"]["tuned"]
        assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
        assert accuracy["num_prompts"] == 5
        lengths = [line["response_tokens"] for line in read_lines(out / "samples.jsonl") if line["model"] == "base"]
        reference = sections["generation"]["about"]["reference_length"]["tokens"]
        assert reference == pytest.approx(sum(lengths) / len(lengths))
        assert list(sections["judge"]["metrics"]["judge/win_rate"]) == ["tuned"]
        assert found["models"]["tuned"]["location"].endswith("global_step_2/actor/huggingface")

    def test_it_keeps_samples_and_judgements(self, config: EvalConfig, server: Server, tmp_path: Path) -> None:
        server.reply = lambda *_: (200, "[[A]]")
        evaluate(config, tmp_path / "out")
        samples, judgements = (read_lines(tmp_path / "out" / f"{name}.jsonl") for name in ("samples", "judgements"))

        assert [(line["model"], line["row"], line["sample"]) for line in samples] == [
            (model, row, index) for model in ("base", "tuned") for row in range(5) for index in range(2)
        ]
        assert set(samples[0]["rewards"]) == {"accuracy", "clarity"}
        assert [line["row"] for line in judgements] == list(range(5))
        assert {line["outcome"] for line in judgements} <= {"disagreement", "identical"}

    def test_the_table_has_every_model_and_what_it_gains(self, config: EvalConfig, tmp_path: Path) -> None:
        text = results_text(evaluate(config, tmp_path / "out"))

        assert "accuracy: loss" in text
        assert "over base" in text
        assert "bits_per_byte" in text
        assert "win_rate" in text
        assert "scored_frac" not in text  # all were scored

    def test_a_second_time_nothing_is_computed(
        self, config: EvalConfig, server: Server, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        first = evaluate(config, tmp_path / "out").as_json()
        asked = len(server.requests)
        request.getfixturevalue("no_weights")
        second = evaluate(config, tmp_path / "out").as_json()

        assert second["sections"] == first["sections"]
        assert len(server.requests) == asked

    def test_it_goes_on_after_a_judge_that_failed(
        self, config: EvalConfig, server: Server, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        server.reply = lambda *_: (503, {})
        with pytest.raises(CtwaError, match="the same command goes on from there"):
            evaluate(config, tmp_path / "out")
        server.reply = lambda *_: (200, "[[tie]]")
        request.getfixturevalue("no_weights")

        outcomes = evaluate(config, tmp_path / "out").sections[-1].about["outcomes"]["tuned"]
        assert set(outcomes) <= {"tie", "identical"}

    def test_another_evaluation_puts_the_earlier_results_aside(self, content: dict[str, Any], tmp_path: Path) -> None:
        out = tmp_path / "out"
        del content["judge"], content["preferences"]
        first = evaluate(parse_config(content, "eval.yaml"), out)
        content["generation"]["limit"] = 4
        evaluate(parse_config(content, "eval.yaml"), out)

        assert json.loads((out / "earlier-1" / "results.json").read_text()) == json.loads(json.dumps(first.as_json()))
        assert len(read_lines(out / "samples.jsonl")) == 16

    def test_the_key_is_in_no_file(self, config: EvalConfig, server: Server, tmp_path: Path) -> None:
        server.reply = lambda *_: (200, f"{KEY} [[tie]]")
        evaluate(config, tmp_path / "out")

        assert all(KEY not in path.read_text(errors="replace") for path in (tmp_path / "out").rglob("*.*"))


class TestRefusals:
    @pytest.mark.parametrize(
        ("section", "change", "said"),
        [
            (
                "generation",
                {"data": "nowhere.parquet"},
                "nowhere.parquet does not exist; give a .parquet, .jsonl",
            ),
            ("generation", {"objectives": {"a": {"reward_fn": "ctwa.testbed.rewards:acuracy"}}}, "acuracy"),
            ("generation", {"max_tokens": 5000}, "exceed the context of model 'base', 4096"),
            ("preferences", {"max_length": 4}, "exceed 4"),
            ("perplexity", {"column": "body"}, "no column 'body'"),
            ("judge", {"api_key_env": "NOT_SET_ANYWHERE"}, "names NOT_SET_ANYWHERE, which is not set"),
        ],
    )
    def test_bad_input_is_refused_before_a_model_is_loaded(
        self, content: dict[str, Any], section: str, change: dict[str, Any], said: str, tmp_path: Path, no_weights: None
    ) -> None:
        content[section] |= change

        with pytest.raises(CtwaError, match=said):
            evaluate(parse_config(content, "eval.yaml"), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_model_that_is_not_there(self, content: dict[str, Any], tmp_path: Path) -> None:
        content["models"]["third"] = str(tmp_path / "nowhere")

        with pytest.raises(CtwaError, match=r"there is no model .*nowhere"):
            evaluate(parse_config(content, "eval.yaml"), tmp_path / "out")


class TestCommand:
    def test_a_run(self, command: Command, places: SimpleNamespace, tmp_path: Path) -> None:
        code, out, told = command(str(places.run), "--limit", "3", "--out", str(tmp_path / "out"))

        assert code == 0
        assert ": 6 of 6\n" in told  # where no bar can be drawn
        assert "generation: 3 prompts of" in out
        assert "ctwa-s0" in out
        assert (tmp_path / "out" / "results.json").is_file()
        assert len(read_lines(tmp_path / "out" / "samples.jsonl")) == 12

    def test_a_file(self, command: Command, content: dict[str, Any], tmp_path: Path) -> None:
        del content["judge"], content["preferences"], content["generation"]
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(content))
        code, out, _ = command(str(path), "--out", str(tmp_path / "out"))

        assert code == 0
        assert "bits_per_byte" in out

    @pytest.mark.parametrize("extra", [["runs/other"], ["--limit", "3"]])
    def test_a_file_says_all(self, command: Command, extra: list[str], tmp_path: Path) -> None:
        code, _, err = command(str(tmp_path / "mine.yaml"), *extra)

        assert code == 2
        assert "says all of an evaluation" in " ".join(err.split())

    def test_a_mistake_ends_in_one_sentence(self, command: Command, tmp_path: Path) -> None:
        code, out, err = command(str(tmp_path / "mine.yaml"))

        assert (code, out) == (2, "")
        assert err.startswith("error: there is no file")


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("first", "folder"),
    [
        ("runs/ctwa-s0", "runs/eval-ctwa-s0"),
        ("runs/ctwa-s0/checkpoints/global_step_50", "runs/eval-ctwa-s0-global_step_50"),
        ("mine.yaml", "runs/eval-mine"),
    ],
)
def test_the_folder_of_the_results_is_named_after_the_first_run_a_checkpoint_too(first: str, folder: str) -> None:
    assert default_folder(Path(first)) == Path(folder)
