"""A loop of one's own keeps what the engine promises: a trace that is read, and a resume to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctwa.errors import CtwaError
from ctwa.report.trace import read_runs
from ctwa.run import read_trace
from examples.language_model_loop import train


def without_times(folder: Path) -> list:
    records = read_trace(folder / "metrics.jsonl")
    return [(each["step"], {k: v for k, v in each["metrics"].items() if k != "time/step"}) for each in records]


def test_a_resumed_loop_has_the_bits_of_an_unbroken_one_and_its_trace_is_read(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train("ctwa", whole, num_steps=5, save_every=2)
    train("ctwa", broken, num_steps=3, save_every=2)
    train("ctwa", broken, num_steps=5, save_every=2, resume=True)

    assert without_times(broken) == without_times(whole)
    assert [step for step, _ in without_times(whole)] == [1, 2, 3, 4, 5]
    (run,) = read_runs([whole])
    assert (run.method, run.objectives, run.target("right")) == ("ctwa", ["right", "short"], 0.15)
    assert len(run.results("right")) == len(run.curve("covariance/short").values) == 5
    assert len((whole / "samples.jsonl").read_text().splitlines()) == 20
    with pytest.raises(CtwaError, match="already holds a run: write resume_after=STEP"):
        train("ctwa", whole, num_steps=1)
