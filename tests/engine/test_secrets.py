"""What a reward takes from the environment is in no file of the run, and not in what its exceptions say."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ctwa.engine.compose import compose_config
from ctwa.engine.job import execute
from ctwa.engine.recorder import Recorder
from ctwa.engine.secrets import written_config
from ctwa.engine.settings import read_settings
from ctwa.engine.train_job import TrainJob
from ctwa.errors import without_secrets
from ctwa.evaluation.runs import _objectives
from ctwa.objectives.loading import describe_error
from ctwa.run.documents import Document
from ctwa.run.folder import RunFolder, RunInfo
from ctwa.run.log import RunFailed, quiet


def test_the_values_that_rewards_take_from_the_environment_stay_expressions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "hush")
    monkeypatch.setenv("PLACE", "/data")
    kwargs = {"key": "${oc.env:JUDGE_KEY}", "headers": [{"Authorization": "Bearer ${oc.env:JUDGE_KEY}"}, "${size}"]}
    objectives = {"judge": {"reward_fn": "judge.py:judge", "kwargs": kwargs}, "short": {"reward_fn": "short.py:short"}}
    config = OmegaConf.create(
        {"size": 3, "data": {"train_files": "${oc.env:PLACE}/train.jsonl"}, "ctwa": {"objectives": objectives}}
    )

    written = written_config(config)

    assert written["data"]["train_files"] == "/data/train.jsonl"  # which every reader needs
    assert written["ctwa"]["objectives"]["judge"]["kwargs"] == {
        "key": "${oc.env:JUDGE_KEY}",
        "headers": [{"Authorization": "Bearer ${oc.env:JUDGE_KEY}"}, 3],
    }
    assert "hush" not in str(written)
    assert config.ctwa.objectives.judge.kwargs["key"] == "hush"


def test_a_run_of_the_command_line_keeps_the_expressions(
    run_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Composing resolves every interpolation, and what is written is what was composed."""
    monkeypatch.setenv("JUDGE_KEY", "hush-hush-hush")
    judge = tmp_path / "judge.py"
    judge.write_text("def judge(response, key, headers=()):\n    assert key == 'hush-hush-hush'\n    return 0.5\n")
    own = [
        f"+ctwa.objectives.judge.reward_fn={judge}:judge",
        "+ctwa.objectives.judge.kwargs.key=${oc.env:JUDGE_KEY}",
        "+ctwa.objectives.judge.kwargs.headers=[{Authorization:'Bearer ${oc.env:JUDGE_KEY}'},'${ctwa.seed}']",
    ]
    config = compose_config([*run_overrides, "method=linear", *own])
    execute(TrainJob, [*run_overrides, "method=linear", *own], dry_run=True)

    kwargs = {"key": "${oc.env:JUDGE_KEY}", "headers": [{"Authorization": "Bearer ${oc.env:JUDGE_KEY}"}, 0]}
    assert written_config(config)["ctwa"]["objectives"]["judge"]["kwargs"] == kwargs
    assert read_settings(config).objectives["judge"].kwargs["key"] == "hush-hush-hush"
    assert "hush-hush-hush" not in str(written_config(config)) + "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "own",
    [
        ["+ctwa.objectives.judge.kwargs={key:'${oc.env:JUDGE}',again:'${ctwa.objectives.judge.kwargs.key}'}"],
        ["+ctwa.objectives.judge.kwargs={key:'${oc.env:JUDGE}',again:'Bearer ${.key}'}"],
        ["+ctwa.objectives.judge.kwargs={key:'${oc.env:JUDGE}',again:'${oc.select:ctwa.objectives.judge.kwargs.key}'}"],
        [
            "+ctwa.objectives.judge.kwargs={key:'${oc.env:JUDGE}'}",
            "+ctwa.objectives.other={reward_fn:'${ctwa.objectives.judge.reward_fn}'}",
            "+ctwa.objectives.other.kwargs=${ctwa.objectives.judge.kwargs}",
        ],
        [
            "+ctwa.objectives.judge.kwargs={headers:[{key:'${oc.env:JUDGE}'}],again:'${.headers.0.key}'}",
            "+ctwa.objectives.other=${ctwa.objectives.judge}",
        ],
        ["++ray_kwargs.ray_init.runtime_env.env_vars.WANDB=${oc.env:JUDGE}"],
        ["trainer.project_name=${oc.env:JUDGE_TOKEN}"],
    ],
)
def test_a_secret_is_an_expression_wherever_it_is_taken_to(
    own: list[str],
    run_overrides: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setenv("JUDGE", "hush-hush-hush")
    monkeypatch.setenv("JUDGE_TOKEN", "hush-hush-hush")
    judge = tmp_path / "judge.py"
    judge.write_text("def judge(response, key='', again='', headers=()):\n    return 0.5\n")
    reward = f"+ctwa.objectives.judge.reward_fn={judge}:judge"
    config = compose_config([*run_overrides, "method=linear", reward, *own])
    execute(TrainJob, [*run_overrides, "method=linear", reward, *own], dry_run=True)

    written = written_config(config)
    assert "hush" not in str(written) + "".join(capsys.readouterr())
    assert "${oc.env:JUDGE" in str(written)
    # What is written has the values again, wherever it is read with the environment.
    assert OmegaConf.to_container(OmegaConf.create(written), resolve=True) == OmegaConf.to_container(
        config, resolve=True
    )
    assert "hush-hush-hush" in str(OmegaConf.to_container(config, resolve=True))


def test_what_is_counted_by_a_variable_is_a_number(run_overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of ranks is one for small models: it asks for the model's path."""
    plain = compose_config(run_overrides)
    monkeypatch.setenv("MODEL_KEY", plain.actor_rollout_ref.model.path)

    config = compose_config([*run_overrides, "actor_rollout_ref.model.path=${oc.env:MODEL_KEY}"])

    assert config.trainer == plain.trainer


def test_an_evaluation_of_a_run_has_the_secrets_that_one_objective_takes_from_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE", "hush")
    objectives = {
        "a": {"kwargs": {"key": "${oc.env:JUDGE}"}},
        "b": {"kwargs": {"key": "${ctwa.objectives.a.kwargs.key}"}},
    }
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml({"ctwa": {"objectives": objectives}}))

    read = _objectives(Document(tmp_path / "config.yaml", "mend it"))

    assert [objective["kwargs"]["key"] for objective in read.values()] == ["hush", "hush"]


SAID = "Illegal header value b'Bearer hush-hush-hush\\n', asking https://me:mypassword@host/v1?q=a@b"
TOLD = "Illegal header value b'Bearer ***\\n', asking https://***@host/v1?q=a@b"


def test_what_a_reward_raises_names_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "hush-hush-hush\n")  # from a file, as such an exception comes about
    monkeypatch.setenv("SHORT_KEY", "I")

    assert describe_error(RuntimeError(SAID)) == f"RuntimeError: {TOLD}"


def test_a_secret_that_begins_with_another_is_left_out_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", "abcdefgh")
    monkeypatch.setenv("B_KEY", "abcdefghijkl")

    assert without_secrets("abcdefgh, abcdefghijkl") == "***, ***"


def test_what_ends_a_run_names_no_secret_in_its_files_and_on_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "hush-hush-hush")
    run = RunFolder.create(tmp_path / "run", {}, RunInfo(method="linear", objectives={}, num_steps=4))
    with pytest.raises(RunFailed), quiet(run.engine_log), Recorder(run, resume=False, num_samples=1, seed=0):
        raise RuntimeError(SAID)

    for told in (run.events.read_text(), run.engine_log.read_text(), capfd.readouterr().out):
        assert "***@host" in told
        assert "hush" not in told
        assert "mypassword" not in told


def test_a_run_without_objectives_of_rewards_is_written_as_it_is() -> None:
    config = OmegaConf.create({"ctwa": {"objectives": {"helpful": {"data": "a.parquet"}}, "seed": 1}})
    assert written_config(config) == OmegaConf.to_container(config)
    assert written_config(OmegaConf.create({"ctwa": {"seed": 1}})) == {"ctwa": {"seed": 1}}
