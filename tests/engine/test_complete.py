"""What a shell completes: all that there is to choose, at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctwa.engine.complete import methods_and_losses, names, words
from ctwa.engine.groups import SETTINGS, groups_of
from ctwa.listing import losses, methods


@pytest.mark.parametrize("command", list(SETTINGS))
def test_the_choices_found_by_text_are_those_of_the_classes(command: str) -> None:
    assert {group: names(command, group) for group in groups_of(command)} == groups_of(command)


@pytest.mark.parametrize(
    ("before", "incomplete", "completed"),
    [
        ([], "me", ["method="]),
        ([], "method=mg", ["method=mgda"]),
        (["method", "="], "mg", ["mgda"]),
        (["engine"], "=", ["cpu", "gpu"]),
        (["method=ctwa"], "engine=g", ["engine=gpu"]),
        ([], "trainer.save_freq=", []),
        ([], "method=linear,gu", ["method=linear,guard"]),
        (["method", "="], "linear,guard,gu", []),
        ([], "engine=cpu,g", []),
        (["="], "mg", []),
    ],
)
def test_bash_takes_an_assignment_for_three_words(before: list[str], incomplete: str, completed: list[str]) -> None:
    assert [each for each in words("train", before, incomplete) if "one" not in each] == completed


def test_a_name_that_has_a_page_of_its_own() -> None:
    entries = {each.name for each in (*methods(), *losses())}
    assert methods_and_losses("") == sorted(entries)
    assert methods_and_losses("ra") == ["raco", "raco_unclipped"]


def test_a_shell_is_answered_without_torch() -> None:
    program = """
import sys
from ctwa.cli import app
try:
    app(prog_name="ctwa")
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""
    environment = os.environ | {
        "_CTWA_COMPLETE": "complete_bash",
        "COMP_WORDS": "ctwa train method = up",
        "COMP_CWORD": "4",
    }
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=Path(__file__).parents[2],
    )

    assert (result.stdout.split(), result.stderr.split()) == (["upgrad"], ["False"])
