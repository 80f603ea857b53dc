"""The commands that show what runs left."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ctwa.cli.command import app, by_name, to_file, to_folder
from ctwa.errors import CtwaError

if TYPE_CHECKING:
    from ctwa.report.compare import Comparison
    from ctwa.report.groups import Group
    from ctwa.report.trace import RunTrace


@app.command()
def summary(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or one that holds them.")],
    figure: Annotated[
        Path | None, typer.Option(callback=to_file, help="Draw the curves of the runs into this PNG, SVG or PDF.")
    ] = None,
) -> None:
    """Sum up a run, in numbers and in words; several are compared, as by `ctwa compare`."""
    from ctwa.report.story import story_text, tell
    from ctwa.report.summary import summarize_trace, summary_text
    from ctwa.report.trace import read_runs

    read = read_runs(runs)
    if len(read) == 1:
        print(summary_text(summarize_trace(read[0])))
    else:
        groups, comparison = _print_comparison(read)
        print("", story_text(tell(groups, comparison)), sep="\n")
    if figure is not None:
        from ctwa.report.html.paper import write_overview

        write_overview(runs, figure)
        print(f"figure: {figure}")


class Form(StrEnum):
    """What a report is written as."""

    HTML = "html"
    MARKDOWN = "markdown"


def _report_as_markdown(runs: list[Path], out: Path | None, figures: Path | None) -> None:
    from ctwa.report.markdown import markdown_report
    from ctwa.run.jsonl import write_atomically

    if figures is not None:
        raise CtwaError("--figures goes with the page: leave it out, or write --format html")
    text = markdown_report(runs)
    if out is None:
        print(text)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, f"{text}\n".encode("utf-8", "replace"))
        print(f"report: {out}")


@app.command()
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders, of finished runs or not; or one that holds them."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            callback=to_file, help="The HTML file; default: report.html in the run's folder, or here for several."
        ),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(callback=to_folder, help="A folder in which to write each figure as PDF, SVG, PNG."),
    ] = None,
    form: Annotated[
        Form,
        typer.Option(
            "--format", help="html: one page. markdown: its first screen, for a pull request; printed, or --out."
        ),
    ] = Form.HTML,
) -> None:
    """Write a report of runs: one HTML file that opens without a network; or its first screen as Markdown."""
    if form is Form.MARKDOWN:
        _report_as_markdown(runs, out, figures)
        return
    from ctwa.report.html import write_report

    out = out or (runs[0] / "report.html" if len(runs) == 1 and runs[0].is_dir() else Path("report.html"))
    written = write_report(runs, out, figures=figures)
    print(f"report: {out}")
    if figures is not None:
        print(f"figures: {len(written)} files in {figures}")


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN...", help="Run folders, or one that holds them; the first is the baseline."),
    ],
    json_file: Annotated[
        Path | None, typer.Option("--json", callback=to_file, metavar="FILE", help="Write the numbers here.")
    ] = None,
    at_steps: Annotated[int | None, typer.Option(min=0, help="Compare the newest results up to this step.")] = None,
    at_seconds: Annotated[
        float | None, typer.Option(min=0, help="Compare the newest results within this much training.")
    ] = None,
) -> None:
    """Compare methods at equal steps or equal time, with intervals over seeds. Runs that differ in their seed alone are
    one method.
    """
    from ctwa.report.trace import read_runs

    _, comparison = _print_comparison(read_runs(runs), at_steps=at_steps, at_seconds=at_seconds)
    if json_file is not None:
        _write_json(json_file, comparison.as_json())


def _write_json(file: Path, found: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
    print(f"\nnumbers: {file}")


def _print_comparison(
    read: list[RunTrace], *, at_steps: int | None = None, at_seconds: float | None = None
) -> tuple[list[Group], Comparison]:
    from ctwa.report.compare import compare_groups, comparison_text, curves_text
    from ctwa.report.groups import group_runs

    groups = group_runs(read)
    comparison = compare_groups(groups, at_steps=at_steps, at_seconds=at_seconds)
    print(comparison_text(comparison), curves_text(read), sep="\n\n")
    return groups, comparison


@app.command("suggest-targets")
def suggest_targets(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="A run with fixed weights, or the seeds of one; or their folder."),
    ],
    json_file: Annotated[
        Path | None, typer.Option("--json", callback=to_file, metavar="FILE", help="Write the numbers here.")
    ] = None,
) -> None:
    """Suggest covariance targets for method=ctwa, from a run with method=linear."""
    from ctwa.report.targets import suggest_targets, suggestions_text

    found = suggest_targets(runs)
    print(suggestions_text(found))
    if json_file is not None:
        _write_json(json_file, found.as_json())


@app.command()
def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, whether it goes on, ended or crashed.")],
    web: Annotated[
        int | None,
        typer.Option(min=0, max=65535, metavar="PORT", help="Serve its report on this machine; 0: on a free port."),
    ] = None,
) -> None:
    """Watch a run: a live view in the terminal, or with --web its report in a browser, made anew as the run goes on."""
    from ctwa.report.watch.state import wait_for_run

    if sys.stdout.isatty():
        try:
            wait_for_run(run, say=print)
        except KeyboardInterrupt:
            return
    if web is None:
        from ctwa.report.watch.terminal import watch

        watch(run)
    else:
        from ctwa.report.watch.web import LiveReport, serve

        serve(LiveReport(run), web, say=print)


_METRIC = "NAME=METRIC, the objective and the metric that is its mean reward"


@app.command("import")
def import_(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="LOG...", help="Files or folders of one run: trainer_state.json, W&B, TensorBoard, verl."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The run folder to make.")],
    objective: Annotated[
        list[str], typer.Option(metavar="NAME=METRIC", help="A metric that is an objective's mean reward in training.")
    ] = [],  # noqa: B006 - typer reads it, nobody changes it
    held_out: Annotated[
        list[str], typer.Option(metavar="NAME=METRIC", help="A metric that is its mean reward on held-out problems.")
    ] = [],  # noqa: B006
    run: Annotated[str | None, typer.Option(help="Which run, where a CSV has several.")] = None,
    method: Annotated[str | None, typer.Option(help="What reports call it; default: after the log.")] = None,
    seed: Annotated[int | None, typer.Option(help="Runs of one method with different seeds are averaged.")] = None,
    completions: Annotated[
        Path | None, typer.Option(help="A folder of completions that TRL or verl kept; TRL's own is found.")
    ] = None,
) -> None:
    """Make a run folder of another trainer's log (TRL, verl, W&B, TensorBoard), for `ctwa report` and its like."""
    from ctwa.imports.make import import_run, imported_text

    made = import_run(
        sources,
        out,
        objectives=by_name("--objective", objective, _METRIC),
        held_out=by_name("--held-out", held_out, _METRIC),
        run=run,
        method=method,
        seed=seed,
        completions=completions,
    )
    print(imported_text(made))
