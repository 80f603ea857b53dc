import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import ctwa
from ctwa.errors import CtwaError
from ctwa.run import EventWriter, SampleWriter, TraceWriter, read_trace


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def write(path, steps, **how):
    with TraceWriter(path, clock=lambda: 7.0, **how) as writer:
        for step in steps:
            writer.write(step, {"loss": step / 8})


def steps_of(path):
    return [record["step"] for record in read_trace(path)]


def test_a_record_is_on_disk_when_write_returns(path):
    with TraceWriter(path, clock=lambda: 12.5) as writer:
        writer.write(3, {"val/a b": 0.25})
        assert path.read_text() == '{"schema": 2, "step": 3, "time": 12.5, "metrics": {"val/a b": 0.25}}\n'


@pytest.mark.parametrize("by", ["moved", "deleted", "replaced"])
def test_a_record_that_nobody_would_find_is_not_written(path, by):
    with TraceWriter(path) as trace:
        trace.write(1, {"loss": 1.0})
        {"moved": lambda: path.rename(path.with_name("away")), "deleted": path.unlink}.get(by, lambda: None)()
        if by == "replaced":
            path.with_name("other").touch()
            path.with_name("other").replace(path)
        with pytest.raises(CtwaError, match="is no longer the file that is written: its folder was moved, deleted or"):
            trace.write(2, {"loss": 1.0})


def test_a_loop_may_go_to_another_folder(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with TraceWriter(Path("metrics.jsonl")) as trace:
        monkeypatch.chdir("elsewhere")
        trace.write(1, {"loss": 1.0})
    assert [record["step"] for record in read_trace(tmp_path / "metrics.jsonl")] == [1]


def test_numbers_of_numpy_and_torch_are_written_exactly(path):
    third = torch.tensor(1 / 3, dtype=torch.float64)
    with TraceWriter(path) as writer:
        writer.write(1, {"np": np.float64(0.1), "torch": third, "count": np.int64(2**60), "flag": True})
    metrics = read_trace(path)[0]["metrics"]
    assert metrics == {"np": 0.1, "torch": 1 / 3, "count": 2**60, "flag": 1}
    assert isinstance(metrics["count"], int)


def test_what_is_no_number_is_refused_by_its_name(path):
    with TraceWriter(path) as writer, pytest.raises(CtwaError, match="metric 'note' is 'hello'"):
        writer.write(1, {"note": "hello"})


def test_non_finite_numbers_are_null_and_listed(path):
    with TraceWriter(path) as writer:
        writer.write(1, {"a": math.nan, "b": 1.0, "c": -math.inf, "d": 1e200, "e": 10**400, "f": 2**70})
    strict = json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    assert strict["metrics"] == {"a": None, "b": 1.0, "c": None, "d": None, "e": None, "f": 2.0**70}
    assert strict["non_finite"] == ["a", "c", "d", "e"]
    assert read_trace(path) == [strict]


def test_a_step_is_not_written_twice(path):
    with TraceWriter(path) as writer:
        writer.write(1, {})
        with pytest.raises(CtwaError, match="step 1 comes after step 1"):
            writer.write(1, {})


def test_a_half_written_last_line_is_left_out(path):
    write(path, [0, 1])
    path.write_bytes(path.read_bytes()[:-10])
    assert steps_of(path) == [0]


def test_every_cut_of_the_last_line_reads_as_the_record_before_or_as_both(path):
    write(path, [0, 1])
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        assert steps_of(path) == ([0, 1] if cut == len(whole) - 1 else [0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 2, "st\n{"schema": 2, "step": 2, "time": 0, "metrics": {}}\n', r"metrics.jsonl:1 is not JSON"),
        ('{"loss": 1}\n', r"metrics.jsonl:1 is no record of ctwa"),
        ('{"schema": 3, "step": 1}\n', r"metrics.jsonl:1 has schema 3, and this ctwa reads 2: read it with"),
        ('{"schema": 1, "step": 1}\n', r"metrics.jsonl:1 has schema 1, and this ctwa reads 2: read it with"),
    ],
)
def test_a_file_that_is_broken_or_foreign_or_of_another_schema_is_named_with_its_line(path, text, message):
    path.write_text(text)
    with pytest.raises(CtwaError, match=message):
        read_trace(path)


def test_a_missing_file_is_a_users_mistake(path):
    with pytest.raises(CtwaError, match="does not exist"):
        read_trace(path)


def test_a_new_run_does_not_append_to_another_runs_trace(path):
    write(path, [0])
    with pytest.raises(CtwaError, match="already has records"):
        TraceWriter(path)


def test_a_resumed_run_continues_without_doubling_steps_and_loses_nothing(path):
    write(path, [0, 1, 2, 3, 4])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"schema": 2, "ste')
    write(path, [3, 4, 5], resume_after=2)
    assert steps_of(path) == [0, 1, 2, 3, 4, 5]
    assert path.read_bytes().startswith(whole[: whole.index(b'{"schema": 2, "step": 3')])
    assert steps_of(path.with_name("metrics.dropped.jsonl")) == [3, 4]


def test_a_second_resume_adds_to_what_the_first_dropped(path):
    write(path, [0, 1, 2])
    write(path, [2], resume_after=1)
    write(path, [1], resume_after=0)
    assert steps_of(path) == [0, 1]
    assert steps_of(path.with_name("metrics.dropped.jsonl")) == [2, 1, 2]


def test_a_run_that_starts_over_drops_the_validation_before_step_one_too(path):
    write(path, [0, 1])
    write(path, [0], resume_after=-1)
    assert steps_of(path) == [0]


def test_a_resumed_run_tells_where_the_trace_stands(path):
    write(path, [0, 1, 2])
    with TraceWriter(path, resume_after=5) as writer:
        assert writer.last_step == 2


def test_a_resume_without_a_trace_starts_one(path):
    write(path, [6], resume_after=5)
    assert steps_of(path) == [6]


def test_a_last_line_without_its_newline_is_kept_whole(path):
    write(path, [0, 1])
    path.write_bytes(path.read_bytes()[:-1])
    write(path, [2], resume_after=1)
    assert steps_of(path) == [0, 1, 2]


def test_pandas_reads_it_in_the_one_line_of_the_docs(path):
    with TraceWriter(path) as writer:
        writer.write(0, {"val/a": 0.5})
        writer.write(1, {"loss": math.nan, "objective/a b/mean": 0.25})
    frame = pd.read_json(path, lines=True).set_index("step")["metrics"].apply(pd.Series)
    assert frame.loc[0, "val/a"] == 0.5
    assert frame.loc[1, "objective/a b/mean"] == 0.25
    assert math.isnan(frame.loc[1, "loss"])


def test_events_are_kept_over_a_resume(path):
    with EventWriter(path, clock=lambda: 1.0) as writer:
        writer.write("engine", "the engine is up")
    path.write_bytes(path.read_bytes() + b'{"sche')
    with EventWriter(path, clock=lambda: 2.0) as writer:
        writer.write("resume", "continues after step 3", step=3)
    assert [(event["kind"], event["step"]) for event in read_trace(path)] == [("engine", None), ("resume", 3)]


def test_samples_keep_a_few_completions_with_rewards_by_name(path):
    with SampleWriter(path, num_samples=2) as writer:
        rewards = {"accuracy": [0.0, 1.0, None, math.nan], "cost": np.arange(4.0), "away": [ctwa.NOT_APPLICABLE] * 4}
        writer.write(3, list("abcd"), list("efgh"), rewards, split="held-out")
    found = read_trace(path)
    assert len(found) == 2
    for sample in found:
        row = sample["row"]
        assert sample["step"] == 3
        assert sample["split"] == "held-out"
        assert (sample["prompt"], sample["response"]) == ("abcd"[row], "efgh"[row])
        assert sample["rewards"] == {"accuracy": [0.0, 1.0, None, None][row], "cost": float(row)}


def test_a_resumed_run_samples_the_same_completions(tmp_path):
    whole, resumed = tmp_path / "whole.jsonl", tmp_path / "resumed.jsonl"
    texts = [str(row) for row in range(64)]

    def sample(path, steps, **how):
        with SampleWriter(path, **how) as writer:
            for step in steps:
                writer.write(step, texts, texts, {"a": [0.0] * 64})

    sample(whole, range(1, 7))
    sample(resumed, range(1, 5))
    sample(resumed, range(3, 7), resume_after=2)
    assert resumed.read_bytes() == whole.read_bytes()
    assert len({record["row"] for record in read_trace(whole)}) > 4  # not the same rows each step


def test_a_long_response_loses_its_middle_and_a_broken_character_is_kept(path):
    with SampleWriter(path, max_characters=10) as writer:
        writer.write(1, ["\ud800\n\u2028"], ["a" * 50 + "b" * 50], {})
    [sample] = read_trace(path)
    assert sample["prompt"] == "\ud800\n\u2028"
    assert sample["response"] == "aaaaa [... 90 characters left out ...] bbbbb"


def test_fewer_completions_than_asked_for_are_all_kept(path):
    with SampleWriter(path, num_samples=5) as writer:
        writer.write(1, ["p"], ["r"], {})
    assert len(read_trace(path)) == 1
