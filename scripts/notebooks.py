"""Runs the notebooks of examples/notebooks again, and keeps their outputs: pip install '.[notebooks]' first.

`trl.ipynb` wants TRL on the path (PYTHONPATH=.venv/trl). Their cells run in tests as well, without a kernel
(tests/examples/test_notebooks.py, tests/integrations/test_trl_example.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "notebooks"
SECONDS = 600  # for a cell
MOST = 300_000  # bytes of a notebook


def main() -> None:
    """Run those that are named, or all."""
    import nbformat
    from nbclient import NotebookClient

    for path in [Path(each) for each in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", record_timing=False).execute()
        for cell in notebook.cells:  # what libraries say of the machine is no output of the notebook
            if "outputs" in cell:
                cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        nbformat.write(notebook, path)
        size = path.stat().st_size
        print(f"{path.name}: {size / 1000:.0f} KB")
        if size > MOST:
            sys.exit(f"{path} is larger than {MOST / 1000:.0f} KB: draw less")


if __name__ == "__main__":
    main()
