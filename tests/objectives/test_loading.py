import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctwa.errors import CtwaError
from ctwa.objectives import loading
from ctwa.objectives.loading import check_kwargs, load_function, resolve_spec


def test_a_function_of_a_file(reward_file: Callable[..., str]) -> None:
    path = reward_file("def f(response): return len(response)")
    assert load_function(resolve_spec(f"{path}:f"))("abc") == 3


def test_a_function_of_a_module() -> None:
    assert load_function(resolve_spec("math:sqrt"))(9.0) == 3.0


def test_two_files_of_the_same_name_live_side_by_side(reward_file: Callable[..., str]) -> None:
    first = reward_file("def f(response): return 1", "a/reward.py")
    second = reward_file("def f(response): return 2", "b/reward.py")
    assert [load_function(f"{path}:f")("") for path in (first, second, first)] == [1, 2, 1]


def test_a_file_may_use_dataclasses_and_pickle(reward_file: Callable[..., str]) -> None:
    path = reward_file("""
        from __future__ import annotations
        import dataclasses, pickle
        @dataclasses.dataclass
        class Box: value: int
        def f(response): return pickle.loads(pickle.dumps(Box(4))).value
    """)
    assert load_function(f"{path}:f")("") == 4


def test_a_relative_path_is_looked_for_in_the_current_directory_first(
    reward_file: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, here = tmp_path / "root", tmp_path / "here"
    reward_file("", "root/reward_fns/both.py")
    reward_file("", "root/reward_fns/root_only.py")
    reward_file("", "here/reward_fns/both.py")
    monkeypatch.setattr(loading, "SHIPPED", root)
    monkeypatch.chdir(here)
    assert resolve_spec("reward_fns/both.py:f") == f"{here}/reward_fns/both.py:f"
    assert resolve_spec("reward_fns/root_only.py:f") == f"{root}/reward_fns/root_only.py:f"


def test_the_repositorys_reward_functions_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_function(resolve_spec("reward_fns/clarity.py:clarity"))("") == 0.0


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "SHIPPED", tmp_path / "root")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CtwaError) as error:
        resolve_spec("no/such.py:f")
    assert str(error.value) == (
        f"reward function 'no/such.py:f': there is no file {tmp_path}/no/such.py nor {tmp_path}/root/no/such.py"
    )
    with pytest.raises(CtwaError, match=f"there is no file {tmp_path}/such.py$"):
        resolve_spec(f"{tmp_path}/such.py:f")


def test_a_class_is_no_function(reward_file: Callable[..., str]) -> None:
    with pytest.raises(CtwaError, match=r"'Reward' is a class; give a function, or an object of the class$"):
        load_function(f"{reward_file('class Reward: ...')}:Reward")


def test_an_import_that_fails_in_several_lines_is_told_in_one(reward_file: Callable[..., str]) -> None:
    path = reward_file(r"raise ValueError('a\nb')")
    with pytest.raises(CtwaError, match=r"failed with ValueError: a b \(\w+\.py, line 1\)$"):
        load_function(f"{path}:f")


def test_a_missing_function_says_which_there_are(reward_file: Callable[..., str]) -> None:
    path = reward_file("""
        from math import sqrt
        def accuracy(response): ...
        def clarity(response): ...
        def _helper(): ...
    """)
    with pytest.raises(CtwaError) as error:
        load_function(f"{path}:acuracy")
    assert str(error.value) == (
        f"reward function '{path}:acuracy': {path} has no function 'acuracy', it has 'accuracy', 'clarity'; "
        "did you mean 'accuracy'?"
    )


def test_a_missing_module_is_told_from_a_module_that_imports_a_missing_one(
    reward_file: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    reward_file("import no_such_dependency", "needs_more.py")
    with pytest.raises(CtwaError, match=r"there is no module 'no_such.module'; install it, run from the directory"):
        load_function("no_such.module:f")
    with pytest.raises(CtwaError, match=r"importing needs_more failed with ModuleNotFoundError: .*no_such_dependency"):
        load_function("needs_more:f")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = 1\nraise RuntimeError('no licence')", r"RuntimeError: no licence \(rewards.py, line 2\)$"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("import sys; sys.exit(3)", r"SystemExit: 3 \(rewards.py, line 1\)$"),
    ],
)
def test_a_file_that_cannot_be_imported(reward_file: Callable[..., str], source: str, message: str) -> None:
    path = reward_file(source)
    before = set(sys.modules)
    with pytest.raises(CtwaError, match=f"importing .*rewards.py failed with {message}"):
        load_function(f"{path}:f")
    assert not [name for name in set(sys.modules) - before if name.startswith("ctwa_reward_")]


@pytest.mark.parametrize("written", ["\u00b5f", "\u03bcf", "ﬁt", "cafe\u0301", "ℌ"])
def test_a_function_may_be_named_by_any_form_of_its_characters(reward_file: Callable[..., str], written: str) -> None:
    """Python reads names in one form (NFKC), whichever the file has."""
    path = reward_file(f"def {written}(response, k=0): return 1\ndef check_{written}(k=0): raise ValueError('looked')")
    assert load_function(f"{path}:{written}")("") == 1
    assert load_function(resolve_spec(f"{path}:{written}"))("") == 1
    with pytest.raises(CtwaError, match="looked"):
        check_kwargs(load_function(f"{path}:{written}"), f"{path}:{written}", {})


@pytest.mark.parametrize("spec", ["accuracy", "file.py", "file.py:", ":f", "file.py:not a name", ""])
def test_a_spec_of_another_form_is_refused(spec: str) -> None:
    with pytest.raises(CtwaError, match=r"is not of the form 'path/file.py:function' or 'package.module:function'"):
        resolve_spec(spec)


TYPED = """
from __future__ import annotations
from collections.abc import Sequence
import numpy as np

def f(response, budget: int, lost: Nowhere = 0): return 0.0
def g(response, budget: int, scale: float = 1, ends: Sequence[float] = (), mode: str | None = None,
      late: int = None, table: np.ndarray = None, **others): return 0.0
"""


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"budget": "300"}, "budget='300' is not of its annotation, int: Input should be a valid integer"),
        ({"budget": True}, "budget=True is not of its annotation, int"),
        ({"budget": 1, "ends": [1, "2"]}, r"ends=\[1, '2'\] is not of its annotation, .*Sequence.float.: Input should"),
    ],
)
def test_kwargs_of_another_type_than_annotated_are_refused(
    reward_file: Callable[..., str], kwargs: dict[str, Any], said: str
) -> None:
    spec = f"{reward_file(TYPED)}:g"
    with pytest.raises(CtwaError, match=f"the kwargs of reward function '.*:g': {said}"):
        check_kwargs(load_function(spec), spec, kwargs)


def test_kwargs_that_an_annotation_allows_or_says_nothing_of_are_taken(reward_file: Callable[..., str]) -> None:
    path = reward_file(TYPED)
    allowed = {"budget": 3, "scale": 2, "ends": [1, 2.5], "mode": None, "late": None, "table": [1], "other": "x"}
    check_kwargs(load_function(f"{path}:g"), f"{path}:g", allowed)
    # An annotation that cannot be read, of a type that is imported for checkers alone, leaves all of them alone.
    check_kwargs(load_function(f"{path}:f"), f"{path}:f", {"budget": "300"})


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ("def check_f(word): raise ValueError(f'no {word}')", "no hi"),
        ("def check_f(word): assert word == 'no'", r"AssertionError \(rewards.py, line 2\)"),
        ("def check_f(word): raise SystemExit(3)", r"SystemExit: 3 \(rewards.py, line 2\)"),
        ("def check_f(word): import sys; sys.exit('stop')", r"SystemExit: stop \(rewards.py, line 2\)"),
        ("def check_f(word): raise KeyboardInterrupt", "KeyboardInterrupt"),
        (
            "def check_f(wrod='x'): pass",
            "handed to check_f beside it: got an unexpected keyword argument 'word'; let it",
        ),
        # What is for something else.
        ("def check_f(): assert False", None),
        ("def check_f(word, other): assert False", None),
        ("def check_f(tmp_path): assert False", None),
        ("check_f = type", None),
        ("check_f = 'text'", None),
        ("class check_f:\n    def __init__(self): assert False", None),
        # What looks at some, and finds nothing.
        ("def check_f(**kwargs): assert kwargs == {'word': 'hi'}", None),
        ("def check_f(word, other=1): assert word == 'hi'", None),
    ],
)
def test_what_a_function_s_own_check_raises_is_told(
    reward_file: Callable[..., str], check: str, said: str | None
) -> None:
    path = reward_file("def f(response, word): return 1.0\n" + check)
    spec = f"{path}:f"
    if said is None:
        check_kwargs(load_function(spec), spec, {"word": "hi"})
    else:
        with pytest.raises(CtwaError, match=f"the kwargs of reward function '.*:f'.*{said}"):
            check_kwargs(load_function(spec), spec, {"word": "hi"})
