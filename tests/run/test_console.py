import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from ctwa.run import ConsoleReporter, ObjectiveInfo
from ctwa.run.text import duration, fit, number, said
from tests.run.runs import info, step_metrics


def test_a_conversation_is_its_texts_and_its_calls_of_tools() -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": "é"}}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {
            "role": "tool",
            "name": "add",
            "content": [{"type": "text", "text": "1é"}, {"type": "image", "image": object()}],
        },
        {"role": "assistant", "content": "It is 1é."},
    ]
    assert said(messages) == 'add({"a": 1, "b": "é"})\n1é\n[image]\nIt is 1é.'
    assert (said("text"), said(None)) == ("text", "")
    assert said({"content": None, "tool_calls": "add(1)"}) == said({"tool_calls": ["add(1)"]}) == "add(1)"


class Screen:
    """A reporter whose output can be read; its clock stands at the run's beginning."""

    def __init__(self, run_info, *, terminal=False, width=None, **how):
        self._file = io.StringIO()
        console = Console(
            file=self._file, force_terminal=terminal, width=width, color_system="standard" if terminal else None
        )
        self.reporter = ConsoleReporter(run_info, console, clock=lambda: 100.0, **how)

    def record(self, step, seconds, **metrics):
        found = {"schema": 2, "step": step, "time": 100.0 + seconds, "metrics": metrics}
        self.reporter.record(found)

    def lines(self):
        return [line for line in self._file.getvalue().split("\n") if line]


def test_a_step_shows_progress_and_each_objective():
    screen = Screen(info())
    screen.record(1, 2.0, **step_metrics(accuracy=0.5, clarity=0.25))
    names, heading, row = screen.lines()
    assert names.split() == ["│", "accuracy", "│", "clarity"]
    assert heading.split("│")[0].split() == ["step", "elapsed", "eta", "s/step"]
    assert heading.split("│")[1].split() == ["mean", "cov", "weight"]
    assert row.split("│")[0].split() == ["1/4", "0:00:02", "0:00:06", "2.000"]
    assert row.split("│")[1].split() == ["0.500", "+0.050", "0.500"]
    assert row.split("│")[2].split() == ["0.250", "+0.025", "0.500"]


def test_a_result_that_is_no_number_is_said_to_be_none():
    screen = Screen(info())
    screen.record(0, 1.0, **{"val/accuracy": 0.5, "val/clarity": None})
    screen.record(1, 2.0, **{"objective/accuracy/mean": None, "objective/clarity/scored_frac": 0.0})
    screen.record(2, 4.0, **{"val/accuracy": None, "val/clarity": None})
    validation, step, last = screen.lines()[2:]
    assert [cell.split() for cell in validation.split("│")[1:]] == [["0.500"], ["NaN"]]
    assert [cell.split()[0] for cell in step.split("│")[1:]] == ["NaN", "NaN"]
    assert [cell.split() for cell in last.split("│")[1:]] == [["NaN", "(NaN)"], ["NaN", "(NaN)"]]


def test_a_validation_is_shown_by_source_below():
    screen = Screen(info())
    first = {"val/accuracy": 0.5, "val/clarity": 0.4, "val_source/accuracy/gsm8k": 0.25, "val_source/clarity/math": 0.4}
    screen.record(0, 1.0, **first)
    screen.record(4, 9.0, **first | {"val_source/accuracy/gsm8k": 0.5})
    lines = screen.lines()[2:]
    assert [line.split("│")[0].strip() for line in lines] == [
        "0/4 held-out",
        "gsm8k",
        "math",
        "4/4 held-out",
        "gsm8k",
        "math",
    ]
    assert [cell.split() for cell in lines[1].split("│")[1:]] == [["0.250"], ["-"]]  # one that is not about clarity
    assert lines[4].split("│")[1].split() == ["0.500", "(+0.250)"]


def test_targets_of_something_else_are_no_covariance_targets():
    objectives = {name: ObjectiveInfo(weight=0.5) for name in ("accuracy", "clarity")}
    screen = Screen(info(objectives=objectives, method="lagrangian"), terminal=True, width=100)
    screen.reporter.header()
    screen.record(1, 2.0, **step_metrics(accuracy=0.5, clarity=0.5))
    assert "target" not in "".join(screen.lines())
    assert "\x1b[33m" not in "".join(screen.lines())  # yellow


@pytest.mark.parametrize("width", [100, 60])
def test_a_run_that_measures_no_covariances_has_no_column_of_dashes(width):
    screen = Screen(info(covariances=False), width=width, terminal=True)
    screen.record(0, 1.0, **{"val/accuracy": 0.5, "val/clarity": 0.4})
    screen.record(2, 4.0, **step_metrics(accuracy=0.5, clarity=0.25), **{"val/accuracy": 0.4, "val/clarity": 1.0})
    text = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(screen.lines()))
    assert "cov" not in text
    assert "+0.050" not in text
    ends = {len(line) for line in text.splitlines()[-2:]}
    assert len(ends) == 1  # the change of a validation ends where the weights do


def test_columns_stay_in_line():
    screen = Screen(info())
    screen.record(0, 1.0, **{"val/accuracy": 0.5, "val/clarity": 0.4})
    screen.record(1, 2.0, **step_metrics(accuracy=0.5, clarity=-0.25))
    screen.record(2, 4.0, **step_metrics(accuracy=0.0001, clarity=12345.0), **{"val/accuracy": 0.4, "val/clarity": 1.0})
    bars = [[index for index, character in enumerate(line) if character == "│"] for line in screen.lines()]
    assert all(bar == bars[0] for bar in bars)


def test_the_eta_is_from_the_median_of_recent_steps():
    screen = Screen(info(num_steps=100))
    for step, seconds in enumerate([2.0, 2.0, 50.0, 2.0, 2.0], start=1):
        screen.record(step, 10.0 * step, **{**step_metrics(accuracy=1.0), "time/step": seconds})
    assert screen.lines()[-1].split("│")[0].split() == ["5/100", "0:00:50", "0:03:10", "2.000"]


def test_the_eta_forgets_old_steps():
    screen = Screen(info(num_steps=100))
    for step in range(1, 51):
        screen.record(step, 0.0, **{**step_metrics(accuracy=1.0), "time/step": 90.0 if step <= 30 else 1.0})
    assert "0:00:50" in screen.lines()[-1]


def test_a_step_without_its_time_is_timed_by_the_records():
    screen = Screen(info())
    screen.record(1, 3.0, **{"objective/accuracy/mean": 1.0})
    screen.record(2, 7.0, **{"objective/accuracy/mean": 1.0})
    assert screen.lines()[-1].split("│")[0].split() == ["2/4", "0:00:07", "0:00:07", "4.000"]


def test_a_validation_is_marked_and_shows_the_change_since_the_start():
    screen = Screen(info())
    screen.record(0, 1.0, **{"val/accuracy": 0.5, "val/clarity": 0.4})
    screen.record(1, 2.0, **step_metrics(accuracy=1.0, clarity=1.0), **{"val/accuracy": 0.25, "val/clarity": 0.5})
    first, step, second = screen.lines()[2:]
    assert first.split("│")[0].split() == ["0/4", "held-out"]
    assert [part.split() for part in first.split("│")[1:]] == [["0.500"], ["0.400"]]
    assert "held-out" not in step
    assert [part.split() for part in second.split("│")[1:]] == [["0.250", "(-0.250)"], ["0.500", "(+0.100)"]]


def test_the_change_of_a_resumed_run_is_since_its_first_start():
    screen = Screen(info())
    screen.reporter.past({"schema": 2, "step": 0, "time": 1.0, "metrics": {"val/accuracy": 0.5}})
    screen.record(2, 3.0, **{"objective/accuracy/mean": 0.5, "val/accuracy": 0.75})
    step, validation = screen.lines()[-2:]
    assert step.split()[3] == "3.000"  # not the time since the earlier process
    assert "(+0.250)" in validation


def test_every_k_steps_but_always_the_validated_and_the_last():
    screen = Screen(info(num_steps=7), every=3)
    for step in range(1, 8):
        validation = {"val/accuracy": 0.5} if step == 4 else {}
        screen.record(step, 2.0 * step, **step_metrics(accuracy=1.0), **validation)
    rows = [line.split("│")[0].split()[0] for line in screen.lines() if "/7" in line]
    assert rows == ["3/7", "4/7", "4/7", "6/7", "7/7"]


def test_a_metric_that_was_not_measured_is_a_dash():
    screen = Screen(info())
    screen.record(1, 2.0, **{"objective/accuracy/mean": 0.5, "covariance/accuracy": None})
    assert screen.lines()[-1].split("│")[1].split() == ["0.500", "-", "-"]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_many_objectives_stay_within_the_width(width):
    names = tuple(f"objective number {index} with a rather long name indeed" for index in range(8))
    screen = Screen(info(names, num_steps=800), terminal=True, width=width)
    screen.record(1, 2.0, **step_metrics(**dict.fromkeys(names, 0.5)), **{f"val/{name}": 0.5 for name in names})
    rows = [line for line in screen.lines() if "objective number" in line]
    assert len(rows) == 16  # a line for each objective, of the step and of the validation
    assert all("0.500" in row for row in rows)
    assert max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in screen.lines()) <= width


def test_three_objectives_fit_side_by_side_at_100_columns():
    names = ("accuracy", "conciseness", "clarity")
    screen = Screen(info(names, num_steps=9999))
    screen.record(1, 2.0, **step_metrics(accuracy=0.5, conciseness=0.5, clarity=0.5))
    assert len(screen.lines()) == 3
    assert max(map(len, screen.lines())) <= 100


def test_plain_lines_where_it_is_no_terminal_and_styles_where_it_is():
    metrics = step_metrics(accuracy=0.5, clarity=0.5)
    plain, styled = Screen(info()), Screen(info(), terminal=True, width=120)
    for screen in (plain, styled):
        screen.reporter.header()
        screen.record(1, 2.0, **metrics)
    assert "\x1b" not in "".join(plain.lines())
    assert "\x1b" in "".join(styled.lines())


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "[red]x[/red]", "[/]", "a b", ":smile:"])
@pytest.mark.parametrize("num_others", [0, 7])
def test_markup_in_a_name_stays_text(name, num_others):
    names = (name, *(f"other {index}" for index in range(num_others)))
    screen = Screen(info(names, method="[bold]m[/bold]"), terminal=True, width=100, folder="runs/[1]")
    screen.reporter.header()
    screen.record(1, 2.0, **step_metrics(**dict.fromkeys(names, 0.5)))
    screen.reporter.event({"schema": 2, "time": 103.0, "step": None, "kind": "note", "text": f"of {name}"})
    shown = "\n".join(screen.lines())
    if num_others:
        assert shown.count(name) == 3  # header, row, event
    assert "[bold]m[/bold]" in shown
    assert "runs/[1]" in shown
    assert f"of {name}" in shown


def test_a_name_cannot_move_the_cursor():
    screen = Screen(info(("\x1b[2Jgone\nnext",)))
    screen.reporter.header()
    screen.record(1, 2.0, **{"objective/\x1b[2Jgone\nnext/mean": 0.5})
    assert "\x1b" not in "".join(screen.lines())
    assert any("�[2Jgone next" in line for line in screen.lines())


def test_the_header_says_what_runs():
    objectives = {"accuracy": ObjectiveInfo(weight=0.4, target=0.15), "clarity": ObjectiveInfo(weight=0.6)}
    screen = Screen(info(objectives=objectives, engine="cpu", model="tiny", seed=3), folder="runs/one")
    screen.reporter.header()
    lines = screen.lines()
    assert lines[0] == "ctwa: 4 steps, engine cpu, tiny, seed 3"
    assert lines[1] == "run folder: runs/one"
    assert lines[3].split() == ["accuracy", "0.400", "0.150"]
    assert lines[4].split() == ["clarity", "0.600", "-"]


def test_an_event_is_a_line_with_its_time():
    screen = Screen(info())
    screen.reporter.event({"schema": 2, "time": 131.0, "step": None, "kind": "engine", "text": "the engine is up"})
    assert screen.lines() == ["0:00:31  the engine is up"]


@pytest.mark.parametrize(("kind", "mark"), [("alarm", "alarm: "), ("stop", "")])
def test_alarms_stand_out(kind, mark):
    event = {"schema": 2, "time": 131.0, "step": 4, "kind": kind, "text": "drop: [a] has fallen. Raise its weight."}
    screen = Screen(info())
    screen.reporter.event(event)
    assert screen.lines() == [f"0:00:31  {mark}drop: [a] has fallen. Raise its weight."]
    coloured = Screen(info(), terminal=True, width=100)
    coloured.reporter.event(event)
    assert coloured.lines()[0].startswith("\x1b[1;31m0:00:31")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0.000"),
        (0.12345, "0.123"),
        (9.9999, "10.00"),
        (99.999, "100.0"),
        (1234.5, "1234"),
        (2e7, "2e+07"),
        (0.0001, "1e-04"),
        (-0.0001, "-1e-04"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_durations():
    assert [duration(seconds) for seconds in (None, 0.4, 59.6, 3661, 36000, 360061)] == [
        "-",
        "0:00:00",
        "0:01:00",
        "1:01:01",
        "10h00m",
        "100h01m",
    ]


@pytest.mark.parametrize("name", ["short", "日本語の目的の名前", "exactly ten", "a much longer name"])
def test_a_name_fits_its_cells(name):
    assert cell_len(fit(name, 10)) == 10
