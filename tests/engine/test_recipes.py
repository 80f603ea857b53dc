"""What the recipes hand to `ctwa train`, and what that composes to."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ctwa.engine.checks.config import check_config, check_settings, num_steps
from ctwa.engine.compose import compose_config
from ctwa.engine.data import read_run_data
from ctwa.engine.settings import read_settings
from ctwa.policy_loss import Vanilla
from ctwa.scalarizers.linear import Linear
from ctwa.scalarizers.registry import METHODS
from tests.conftest import ROOT
from tests.engine.conftest import Compose


class TestRecipes:
    @pytest.fixture
    def arguments_of(self, tmp_path: Path) -> Callable[..., list[str]]:
        """What a recipe hands to `ctwa`, by a `ctwa` that writes its arguments down."""
        stub = tmp_path / "ctwa"
        stub.write_text('#!/usr/bin/env bash\nprintf "%s\\0" "$@"\n')
        stub.chmod(0o755)

        def arguments(task: str, *words: str, **environment: str) -> list[str]:
            path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
            result = subprocess.run(
                ["bash", ROOT / "recipes" / f"{task}.sh", *words],
                capture_output=True,
                text=True,
                check=True,
                env={"PATH": path, **environment},
            )
            command, *rest = result.stdout.removesuffix("\0").split("\0")
            assert command == "train"
            return rest

        return arguments

    @pytest.mark.parametrize("method", METHODS)
    def test_every_method_runs_on_the_testbed(
        self, method: str, arguments_of: Callable[..., list[str]], run_overrides: list[str]
    ) -> None:
        config = compose_config(arguments_of("testbed", method, *run_overrides))
        settings = read_settings(config)
        check_settings(config, settings)  # the disk is the same for all

        assert settings.method.type == method
        assert config.trainer.device == "cpu"

    def test_the_static_baseline_raises_accuracy(
        self, arguments_of: Callable[..., list[str]], run_overrides: list[str]
    ) -> None:
        scalarizer = read_settings(compose_config(arguments_of("testbed", "static", *run_overrides))).build_scalarizer()

        assert type(scalarizer) is Linear
        assert scalarizer.weights == {"accuracy": 0.375, "conciseness": 0.3125, "clarity": 0.3125}

    def test_a_schedule_ends_when_its_task_does(self, arguments_of: Callable[..., list[str]]) -> None:
        for task, step in (("testbed", 50), ("math500", 100)):
            (points,) = (each for each in arguments_of(task, "schedule") if each.startswith("ctwa.method.points="))
            assert f"step:{step}," in points

    def test_the_run_folder_is_named_by_task_method_and_seed(self, arguments_of: Callable[..., list[str]]) -> None:
        assert {"ctwa.run=runs/testbed-static-s0", "ctwa.resume=false"} <= set(arguments_of("testbed", "static"))
        resumed = arguments_of("math500", "ctwa", SEED="3", RESUME="1")
        assert {"ctwa.run=runs/math500-ctwa-s3", "ctwa.seed=3", "ctwa.resume=true"} <= set(resumed)

    def test_the_users_settings_come_last(self, arguments_of: Callable[..., list[str]]) -> None:
        overrides = arguments_of("testbed", "linear", "ctwa.run=elsewhere", "a.b=c d", "--dry-run")

        assert overrides[-3:] == ["ctwa.run=elsewhere", "a.b=c d", "--dry-run"]

    def test_an_option_of_the_recipe_gives_way_to_the_user_s(
        self, arguments_of: Callable[..., list[str]], compose: Compose
    ) -> None:
        own = ("ctwa.method.objective=clarity", "ctwa.method.targets={accuracy: 0.5, conciseness: 0.6}")
        method = compose(*arguments_of("testbed", "lagrangian", *own)).ctwa.method
        assert (method.objective, method.targets) == ("clarity", {"accuracy": 0.5, "conciseness": 0.6})

    def test_reinforce_runs_without_clipping_on_the_testbed_too(self, arguments_of: Callable[..., list[str]]) -> None:
        assert {"estimator=reinforce", "clipping=off"} <= set(arguments_of("testbed", "mgda", ESTIMATOR="reinforce"))
        assert {"estimator=grpo", "clipping=on"} <= set(arguments_of("testbed", "mgda"))

    def test_reinforce_runs_without_clipping(self, arguments_of: Callable[..., list[str]], task_dir: Path) -> None:
        overrides = arguments_of(
            "math500", "ctwa", ESTIMATOR="reinforce", DATA=str(task_dir), MODEL="Qwen/Qwen3-1.7B-Base"
        )
        config = compose_config(overrides)

        assert config.algorithm.adv_estimator == "reinforce_plus_plus"
        assert read_settings(config).policy_loss == Vanilla()
        assert config.actor_rollout_ref.model.path == "Qwen/Qwen3-1.7B-Base"
        assert num_steps(config, read_run_data(config)) == 810
        assert config.trainer.device == "cuda"

    def test_the_documented_two_steps_on_a_cpu_pass_the_checks(
        self, arguments_of: Callable[..., list[str]], task_dir: Path
    ) -> None:
        """The command of docs/training.md, with this test's data and model in place of the reader's."""
        lines = (ROOT / "docs/training.md").read_text().replace("\\\n", " ").splitlines()
        words = shlex.split(next(line for line in lines if line.startswith("ENGINE=cpu")))
        place = words.index("recipes/math500.sh")
        environment = dict(word.split("=", 1) for word in words[:place])
        environment |= {"DATA": str(task_dir), "MODEL": str(task_dir / "model")}

        config = compose_config(arguments_of("math500", *words[place + 1 :], **environment))
        check_config(config)

        assert num_steps(config, read_run_data(config)) == 2
        assert config.trainer.device == "cpu"

    @pytest.mark.parametrize("words", [[], ["--dry-run"]], ids=["nothing", "an option"])
    def test_without_a_method_it_says_which_there_are(self, words: list[str]) -> None:
        result = subprocess.run(
            ["bash", ROOT / "recipes/testbed.sh", *words],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        )

        assert result.returncode == 2
        assert result.stdout == ""
        assert "testbed.sh METHOD [KEY=VALUE]" in result.stderr
        assert all(method in result.stderr for method in METHODS)

    def test_without_the_command_it_says_what_to_do(self) -> None:
        result = subprocess.run(
            ["bash", ROOT / "recipes/testbed.sh", "ctwa"],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": "/usr/bin:/bin"},
        )

        assert result.returncode == 127
        assert result.stderr == (
            "error: the command ctwa is not found: activate its environment first (source .venv/bin/activate).\n"
        )
