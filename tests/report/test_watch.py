"""The live view in a real pseudo-terminal."""

import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from ctwa.cli import app
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


def test_a_run_that_goes_on_is_drawn_as_it_goes_and_in_the_window_s_size(run):
    with TraceWriter(run.metrics) as trace, EventWriter(run.events) as events, watch(run, columns=110) as terminal:
        terminal.shows("going on for 0:0", "no step has a record yet", "step 0/4")
        trace.write(0, {"val/accuracy": 0.25})
        trace.write(1, step_metrics(accuracy=0.5, clarity=0.125))
        terminal.shows(
            "going on at step 1 of 4", "step 1/4", "ETA 0:00:0", "2.000 s a step", "0.250", "+0.050", "0.125"
        )
        trace.write(2, step_metrics(accuracy=0.75, clarity=-0.125))
        terminal.resize(60, 12)
        terminal.type("x\x1b[A\x1a\x1bOq")  # a letter, an arrow, Ctrl-Z, a key whose code has a q in it
        events.write("checkpoint", "saved the checkpoint of step 2")
        terminal.shows("step 2/4", "50%", "0.750", "-0.013", "last event: saved the checkpoint", "q ends this view")
        for step in (3, 4):
            trace.write(step, step_metrics(accuracy=0.75, clarity=-0.125))
        terminal.shows("finished at step 4 of 4", "100%").hides("ETA")
        assert "x" not in terminal.text.replace("ctwa", "").splitlines()[-1]
        terminal.type("q")
        assert terminal.ends() == 0


def test_a_run_that_has_not_begun_is_waited_for(tmp_path):
    with Terminal(["-m", "ctwa.cli", "watch", str(tmp_path / "run")]) as terminal:
        terminal.shows("no run has begun in", "waiting for one")
        RunFolder.create(tmp_path / "run", {}, info(created=time.time()))
        terminal.shows("step 0/4", "q ends this view")
        terminal.type("q")
        assert terminal.ends() == 0


@pytest.mark.parametrize("how", ["q", "\x03", signal.SIGTERM], ids=["q", "ctrl-c", "term"])
def test_the_end_gives_the_terminal_back_as_it_was(make_run, how):
    with watch(make_run("run", {1: step_metrics(accuracy=0.5)})) as terminal:
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


def test_a_run_whose_process_is_killed_is_said_to_have_ended_and_a_broken_file_ends_the_view(run):
    program = """
import signal, sys
from pathlib import Path
from ctwa.run import TraceWriter
with TraceWriter(Path(sys.argv[1])) as trace:
    trace.write(1, {"objective/accuracy/mean": 0.5})
    print("written", flush=True)
    signal.pause()
"""
    with (
        subprocess.Popen([sys.executable, "-c", program, str(run.metrics)], stdout=subprocess.PIPE) as trainer,
        watch(run) as terminal,
    ):
        assert trainer.stdout.readline() == b"written\n"
        terminal.shows("going on at step 1 of 4")
        trainer.kill()
        terminal.shows("ended at step 1 of 4 without finishing", "engine.log").hides("ETA")
        with run.metrics.open("ab") as file:
            file.write(b"no record\n")
        assert terminal.ends() == 2
        assert terminal.settings_now == terminal.settings
        assert b"metrics.jsonl is not JSON" in terminal.output.replace(b"\r\n", b"")
        assert b"Traceback" not in terminal.output


def test_without_a_terminal_it_is_shown_once_and_names_stay_text(make_run):
    names = ("[red]x[/red]", "\x1b[2Jgone", "[/]")
    run = make_run("run", {1: step_metrics(**dict.fromkeys(names, 0.5))}, info(names, method="[bold]m[/bold]"))
    shown = CliRunner().invoke(app, ["watch", str(run.path)], catch_exceptions=False).stdout
    for text in ("step 1/4", "[bold]m[/bold]", "[red]x[/red]", "�[2Jgone", "[/]"):
        assert text in shown
    assert "\x1b" not in shown
