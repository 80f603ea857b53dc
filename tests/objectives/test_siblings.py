"""Reward files that import what lies beside them: a run loads all into one process, and each has what it has alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest

from ctwa.errors import CtwaError
from ctwa.objectives import siblings
from ctwa.objectives.loading import load_function

RewardFile = Callable[..., str]

WAYS = {
    "first": "sys.path.insert(0, here)\nfrom helper import VALUE",
    "last": "sys.path.append(here)\nimport helper\nVALUE = helper.VALUE",
    "once": "sys.path.insert(0, here)\nfrom helper import VALUE\nsys.path.remove(here)",
    "folder below": "sys.path.insert(0, here + '/lib')\nfrom helper import VALUE",
    "on the way": "sys.path.insert(0, here)\nfrom way import VALUE",
    "other names": "sys.path.insert(0, here)\nfrom helper import VALUE, MORE",
    "package": "sys.path.insert(0, here)\nfrom helper.inside import VALUE",
    "not at all": "from helper import VALUE",
}
"""How a file comes by a value of its folder."""


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has loaded no reward file, and finds modules where this one does."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(siblings, "_put", {})
    monkeypatch.setattr(siblings, "_brought", {})
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def beside(reward_file: RewardFile) -> Callable[[str, str], str]:
    """A reward file in a folder of its own, whose value is the folder's name."""

    def write(folder: str, way: str) -> str:
        made = f"VALUE = MORE = {folder!r}" if way == "other names" else f"VALUE = {folder!r}"
        below = {"folder below": "lib/helper.py", "package": "helper/inside.py"}.get(way, "helper.py")
        reward_file(made, f"{folder}/{below}")
        if way == "package":
            reward_file("", f"{folder}/helper/__init__.py")
        reward_file("from helper import VALUE", f"{folder}/way.py")
        source = f"import os, sys\nhere = os.path.dirname(__file__)\n{WAYS[way]}\ndef f(response): return VALUE"
        return f"{reward_file(source, f'{folder}/reward.py')}:f"

    return write


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("other", ["first", "last"])
def test_a_file_that_would_get_the_module_of_another_is_refused(
    beside: Callable[[str, str], str], way: str, other: str
) -> None:
    first = beside("one", other)
    assert load_function(first)("") == "one"
    with pytest.raises(CtwaError, match=r"two/reward.py:f' imports '(helper|way)' and gets .*/one/.*py, as .*/one/rew"):
        load_function(beside("two", way))


def test_the_order_of_objectives_changes_no_value(beside: Callable[[str, str], str]) -> None:
    """One folder is that of a user's own modules, where Python looks in any case."""
    sys.path.append(str(siblings.Path(beside("home", "first").removesuffix(":f")).parent))
    load_function(beside("away", "first"))
    with pytest.raises(CtwaError, match=r"alone it would get .*/home/helper.py"):
        load_function(beside("home", "not at all"))


def test_a_copy_of_what_another_file_has_from_elsewhere_is_a_conflict(
    beside: Callable[[str, str], str], reward_file: RewardFile, tmp_path
) -> None:
    sys.path.append(str(tmp_path))
    reward_file("VALUE = 'installed'", "helper.py")
    first = reward_file("from helper import VALUE\ndef f(response): return VALUE", "first.py")
    assert load_function(f"{first}:f")("") == "installed"
    with pytest.raises(CtwaError, match=r"gets .*/helper.py, as .*/first.py does; alone it would get .*/two/helper.py"):
        load_function(beside("two", "first"))


def test_modules_that_files_share_are_no_conflict(reward_file: RewardFile) -> None:
    shared = "import os, sys; sys.path.insert(0, os.path.dirname(__file__) + {!r})\nfrom {} import VALUE\n"
    reward_file("VALUE = 1", "one/common.py")
    reward_file("VALUE = 2", "unused/common.py")
    specs = [
        f"{reward_file(shared.format(where, 'common') + 'def f(response): return VALUE', name)}:f"
        for name, where in (("one/a.py", ""), ("one/b.py", ""), ("two/c.py", "/../one"))
    ]
    specs.append(
        f"{reward_file(shared.format('', 'math').replace('VALUE', 'pi') + 'def f(r): return 1', 'unused/d.py')}:f"
    )
    assert [load_function(spec)("") for spec in [*specs, specs[0]]] == [1, 1, 1, 1, 1]


def test_a_module_beside_a_file_is_not_meant_where_python_finds_another(reward_file: RewardFile, tmp_path) -> None:
    sys.path.append(str(tmp_path))
    reward_file("VALUE = 'top'", "helper.py")
    reward_file("VALUE = 'below'", "below/helper.py")
    source = "from helper import VALUE\ndef f(response): return VALUE"
    specs = [f"{reward_file(source, name)}:f" for name in ("top.py", "below/reward.py")]
    assert [load_function(spec)("") for spec in specs] == ["top", "top"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("from helper import VALUE", r"it is beside the file, where Python does not look: set PYTHONPATH=\S+/one, or"),
        ("import package.inside", r"it is beside the file, where Python does not look"),
        ("from .helper import VALUE", r"of no package: name it as 'package\.module:function', and run from the folder"),
        ("from . import helper", r"of no package: name it as 'package\.module:function'"),
        ("import nothing_of_the_kind", r"No module named 'nothing_of_the_kind' \(reward\.py, line 1\)$"),
    ],
)
def test_a_sibling_that_cannot_be_imported_says_what_to_write(reward_file: RewardFile, source: str, said: str) -> None:
    reward_file("VALUE = 1", "one/helper.py")
    reward_file("", "one/package/inside.py")
    with pytest.raises(CtwaError, match=said):
        load_function(f"{reward_file(source, 'one/reward.py')}:f")
