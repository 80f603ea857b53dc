"""The report of runs: one HTML file that opens from disk without a network, and its figures for papers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ctwa.report.html.page import Report, page
from ctwa.report.html.sections import Sections
from ctwa.report.summary import read_and_tell
from ctwa.run.jsonl import write_atomically

__all__ = ["Report", "make_report", "page", "write_report"]


def write_report(paths: Sequence[Path | str], out: Path, *, figures: Path | None = None) -> list[Path]:
    """Writes the report of some runs, finished or not.

    Args:
        paths: the folders of the runs. Runs that differ in their seed alone are shown as one method.
        out: the HTML file; one that is there is replaced.
        figures: a folder for each figure as PDF, SVG and PNG.

    Returns: the figures' files.

    Raises:
        CtwaError: a path holds no run or is given twice, or a run has measured no objective yet.
    """
    report = make_report(paths)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Half of a surrogate pair, which a model can write, has no UTF-8.
    write_atomically(out, page(report).encode("utf-8", "replace"))
    if figures is None:
        return []
    from ctwa.report.html.paper import write_figures

    return write_figures(report.sections, figures)


def make_report(paths: Sequence[Path | str]) -> Report:
    """Reads runs and works out what their report shows.

    Raises:
        CtwaError: as `write_report`.
    """
    groups, comparison, story = read_and_tell(paths)
    return Report(groups, Sections(groups).all(comparison), comparison, story)
