"""The list of methods names those that there are."""

from __future__ import annotations

from typer.testing import CliRunner

from ctwa.aggregators.registry import GRADIENT_METHODS
from ctwa.cli import app
from ctwa.scalarizers.catalogue import CATALOGUE
from ctwa.scalarizers.registry import METHODS


def test_it_names_every_method_and_no_other() -> None:
    assert CATALOGUE.keys() == METHODS.keys()
    gradient = {name for name, info in CATALOGUE.items() if info.level == "gradient"}
    assert gradient == set(GRADIENT_METHODS)


def test_the_command_gives_each_a_line() -> None:
    title, head, *lines = CliRunner().invoke(app, ["methods"]).stdout.splitlines()
    assert "ctwa train" in title
    assert head.split()[0] == "method"
    by_name = {line.split()[0]: line for line in lines[: len(METHODS)]}
    for name, info in CATALOGUE.items():
        for text in (info.level, info.passes, info.memory, info.summary, info.source):
            assert text in by_name[name]
