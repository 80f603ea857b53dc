"""The command: what it lists, what it prints, how it ends."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctwa import cli
from ctwa.cli.command import STOPPED
from ctwa.run.alarms import Alarm

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Run `ctwa ARGUMENTS` in this process: (exit code, standard output, standard error)."""
    monkeypatch.setattr("ctwa.cli.training.COMMAND_LINE", None)  # runs have no process of their own here

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


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (
            "train",
            [
                "method=ctwa",
                "lagrangian,",
                "engine=cpu cpu, gpu, one_gpu",
                "task=testbed custom, instructions, math500, testbed",
            ],
        ),
        (
            "prefer",
            ["method=raco", "raco_unclipped,", "loss=dpo cpo, dpo, ", "task=testbed custom, instructions, testbed"],
        ),
        ("caid", ["method=linear", "generation=transformers transformers, vllm, vllm_cpu"]),
    ],
)
def test_the_help_names_the_groups_with_their_defaults_and_choices(name: str, shown: list[str]) -> None:
    text = " ".join(CliRunner().invoke(cli.app, [name, "--help"]).stdout.split())

    assert [each for each in shown if each not in text] == []


class TestTrain:
    def test_a_dry_run_prints_the_configuration_and_the_plan_and_leaves_nothing(
        self, command: Command, run_overrides: list[str], tmp_path: Path
    ) -> None:
        run = tmp_path / "run:train:"  # is no picture of a train
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
            (["method=mgd"], "method=mgd is no choice: write one of cagrad, cagrad_clip, "),
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
        assert "ctwa.stop_on.1: 'entropy' is no alarm; write some of drop, negative-covariance, " in err

    @pytest.mark.parametrize(
        ("overrides", "sentence"),
        [
            (["engine=gpu"], "torch finds 0 GPUs here"),
            (["actor_rollout_ref.rollout.expert_parallel_size=3"], "verl does not accept the configuration: "),
            (["ray_kwargs.ray_init.num_cpus=2"], "Ray has 2 CPU but the run needs 9"),
        ],
    )
    def test_a_dry_run_is_refused_where_the_run_would_be(
        self,
        command: Command,
        run_overrides: list[str],
        monkeypatch: pytest.MonkeyPatch,
        overrides: list[str],
        sentence: str,
    ) -> None:
        monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
        code, out, err = command("train", *run_overrides, *overrides, "--dry-run")

        assert (code, out) == (2, "")
        assert sentence in err

    def test_a_run_that_an_alarm_ended_says_so_to_scripts(
        self, command: Command, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        alarm = Alarm("drop", "accuracy", 1, 2, "It fell.", "Raise its weight.")
        monkeypatch.setattr("ctwa.engine.job.execute", lambda *_, **__: alarm)

        assert command("train")[0] == STOPPED == 3

    def test_a_run_that_is_there_is_not_written_over(
        self, command: Command, run_overrides: list[str], tmp_path: Path
    ) -> None:
        (tmp_path / "config.yaml").write_text("")
        for more in ([], ["--dry-run"]):
            code, _, err = command("train", *run_overrides, f"ctwa.run={tmp_path}", *more)

            assert code == 2
            assert "already holds a run: write ctwa.resume=true to continue it, or give another folder" in err


def test_the_version(command: Command) -> None:
    assert command("--version")[:2] == (0, f"ctwa {version('ctwa')}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["summary", "run", "--figure", "OUT"],
        ["report", "run", "--out", "OUT"],
        ["report", "run", "--figures", "OUT"],
        ["compare", "run", "run", "--json", "OUT"],
        ["eval", "run", "--out", "OUT"],
        ["merge", "a=1", "b=1", "--out", "OUT"],
        ["testbed", "make", "--out", "OUT"],
        ["testbed", "pairs", "--out", "OUT"],
    ],
    ids=" ".join,
)
def test_where_nothing_can_be_written_is_told_before_anything_is_done(
    command: Command, tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "under"
    code, _, err = command(*(str(out) if each == "OUT" else each for each in arguments))

    assert code == 2
    assert err == f"error: {out} cannot be written, for {tmp_path / 'file'} is a file: give another place\n"


def test_a_file_that_is_a_folder(command: Command, tmp_path: Path) -> None:
    code, _, err = command("compare", "run", "run", "--json", str(tmp_path))

    assert (code, err) == (2, f"error: {tmp_path} is a folder: give the name of a file\n")


@pytest.mark.parametrize("weight", ["1e308", "-1e308", "inf"])
def test_a_weight_of_a_merge_that_has_no_finite_sum(command: Command, tmp_path: Path, weight: str) -> None:
    code, _, err = command("merge", f"a={weight}", "b=1", "--out", str(tmp_path / "out"))

    assert code == 2
    assert f"a={weight}: a weight is at most 1e+06" in err


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

    @pytest.mark.parametrize(
        ("option", "value", "said"),
        [
            ("--kwargs", "[1]", "--kwargs [1] is no object: write e.g."),
            ("--reference-tokens", "nan", "--reference-tokens nan is no length: write a number of tokens above 0"),
        ],
    )
    def test_arguments_that_cannot_be(
        self, command: Command, task_dir: Path, option: str, value: str, said: str
    ) -> None:
        data = str(task_dir / "train.parquet")
        code, _, err = command("check-reward", "ctwa.testbed.rewards:accuracy", "--data", data, option, value)

        assert (code, err.startswith(f"error: {said}")) == (2, True)

    def test_a_function_that_is_not_there(self, command: Command, task_dir: Path) -> None:
        code, _, err = command("check-reward", "no/such.py:reward", "--data", str(task_dir / "train.parquet"))

        assert code == 2
        assert "there is no file" in err


def test_a_project_is_made_with_what_to_do_next(command: Command, tmp_path: Path) -> None:
    code, out, _ = command("init", str(tmp_path / "mine"))

    assert code == 0
    assert f"made in {tmp_path / 'mine'}: README.md, " in out
    assert f"  cd {tmp_path / 'mine'}\n" in out
    assert command("init", str(tmp_path / "mine"))[0] == 2


class TestDoctor:
    @pytest.fixture(autouse=True)
    def no_gpu(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
        monkeypatch.chdir(tmp_path)

    def test_it_says_what_would_fail_before_it_fails(self, command: Command) -> None:
        code, out, _ = command("doctor", "engine=gpu", "--json")
        failing = {each["topic"]: each["found"] for each in json.loads(out)["findings"] if each["level"] == "fail"}

        assert code == 1
        assert failing["resources"].startswith(
            "trainer.n_gpus_per_node=4, but torch finds 0 GPUs here: write engine=cpu"
        )

    def test_with_the_settings_of_a_run_it_makes_its_checks(self, command: Command, run_overrides: list[str]) -> None:
        code, out, _ = command("doctor", *run_overrides, "data.train_batch_size=17")

        assert code == 1
        assert "settings data.train_batch_size=17 is not a multiple of actor_rollout_ref.actor." in " ".join(
            out.split()
        )
        assert "\na run would fail: 1 fail, " in out


@pytest.mark.parametrize("arguments", [["train"], ["config", "lr"], ["doctor", "engine=gpu"]], ids=" ".join)
def test_without_the_engine_a_command_says_what_to_install(arguments: list[str]) -> None:
    program = f"""
import sys
sys.modules |= dict.fromkeys(("hydra", "omegaconf", "verl", "ray"))
sys.argv = ["ctwa", *{arguments!r}]
from ctwa.cli import main
main()
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert "Traceback" not in result.stderr
    if arguments[0] != "doctor":  # which works without it
        assert result.returncode == 2
        assert "which is not installed: pip install 'ctwa[cpu]', or 'ctwa[gpu]' (docs/install.md)" in result.stderr


def test_without_the_packages_of_the_report_it_names_their_extra(tmp_path: Path) -> None:
    program = f"""
import sys
sys.modules |= dict.fromkeys(("plotly", "jinja2"))
sys.argv = ["ctwa", "report", {str(tmp_path)!r}]
from ctwa.cli import main
main()
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert result.returncode == 2
    assert "which is not installed: pip install 'ctwa[report]' (docs/install.md)" in result.stderr


def test_a_testbed_that_is_not_known(command: Command, tmp_path: Path) -> None:
    code, _, err = command("testbed", "make", "--preset", "Z", "--out", str(tmp_path / "Z"))

    assert code == 2
    assert err == "error: there is no testbed 'Z': write one of A, C, D, F, G\n"


def test_a_folder_without_a_run_cannot_be_summed_up(command: Command, tmp_path: Path) -> None:
    code, _, err = command("summary", str(tmp_path))

    assert code == 2
    assert "holds no run" in err


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (OSError(errno.EIO, os.strerror(errno.EIO)), 1, "error: a file or folder cannot be used (Input/output error)"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "n"), 2, "error: n cannot be used (File name too long)"),
    ],
)
def test_a_disk_that_fails_may_be_tried_again_and_a_path_may_not(
    error: OSError, status: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What --max-restarts goes by: 2 is a mistake that would repeat itself."""

    def fails(**_: object) -> None:
        raise error

    monkeypatch.setattr("ctwa.cli.command.app", fails)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == status
    assert capsys.readouterr().err.startswith(said)
