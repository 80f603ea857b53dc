"""Several methods by one command: what is read of it, and what is refused before an engine starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from ctwa.engine.several import methods_of, train_each
from ctwa.errors import CtwaError


@pytest.mark.parametrize(
    ("arguments", "methods"),
    [
        (["method=linear,guard"], ["linear", "guard"]),
        (["method=linear", "ctwa.run=a,b", "method=gdpo,linear,ctwa"], ["gdpo", "linear", "ctwa"]),
        (["method=linear,guard", "method=ctwa"], []),
        (["method=linear"], []),
        (["ctwa.seed=0,1"], []),
        (["method=linear,"], []),
        ([], []),
    ],
)
def test_the_last_method_of_a_command_counts(arguments: list[str], methods: list[str]) -> None:
    assert methods_of(arguments) == methods


def test_a_method_is_named_once() -> None:
    with pytest.raises(CtwaError, match=r"^method=linear,guard,linear names linear twice: write each method once$"):
        methods_of(["method=linear,guard,linear"])


def test_each_run_has_a_folder_of_its_methods_name(
    run_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = train_each(
        ["linear", "guard"], [*run_overrides, f"ctwa.run={tmp_path}/it"], dry_run=True, console=Console(width=200)
    )
    printed = capsys.readouterr().out

    assert stopped is None
    for name in ("linear", "guard"):
        assert f"\n  run folder   {tmp_path}/it/{name}\n" in printed
        assert f"\n  default_local_dir: {tmp_path}/it/{name}/checkpoints\n" in printed
    assert not (tmp_path / "it").exists()


@pytest.mark.parametrize(
    ("methods", "settings", "sentence"),
    [
        (["linear", "guard"], ["ctwa.method.floor=0.1"], r"ctwa\.method\.floor"),
        (["linear", "gaurd"], [], r"method=gaurd is no choice: .* did you mean 'guard'\?"),
        (["linear", "cgpo"], [], r"^give a value for ctwa\.method\.constraints$"),
    ],
    ids=["an option of one of them", "a name of none", "what one of them needs"],
)
def test_what_one_run_would_be_refused_for_begins_none(
    run_overrides: list[str], tmp_path: Path, methods: list[str], settings: list[str], sentence: str
) -> None:
    with pytest.raises(CtwaError, match=sentence):
        train_each(methods, [*run_overrides, f"ctwa.run={tmp_path}/it", *settings])

    assert not (tmp_path / "it").exists()


def test_a_runs_own_folder_is_not_theirs(run_overrides: list[str], tmp_path: Path) -> None:
    (tmp_path / "run.json").touch()

    with pytest.raises(
        CtwaError, match=r" holds a run, and is to hold a folder for each method: give another ctwa\.run$"
    ):
        train_each(["linear", "guard"], [*run_overrides, f"ctwa.run={tmp_path}"])
