"""What `ctwa methods` says: all that there is, in the words of the classes themselves."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from ctwa.cli import app
from ctwa.errors import CtwaError
from ctwa.listing import describe, losses, methods
from ctwa.method_info import options_of

ENTRIES = [*methods(), *losses()]


def test_the_list_has_a_line_for_each() -> None:
    lines = CliRunner().invoke(app, ["methods"]).stdout.splitlines()

    for each in ENTRIES:
        said = [each.name, each.info.passes, each.info.memory, each.info.summary, each.info.source, each.info.level]
        if each in ENTRIES[-len(list(losses())) :]:
            said = [each.name, each.info.passes, each.info.summary]
        assert any(all(text in line for text in said) for line in lines), each.name


def test_an_option_with_names_can_be_given_some_on_the_command_line() -> None:
    """Hydra takes no new keys into an empty mapping; a null becomes any."""
    for each in ENTRIES:
        for name, field in each.info.config.model_fields.items():
            assert field.get_default(call_default_factory=True) != {}, f"{name} of {each.name}"


@pytest.mark.parametrize("name", sorted({each.name for each in ENTRIES}))
def test_a_page_says_how_to_choose_it_and_what_each_option_does(name: str) -> None:
    text = describe(name)

    for each in ENTRIES:
        if each.name == name:
            assert f"    {each.usage}\n" in text
            assert each.info.summary in text
            for option in options_of(each.info.config):
                assert option.meaning, f"{option.name} of {name} is not documented under Attributes"
                assert "None" not in option.meaning, "a user writes null"
                assert f"{each.key}.{option.name}=" in text


def test_an_option_in_the_words_of_its_class() -> None:
    text = describe("ctwa")

    assert "    ctwa.method.tau=...  number > 0 <= 1; default 0.1\n" in text
    assert "    ctwa.method.targets=...  {NAME: number, ...}; required\n" in describe("lagrangian")
    assert "    ctwa.method.renormalize=...  auto | true | false; default auto\n" in text
    assert "        the least weight, as a share of the largest. It bounds the weights in use" in text


def test_one_name_of_two_commands() -> None:
    assert describe("mgda").count("the shortest combination") == 1
    assert "ctwa train method=linear\n" in describe("linear")
    assert "ctwa prefer method=linear\n" in describe("linear")


def test_a_misspelt_name_is_told_the_right_one() -> None:
    with pytest.raises(CtwaError, match=r"no method or loss 'tchebychef'; did you mean 'tchebycheff'\?"):
        describe("tchebychef")


def test_what_is_no_method_but_a_setting() -> None:
    with pytest.raises(CtwaError, match=r"modpo is no method but a setting: .*ctwa\.modpo=.*docs/methods/modpo\.md"):
        describe("modpo")


def test_it_needs_no_engine() -> None:
    program = "import sys, ctwa.listing; print({'verl', 'ray', 'hydra', 'transformers'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "set()"
