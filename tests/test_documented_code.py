"""What the pages show can be typed: command lines are parsed, Python runs, or at least finds what it imports."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatch
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from hydra.core.override_parser.overrides_parser import OverridesParser

from ctwa import cli
from ctwa.engine.checks.keys import known_keys
from ctwa.engine.groups import groups_of
from ctwa.run import ObjectiveInfo, RunFolder, RunInfo, TraceWriter

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "methods").glob("*.md")]
PAGES = [path for path in sorted([*PAGES, ROOT / "reward_fns" / "README.md"]) if path.name != "CHANGELOG.md"]
COMMAND = typer.main.get_command(cli.app)
COMPOSED = {"train": "train", "prefer": "prefer", "caid": "caid", "plan": "train", "doctor": "train"}
"""The commands that take settings, and whose settings these are."""


def blocks(page: Path, *languages: str) -> list[str]:
    """The blocks of code of a page in one of these languages."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [block for language, block in found if language in languages]


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words after ``ctwa`` of every command line; ``...`` stands for what the reader has."""
    for block in blocks(page, "bash", "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words = [word for word in lexer if word != "..."]
            ends = [place for place, word in enumerate(words) if set(word) <= set("();<>|&")] + [len(words)]
            for begin, end in zip([0, *(place + 1 for place in ends)], ends, strict=False):
                command = [word for word in words[begin:end] if not re.match(r"[A-Z_]+=", word)]
                if command[:1] == ["ctwa"]:
                    yield [re.sub(r"^\[(--.*)|^([^=]*)\]$", r"\1\2", word) for word in command[1:]]


@cache
def keys_of(command: str) -> frozenset[str]:
    """Every key, and with a dot at its end every section in which there may be any."""

    def walk(node: dict[str, object], prefix: str) -> Iterator[str]:
        for name, value in node.items():
            yield f"{prefix}{name}"
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{name}.") if value else [f"{prefix}{name}."]

    return frozenset(walk(known_keys(command), ""))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_command_lines_can_be_parsed_and_their_settings_exist(page: Path) -> None:
    for words in command_lines(page):
        command, name = COMMAND, "ctwa"
        while hasattr(command, "commands") and words and not words[0].startswith("-"):
            name, *words = words
            assert name in command.commands, f"ctwa {name}"
            command = command.commands[name]
        if hasattr(command, "commands"):
            continue  # ctwa --version, ctwa --install-completion
        with command.make_context(name, list(words)) as context:  # raises what is wrong with the words
            rest = [*(context.params.get("settings") or ()), *context.args]
            composed = str(context.params.get("of") or COMPOSED.get(name))
        if name in COMPOSED:
            settings = [word for word in rest if "=" in word]
            for setting in OverridesParser.create().parse_overrides(settings):
                key, keys = setting.key_or_group, keys_of(composed)
                parents = [f"{key[: dot.start()]}." for dot in re.finditer(r"\.", key)]
                is_known = key in groups_of(composed) or key in keys or any(each in keys for each in parents)
                assert is_known, f"{key} of: ctwa {name} {shlex.join(rest)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_pattern_of_runs_finds_no_testbed_that_the_page_makes(page: Path) -> None:
    """`ctwa compare` and the like refuse a folder without a run, also beside others that hold one."""
    lines = list(command_lines(page))
    made = {words[words.index("--out") + 1] for words in lines if words[0] == "testbed" and "--out" in words}
    patterns = {
        word for words in lines if words[0] in ("compare", "report", "summary") for word in words if "*" in word
    }

    assert [(pattern, folder) for pattern in patterns for folder in made if fnmatch(folder, pattern)] == []


def is_python(name: str) -> bool:
    """Whether there is such a module, or such a thing in one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        with suppress(ModuleNotFoundError):  # of a module, which has nothing below it
            if find_spec(".".join(parts[:end])) is not None:
                break
    found = import_module(".".join(parts[:end])) if end < len(parts) else None
    for part in parts[end:]:
        found = getattr(found, part, None)
    return end == len(parts) or found is not None


@cache
def any_keys() -> tuple[frozenset[str], frozenset[str]]:
    """The keys of all commands, and those below which a page may name others: of any keys, or null by default."""
    keys = frozenset[str]().union(*(keys_of(command) | groups_of(command).keys() for command in COMPOSED.values()))
    closed = {key[: dot.start()] for key in keys for dot in re.finditer(r"\.", key.rstrip("."))}
    return keys, frozenset(key.rstrip(".") for key in keys if key.endswith(".") or key not in closed)


def is_setting(name: str) -> bool:
    """Whether some command has such a key, or may have."""
    keys, open_keys = any_keys()
    return name in keys or any(name[: dot.start()] in open_keys for dot in re.finditer(r"\.", name))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_dotted_names_are_there(page: Path) -> None:
    """What is called is Python's. Another name may be a setting's, too."""
    found = re.findall(r"(?<![\w./-])(ctwa(?:\.[A-Za-z_]\w*)+)(\(?)", page.read_text())
    named = {(name, bool(called)) for name, called in found if not name.endswith((".md", ".yaml"))}

    assert [name for name, is_called in named if not is_python(name) and (is_called or not is_setting(name))] == []


RUNS = {"README.md", "docs/grader.md", "docs/report.md", "docs/rewards.md", "docs/trace.md", "docs/turns.md"}
"""The pages whose Python runs beside a small run; that of the others wants models, an engine or other packages."""
ABSENT = ("polars", "ctwa.integrations")


@pytest.fixture
def beside_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder has a run where the pages have theirs."""
    monkeypatch.chdir(tmp_path)
    info = RunInfo(method="ctwa", objectives={"accuracy": ObjectiveInfo(weight=1.0)}, num_steps=2)
    for folder in ("runs/ctwa", "runs/testbed-ctwa-s0"):
        with TraceWriter(RunFolder.create(folder, {}, info).metrics) as trace:
            for step in (1, 2):
                names = ("weight/accuracy", "covariance/accuracy", "val/accuracy", "objective/accuracy/mean")
                trace.write(step, dict.fromkeys(names, 0.5 / step))
    Path("metrics.jsonl").write_bytes(Path("runs/ctwa/metrics.jsonl").read_bytes())


@pytest.mark.usefixtures("beside_a_run")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # matplotlib's and pandas's own
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_runs_or_finds_what_it_imports(page: Path) -> None:
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        tree = ast.parse(block)
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        if any(ast.unparse(node).split()[1].startswith(ABSENT) for node in imports):
            continue
        if str(page.relative_to(ROOT)) not in RUNS:
            tree.body = list(imports)
        exec(compile(tree, str(page), "exec", dont_inherit=True), names)
