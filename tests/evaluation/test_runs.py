"""How runs are evaluated that no file describes: as they were validated."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

import pytest
import yaml

from ctwa.errors import CtwaError
from ctwa.evaluation.models import Model
from ctwa.evaluation.preferences import read_pairs
from ctwa.evaluation.runs import config_of
from ctwa.instructions.prepare import Settings, prepare
from ctwa.models.locate import locate
from ctwa.preference.data import PreferenceSource, hold_out, load_preferences
from ctwa.run.folder import RunFolder
from ctwa.run.origin import mark


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
        shutil.rmtree(run / "checkpoints/global_step_1")
        with pytest.raises(
            CtwaError, match=r"checkpoints/best, which early stopping kept, leads to global_step_1, and"
        ):
            locate(str(run))
        assert locate(str(run / "checkpoints/global_step_2")) == run / "checkpoints/global_step_2/actor/huggingface"
        (run / "checkpoints/best").unlink()
        assert locate(str(run)) == run / "checkpoints/global_step_2/actor/huggingface"

    def test_what_was_put_beside_a_saved_model_is_not_loaded_with_it(
        self, places: SimpleNamespace, write_run: Callable[[str | None], Path]
    ) -> None:
        model = locate(str(write_run("validation.parquet")))
        assert isinstance(model, Path)
        checkpoint = model.parent.parent
        (model / "README.md").write_text("mine")
        assert locate(str(checkpoint)) == model
        (model / "adapter_config.json").write_text("{}")
        with pytest.raises(CtwaError, match=r"was saved without actor/huggingface/adapter_config.json, which would"):
            locate(str(checkpoint))
        assert locate(str(model)) == model
