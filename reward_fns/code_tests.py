"""Unit tests: does the program in the response pass its tests?"""

import ast
import json
import re
import textwrap
import unicodedata
from collections.abc import Iterator
from itertools import groupby
from time import monotonic
from typing import Any

from ctwa.objectives.sandbox import Limits, output_of, which_pass

_FENCE = re.compile(r"[ \t]*```[ \t]*(\w*)")
_MAX_MARKS = 1000  # that combine with one letter: Python sorts them, which takes the square of their number
_PYTHON = ("python", "py", "python3")
_BLOCKS_OF_STATEMENTS = ast.If | ast.For | ast.While | ast.With | ast.Try


def code_tests(
    response: str, ground_truth: Any, partial: bool = False, seconds: float = 5.0, memory_mb: int = 512
) -> float | None:
    """1 where the Python program in the response's last code block passes all of its tests, else 0.

    The last block that is marked as Python counts; where none is, the last one without a mark. The tests are Python
    code with asserts (a text, or a list of them), or what is to be printed for which input: `{"inputs": [...],
    "outputs": [...]}`, also as JSON, each a text or a list of lines. None where the ground truth is neither, or names
    a function to call (`fn_name`). The program runs in a process of its own that is killed at its deadline, has
    limits, and no network where the kernel allows that.

    Args:
        response: the response; without a code block it is the program itself.
        ground_truth: the tests.
        partial: the share of the tests that pass counts, not all or none.
        seconds: of all asserts together, or of each input; the objective's `timeout` has to be longer than all of
            them. A program that does not come to its end in time for one input has failed all that follow.
        memory_mb: that a process may take.
    """
    tests = _tests_of(ground_truth)
    if tests is None:
        return None
    program = _program_of(response)
    if program is None:
        return 0.0
    limits = Limits(seconds, memory_mb)
    if isinstance(tests, list):
        passed = which_pass(program, tests, limits)
    else:
        passed = []
        for given, wanted in tests:
            began = monotonic()
            printed = output_of(program, given, limits)
            passed.append(printed is not None and _lines(printed) == _lines(wanted))
            is_endless = monotonic() - began >= seconds  # all of them would take longer than the call may
            if is_endless or (not passed[-1] and not partial):
                break
    return sum(passed) / len(tests) if partial else float(sum(passed) == len(tests))


def check_code_tests(partial: bool = False, seconds: float = 5.0, memory_mb: int = 512) -> None:
    """Refuse what no program can keep to."""
    del partial
    if not 0 < seconds < float("inf") or memory_mb < 16:
        raise ValueError(f"seconds={seconds:g}, memory_mb={memory_mb}: write seconds above 0, and at least 16 MB")


def _program_of(response: str) -> str | None:
    """The last block of Python; None where there is none that can be read."""
    response = response.replace("\r\n", "\n")
    blocks = list(_blocks_of(response))
    marked = [code for language, code in blocks if language in _PYTHON]
    unmarked = [code for language, code in blocks if not language]  # behind a program often what it prints
    program = (marked or unmarked or [response])[-1]
    combines = map(bool, map(unicodedata.combining, program))
    if any(is_mark and len(list(run)) > _MAX_MARKS for is_mark, run in groupby(combines)):
        return None
    try:
        return program if ast.parse(program).body else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _blocks_of(response: str) -> Iterator[tuple[str, str]]:
    """The languages of the code blocks that are closed, in small letters, and what the blocks hold."""
    language: str | None = None
    code: list[str] = []
    for line in response.split("\n"):
        fence = _FENCE.match(line)
        if fence and language is None:
            language, code = fence[1].lower(), []
        elif language is not None and fence and line.strip(" \t") == "```":
            yield language, textwrap.dedent("\n".join(code))
            language = None
        else:
            code.append(line)


def _tests_of(ground_truth: Any) -> list[str] | tuple[tuple[str, str], ...] | None:
    """Asserts, each as code of its own, or inputs with their outputs."""
    if isinstance(ground_truth, str) and ground_truth.lstrip()[:1] in ("{", "["):
        try:
            ground_truth = json.loads(ground_truth)
        except ValueError:
            return None
    if isinstance(ground_truth, dict):
        inputs, outputs = ground_truth.get("inputs"), ground_truth.get("outputs")
        if not isinstance(inputs, list) or not isinstance(outputs, list) or not inputs or len(inputs) != len(outputs):
            return None
        texts = [_text_of(each) for each in [*inputs, *outputs]]
        if ground_truth.get("fn_name") is not None or None in texts:
            return None
        known = [text for text in texts if text is not None]
        return tuple(zip(known[: len(inputs)], known[len(inputs) :], strict=True))
    sources = [ground_truth] if isinstance(ground_truth, str) else ground_truth
    if not isinstance(sources, list) or not all(isinstance(source, str) for source in sources):
        return None
    try:
        statements = [statement for source in sources for statement in ast.parse(source).body]
    except (SyntaxError, ValueError):
        return None
    return _one_by_one(statements) or None


def _text_of(side: Any) -> str | None:
    """An input or an output as a text: a text, a number, or a list of those, its lines; None where it is neither."""
    lines = side if isinstance(side, list) else [side]
    return "\n".join(map(str, lines)) if all(isinstance(line, str | int | float) for line in lines) else None


def _one_by_one(statements: list[ast.stmt]) -> list[str]:
    """A test for every statement that asks something; what stands before it prepares it, the end is of the last."""
    tests, before = [], ""
    for statement in statements:
        # `if __name__ == "__main__":` is meant to run here too.
        is_main = isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)
        for each in statement.body if isinstance(statement, ast.If) and is_main else [statement]:
            before += f"{ast.unparse(each)}\n"
            if _is_test(each):
                tests.append(before)
                before = ""
    if tests:
        tests[-1] += before
    return tests


def _is_test(statement: ast.AST) -> bool:
    """An assert, a call of a function by its name, or a loop and the like with one of these in it."""
    if isinstance(statement, _BLOCKS_OF_STATEMENTS | ast.ExceptHandler):
        return any(map(_is_test, ast.iter_child_nodes(statement)))
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        called = statement.value.func
        return isinstance(called, ast.Name) and called.id != "print"
    return isinstance(statement, ast.Assert | ast.Raise)


def _lines(text: str) -> list[list[str]]:
    """What is compared of an output: its words, line by line, without empty lines at the end."""
    return [line.split() for line in text.rstrip().splitlines()]
