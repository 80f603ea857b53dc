"""The command: what it lists, what it prints, how it ends."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctwa import cli
from ctwa.monitor.alarms import Alarm

ROOT = Path(__file__).parents[2]

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run `ctwa ARGUMENTS` in this process: (exit code, standard output, standard error)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ctwa", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capfd.readouterr()
        return end.value.code or 0, out, err

    return run


def test_help_lists_the_commands() -> None:
    result = CliRunner().invoke(cli.app, ["--help"])

    assert result.exit_code == 0
    for name in ("train", "summary", "check-reward", "testbed"):
        assert name in result.stdout


@pytest.mark.parametrize(("name", "folder"), [("train", "config"), ("prefer", "config/prefer")])
def test_the_help_names_every_group_that_exists(name: str, folder: str) -> None:
    text = " ".join(CliRunner().invoke(cli.app, [name, "--help"]).stdout.split())

    choices_of = list((ROOT / "ctwa" / folder).glob("*/*.yaml"))
    commands = {path.parent for path in (ROOT / "ctwa" / folder).glob("*/__init__.py")}  # what others compose
    groups: dict[str, set[str]] = {path.parent.name: set() for path in choices_of if path.parent not in commands}
    for path in choices_of:
        if path.parent not in commands:
            groups[path.parent.name].add(path.stem)
    assert groups
    for group, choices in groups.items():
        named = text.split(f"{group}={{", 1)[1].split("}", 1)[0]
        assert set(named.replace(" ", "").split(",")) == choices


class TestTrain:
    def test_a_dry_run_prints_the_configuration_and_the_plan_and_leaves_nothing(
        self, command: Command, run_overrides: list[str], tmp_path: Path
    ) -> None:
        run = tmp_path / "run"
        code, out, _ = command("train", *run_overrides, f"ctwa.run={run}", "method=linear", "--dry-run")

        assert code == 0
        assert "  adv_estimator: grpo\n" in out
        assert "plan:\n  method       linear, log-probs of the statistic: in_update\n" in out
        assert f"run folder   {run}" in out
        assert not run.exists()

    def test_the_option_may_stand_before_the_overrides(self, command: Command, run_overrides: list[str]) -> None:
        code, out, _ = command("train", "--dry-run", *run_overrides)

        assert code == 0
        assert "plan:" in out

    @pytest.mark.parametrize(
        ("overrides", "sentence"),
        [
            (["method=mgd"], "method=mgd is no choice: write one of cagrad, cagrad_clip, ctwa, "),
            (["actor_rollout_ref.rollout.n=1"], "actor_rollout_ref.rollout.n=1: covariances within a prompt need"),
            (["ctwa.eta=1"], "ctwa.eta is no key of the configuration; did you mean ctwa.method.eta?"),
            (["ctwa.task_dir=/nowhere"], "ctwa.task_dir: /nowhere does not exist"),
        ],
    )
    def test_a_users_mistake_is_one_sentence_and_exit_code_2(
        self, command: Command, run_overrides: list[str], overrides: list[str], sentence: str
    ) -> None:
        code, out, err = command("train", *run_overrides, *overrides, "--dry-run")

        assert code == 2
        assert err.startswith("error: ")
        assert sentence in err
        assert "Traceback" not in out + err
        assert len(err.strip().splitlines()) == 1

    def test_alarms_to_stop_on_are_those_of_the_option_and_of_the_key(
        self, command: Command, run_overrides: list[str]
    ) -> None:
        stop = ["--stop-on", "drop", "ctwa.stop_on=[non-finite,drop]", "--stop-on", "unscored"]
        code, out, _ = command("train", *run_overrides, *stop, "--dry-run")

        assert code == 0
        assert "  stop_on:\n  - non-finite\n  - drop\n  - unscored\n" in out

    def test_an_alarm_to_stop_on_that_is_none_is_refused(self, command: Command, run_overrides: list[str]) -> None:
        code, _, err = command("train", *run_overrides, "--stop-on", "entropy", "--dry-run")

        assert code == 2
        assert "ctwa.stop_on.0: 'entropy' is no alarm; write some of drop, negative-covariance, " in err

    def test_a_run_that_an_alarm_ended_says_so_to_scripts(
        self, command: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alarm = Alarm("drop", "accuracy", 1, 2, "It fell.", "Raise its weight.")
        monkeypatch.setattr("ctwa.engine.launch.train", lambda *_, **__: alarm)

        assert command("train")[0] == cli.STOPPED == 3

    def test_a_run_that_is_there_is_not_written_over(
        self, command: Command, run_overrides: list[str], tmp_path: Path
    ) -> None:
        (tmp_path / "config.yaml").write_text("")
        code, _, err = command("train", *run_overrides, f"ctwa.run={tmp_path}")

        assert code == 2
        assert "already holds a run: write ctwa.resume=true to continue it, or give another folder" in err


class TestCheckReward:
    def test_it_shows_values_and_ends_well(self, command: Command, task_dir: Path) -> None:
        code, out, _ = command(
            "check-reward", "ctwa.testbed.rewards:accuracy", "--data", str(task_dir / "train.parquet"), "--limit", "3"
        )

        assert code == 0
        assert "accuracy" in out

    def test_arguments_that_are_not_json(self, command: Command, task_dir: Path) -> None:
        code, _, err = command(
            "check-reward", "ctwa.testbed.rewards:accuracy", "--data", str(task_dir / "train.parquet"), "--kwargs", "{a"
        )

        assert code == 2
        assert err.startswith("error: --kwargs is not JSON")

    def test_a_function_that_is_not_there(self, command: Command, task_dir: Path) -> None:
        code, _, err = command("check-reward", "no/such.py:reward", "--data", str(task_dir / "train.parquet"))

        assert code == 2
        assert "there is no file" in err


def test_a_testbed_that_is_not_known(command: Command, tmp_path: Path) -> None:
    code, _, err = command("testbed", "make", "--preset", "Z", "--out", str(tmp_path / "Z"))

    assert code == 2
    assert err == "error: there is no testbed 'Z': write one of A, C, D, F\n"


def test_a_folder_without_a_run_cannot_be_summed_up(command: Command, tmp_path: Path) -> None:
    code, _, err = command("summary", str(tmp_path))

    assert code == 2
    assert "holds no run" in err
