"""`ctwa rewards`: every function of the folder, in the words of its file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctwa.cli import app
from ctwa.errors import CtwaError
from ctwa.objectives.contract import read_contract
from ctwa.objectives.library import FOLDER, describe, ready_made
from ctwa.objectives.loading import SHIPPED, load_function

FUNCTIONS = {each.name: each for each in ready_made()}


def test_every_file_is_listed_on_a_line_of_its_own() -> None:
    lines = CliRunner().invoke(app, ["rewards"], catch_exceptions=False).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == sorted(path.stem for path in (SHIPPED / FOLDER).glob("*.py"))
    assert max(map(len, lines)) < 220


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_said_is_what_can_be_called(name: str) -> None:
    each = FUNCTIONS[name]
    required = {argument.name: 1 for argument in each.arguments if argument.default is None}
    contract = read_contract(load_function(f"{SHIPPED}/{each.spec}"), each.spec, required)
    assert contract.arguments == each.offered
    assert each.about
    assert each.text
    assert [argument.name for argument in each.arguments if not argument.meaning] == []
    assert f"| `{name}.py:{name}` |" in (SHIPPED / FOLDER / "README.md").read_text()


def test_a_function_is_described_with_its_arguments() -> None:
    text = describe("length_budget", ready_made())
    assert (
        "'+ctwa.objectives.length_budget={reward_fn: reward_fns/length_budget.py:length_budget, kwargs: {budget: ...}}'"
        in text
    )
    assert "budget  required\n        tokens that cost nothing." in text
    assert "limit  default None" in text
    with pytest.raises(CtwaError, match="no ready-made reward 'lenght_budget'; did you mean 'length_budget'"):
        describe("lenght_budget", ready_made())


def test_without_the_repository_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(CtwaError, match="install ctwa again"):
        ready_made(tmp_path / "nowhere")


def test_listing_them_needs_no_torch() -> None:
    code = "import sys\nfrom ctwa.objectives.library import ready_made\nready_made()\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
