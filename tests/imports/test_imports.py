"""Logs of other trainers in their true forms, each a small one written by hand: the trace that comes of them."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from ctwa import cli
from ctwa.errors import CtwaError
from ctwa.imports.make import import_run
from ctwa.report.html import write_report
from ctwa.run.trace import TraceWriter, read_trace

STEPS = range(1, 21)


def accuracy(step: int) -> float:
    return 0.75 - step / 64


def tidy(step: int) -> float:
    return 0.25 + step / 64


def trl_row(step: int) -> dict[str, Any]:
    return {
        "completions/mean_length": 100.0 - step,
        "entropy": 0.5,
        "epoch": step / 100,
        "grad_norm": 1.5,
        "learning_rate": 1e-6,
        "loss": 0.0,
        "reward": accuracy(step) + tidy(step),
        "rewards/accuracy_reward/mean": accuracy(step),
        "rewards/accuracy_reward/std": 0.25,
        "rewards/tidy/mean": tidy(step),
        "rewards/tidy/std": 0.25,
        "step": step,
        "step_time": 2.0,
    }


def write_trl(folder: Path, **changes: Any) -> Path:
    """The folder of a TRL run that saved a checkpoint, with an evaluation at its beginning and its end."""
    ends = [
        {"eval_rewards/accuracy_reward/mean": value, "eval_rewards/tidy/mean": 1 - value, "step": step}
        for step, value in ((0, 0.75), (20, 0.25))
    ]
    log = [ends[0], *map(trl_row, STEPS), ends[1], {"train_runtime": 40.0, "step": 20}]
    state = {"global_step": 20, "max_steps": 20, "log_history": log, **changes}
    for step, last in (("9", 9), ("20", None)):  # the newest by its number, not by its name
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        part = state | {"log_history": log[:last]}
        (folder / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(part))
    return folder


def write_wandb_history(path: Path) -> Path:
    """As `run.history(pandas=False)` has it after transformers logged: `_step` counts calls, the system's rows too."""
    rows: list[dict[str, Any]] = [{"_step": 0, "_timestamp": 900.0, "system/gpu": 0.5, "train/global_step": None}]
    for step in STEPS:
        row = {f"train/{key}": value for key, value in trl_row(step).items() if key not in ("step", "reward")}
        rows.append({"_step": 2 * step, "_timestamp": 1000.0 + step, "train/global_step": step, **row})
    path.write_text(json.dumps(rows))
    return path


def write_wandb_panels(folder: Path) -> list[Path]:
    """Two panels as the web page exports them: a run a column, with bounds; one metric a file."""
    files = []
    for name, curve in (("accuracy_reward", accuracy), ("tidy", tidy)):
        key = f"train/rewards/{name}/mean"
        columns = [f"{run} - {key}{bound}" for run in ("grpo-a", "grpo-b") for bound in ("", "__MIN", "__MAX")]
        lines = [[str(step), *[str(curve(step))] * 3, *["0.5"] * 3] for step in STEPS]
        files.append(folder / f"{name}.csv")
        files[-1].write_text("\n".join(",".join(f'"{cell}"' for cell in line) for line in [["Step", *columns], *lines]))
    return files


def write_events(folder: Path) -> Path:
    writer = EventFileWriter(str(folder))
    for step in STEPS:
        values = [
            Summary.Value(tag=f"train/rewards/{name}/mean", simple_value=value)
            for name, value in (("accuracy_reward", accuracy(step)), ("tidy", tidy(step)))
        ]
        writer.add_event(Event(step=step, wall_time=1000.0 + step, summary=Summary(value=values)))
    writer.close()
    return folder


def write_verl(path: Path) -> Path:
    """verl's logger `file` in a run with adv_estimator=gdpo, validated on two sources at its beginning and its end."""
    rows = []
    for step in (0, *STEPS):
        data: dict[str, Any] = {"training/global_step": step, "actor/entropy": 0.5, "response_length/mean": 99.0}
        data |= {f"gdpo/accuracy_reward/{what}": accuracy(step) for what in ("mean", "max")}
        data |= {"gdpo/tidy/mean": tidy(step), "critic/score/mean": 1.0, "timing_s/step": 2.0}
        if step in (0, 20):
            for source, plus in (("openai/gsm8k", 0.125), ("math", -0.125)):
                data[f"val-core/{source}/acc/mean@4"] = 0.5
                data[f"val-aux/{source}/accuracy_reward/mean@4"] = accuracy(step) + plus
                data[f"val-aux/{source}/accuracy_reward/best@4/mean"] = 1.0
                data[f"val-aux/{source}/tidy/mean@4"] = tidy(step) + plus
        rows.append({"step": step, "data": data})
    path.write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 21, "da')  # its writer died
    return path


FORMS: dict[str, Callable[[Path], list[Path]]] = {
    "TRL": lambda folder: [write_trl(folder / "out")],
    "history of W&B": lambda folder: [write_wandb_history(folder / "history.json")],
    "panels of W&B": write_wandb_panels,
    "TensorBoard": lambda folder: [write_events(folder / "tensorboard")],
    "verl": lambda folder: [write_verl(folder / "run.jsonl")],
}


def test_prompts_with_more_completions_than_others_are_validated_with_them(tmp_path: Path) -> None:
    """A prompt that is in verl's file twice has twice as many: one source has mean@1 and mean@2."""
    rows = []
    for step in (1, 2):
        validated = {f"val-core/math/tidy/mean@{k}": value for k, value in ((2, 0.75), (1, 0.25)) if k <= step}
        rows.append({"step": step, "data": {"reward/tidy/mean": 0.5, **validated}})
    (tmp_path / "run.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")

    made = import_run([tmp_path / "run.jsonl"], tmp_path / "imported")

    assert [record["metrics"]["val/tidy"] for record in read_trace(made.folder.metrics)] == [0.25, 0.5]
    assert not made.naming.origins.keys() & {"val_source/tidy/math"}  # there is one source


@pytest.mark.parametrize("form", FORMS)
def test_the_rewards_of_every_form_are_those_that_were_logged(form: str, tmp_path: Path) -> None:
    run = "grpo-a" if form == "panels of W&B" else None
    made = import_run(FORMS[form](tmp_path), tmp_path / "imported", run=run)
    read = {record["step"]: record["metrics"] for record in read_trace(made.folder.metrics)}

    for name, curve in (("accuracy_reward", accuracy), ("tidy", tidy)):
        assert [read[step][f"objective/{name}/mean"] for step in STEPS] == [curve(step) for step in STEPS]
    assert made.naming.objectives == ("accuracy_reward", "tidy")
    assert made.summary.objectives["accuracy_reward"].change < 0 < made.summary.objectives["tidy"].change
    assert "nor covariances" in made.summary.story.methods[0][1]


def test_trl_is_judged_by_its_evaluations_and_shows_what_the_model_wrote(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    folder = write_trl(tmp_path / "out", max_steps=40)
    (folder / "completions").mkdir()
    table = {"step": [20] * 2, "prompt": ["2+2?"] * 2, "completion": ["4", "five"], "tidy": [1.0, float("nan")]}
    pandas.DataFrame(table).to_parquet(folder / "completions" / "completions_00020.parquet")
    made = import_run([folder], tmp_path / "imported")

    assert (made.summary.source, made.summary.objectives["accuracy_reward"].change) == ("held-out", -0.5)
    assert (made.summary.num_steps, made.folder.read_info().num_steps, made.folder.read_info().method) == (
        20,
        40,
        "out",
    )
    assert {"val/tidy", "actor/entropy", "response_length/mean", "time/step"} <= made.naming.origins.keys()
    samples = [json.loads(line) for line in made.folder.samples.read_text().splitlines()]
    assert [(each["response"], each["rewards"]) for each in samples] == [("4", {"tidy": 1.0}), ("five", {"tidy": None})]
    write_report([made.folder.path], tmp_path / "report.html")
    # Evaluations have no standard errors, and two of them tell nothing of the noise.
    assert "accuracy_reward is unknown (-0.500 in 2 results" in (tmp_path / "report.html").read_text()


def test_verl_s_validation_is_the_mean_of_its_sources_and_each_of_them(tmp_path: Path) -> None:
    made = import_run([write_verl(tmp_path / "run.jsonl")], tmp_path / "imported")
    first = read_trace(made.folder.metrics)[0]["metrics"]

    assert {key: value for key, value in first.items() if key.startswith("val")} == {
        "val/accuracy_reward": 0.75,
        "val/tidy": 0.25,
        "val_source/accuracy_reward/openai/gsm8k": 0.875,
        "val_source/accuracy_reward/math": 0.625,
        "val_source/tidy/openai/gsm8k": 0.375,
        "val_source/tidy/math": 0.125,
    }


def test_what_ctwa_itself_sent_to_a_logger_is_its_trace_again(tmp_path: Path) -> None:
    metrics = {"objective/a/mean": 0.5, "val/a": 0.25, "weight/a": 1.0, "covariance/a": 0.125, "ctwa/ema/a": 0.5}
    path = tmp_path / "run.jsonl"
    path.write_text(json.dumps({"step": 3, "data": metrics}))
    made = import_run([path], tmp_path / "imported")

    assert [record["metrics"] for record in read_trace(made.folder.metrics)] == [metrics]


def test_the_command_takes_metrics_by_name_and_refuses_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["_step,my/acc,eval/tidy"] + [f"{step},{accuracy(step)},{tidy(step)}" for step in STEPS]
    (tmp_path / "history.csv").write_text("\n".join(lines))

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["ctwa", "import", str(tmp_path / "history.csv"), "--out", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        told = capsys.readouterr()
        return int(end.value.code or 0), " ".join((told.out + told.err).split())

    out = str(tmp_path / "imported")
    code, told = run(out)
    assert code == 2
    assert "no metric is known to be the mean of one reward" in told
    assert "there are my/acc, eval/tidy" in told
    code, told = run(out, "--objective", "accuracy=my/ac")
    assert (code, "did you mean my/acc?" in told) == (2, True)
    code, told = run(out, "--objective", "accuracy")
    assert (code, "write NAME=METRIC" in told) == (2, True)
    code, told = run(out, "--objective", "accuracy=my/acc", "--objective", "accuracy=eval/tidy")
    assert (code, "names accuracy twice" in told) == (2, True)
    code, told = run(out, "--objective", "accuracy=my/acc", "--run", "another")
    assert (code, "--run another: " in told, "has one run alone: leave --run out" in told) == (2, True, True)
    assert not Path(out).exists()
    code, told = run(out, "--objective", "accuracy=my/acc", "--held-out", "accuracy=eval/tidy")
    assert (code, "accuracy my/acc eval/tidy" in told, "What happened: accuracy gained" in told) == (0, True, True)
    before = {path: path.read_bytes() for path in Path(out).rglob("*") if path.is_file()}
    code, told = run(out, "--objective", "other=my/acc")
    assert (code, "already holds a run: give another folder" in told) == (2, True)
    assert {path: path.read_bytes() for path in Path(out).rglob("*") if path.is_file()} == before


def test_what_is_no_log_is_refused_in_a_sentence(tmp_path: Path) -> None:
    write_wandb_panels(tmp_path)
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "run.wandb").write_bytes(b"\xff")
    (tmp_path / "dpo.json").write_text(json.dumps({"log_history": [{"step": 1, "rewards/chosen": 1.0}]}))
    (tmp_path / "else.json").write_text("{}")
    (tmp_path / "twice.csv").write_text("_step,reward/a,reward/a\n1,0.1,0.9\n")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    for name, step in (("nan", math.nan), ("word", "x"), ("none", None), ("half", 1.5), ("below", -1), ("far", 1e30)):
        (tmp_path / name).write_text(json.dumps({"log_history": [{"step": step, "rewards/a/mean": 0.5}]}))
    (tmp_path / "verl.jsonl").write_text('{"step": Infinity, "data": {"reward/a": 1}}\n')
    with TraceWriter(tmp_path / "metrics.jsonl") as trace:
        trace.write(1, {"val/a": 1.0})
    for source, told in {
        "missing": "does not exist",
        "wandb": "holds no log that is known",
        "wandb/run.wandb": "export the run's history",
        "tidy.csv": "has several runs: choose one by --run, of grpo-a, grpo-b",
        "dpo.json": "no metric is known to be the mean of one reward",
        "else.json": "has no step in its rows",
        "metrics.jsonl": "a trace of ctwa already",
        "twice.csv": "has the column reward/a twice",
        "deep.json": "is no JSON",
        **dict.fromkeys(
            ("nan", "word", "none", "half", "below", "far", "verl.jsonl"), "steps are whole numbers from 0"
        ),
    }.items():
        with pytest.raises(CtwaError, match=told):
            import_run([tmp_path / source], tmp_path / "imported")
    for number in (0.25, 0.5):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps({"step": 1, "data": {"reward/a": number}}))
    with pytest.raises(CtwaError, match=r"the logs differ at step 1: reward/a is 0\.25 in one and 0\.5 in another"):
        import_run([tmp_path / "0.25.jsonl", tmp_path / "0.5.jsonl"], tmp_path / "imported")
    broken = tmp_path / "completions" / "completions_00001.parquet"
    broken.parent.mkdir()
    broken.write_bytes(b"PAR1")
    with pytest.raises(CtwaError, match="no whole Parquet file"):
        import_run([write_wandb_history(tmp_path / "history.json")], tmp_path / "imported", completions=broken.parent)
    assert not (tmp_path / "imported").exists()


def test_a_record_of_ten_steps_stands_for_their_seconds_and_one_evaluation_for_no_verdict(tmp_path: Path) -> None:
    rows = [{**trl_row(step), "step_time": 2.5} for step in (10, 20)]
    rows.append({"step": 20, "eval_rewards/tidy/mean": 0.5, "eval_rewards/accuracy_reward/mean": 0.5})
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": rows, "max_steps": math.inf}))
    summary = import_run([tmp_path], tmp_path / "imported").summary
    assert (summary.train_seconds, summary.step_seconds) == (50.0, 2.5)
    assert summary.story.headline.startswith("accuracy_reward is unknown (-0.156 in 2 results without standard errors")
    assert summary.on_training == ("accuracy_reward", "tidy")  # of the one evaluation at the end nothing is said


def test_texts_in_a_log_may_be_long_and_of_several_lines(tmp_path: Path) -> None:
    text = "x" * 200_000 + "\n\u2028"
    (tmp_path / "history.csv").write_text(f'_step,text,reward/a\n1,"{text}",0.25\n2,"{text}",0.5\n', encoding="utf-8")
    row = {"_step": 1, "reward/a": 0.25, "text": "\u2028"}
    (tmp_path / "history.jsonl").write_text(
        "\n".join(json.dumps({**row, "_step": step}, ensure_ascii=False) for step in (1, 2)), encoding="utf-8"
    )
    for name in ("history.csv", "history.jsonl"):
        made = import_run([tmp_path / name], tmp_path / f"of-{name}")
        assert [record["step"] for record in read_trace(made.folder.metrics)] == [1, 2]


def test_a_table_is_read_whatever_a_spreadsheet_made_of_it(tmp_path: Path) -> None:
    columns = ["_step", "train/global_step", "reward/a", "reward/b"]
    rows = [[str(2 * step), str(step), str(accuracy(step)), "NaN" if step == 2 else str(tidy(step))] for step in STEPS]
    lines = [columns, *rows]
    forms = {
        "plain.csv": "\n".join(map(",".join, lines)),
        "spaces.csv": "\n".join(map(" , ".join, lines)),
        "tabs.txt": "\r\n".join(map("\t".join, lines)),
        "index.tsv": "\n".join("\t".join([str(row or ""), *line]) for row, line in enumerate(lines)),
        "semicolons.csv": "\n".join(map(";".join, lines)).replace(".", ","),
        "excel.csv": "sep=;\r\n" + "\r\n".join(map(";".join, lines)).replace(".", ","),
    }
    made = {}
    for name, text in forms.items():
        (tmp_path / name).write_text(text)
        made[name] = import_run([tmp_path / name], tmp_path / f"of-{name}")
    records = [[each["metrics"] for each in read_trace(each.folder.metrics)] for each in made.values()]
    assert records[0][0] == {"objective/a/mean": accuracy(1), "objective/b/mean": tidy(1)}
    assert records == [records[0]] * len(forms)


def test_points_between_thousands_are_no_decimal_points(tmp_path: Path) -> None:
    """1.234,5 was no number, and its step was gone."""
    rewards = [1234.5 * step for step in STEPS]
    lines = [f"{step};{reward:,};{1000 * step:,}" for step, reward in zip(STEPS, rewards, strict=True)]
    table = "\n".join(lines).translate(str.maketrans(",.", ".,"))
    (tmp_path / "history.csv").write_text(f"_step;reward/a;reward/b\n{table}")
    made = import_run([tmp_path / "history.csv"], tmp_path / "imported")

    read = [each["metrics"] for each in read_trace(made.folder.metrics)]
    assert [each["objective/a/mean"] for each in read] == rewards
    assert [each["objective/b/mean"] for each in read] == [1000.0 * step for step in STEPS]


def test_a_run_and_a_metric_may_have_dashes_in_their_names(tmp_path: Path) -> None:
    names = ["grpo - seed 0 - reward/a", "grpo - seed 1 - reward/a", "grpo - seed 1 - loss - all"]
    lines = [["Step", *names]] + [[str(step), "0.5", str(tidy(step)), "0.1"] for step in STEPS]
    (tmp_path / "panel.csv").write_text("\n".join(map(",".join, lines)))
    with pytest.raises(CtwaError, match=r"by --run, of grpo - seed 0, grpo - seed 1"):
        import_run([tmp_path / "panel.csv"], tmp_path / "imported")
    made = import_run([tmp_path / "panel.csv"], tmp_path / "imported", run="grpo - seed 1")
    assert read_trace(made.folder.metrics)[0]["metrics"]["objective/a/mean"] == tidy(1)
    assert "loss - all" in made.history.keys


def test_a_metric_that_is_given_a_name_has_no_other(tmp_path: Path) -> None:
    source = write_trl(tmp_path / "out")
    key = "rewards/accuracy_reward/mean"
    made = import_run([source], tmp_path / "renamed", objectives={"right": key}, held_out={"right": f"eval_{key}"})
    assert made.naming.objectives == ("tidy", "right")
    assert not [name for name in made.naming.origins if "accuracy_reward" in name]
    made = import_run([source], tmp_path / "validated", held_out={"right": f"eval_{key}"})
    assert made.naming.objectives == ("accuracy_reward", "tidy", "right")
    assert made.naming.origins["val/right"] == (f"eval_{key}",)
    write_report([tmp_path / "renamed", tmp_path / "validated"], tmp_path / "report.html")
    with pytest.raises(CtwaError, match="begins or ends with a space"):
        import_run([source], tmp_path / "imported", objectives={" right": key})


def test_two_logs_that_call_a_reward_differently_are_of_one_run_where_they_agree(tmp_path: Path) -> None:
    logs = [write_trl(tmp_path / "out"), write_wandb_history(tmp_path / "history.json")]
    made = import_run(logs, tmp_path / "imported")
    assert made.naming.origins["objective/tidy/mean"] == ("rewards/tidy/mean", "train/rewards/tidy/mean")
    assert read_trace(made.folder.metrics)[1]["metrics"]["objective/tidy/mean"] == tidy(1)
    row = {"step": 1, "data": {"gdpo/tidy/mean": 0.25, "reward/tidy": 0.75}}
    (tmp_path / "verl.jsonl").write_text(json.dumps(row))
    said = r"both gdpo/tidy/mean and reward/tidy look like the reward tidy, and at step 1 they are 0\.25 and 0\.75"
    with pytest.raises(CtwaError, match=said):
        import_run([tmp_path / "verl.jsonl"], tmp_path / "differ")
    made = import_run([tmp_path / "verl.jsonl"], tmp_path / "chosen", objectives={"tidy": "reward/tidy"})
    assert read_trace(made.folder.metrics)[0]["metrics"]["objective/tidy/mean"] == 0.75
