from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from ctwa.run import RunFolder, RunInfo, TraceWriter
from tests.run.runs import info

MakeRun = Callable[..., RunFolder]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Makes a run with the given metrics of each step, ten seconds apart."""

    def make(name: str, steps: Mapping[int, Mapping[str, float]], run_info: RunInfo | None = None) -> RunFolder:
        run = RunFolder.create(tmp_path / name, {"name": name}, run_info or info())
        times = (10.0 * step for step in steps)
        with TraceWriter(run.metrics, clock=lambda: next(times)) as writer:
            for step, metrics in steps.items():
                writer.write(step, metrics)
        return run

    return make
