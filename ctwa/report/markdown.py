"""What people paste: a report as Markdown, for a pull request or an issue; and Markdown's tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from ctwa.report.compare import Comparison, interval_text
from ctwa.report.groups import Group
from ctwa.report.story import Story
from ctwa.report.summary import read_and_tell
from ctwa.report.verdict import verdict_rows
from ctwa.run.text import clean, code_parts

_SPECIAL = re.compile(r"([\\`*\[\]<>|#~&]|(?<!\w)_|_(?!\w))")


def markdown_report(paths: Sequence[Path | str]) -> str:
    """The first screen of a report of some runs: what was lost, since when, what the methods did, what to try.

    Raises:
        CtwaError: a path holds no run or is given twice, or a run has measured no objective yet.
    """
    told = read_and_tell(paths)
    return "\n".join(_lines(told.groups, told.comparison, told.story))


def _lines(groups: Sequence[Group], comparison: Comparison | None, story: Story) -> Iterable[str]:
    several = len(groups) > 1
    yield f"**{plain(story.headline)}**"
    yield ""
    header = ("objective", "method", "verdict", "start", "end", "change", "noise")
    rows = [
        (
            plain(row["objective"]) if row["first"] else "",
            plain(row["method"]),
            f"{row['mark']} **{row['word']}**{plain(row['rest'])}",
            *(row[key] for key in ("start", "end", "change", "noise")),
        )
        for row in verdict_rows(groups)
    ]
    yield table(header, rows) if several else table(header[:1] + header[2:], [row[:1] + row[2:] for row in rows])
    yield from _listed(f"What the method{'s' * several} did", [_of(several, *row) for row in story.methods])
    yield from _listed("What to try", map(_with_code, story.advice))
    if comparison is not None:
        names = comparison.objectives
        yield from _folded(
            f"Side by side, at {comparison.at}",
            table(
                ("method", "seeds", *map(plain, names), "hypervolume"),
                [
                    (
                        plain(method.label),
                        str(len(method.runs)),
                        *(interval_text(method.results.get(name)) for name in names),
                        interval_text(method.hypervolume),
                    )
                    for method in comparison.methods
                ],
            ),
        )
    facts = [
        (plain(run.label), plain(run.method), str(run.last_step), plain(base_name(run.info.model) if run.info else "-"))
        for group in groups
        for run in group.runs
    ]
    yield from _folded("Runs", table(("run", "method", "steps", "model"), facts))
    result = " or ".join(dict.fromkeys(run.result for group in groups for run in group.runs))
    yield f"<sub>{plain(result)}; gained and lost: by more than noise, 1.96 standard errors of a difference</sub>"


def _of(several: bool, method: str, text: str) -> str:
    return f"{f'**{plain(method)}** ' if several else ''}{plain(text)}"


def _with_code(text: str) -> str:
    """A sentence of ours, in which commands stand between backticks."""
    return "".join(f"`{part}`" if is_code else plain(part) for part, is_code in code_parts(clean(text)))


def _listed(title: str, lines: Iterable[str]) -> Iterable[str]:
    items = [f"- {line}" for line in lines]
    return ["", f"{title}:", "", *items] if items else []


def _folded(title: str, text: str) -> Iterable[str]:
    return ["", f"<details><summary>{plain(title)}</summary>", "", text, "", "</details>", ""]


def base_name(model: str) -> str:
    """A model as others may be told of it: its name on a hub; of a folder here the last part alone."""
    on_a_hub = model.count("/") == 1 and not Path(model).exists()
    return model if on_a_hub else Path(model).name


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of cells that are Markdown already."""
    lines: list[Sequence[object]] = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def plain(text: str) -> str:
    """A text that means nothing to Markdown: whatever the user named stays what it is, in one line."""
    return _SPECIAL.sub(r"\\\1", clean(text))
