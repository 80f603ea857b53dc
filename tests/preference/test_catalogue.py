"""The list of what aligns a model with preferences names what there is."""

from __future__ import annotations

from pathlib import Path

import yaml
from typer.testing import CliRunner

import ctwa.config.prefer
from ctwa.cli import app
from ctwa.preference.catalogue import ALIGNMENT, alignment_name


def test_it_names_every_method_of_the_commands_and_no_other() -> None:
    folder = Path(ctwa.config.prefer.__file__).parent / "method"
    of_prefer = {name for name, way in ALIGNMENT.items() if way.command == "ctwa prefer"}

    assert of_prefer == {path.stem for path in folder.glob("*.yaml")}
    commands = CliRunner().invoke(app, ["--help"]).stdout
    assert all(f" {way.command.removeprefix('ctwa ')} " in commands for way in ALIGNMENT.values())


def test_the_command_gives_each_a_line() -> None:
    lines = CliRunner().invoke(app, ["methods"]).stdout.splitlines()
    by_name = {line.split()[0]: line for line in lines[-len(ALIGNMENT) :]}

    for name, way in ALIGNMENT.items():
        for text in (way.command, way.passes, way.summary, way.source):
            assert text in by_name[name]


def test_a_run_is_called_what_its_method_was_chosen_by() -> None:
    for path in (Path(ctwa.config.prefer.__file__).parent / "method").glob("*.yaml"):
        assert alignment_name(yaml.safe_load(path.read_text())["type"]) == path.stem
    assert alignment_name("upgrad") == "upgrad"
