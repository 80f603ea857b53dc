"""A notebook, run without a kernel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "notebooks"
NEEDS_TRL = "trl"
"""The notebook that runs where TRL is: tests/integrations."""


def run_notebook(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: Mapping[str, str] | None = None
) -> None:
    """Run its cells, and look at what it keeps of its last run: no error, a figure, a printed line, and little.

    Args:
        path: the notebook.
        tmp_path: where its temporary files go.
        monkeypatch: of the test.
        changed: pieces of its code that the test replaces, to be quick.
    """
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]) for cell in code]
    for old, new in (changed or {}).items():
        assert any(old in source for source in sources)
        sources = [source.replace(old, new) for source in sources]
    names: dict[str, object] = {"__name__": "__main__"}
    for number, source in enumerate(sources):
        exec(compile(source, f"{path.name}, cell {number}", "exec", dont_inherit=True), names)

    plt.close("all")
    kept = [output for cell in code for output in cell["outputs"]]
    assert [output for output in kept if output["output_type"] == "error"] == []
    assert any("image/png" in output.get("data", {}) for output in kept)
    assert any(output["output_type"] == "stream" for output in kept)
    assert path.stat().st_size < 300_000
