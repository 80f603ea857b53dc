"""Runs that share an engine are the runs that they are alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ctwa.metrics import LEFT_PROCESSES
from tests.e2e.conftest import Run, assert_same_weights, comparable

pytestmark = pytest.mark.e2e

LAST = 4


def test_a_run_on_an_engine_that_another_has_used_is_the_run_alone_to_the_bit(
    ctwa_on_two_ranks: Run, train: Callable[..., Run], tmp_path: Path
) -> None:
    shared = train(
        tmp_path / "run",
        "trainer.n_gpus_per_node=2",
        f"trainer.total_training_steps={LAST}",
        f"trainer.save_freq={LAST}",
        f"trainer.test_freq={LAST}",
        program=[str(Path(__file__).with_name("series_run.py"))],
    )
    assert shared.returncode == 0, shared.output
    before = Run(tmp_path / "run-before", 0, "")
    assert len(before.records) == len(shared.records) == LAST + 1
    assert "probe/gain/accuracy" in before.records[-1]
    for run in (before, shared):
        assert run.records[-1][LEFT_PROCESSES] == 0
    assert comparable(before.records[0]) == comparable(shared.records[0])  # the model as it came
    assert comparable(before.records[1]) != comparable(shared.records[1])
    for step, (alone, again) in enumerate(zip(ctwa_on_two_ranks.records, shared.records, strict=True)):
        assert comparable(again) == comparable(alone), step
    assert_same_weights(shared, ctwa_on_two_ranks, LAST)
