"""A whole evaluation, and the command: what is written, what goes on, what is refused before a model is loaded."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import yaml

from ctwa import cli
from ctwa.errors import CtwaError
from ctwa.evaluation import models as models_module
from ctwa.evaluation.command import default_folder
from ctwa.evaluation.config import EvalConfig, parse_config
from ctwa.evaluation.evaluate import evaluate
from ctwa.evaluation.models import Model
from ctwa.evaluation.preferences import read_pairs
from ctwa.evaluation.results import results_text
from ctwa.evaluation.runs import config_of
from ctwa.instructions.prepare import Settings, prepare
from ctwa.models.locate import locate
from ctwa.preference.data import PreferenceSource, hold_out, load_preferences
from ctwa.run.folder import RunFolder
from ctwa.run.origin import mark
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


class TestModels:
    def test_a_run_stands_for_its_newest_complete_checkpoint(self, places: SimpleNamespace) -> None:
        assert locate(str(places.run)) == places.trained
        assert locate(str(places.run / "checkpoints" / "global_step_2")) == places.trained
        assert locate(str(places.testbed)) == places.base
        assert locate("owner/name") == "owner/name"

    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda places, _: places.run / "checkpoints" / "global_step_4", "is not complete"),
            (lambda _, root: (root / "checkpoints").mkdir() or root, "has no complete checkpoint: it ended before"),
            (lambda _, root: root, "holds no model"),
            (lambda _, root: (root / "config.json").write_text("{}") and root, "has no weights"),
        ],
    )
    def test_a_folder_without_a_whole_model(self, make: Any, said: str, places, tmp_path: Path) -> None:
        with pytest.raises(CtwaError, match=said):
            locate(str(make(places, tmp_path)))

    def test_one_that_cannot_be_loaded_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "no_such_type"}')
        (tmp_path / "model.safetensors").write_bytes(b"")

        with pytest.raises(CtwaError, match=r"the config of model 'mine' .* cannot be loaded"):
            _ = Model("mine", str(tmp_path)).config


class TestWithoutAFile:
    def test_a_run_is_evaluated_as_its_validation_was_beside_its_base_model(self, places: SimpleNamespace) -> None:
        config = config_of([str(places.run)])

        assert config.models == {"base": str(places.base), "ctwa-s0": str(places.run)}
        assert config.generation is not None
        assert list(config.generation.objectives or {}) == ["accuracy", "clarity"]
        assert (config.generation.limit, config.generation.num_samples, config.generation.max_tokens) == (6, 2, 12)

    def test_a_run_that_held_prompts_out_is_evaluated_on_those(self, places: SimpleNamespace, tmp_path: Path) -> None:
        run = shutil.copytree(places.run, tmp_path / "run")
        kept = run / "data" / "val.parquet"
        kept.parent.mkdir()
        shutil.copy(places.testbed / "held_out.parquet", kept)
        written = yaml.safe_load((run / "config.yaml").read_text())
        written["data"] |= {
            "val_files": None,
            "shuffle": True,
            "seed": 7,
            "apply_chat_template_kwargs": {"tone": "dry"},
        }
        written["actor_rollout_ref"]["model"]["custom_chat_template"] = "{{ tone }}"
        (run / "config.yaml").write_text(yaml.safe_dump(written))

        found = config_of([str(run)]).generation
        assert found is not None
        assert found.data == str(kept)
        assert found.template_kwargs == {"tone": "dry", "chat_template": "{{ tone }}"}
        assert (found.limit, found.limit_seed) == (6, 7)  # drawn as the run drew them
        by_hand = config_of([str(run)], limit=2).generation
        assert by_hand is not None
        assert (by_hand.limit, by_hand.limit_seed) == (2, None)

    def test_code_that_somebody_elses_run_names_is_not_run_unasked(
        self, places: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        monkeypatch.setenv("JUDGE_KEY", "hush")
        run = shutil.copytree(places.run, tmp_path / "run")
        written = yaml.safe_load((run / "config.yaml").read_text())
        mine = {"reward_fn": f"{tmp_path / 'mine.py'}:judged", "kwargs": {"key": "${oc.env:JUDGE_KEY}"}}
        written["ctwa"]["objectives"]["mine"] = mine
        text = yaml.safe_dump(written)
        (run / "config.yaml").write_text(text)

        with pytest.raises(CtwaError, match=r"run was not made by you, .* the code of .*mine\.py:judged, .* --trust$"):
            config_of([str(run)])
        trusted = config_of([str(run)], trust=True).generation
        assert trusted is not None
        assert trusted.objectives is not None
        assert trusted.objectives["mine"].kwargs == {"key": "hush"}
        RunFolder(run).origin.write_text(str(mark(text.encode())))
        assert config_of([str(run)]).generation == trusted

    @pytest.mark.parametrize(
        "reward_fn", ["ctwa.objectives.check:check_reward", "ctwa.own/rewards.py:f", "ctwa.testbed.rewards.py:f"]
    )
    def test_what_only_begins_like_a_reward_of_ctwa_is_code_too(
        self, reward_fn: str, places: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Some functions of ctwa run the code that their arguments name, and a file may have any name."""
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        run = shutil.copytree(places.run, tmp_path / "run")
        written = yaml.safe_load((run / "config.yaml").read_text())
        written["ctwa"]["objectives"]["mine"] = {"reward_fn": reward_fn, "kwargs": {"spec": "run/mine.py:f"}}
        (run / "config.yaml").write_text(yaml.safe_dump(written))

        with pytest.raises(CtwaError, match=rf"run was not made by you, .* the code of {re.escape(reward_fn)}, .*"):
            config_of([str(run)])

    def test_models_on_a_testbed(self, places: SimpleNamespace) -> None:
        checkpoint = str(places.run / "checkpoints" / "global_step_2")
        config = config_of([checkpoint, str(places.base)], task_dir=places.testbed, limit=3, num_samples=4, seed=1)

        assert list(config.models) == ["base", "ctwa-s0@2"]
        assert config.generation is not None
        assert (config.generation.limit, config.generation.num_samples, config.generation.seed) == (3, 4, 1)
        assert list(config.generation.objectives or {}) == ["accuracy", "conciseness", "clarity"]

    def test_models_alone_need_a_task(self, places: SimpleNamespace, tmp_path: Path) -> None:
        with pytest.raises(CtwaError, match="is no folder of a run; give one first, or --task-dir"):
            config_of([str(places.base)])
        with pytest.raises(CtwaError, match="is no folder of a task"):
            config_of([str(places.base)], task_dir=tmp_path)

    def test_models_on_the_prompts_with_constraints(self, places: SimpleNamespace, tmp_path: Path) -> None:
        prepare(tmp_path / "prompts", Settings(num_train=8, num_held_out=8, num_validation=4))
        config = config_of([str(places.base)], task_dir=tmp_path / "prompts", limit=2)

        assert list(config.models) == [places.base.name]
        assert config.generation is not None
        assert config.generation.data == str(tmp_path / "prompts" / "held_out.parquet")
        assert {name: each.kwargs for name, each in (config.generation.objectives or {}).items()} == {
            "constraints": {},
            "brevity": {"budget": 96},
            "well_formed": {},
        }


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


class TestAPreferenceRun:
    SOURCE = MappingProxyType({"data": "train.parquet", "format": "pairs", "label": "labels.a", "weight": 0.5})

    @pytest.fixture
    def write_run(self, places: SimpleNamespace, tmp_path: Path) -> Callable[[str | None], Path]:
        """A run of `ctwa prefer` whose one objective has this validation."""

        def write(validation: str | None, share: float | None = None) -> Path:
            run = tmp_path / "raco"
            shutil.copytree(places.run, run)
            config = yaml.safe_load((run / "config.yaml").read_text())
            objective = {**self.SOURCE, "validation": validation}
            config["ctwa"] = {"objectives": {"a": objective}, "loss": {"type": "simpo"}, "max_length": 96}
            if share is not None:
                config["ctwa"]["validation_share"] = share
            (run / "config.yaml").write_text(yaml.safe_dump(config))
            return run

        return write

    def test_is_evaluated_on_its_validation_pairs(
        self, places: SimpleNamespace, write_run: Callable[[str | None], Path]
    ) -> None:
        config = config_of([str(write_run("validation.parquet"))], limit=5)

        assert config.generation is None
        assert config.preferences is not None
        assert config.preferences.objectives["a"].data == "validation.parquet"
        assert config.preferences.objectives["a"].label == "labels.a"
        assert (config.preferences.loss.type, config.preferences.max_length, config.preferences.limit) == (
            "simpo",
            96,
            5,
        )
        assert config.models["base"] == config.reference == str(places.base)

    def test_without_a_file_is_evaluated_on_the_share_it_held_out(self, places, write_run) -> None:
        found = config_of([str(write_run(None, 0.25))]).preferences
        assert found is not None
        assert (found.objectives["a"].data, found.validation_share) == ("train.parquet", 0.25)

        source = PreferenceSource(data=str(places.pairs), label="labels.accuracy")
        config = found.model_copy(update={"objectives": {"a": source}, "max_length": 120, "validation_share": 0.5})
        (held_out,) = read_pairs(config, [Model("base", str(places.base), device="cpu")], None).sources
        (everything,) = load_preferences({"a": source})
        parts = hold_out(everything, 0.5)
        assert [pair.row for pair in held_out.pairs] == [pair.row for pair in parts[1].pairs]
        assert 0 < len(parts[1].pairs) < len(everything.pairs)

    def test_without_a_file_of_them_asks_for_one(self, write_run: Callable[[str | None], Path]) -> None:
        with pytest.raises(CtwaError, match="no validation pairs of 'a'"):
            config_of([str(write_run(None))])

    def test_the_step_that_early_stopping_kept_is_the_run_s_model(
        self, places: SimpleNamespace, write_run: Callable[[str | None], Path]
    ) -> None:
        run = write_run("validation.parquet")
        assert locate(str(run)) == run / "checkpoints/global_step_2/actor/huggingface"
        shutil.copytree(run / "checkpoints/global_step_2", run / "checkpoints/global_step_1", dirs_exist_ok=True)
        (run / "checkpoints/best").symlink_to("global_step_1")
        assert locate(str(run)) == run.resolve() / "checkpoints/global_step_1/actor/huggingface"


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
