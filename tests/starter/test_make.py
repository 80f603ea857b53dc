"""The project that `ctwa init` makes: its files are those of the package, its tests pass, its plan is made."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctwa.cli import app
from ctwa.errors import CtwaError
from ctwa.starter.make import make_project

ROOT = Path(__file__).parents[2]
FILES = ["README.md", "data/train.jsonl", "data/val.jsonl", "rewards.py", "task.yaml", "test_rewards.py", "train.sh"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("projects") / "mine"
    assert [str(path) for path in make_project(folder)] == FILES
    return folder


def run(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False, env=environment)


def test_its_own_test_passes(project: Path) -> None:
    result = run(project, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")

    assert (result.returncode, "9 passed" in result.stdout) == (0, True)


def test_its_script_plans_a_run_of_the_model_that_comes_with_ctwa(project: Path) -> None:
    result = run(project, "./train.sh", "ctwa", "trainer.total_training_steps=2", "--dry-run")

    assert result.returncode == 0, result.stderr
    assert "  command line  trainer.total_training_steps=2  (30 in task.yaml)\n" in result.stdout
    assert "  objectives   correct (0.5), short (0.5)\n" in result.stdout
    assert sorted(path.name for path in project.iterdir() if path.name != "__pycache__") == [
        *("README.md", "data", "model", "rewards.py", "task.yaml", "test_rewards.py", "train.sh")
    ]


@pytest.mark.parametrize("words", [(), ("--dry-run",), ("trainer.save_freq=5",)])
def test_its_script_wants_a_method(project: Path, words: tuple[str, ...]) -> None:
    result = run(project, "./train.sh", *words)

    assert (result.returncode, result.stderr.startswith("write a method first")) == (2, True)


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text("mine")
    (tmp_path / "other.txt").write_text("mine")
    with pytest.raises(CtwaError, match=r"holds rewards\.py already, and nothing is written over"):
        make_project(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.txt", "rewards.py"]

    (tmp_path / "rewards.py").unlink()
    make_project(tmp_path)
    assert (tmp_path / "other.txt").read_text() == "mine"
    (tmp_path / "nowhere").symlink_to("nothing")
    for name in ("other.txt", "nowhere"):
        with pytest.raises(CtwaError, match=rf"{name} is a file, or a link to nothing: give a folder"):
            make_project(tmp_path / name)


def test_a_file_in_the_place_of_a_folder_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    with pytest.raises(CtwaError, match=r"holds data already, and nothing is written over"):
        make_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_what_comes_next_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, ["init", "it's mine"], catch_exceptions=False).output
    first = next(line for line in shown.splitlines() if line.startswith("  cd "))

    assert shlex.split(first) == ["cd", "it's mine"]


def test_git_ignores_no_file_of_it() -> None:
    """The build packs what git does not ignore."""
    template = ROOT / "ctwa" / "starter" / "template"
    ignored = subprocess.run(
        ["git", "check-ignore", *(str(template / name) for name in FILES)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ignored.stdout == ""


def test_recipes_and_reward_functions_come_along_where_they_are_asked_for(tmp_path: Path) -> None:
    made = [str(path) for path in make_project(tmp_path / "mine", recipes=True)]

    assert {*FILES, "recipes/testbed.sh", "recipes/lib.sh", "reward_fns/accuracy.py"} < {*made}
    assert os.access(tmp_path / "mine" / "recipes" / "testbed.sh", os.X_OK)
    (tmp_path / "other" / "recipes").mkdir(parents=True)
    (tmp_path / "other" / "recipes" / "lib.sh").touch()
    with pytest.raises(CtwaError, match=r"holds recipes/lib\.sh already"):
        make_project(tmp_path / "other", recipes=True)
    assert sorted(path.name for path in (tmp_path / "other").rglob("*")) == ["lib.sh", "recipes"]
