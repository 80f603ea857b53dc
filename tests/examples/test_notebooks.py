"""The notebooks run, and what they keep of their last run is there and small."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.notebook_cells import FOLDER, NEEDS_TRL, run_notebook

NOTEBOOKS = sorted(path for path in FOLDER.glob("*.ipynb") if path.stem != NEEDS_TRL)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_cells_run_and_it_keeps_their_outputs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_notebook(path, tmp_path, monkeypatch)


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} >= {"first_hour", "diagnose_interference"}
