"""The live view in a real pseudo-terminal."""

import signal
import subprocess
import sys
import time

import pytest

from ctwa.run import EventWriter, RunFolder, TraceWriter
from tests.report.terminals import Terminal
from tests.run.runs import info, step_metrics

LEFT_SCREEN = b"\x1b[?1049l"
SHOWN_CURSOR = b"\x1b[?25h"


def watch(run, **size):
    return Terminal(["-m", "ctwa.cli", "watch", str(run.path)], **size)


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", {}, info(created=time.time()))


def test_a_run_that_goes_on_is_drawn_as_it_goes(run):
    with TraceWriter(run.metrics) as trace, EventWriter(run.events) as events, watch(run, columns=110) as terminal:
        terminal.shows("going on for 0:0", "no step has a record yet", "step 0/4")
        trace.write(0, {"val/accuracy": 0.25})
        trace.write(1, step_metrics(accuracy=0.5, clarity=0.125))
        terminal.shows(
            "going on at step 1 of 4", "step 1/4", "ETA 0:00:0", "2.000 s a step", "0.250", "+0.050", "0.125"
        )
        trace.write(2, step_metrics(accuracy=0.75, clarity=-0.125))
        terminal.shows("step 2/4", "50%", "0.750  (+0.250) ▁", "-0.013", "no alarm")
        events.write("checkpoint", "saved the checkpoint of step 2")
        terminal.shows("last event: saved the checkpoint of step 2")
        for step in (3, 4):
            trace.write(step, step_metrics(accuracy=0.75, clarity=-0.125))
        terminal.shows("finished at step 4 of 4", "100%").hides("ETA")
        terminal.type("q")
        assert terminal.ends() == 0


@pytest.mark.parametrize("how", ["q", "\x03", signal.SIGTERM, signal.SIGHUP], ids=["q", "ctrl-c", "term", "hup"])
def test_the_end_gives_the_terminal_back_as_it_was(make_run, how):
    run = make_run("run", {1: step_metrics(accuracy=0.5)})
    with watch(run) as terminal:
        terminal.shows("q ends this view")
        assert terminal.settings_now != terminal.settings
        if isinstance(how, str):
            terminal.type(how)
        else:
            terminal.process.send_signal(how)
        assert terminal.ends() == 0
        assert terminal.settings_now == terminal.settings
        assert LEFT_SCREEN in terminal.output
        assert SHOWN_CURSOR in terminal.output
        assert b"Traceback" not in terminal.output


def test_other_keys_are_not_shown_and_do_not_end_it(make_run):
    run = make_run("run", {1: step_metrics(accuracy=0.5)})
    with watch(run) as terminal:
        terminal.shows("step 1/4", "q ends this view")
        terminal.type("x\x1b[A\x1a\x1bOq")  # a letter, an arrow, Ctrl-Z, a key whose code has a q in it
        terminal.resize(90, 30)
        terminal.shows("step 1/4", "q ends this view")
        assert terminal.process.poll() is None
        assert "x" not in terminal.text.replace("ctwa", "").splitlines()[-1]
        terminal.type("q")
        assert terminal.ends() == 0


def test_it_follows_the_window(make_run):
    names = tuple(f"objective {index}" for index in range(8))
    steps = {step: step_metrics(**dict.fromkeys(names, 0.5)) for step in range(1, 5)}
    run = make_run("run", steps, info(names))
    with watch(run, columns=80, lines=24) as terminal:
        terminal.shows("objective 7", "no alarm", "q ends this view")
        assert terminal.text.count("objective 7") == 1
        terminal.resize(160, 60)
        terminal.shows("covariance of its target", "(+0.000)", "q ends this view")
        assert terminal.text.count("objective 7") == 3  # the panels below each other
        terminal.resize(30, 6)
        terminal.shows("q ends this view")
        assert "objective 7" not in terminal.text
        terminal.resize(80, 24)
        terminal.shows("objective 7", "q ends this view")
        terminal.type("q")
        assert terminal.ends() == 0


def test_a_half_written_line_is_shown_when_it_is_whole(run):
    with TraceWriter(run.metrics) as trace:
        trace.write(1, step_metrics(accuracy=0.5, clarity=0.5))
        trace.write(2, step_metrics(accuracy=0.25, clarity=0.5))
    *first, last = run.metrics.read_bytes().splitlines(keepends=True)
    run.metrics.write_bytes(b"".join(first) + last[:40])
    with run.metrics.open("ab", buffering=0) as file, watch(run) as terminal:
        terminal.shows("step 1/4")
        file.write(last[40:])
        terminal.shows("step 2/4", "0.250")
        terminal.type("q")
        assert terminal.ends() == 0


def test_a_run_whose_process_is_killed_is_said_to_have_ended(run):
    program = """
import sys, time
from pathlib import Path
from ctwa.run import TraceWriter
with TraceWriter(Path(sys.argv[1])) as trace:
    trace.write(1, {"objective/accuracy/mean": 0.5})
    trace.write(2, {"objective/accuracy/mean": 0.25})
    print("written", flush=True)
    time.sleep(3600)
"""
    with (
        subprocess.Popen([sys.executable, "-c", program, str(run.metrics)], stdout=subprocess.PIPE) as trainer,
        watch(run) as terminal,
    ):
        assert trainer.stdout.readline() == b"written\n"
        terminal.shows("going on at step 2 of 4")
        trainer.kill()
        terminal.shows("ended at step 2 of 4 without finishing", "engine.log").hides("ETA")
        terminal.type("q")
        assert terminal.ends() == 0


def test_a_name_with_markup_stays_text(make_run):
    names = ("[red]x[/red]", "<script>", "\x1b[2Jgone", "[/]")
    run = make_run("run", {1: step_metrics(**dict.fromkeys(names, 0.5))}, info(names, method="[bold]m[/bold]"))
    with watch(run, columns=120) as terminal:
        terminal.shows("[bold]m[/bold]", "[red]x[/red]", "<script>", "�[2Jgone", "[/]")
        terminal.type("q")
        assert terminal.ends() == 0


def test_an_alarm_is_shown_with_what_to_try(make_run):
    run = make_run("run", {1: {**step_metrics(accuracy=0.5, clarity=0.5), "objective/clarity/scored_frac": 0.5}})
    with watch(run, columns=120) as terminal:
        terminal.shows(
            "! unscored, since step 1: 50% of the completions could not be scored for clarity.", "check-reward"
        )
        terminal.type("q")
        assert terminal.ends() == 0


def test_a_broken_file_ends_it_in_one_sentence(make_run):
    run = make_run("run", {1: step_metrics(accuracy=0.5)})
    with watch(run) as terminal:
        terminal.shows("step 1/4")
        with run.metrics.open("ab") as file:
            file.write(b"no record\n")
        assert terminal.ends() == 2
        assert terminal.settings_now == terminal.settings
        assert b"metrics.jsonl is not JSON" in terminal.output.replace(b"\r\n", b"")
        assert b"Traceback" not in terminal.output


def test_without_a_terminal_it_is_shown_once(make_run):
    run = make_run("run", {1: step_metrics(accuracy=0.5, clarity=0.25)})
    command = [sys.executable, "-m", "ctwa.cli", "watch", str(run.path)]
    shown = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=60)
    assert "step 1/4" in shown.stdout
    assert "\x1b" not in shown.stdout
    assert shown.stderr == ""


def test_a_folder_without_a_run_is_an_error(tmp_path):
    command = [sys.executable, "-m", "ctwa.cli", "watch", str(tmp_path)]
    shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert shown.returncode == 2
    assert "holds no run" in shown.stderr
