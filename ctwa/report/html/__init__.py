"""The report of runs: one HTML file that opens from disk without a network, and its figures for papers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ctwa.errors import CtwaError
from ctwa.report.compare import compare_groups
from ctwa.report.groups import group_runs
from ctwa.report.html.page import Report, page
from ctwa.report.html.sections import Sections
from ctwa.report.summary import read_runs, summarize_trace
from ctwa.run.folder import RunFolder, alarm_monitor
from ctwa.run.jsonl import write_atomically

__all__ = ["Report", "make_report", "page", "write_report"]

# What a report shows; a trace holds much more, and a long one would not fit into memory.
_SHOWN = (
    *("val/", "val_standard_error/", "covariance/", "weight/", "ctwa/", "clip/", "gradient/", "probe/gain/"),
    *("probe/standard_error/", "time/"),
)
_LARGE = 100_000_000  # bytes of all traces: reading them takes longer than starting a process
_SHOWN_ALONE = {"actor/entropy", "actor/ppo_kl", "actor/grad_norm", "response_length/mean"}


def write_report(
    paths: Sequence[Path | str], out: Path, *, figures: Path | None = None, num_processes: int = 1
) -> list[Path]:
    """Writes the report of some runs, finished or not.

    Args:
        paths: the folders of the runs. Runs that differ in their seed alone are shown as one method.
        out: the HTML file; one that is there is replaced.
        figures: a folder for each figure as PDF, SVG and PNG.
        num_processes: how many runs to read at once; see `read_runs`. Small ones are read by this process.

    Returns: the figures' files.

    Raises:
        CtwaError: a path holds no run or is given twice, or a run has measured no objective yet.
    """
    report = make_report(paths, num_processes=num_processes)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Half of a surrogate pair, which a model can write, has no UTF-8.
    write_atomically(out, page(report).encode("utf-8", "replace"))
    if figures is None:
        return []
    from ctwa.report.html.paper import write_figures

    return write_figures(report, figures)


def make_report(paths: Sequence[Path | str], *, num_processes: int = 1) -> Report:
    """Reads runs and works out what their report shows.

    Raises:
        CtwaError: as `write_report`.
    """
    num_bytes = sum(RunFolder.open(path).metrics.stat().st_size for path in paths)
    num_processes = num_processes if num_bytes > _LARGE else 1
    runs = read_runs(paths, wanted=_shown, visitor=alarm_monitor, num_processes=num_processes)
    for run in runs:
        summarize_trace(run)  # says so where nothing has been measured yet
    groups = group_runs(runs)
    try:
        comparison = compare_groups(groups) if len(groups) > 1 else None
    except CtwaError:  # no step in common: each is shown by itself
        comparison = None
    alarms = {run.label: run.visitor for run in runs}
    return Report(groups, Sections(groups).all(comparison), comparison, alarms)


def _shown(key: str) -> bool:
    if key.startswith("objective/"):
        return key.endswith(("/mean", "/scored_frac", "/timeout_frac", "/error_frac"))
    return key.startswith(_SHOWN) or key in _SHOWN_ALONE
