"""The list of what aligns a model with preferences names what there is."""

from __future__ import annotations

from typer.testing import CliRunner

from ctwa.cli import app
from ctwa.engine.groups import CLASSES
from ctwa.preference.catalogue import ALIGNMENT, alignment_name


def test_it_names_every_method_of_the_commands_and_no_other() -> None:
    of_prefer = {name for name, way in ALIGNMENT.items() if way.command == "ctwa prefer"}

    assert of_prefer <= CLASSES["prefer"]["method"].keys()
    commands = CliRunner().invoke(app, ["--help"]).stdout
    assert all(f" {way.command.removeprefix('ctwa ')} " in commands for way in ALIGNMENT.values())


def test_the_command_gives_each_a_line() -> None:
    lines = CliRunner().invoke(app, ["methods"]).stdout.splitlines()
    by_name = {line.split()[0]: line for line in lines[-len(ALIGNMENT) :]}

    for name, way in ALIGNMENT.items():
        for text in (way.command, way.passes, way.summary, way.source):
            assert text in by_name[name]


def test_a_run_is_called_what_its_method_was_chosen_by() -> None:
    assert alignment_name("cagrad_clip") == "raco"
    assert alignment_name("upgrad") == "upgrad"
