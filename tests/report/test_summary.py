import dataclasses
import json

import pytest

from ctwa.errors import CtwaError
from ctwa.report import summarize, summary_text, write_summary
from ctwa.report.compare import curves_text
from ctwa.report.trace import read_runs
from ctwa.report.verdict import ObjectiveSummary
from ctwa.run.alarms import AlarmLimits
from ctwa.run.folder import ObjectiveInfo, RunFolder, RunInfo
from ctwa.run.text import sparkline, table
from ctwa.run.trace import EventWriter, TraceWriter
from tests.run.runs import info, step_metrics


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # start, best, best step, end, change, drawdown, drawdown step: worked out by hand
        ([0.5, 0.75, 0.25, 0.5], (0.5, 0.75, 10, 0.5, 0.0, 0.5, 20)),
        ([0.5, 0.25, 0.75, 0.625], (0.5, 0.75, 20, 0.625, 0.125, 0.25, 10)),
        ([0.25, 0.5, 0.75], (0.25, 0.75, 20, 0.75, 0.5, 0.0, 0)),
        ([0.75, 0.5, 0.25], (0.75, 0.75, 0, 0.25, -0.5, 0.5, 20)),
        ([0.5], (0.5, 0.5, 0, 0.5, 0.0, 0.0, 0)),
        ([0.5, 1.0, 0.5, 1.0, 0.5], (0.5, 1.0, 10, 0.5, 0.0, 0.5, 20)),
        ([-2.0, -1.0, -4.0], (-2.0, -1.0, 10, -4.0, -2.0, 3.0, 20)),
    ],
)
def test_a_curve_in_a_few_numbers(values, expected):
    summary = ObjectiveSummary.of([(10 * index, value) for index, value in enumerate(values)])
    assert dataclasses.astuple(summary) == expected


HELD_OUT = {
    0: {"val/accuracy": 0.5, "val/clarity": 0.25},
    1: {**step_metrics(accuracy=0.9, clarity=0.1), "time/step": 2.0},
    2: {**step_metrics(accuracy=0.9, clarity=0.1), "time/step": 9.0, "val/accuracy": 0.25, "val/clarity": 0.75},
    3: {**step_metrics(accuracy=0.9, clarity=0.1), "time/step": 4.0},
    4: {**step_metrics(accuracy=0.9, clarity=0.1), "time/step": 3.0, "val/accuracy": 0.375, "val/clarity": 0.625},
}


def test_the_summary_is_over_held_out_problems(make_run):
    summary = summarize(make_run("run", HELD_OUT))
    assert summary.method == "ctwa"
    assert summary.source == "held-out"
    assert summary.objectives["accuracy"] == ObjectiveSummary(0.5, 0.5, 0, 0.375, -0.125, 0.25, 2)
    assert summary.objectives["clarity"] == ObjectiveSummary(0.25, 0.75, 2, 0.625, 0.375, 0.125, 4)
    assert (summary.num_steps, summary.train_seconds, summary.step_seconds) == (4, 18.0, 3.5)


def test_the_summary_is_written_and_printed(make_run):
    run = make_run("run", HELD_OUT)
    summary = write_summary(run)
    written = json.loads(run.summary.read_text())
    assert written["schema"] == 2
    assert written["objectives"]["accuracy"]["drawdown"] == 0.25
    assert written["headline"] == summary.story.headline
    assert summary_text(summary).splitlines()[:7] == [
        "ctwa, 4 steps: mean reward on held-out problems",
        "objective  start   best  at step    end  change  worst drop  at step",
        "accuracy   0.500  0.500        0  0.375  -0.125      -0.250        2",
        "clarity    0.250  0.750        2  0.625  +0.375      -0.125        4",
        "trained 0:00:18, 3.500 s a step (median)",
        "",
        summary.story.headline,
    ]


def test_results_by_source_stand_in_summary_and_comparison(make_run):
    by_source = {"val_source/accuracy/gsm8k": 0.75, "val_source/accuracy/math": 0.25, "val_source/clarity/math": 0.5}
    later = {key: value / 2 for key, value in by_source.items()}
    run = make_run("run", {step: metrics | (later if step else by_source) for step, metrics in HELD_OUT.items()})
    summary = write_summary(run)
    assert {source: list(found) for source, found in summary.sources.items()} == {
        "gsm8k": ["accuracy"],
        "math": ["accuracy", "clarity"],
    }
    assert json.loads(run.summary.read_text())["sources"]["gsm8k"]["accuracy"]["end"] == 0.375
    rows = [line.split() for line in summary_text(summary).splitlines()]
    assert ["gsm8k", "accuracy", "0.750", "0.750", "0", "0.375", "-0.375", "-0.375", "1"] in rows
    [row] = [line.split() for line in curves_text(read_runs([run.path])).splitlines() if "gsm8k" in line]
    assert row[:4] == ["accuracy", "gsm8k", "run", "0.750"]


UNSCORED = {"objective/clarity/scored_frac": 0.5}


def test_alarms_and_what_stopped_the_run_are_in_the_summary(make_run):
    run = make_run("run", {1: step_metrics(accuracy=0.5) | UNSCORED, 2: step_metrics(accuracy=0.5)})
    assert summary_text(write_summary(run)).splitlines()[3:6] == [
        "not measured there: clarity",
        "trained 0:00:04, 2.000 s a step (median)",
        "alarm: unscored, since step 1: 50% of the completions could not be scored for clarity. Read the failures in"
        " engine.log and try the reward function by itself with ctwa check-reward.",
    ]
    written = json.loads(run.summary.read_text())
    assert [(each["alarm"]["kind"], each["last"], each["over"]) for each in written["alarms"]] == [
        ("unscored", 1, False)
    ]
    assert written["stopped"] is None
    with EventWriter(run.events) as events:
        events.write("stop", "stopped by an [alarm]", step=2)
    assert summarize(run).stopped == "stopped by an [alarm]"
    assert "stopped by an [alarm]" in summary_text(summarize(run)).splitlines()


def test_a_run_that_went_on_after_an_alarm_was_not_stopped(make_run):
    scored = {"objective/clarity/scored_frac": 1.0}
    run = make_run("run", {1: step_metrics(clarity=0.5) | UNSCORED, 2: step_metrics(clarity=0.5) | scored})
    with EventWriter(run.events) as events:
        events.write("stop", "stopped", step=1)
    assert summarize(run).stopped is None
    assert "alarms that were over before the end: 1" in summary_text(summarize(run)).splitlines()


def test_alarms_are_raised_with_the_runs_own_limits(make_run):
    limits = AlarmLimits(unscored=0.6)
    assert summarize(make_run("run", {1: step_metrics(clarity=0.5) | UNSCORED}, info(alarms=limits))).alarms == ()


def test_a_run_without_validation_is_summed_up_over_training_problems(make_run):
    run = make_run("run", {1: step_metrics(accuracy=0.5), 2: step_metrics(accuracy=0.75)})
    summary = summarize(run.path)
    assert summary.source == "training"
    assert summary.objectives["accuracy"].end == 0.75
    assert "on training problems" in summary_text(summary)


def test_the_table_and_the_sentence_have_one_number_without_validation(make_run):
    steps = {step: step_metrics(accuracy=0.3 + 0.01 * step + 0.1 * (step == 40)) for step in range(1, 41)}
    summary = summarize(make_run("run", steps))
    change = summary.objectives["accuracy"].change  # of the means of five results at either end
    assert change == pytest.approx(0.35 + 0.02)
    assert f"gained {change:.3f}, more than noise" in summary.story.objectives[0][2]
    assert f"+{change:.3f}" in summary_text(summary)


def test_an_objective_without_validations_stands_in_the_table_as_one_of_training(make_run):
    later = {step: step_metrics(accuracy=0.9, clarity=0.1) for step in range(5, 9)}
    held_out = {step: {key: each[key] for key in each if key != "val/clarity"} for step, each in HELD_OUT.items()}
    summary = summarize(make_run("run", held_out | later))
    assert (summary.on_training, summary.unmeasured) == (("clarity",), ())
    rows = [line.split()[:2] for line in summary_text(summary).splitlines()]
    assert ["clarity", "(training)"] in rows
    assert ["accuracy", "0.500"] in rows


def test_a_trace_without_run_json_tells_its_objectives(make_run):
    run = make_run("some run", HELD_OUT)
    run.info.unlink()
    summary = summarize(run)
    assert list(summary.objectives) == ["accuracy", "clarity"]
    assert summary.method == "some run"


def test_a_run_that_measured_nothing_yet_says_so(make_run):
    run = make_run("run", {1: {"loss": 1.0}})
    with pytest.raises(CtwaError, match="no result of any objective yet"):
        summarize(run)


def test_an_objective_that_was_never_measured_is_left_out_and_named(make_run):
    run = make_run("run", {0: {"val/accuracy": 0.5}})
    assert list(summarize(run).objectives) == ["accuracy"]
    assert summary_text(summarize(run)).splitlines()[3] == "not measured there: clarity"
    write_summary(run)
    assert json.loads(run.summary.read_text())["unmeasured"] == ["clarity"]


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("source", ["val/{}", "objective/{}/mean"])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # start, best, at step, end, change, worst drop, at step
        ((0.5, 0.75, NAN), "0.500 0.750 2 NaN NaN - -"),
        ((0.75, 0.5, INF), "0.750 0.750 1 NaN NaN -0.250 2"),
        ((NAN, 0.5, 0.75), "NaN 0.750 3 0.750 NaN - -"),
        ((0.5, NAN, 0.75), "0.500 0.750 3 0.750 +0.250 - -"),
        ((0.75, NAN, 0.5), "0.750 0.750 1 0.500 -0.250 -0.250 3"),
        ((NAN, NAN, NAN), "NaN NaN 1 NaN NaN - -"),
        ((NAN,), "NaN NaN 1 NaN NaN - -"),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_a_result_that_is_no_number_is_shown_as_one(make_run, source, values, expected, known):
    steps = {}
    for step, value in enumerate(values, start=1):
        steps[step] = {source.format("accuracy"): value, source.format("clarity"): 0.25}
    run = make_run("run", steps)
    if not known:
        run.info.unlink()
    summary = write_summary(run)
    rows = {line.split()[0]: line.split()[1:] for line in summary_text(summary).splitlines()[2:4]}
    assert rows["accuracy"] == expected.split()
    assert rows["clarity"][3] == "0.250"
    written = json.loads(run.summary.read_text(), parse_constant=pytest.fail)["objectives"]["accuracy"]
    assert (written["end"] is None) == ("NaN" in expected.split()[3])
    shown = curves_text(read_runs([run.path])).splitlines()
    assert next(line.split()[2:9] for line in shown if line.startswith("accuracy  ")) == expected.split()


def test_a_step_of_which_nothing_was_scored_has_no_number_either(make_run):
    """The mean over no completion is left out of the trace."""
    run = make_run("run", {
        1: {"objective/accuracy/mean": 0.5, "objective/accuracy/scored_frac": 1.0},
        2: {"objective/accuracy/scored_frac": 0.0},
    })  # fmt: skip
    assert "NaN" in summary_text(summarize(run)).splitlines()[2].split()[4]


def test_metrics_are_kept_with_the_steps_that_measured_them(make_run):
    steps = {
        1: {"a": 1.0, "b": 0.5},
        2: {"b": 1.5, "a": 2.0},
        3: {"a": float("nan"), "b": float("inf")},
        4: {"b": 2.5},
        5: {"a": 3.0, "b": 3.5, "c": float("nan")},
    }
    [run] = read_runs([make_run("run", steps).path])
    assert run.series("a") == [(1, 1.0), (2, 2.0), (5, 3.0)]
    assert run.series("b") == [(1, 0.5), (2, 1.5), (4, 2.5), (5, 3.5)]
    assert run.series("c") == run.series("d") == []
    assert run.last_step == 5
    assert run.first_and_last("a") == (1.0, 3.0)
    assert run.keys == ["a", "b", "c"]


def test_labels_are_as_much_of_the_path_as_tells_runs_apart(make_run):
    paths = [make_run(name, {0: {"val/accuracy": 1.0}}).path for name in ("linear/seed0", "ctwa/seed0", "ctwa/seed1")]
    assert [run.label for run in read_runs(paths)] == ["linear/seed0", "ctwa/seed0", "ctwa/seed1"]
    assert [run.label for run in read_runs(paths[1:])] == ["seed0", "seed1"]


def test_a_run_given_twice_is_refused(make_run, tmp_path):
    path = make_run("run", HELD_OUT).path
    with pytest.raises(CtwaError, match="is given twice"):
        read_runs([path, tmp_path / "." / "run"])


def test_a_folder_of_runs_stands_for_them(make_run, tmp_path):
    for name in ("seeds/b", "seeds/a", "other"):
        make_run(name, HELD_OUT)
    (tmp_path / "seeds" / "notes").mkdir()
    assert [run.label for run in read_runs([tmp_path / "other", tmp_path / "seeds"])] == ["other", "a", "b"]


def test_a_path_without_a_run_is_refused(tmp_path):
    with pytest.raises(CtwaError, match="holds no run"):
        read_runs([tmp_path])


def test_a_sparkline_has_the_lowest_and_the_highest_block_at_its_ends():
    assert sparkline([0.0, 0.5, 1.0, 2.0, -1.0], 0.0, 1.0) == "▁▅██▁"


def test_a_table_aligns_wide_characters():
    assert table(("name", "x"), [("日本", "1"), ("ab", "22")]) == ["name   x", "日本   1", "ab    22"]


def test_a_run_says_itself_what_its_results_are(tmp_path):
    info = RunInfo(method="raco", objectives={"a": ObjectiveInfo(weight=1.0)}, num_steps=1, result="share of pairs")
    run = RunFolder.create(tmp_path / "run", {}, info)
    with TraceWriter(run.metrics) as trace:
        trace.write(0, {"val/a": 0.5})
        trace.write(1, {"val/a": 0.75, "time/step": 1.0})
    assert summary_text(summarize(run)).splitlines()[0] == "raco, 1 step: share of pairs"
