"""The source tree of the documentation site: the repository's own pages as they are, and those made from the code.

    python scripts/docs_pages.py build/site/source

What is made: the index by kind, the reference of commands, settings and modules, and the list of papers.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import yaml

if TYPE_CHECKING:
    from ctwa.engine.explain import Entry

ROOT = Path(__file__).parent.parent
NAV: dict[str, tuple[str, ...]] = {
    "Tutorial": ("README", "docs/install", "docs/first-hour"),
    "How to": ("docs/data", "docs/rewards", "docs/training", "docs/preference", "docs/caid"),
    "Reference": (
        *("reference/commands", "reference/settings", "reference/modules"),
        *("docs/trace", "docs/losses", "docs/grader", "reward_fns/README"),
    ),
    "Explanation": (
        "docs/concepts",
        "docs/methods",
        "docs/testbed",
        "docs/reliability",
        "docs/async",
        "reference/papers",
    ),
    "Results": ("docs/results/*",),
    "Help": ("docs/faq", "docs/coming_from"),
    "Project": ("CONTRIBUTING", "SECURITY", "CHANGELOG"),
}
"""The pages by kind. A page of docs/ that is in none is a how-to."""
ALSO = "How to"
MODULES = (
    *("ctwa.methods", "ctwa.scalarizers.base", "ctwa.aggregators.base", "ctwa.batch", "ctwa.policy_loss"),
    *("ctwa.covariance.weights", "ctwa.covariance.within_prompt", "ctwa.covariance.feasibility"),
    *("ctwa.covariance.distortion", "ctwa.covariance.probe", "ctwa.covariance.diagnostics", "ctwa.objectives.contract"),
    *("ctwa.preference", "ctwa.run", "ctwa.run.alarms", "ctwa.metrics", "ctwa.report", "ctwa.evaluation"),
    *("ctwa.statistics", "ctwa.errors", "ctwa.integrations.trl.trainer"),
)
"""What the reference documents: the parts that code of a user's own calls. Of what two packages hand on, Sphinx wants
the module that defines it.
"""
MOST_PAGES = 6
COMMANDS = ("train", "prefer", "caid")
_ARXIV = re.compile(r"\b(\d{4}\.\d{5})\b")


def placed() -> dict[str, list[str]]:
    """The pages of each kind, with those of docs/ that `NAV` does not name."""
    found = {kind: list(pages) for kind, pages in NAV.items()}
    named = {page for pages in NAV.values() for page in pages}
    found[ALSO] += [page for path in sorted((ROOT / "docs").glob("*.md")) if (page := f"docs/{path.stem}") not in named]
    return found


def index() -> str:
    """The first page: what ctwa is in a sentence, and the pages by kind."""
    parts = [
        "# ctwa\n\nFine-tune a language model on several objectives at once, and see what each of them does."
        " [The overview](README.md) has two commands to begin with.\n"
    ]
    for kind, pages in placed().items():
        entries = "\n".join(f"Overview <{page}>" if page == "README" else page for page in pages)
        parts.append(f"```{{toctree}}\n:caption: {kind}\n:maxdepth: 1\n:glob:\n\n{entries}\n```\n")
    parts.append("```{toctree}\n:hidden:\n:glob:\n\ndocs/methods/*\n```\n")
    return "\n".join(parts)


def commands() -> str:
    """Every command with its arguments and options, as its help has them."""
    made = subprocess.run(
        [sys.executable, "-m", "typer", "ctwa.cli", "utils", "docs", "--name", "ctwa"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    return made.replace("# `ctwa`", "# Commands", 1)


def settings() -> str:
    """Every setting of ctwa's own, command by command: those of all of them, then what the others have beside them."""
    from ctwa.engine.explain import entries_of

    parts = [
        "# Settings\n",
        "The keys of the node `ctwa`, with what each may be, its default and its meaning; then the options of each"
        " method and loss. `ctwa config KEY` explains these keys and verl's.\n",
    ]
    told: list[Entry] = []
    for command in COMMANDS:
        parts.append(f"## ctwa {command}\n")
        choice = ""
        for each in entries_of(command):
            alike = replace(each, values={})
            if not each.key.startswith("ctwa.") or alike in told:
                continue
            told.append(alike)
            if each.of != choice:
                choice = each.of
                parts.append(f"\n### {choice}\n" if choice else "\n### further\n")
            parts.append(_setting(each))
    return "\n".join(parts) + "\n"


def _setting(each: Entry) -> str:
    default = f"; default `{list(each.values.values())[-1]}`" if each.kind and each.values else ""
    about = f" ({each.kind}{default})" if each.kind else ""
    return f"- **`{each.key}`**{about}" + (f": {each.meaning}" if each.meaning else "")


def modules() -> Iterator[tuple[str, str]]:
    """The index of the modules, and a page for each from its docstrings."""
    listed = "\n".join(f"modules/{name}" for name in MODULES)
    yield (
        "modules",
        "# Modules\n\nWhat code of your own may call. All of it works with torch alone, without verl and Ray, but for"
        " the trainer of TRL.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n",
    )
    for name in MODULES:
        yield f"modules/{name}", f"# {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n"


class Named(NamedTuple):
    """A method or a loss that says who proposed it."""

    name: str
    source: str
    module: str


def named() -> list[Named]:
    """The methods and losses, each once, with what they say of their source."""
    from ctwa.listing import losses, methods

    found = [Named(each.name, each.info.source, each.info.config.__module__) for each in methods()]
    for each in losses():
        source = re.search(r"\(([^()]*\d{4}\.\d{5}[^()]*)\)$", each.info.summary)
        found.append(Named(each.name, source[1] if source else "-", each.info.config.__module__))
    return list(dict.fromkeys(found))


def papers() -> str:
    """The papers, with the methods and losses that are of them, where these are, and the pages that speak of them."""
    cited = {
        paper["url"].rpartition("/")[2]: paper
        for paper in yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
        if "url" in paper
    }
    of: dict[str, list[Named]] = {}
    for each in named():
        for number in _ARXIV.findall(each.source):
            of.setdefault(number, []).append(each)
    pages: dict[str, list[Path]] = {}
    for path in sorted((ROOT / "docs").rglob("*.md")):
        for number in dict.fromkeys(_ARXIV.findall(path.read_text())):
            pages.setdefault(number, []).append(path)
    rows = []
    for number in sorted({*cited, *of, *pages}, reverse=True):
        paper, implemented = cited.get(number, {}), of.get(number, [])
        title = paper.get("title") or next((each.source.partition(", arXiv")[0] for each in implemented), "")
        link = f"[arXiv {number}](https://arxiv.org/abs/{number})"
        here = "; ".join(_linked(each) for each in implemented) or paper.get("notes", "")
        where = ", ".join(_page(path) for path in pages.get(number, [])[:MOST_PAGES])
        rows.append((f"{title}, {link}" if title else link, here, where))
    others = [(each.source, _linked(each)) for each in named() if not _ARXIV.search(each.source) and each.source != "-"]
    return "\n".join(
        [
            "# Papers\n",
            "What is implemented of which paper, by what each method says of itself. A method's page has its formula,"
            " and the differences from the paper and from published code.\n",
            _table(("paper", "implemented as", "pages that speak of it"), rows),
            "## Other sources\n",
            _table(("source", "implemented as"), others),
        ]
    )


def _page(path: Path) -> str:
    return f"[{path.relative_to(ROOT / 'docs').with_suffix('')}](../{path.relative_to(ROOT)})"


def _linked(each: Named) -> str:
    page = ROOT / "docs" / "methods" / f"{each.name}.md"
    name = f"[{each.name}](../docs/methods/{each.name}.md)" if page.is_file() else each.name
    return name if each.module == "ctwa.method_info" else f"{name} (`{each.module}`)"  # that has no options of its own


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    from ctwa.report.markdown import table

    return table(header, [[cell.replace("|", "\\|") for cell in row] for row in rows]) + "\n"


def made() -> Mapping[str, str]:
    """The pages that are made, by their names."""
    return {
        "index": index(),
        "reference/commands": commands(),
        "reference/settings": settings(),
        "reference/papers": papers(),
        **{f"reference/{name}": text for name, text in modules()},
    }


def _without_folders(text: str, where: Path) -> str:
    """A page whose links to folders, which GitHub shows and a site has not, are their texts alone."""
    return re.sub(r"\[([^\]]+)\]\(([^)#:]+)\)", lambda link: link[1] if (where / link[2]).is_dir() else link[0], text)


def main() -> None:
    """Make the tree."""
    source = Path(sys.argv[1])
    source.mkdir(parents=True)
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split("\0")
    for name in listed:
        if (ROOT / name).is_file() and not name.startswith("."):
            # Copied and not linked: Sphinx would look for a page's neighbours where a link leads.
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    for page in source.rglob("*.md"):
        page.write_text(_without_folders(page.read_text(), page.parent))
    for name, text in made().items():
        path = source / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
