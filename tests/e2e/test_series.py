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
    sizes = [
        "trainer.n_gpus_per_node=2",
        f"trainer.total_training_steps={LAST}",
        f"trainer.save_freq={LAST}",
        f"trainer.test_freq={LAST}",
    ]
    together = train(tmp_path / "run", "method=probe,mgda,ctwa", *sizes)
    assert together.returncode == 0, together.output
    runs = [Run(tmp_path / "run" / name, 0, "") for name in ("probe", "mgda", "ctwa")]
    first, _, shared = runs
    assert "probe/gain/accuracy" in first.records[-1]
    for run in runs:
        assert len(run.records) == LAST + 1
        assert run.records[-1][LEFT_PROCESSES] == 0
        assert comparable(run.records[0]) == comparable(shared.records[0])  # the model as it came
        assert f"{run.folder}\n" in together.output
    assert comparable(first.records[1]) != comparable(shared.records[1])
    for step, (alone, again) in enumerate(zip(ctwa_on_two_ranks.records, shared.records, strict=True)):
        assert comparable(again) == comparable(alone), step
    assert_same_weights(shared, ctwa_on_two_ranks, LAST)
