"""The public interface is what docs/own-loop.md promises: its names, its signatures, and its examples run."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from ctwa import methods

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "own-loop.md").read_text()
SIGNATURES = ROOT / "tests" / "goldens" / "public_interface.txt"


def signatures() -> str:
    """Every public name with its call, and of a class its public methods and properties; a loss is only handed on."""
    lines = []
    for name in methods.__all__:
        value = getattr(methods, name)
        if is_called(value):
            lines.append(f"{name}{inspect.signature(value)}")
        else:
            lines.append(name)
        is_loss = inspect.isclass(value) and issubclass(value, methods.PolicyLoss)
        members = inspect.getmembers_static(value) if inspect.isclass(value) and not is_loss else []
        fields = {each.name for each in dataclasses.fields(value)} if dataclasses.is_dataclass(value) else set()
        for member, found in members:
            owner = next(each for each in value.__mro__ if member in each.__dict__)
            if member.startswith("_") or member in fields or not owner.__module__.startswith("ctwa"):
                continue
            function = found.__func__ if isinstance(found, classmethod | staticmethod) else found
            lines.append(f"  {member}{inspect.signature(function) if inspect.isfunction(function) else ''}")
    return "\n".join(lines) + "\n"


def is_called(value: Any) -> bool:
    is_made_by_users = inspect.isclass(value) and not issubclass(value, Exception)
    return inspect.isfunction(value) or (is_made_by_users and not getattr(value, "_is_protocol", False))


def test_a_change_of_the_interface_is_one_that_was_meant() -> None:
    """To mean it: write what this test computes into the golden file, and what users do about it into CHANGELOG.md."""
    assert signatures() == SIGNATURES.read_text()


def test_the_guide_names_all_that_is_public() -> None:
    named = set(re.findall(r"`(\w+)\b", GUIDE))

    assert set(methods.__all__) - named == set()


@pytest.mark.parametrize("block", re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL))
def test_the_examples_of_the_guide_run(block: str) -> None:
    exec(compile(block, "docs/own-loop.md", "exec", dont_inherit=True), {})


def test_a_method_is_chosen_by_its_name() -> None:
    assert methods.method_options("ctwa", eta=0.5).eta == 0.5
    for name, options, message in [
        ("cwta", {}, "there is no method 'cwta'; did you mean 'ctwa'"),
        ("ctwa", {"eat": 1}, "method ctwa.eat is no key of the configuration; did you mean 'eta'"),
        ("ctwa", {"eta": -1}, "method ctwa.eta: Input should be greater than or equal to 0, not -1"),
    ]:
        with pytest.raises(methods.CtwaError, match=re.escape(message)):
            methods.method_options(name, **options)
