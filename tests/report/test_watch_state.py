"""What is known of a watched run, and the lines it is drawn in."""

import os
import subprocess
import sys

import pytest
from rich.cells import cell_len

from ctwa.cli.checkpoints import checkpoints
from ctwa.errors import CtwaError
from ctwa.report.html import write_report
from ctwa.report.summary import summarize
from ctwa.report.watch.screen import draw
from ctwa.report.watch.state import WatchedRun, wait_for_run
from ctwa.run import ObjectiveInfo, RunFolder, TraceWriter, quiet, read_trace
from ctwa.run.alarms import AlarmLimits, AlarmMonitor
from ctwa.run.lock import is_held
from ctwa.run.trace import EventWriter
from tests.run.runs import info, step_metrics


class Clock:
    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


def text_of(run, width=100, height=40):
    return "\n".join(line.plain for line in draw(run, width, height))


def watched(folder, now=0.0):
    run = WatchedRun(folder.path, clock=Clock(now))
    run.poll()
    return run


def test_a_result_that_is_no_number_is_not_hidden_by_an_earlier_one(make_run):
    nan = float("nan")
    values = {0: (0.5, nan), 1: (0.25, nan), 2: (nan, nan)}
    run = watched(
        make_run("run", {step: {"val/accuracy": one, "val/clarity": two} for step, (one, two) in values.items()})
    )
    assert run.trace.series("val/accuracy") == [(0, 0.5), (1, 0.25)]
    shown = {line.split()[0]: line.split()[1] for line in text_of(run).splitlines() if line[:1].isalpha()}
    assert (shown["accuracy"], shown["clarity"]) == ("NaN", "NaN")


def test_a_mean_reward_that_is_aimed_at_is_no_covariance_target(make_run):
    metrics = {1: step_metrics(accuracy=0.5) | {"lagrangian/target/accuracy": 0.9, "ctwa/target/accuracy": 0.7}}
    folder = make_run("run", metrics, info(objectives={"accuracy": ObjectiveInfo(weight=1.0)}))
    assert watched(folder).trace.target("accuracy") is None
    assert "of 0" not in text_of(watched(folder))
    folder.info.unlink()
    assert watched(folder).trace.target("accuracy") is None


def test_a_resumed_run_forgets_what_was_rewound(make_run):
    folder = make_run("run", {step: step_metrics(accuracy=step / 10) for step in range(1, 5)})
    run = watched(folder)
    assert run.trace.series("objective/accuracy/mean") == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]
    with TraceWriter(folder.metrics, resume_after=2, clock=lambda: 100.0) as trace:
        trace.write(3, step_metrics(accuracy=0.9))
    run.poll()
    assert run.step == 3
    assert run.trained == 6.0
    assert run.trace.series("objective/accuracy/mean") == [(1, 0.1), (2, 0.2), (3, 0.9)]


def test_the_alarms_are_those_of_the_whole_trace(make_run):
    steps = {step: step_metrics(accuracy=-0.5 if 5 < step < 20 else 0.5, clarity=0.5) for step in range(1, 31)}
    folder = make_run("run", steps)
    monitor = AlarmMonitor(["accuracy", "clarity"], run=str(folder.path))
    for record in read_trace(folder.metrics):
        monitor.feed(record)
    assert {episode.alarm.kind for episode in monitor.episodes} == {"drop", "negative-covariance"}
    run = watched(folder)
    assert run.trace.alarms.episodes == monitor.episodes
    assert "over: negative-covariance, steps 6 to 19" in text_of(run)


def test_the_limits_of_alarms_are_the_runs_and_change_with_them(make_run):
    steps = {step: step_metrics(accuracy=-0.5, clarity=0.5) for step in range(1, 4)}
    folder = make_run("run", steps, info(alarms=AlarmLimits(negative_covariance_steps=3)))
    run = watched(folder)
    assert [(alarm.kind, alarm.step) for alarm in run.trace.alarms.active] == [("negative-covariance", 3)]
    resumed = info(alarms=AlarmLimits(negative_covariance_steps=2))
    folder.info.write_text(resumed.model_dump_json(by_alias=True))
    os.utime(folder.info, ns=(0, 1))
    run.poll()
    assert [alarm.step for alarm in run.trace.alarms.active] == [2]
    assert (run.step, run.trained) == (3, 6.0)


def test_a_run_that_an_alarm_stopped_says_so_until_it_is_resumed(make_run):
    folder = make_run("run", {1: step_metrics(accuracy=0.5)})
    with EventWriter(folder.events, clock=lambda: 20.0) as events:
        events.write("stop", "stopped by the alarm drop", step=1)
        events.write("alarm", "drop: ...", step=1)
        run = watched(folder, now=30.0)
        status = run.status()
        assert (status.word, status.text) == ("ended", "stopped by the alarm drop")
        events.write("resume", "continuing from global_step_1", step=1)
        run.poll()
        assert run.status().word == "going on"


def test_a_large_trace_is_read_in_parts(make_run, monkeypatch):
    monkeypatch.setattr("ctwa.report.watch.state._CHUNK", 100)
    run = watched(make_run("run", {step: step_metrics(accuracy=step / 10) for step in range(1, 5)}))
    assert run.step == 4
    assert len(run.trace.series("objective/accuracy/mean")) == 4


@pytest.mark.parametrize("num_steps", [4, None])
def test_a_finished_run(make_run, num_steps):
    folder = make_run("run", {step: step_metrics(accuracy=0.5) for step in range(1, 5)})
    if num_steps is None:  # it ended before its last step, and was summed up
        folder.info.write_text(info(num_steps=100).model_dump_json(by_alias=True))
        folder.summary.write_text("{}")
    status = watched(folder, now=1e9).status()
    assert (status.word, status.text) == ("finished", f"finished at step 4 of {num_steps or 100}")


def test_a_summary_of_before_the_resume_does_not_make_it_finished(make_run):
    folder = make_run("run", {1: step_metrics(accuracy=0.5)})
    folder.summary.write_text("{}")
    os.utime(folder.summary, ns=(0, 0))
    assert watched(folder, now=15.0).status().word == "going on"


def test_a_run_that_nobody_writes_has_ended_when_it_was_silent_for_long(make_run):
    folder = make_run("run", {step: step_metrics(accuracy=0.5) for step in range(1, 4)})  # ten seconds apart
    assert watched(folder, now=79.0).status().text == "going on at step 3 of 4, newest record 0:00:49 ago"
    assert watched(folder, now=81.0).status().word == "ended"


def test_a_run_that_is_written_goes_on_however_silent(make_run):
    folder = make_run("run", {1: step_metrics(accuracy=0.5)})
    with TraceWriter(folder.metrics, resume_after=1):
        run = watched(folder, now=1e6)
        assert run.status().word == "going on"
    assert run.status().word == "ended"  # its writer was there and is gone


def test_a_run_that_is_resumed_goes_on_before_it_writes_its_trace(make_run):
    folder = make_run("run", {1: step_metrics(accuracy=0.5)})
    folder.summary.write_text("{}")  # of its earlier part
    assert watched(folder, now=1e6).status().word == "finished"
    with quiet(folder.engine_log):
        assert watched(folder, now=1e6).status().word == "going on"


def test_a_run_before_its_first_step(tmp_path):
    folder = RunFolder.create(tmp_path / "run", {}, info(created=0.0))
    assert watched(folder, now=60.0).status().text == "going on for 0:01:00, no step has a record yet"
    assert watched(folder, now=3600.0).status().text == "ended at step 0 of 4 without finishing; engine.log may say why"
    assert "step 0/4" in text_of(watched(folder))


def test_a_reader_is_no_writer_and_what_a_run_started_outlives_it_without_its_lock(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with TraceWriter(path) as one:
        with path.open("rb"), TraceWriter(path):
            assert is_held(path)
        assert is_held(path)
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
        one.write(1, {})
    with child, path.open("rb"):
        assert not is_held(path)
        child.communicate(b"\n")
    assert not is_held(tmp_path / "missing")


def test_a_trace_without_run_json(make_run):
    folder = make_run("run", {1: step_metrics(accuracy=0.5), 2: step_metrics(accuracy=0.25, clarity=1.0)})
    folder.info.unlink()
    text = text_of(watched(folder))
    assert "step 2  trained 0:00:04" in text
    assert "accuracy    0.250" in text
    assert "clarity     1.000" in text


def test_another_schema_is_refused(make_run):
    folder = make_run("run", {1: step_metrics(accuracy=0.5)})
    folder.metrics.write_bytes(folder.metrics.read_bytes().replace(b'"schema": 2', b'"schema": 3'))
    with pytest.raises(CtwaError, match=r"metrics\.jsonl has schema 3, and this ctwa reads 2"):
        watched(folder)


@pytest.mark.parametrize("line", [b"no json\n", b"[1]\n", b'{"step": 1}\n'])
def test_a_line_that_is_no_record_is_an_error_with_the_file(make_run, line):
    folder = make_run("run", {1: step_metrics(accuracy=0.5)})
    with folder.metrics.open("ab") as file:
        file.write(line)
    with pytest.raises(CtwaError, match=r"metrics\.jsonl is (not JSON|no record of ctwa)"):
        watched(folder)


@pytest.mark.parametrize("num_objectives", [1, 3, 8])
@pytest.mark.parametrize(("width", "height"), [(200, 60), (80, 24), (40, 10), (12, 3), (1, 1)])
def test_every_size_is_kept(make_run, num_objectives, width, height):
    names = tuple(f"目的 {index} with a rather long name indeed" for index in range(num_objectives))
    metrics = {**step_metrics(**dict.fromkeys(names, -0.5)), **{f"val/{name}": 0.5 for name in names}}
    run = watched(make_run("run", dict.fromkeys(range(1, 21), metrics), info(names)))
    assert run.trace.alarms.active
    lines = draw(run, width, height)
    assert len(lines) <= height
    assert max(cell_len(line.plain) for line in lines) <= width
    if (width, height) == (80, 24):
        shown = "\n".join(line.plain for line in lines)
        assert shown.count("目的") >= num_objectives
        assert "! negative-covariance, since step 1" in shown
        assert "-0.050" in shown


def test_colours_say_what_is_wrong(make_run):
    metrics = {f"covariance/{name}": value for name, value in (("a", -0.1), ("b", 0.05), ("c", 0.2))}
    run = watched(make_run("run", {1: metrics}, info(("a", "b", "c"))))
    styles = {}
    for line in draw(run, 100, 40):
        for name, value in (("a", "-0.100"), ("b", "+0.050"), ("c", "+0.200")):
            if value in line.plain:
                at = line.plain.index(value)
                styles[name] = [str(span.style) for span in line.spans if span.start <= at < span.end]
    assert styles == {"a": ["red"], "b": ["yellow"], "c": []}


def test_a_constant_is_drawn_at_half_height(make_run):
    run = watched(make_run("run", {step: {"val/accuracy": 1.0, "val/clarity": step / 10} for step in range(4)}))
    lines = {line.split()[0]: line for line in text_of(run).splitlines() if line[:1].isalpha()}
    assert set(lines["accuracy"].split()[-1]) == {"▄"}
    assert lines["clarity"].endswith("█")


def test_the_seconds_of_a_step_are_those_of_the_summary_whatever_the_last_ones_were(make_run):
    seconds = [1.0] * 40 + [9.0] * 25
    folder = make_run("run", {step: {"val/accuracy": 1.0, "time/step": each} for step, each in enumerate(seconds, 1)})
    assert watched(folder).step_seconds == summarize(folder).step_seconds == 1.0


def test_why_a_run_failed_is_what_the_view_and_the_report_say(tmp_path):
    run_folder = RunFolder.create(tmp_path / "run", {}, info())
    TraceWriter(run_folder.metrics).close()
    with EventWriter(run_folder.events) as events:
        events.write("error", "failed before its first step was made: ValueError: no such tokenizer", step=0)
    assert watched(run_folder).status().word == "ended"
    assert "no such tokenizer" in text_of(watched(run_folder))
    with pytest.raises(
        CtwaError, match=r"no result of any objective: it failed before its first step .*no such tokenizer"
    ):
        write_report([run_folder.path], tmp_path / "report.html")


def test_a_folder_of_several_runs_is_none_of_them_and_nothing_to_wait_for(tmp_path):
    for name in ("linear", "guard"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").touch()

    told = r" holds several runs: give the folder of one, .*/guard or .*/linear$"
    with pytest.raises(CtwaError, match=told):
        wait_for_run(tmp_path, print)
    with pytest.raises(CtwaError, match=told):
        checkpoints(tmp_path)
