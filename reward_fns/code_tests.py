"""Unit tests: does the program in the response pass its tests?"""

import ast
import json
import re
from typing import Any

from ctwa.objectives.sandbox import Limits, output_of, which_pass

_BLOCK = re.compile(r"^```[ \t]*(\w*)[^\n]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
_PYTHON = ("", "python", "py", "python3")


def code_tests(
    response: str, ground_truth: Any, partial: bool = False, seconds: float = 5.0, memory_mb: int = 512
) -> float | None:
    """1 where the Python program in the response's last code block passes all of its tests, else 0.

    The tests are Python code with asserts (a text, or a list of them), or what is to be printed for which input:
    `{"inputs": [...], "outputs": [...]}`, also as JSON. None where the ground truth is neither. The program runs in a
    process of its own that is killed at its deadline, has limits, and no network where the kernel allows that.

    Args:
        response: the response; without a code block it is the program itself.
        ground_truth: the tests.
        partial: the share of the tests that pass counts, not all or none.
        seconds: of all asserts together, or of each input; the objective's `timeout` has to be longer.
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
        for given, wanted in tests.items():
            printed = output_of(program, given, limits)
            passed.append(printed is not None and _lines(printed) == _lines(wanted))
            if not passed[-1] and not partial:
                break
    return sum(passed) / len(passed) if partial else float(all(passed))


def _program_of(response: str) -> str | None:
    """The last block of Python; None where there is none that can be read."""
    blocks = [code for language, code in _BLOCK.findall(response + "\n") if language.lower() in _PYTHON]
    program = blocks[-1] if blocks else response
    try:
        return program if ast.parse(program).body else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _tests_of(ground_truth: Any) -> list[str] | dict[str, str] | None:
    """Asserts, each as code of its own, or outputs by input."""
    if isinstance(ground_truth, str) and ground_truth.lstrip()[:1] in ("{", "["):
        try:
            ground_truth = json.loads(ground_truth)
        except ValueError:
            return None
    if isinstance(ground_truth, dict):
        inputs, outputs = ground_truth.get("inputs"), ground_truth.get("outputs")
        if not isinstance(inputs, list) or not isinstance(outputs, list) or not inputs or len(inputs) != len(outputs):
            return None
        return {str(given): str(wanted) for given, wanted in zip(inputs, outputs, strict=True)}
    sources = [ground_truth] if isinstance(ground_truth, str) else ground_truth
    if not isinstance(sources, list) or not all(isinstance(source, str) for source in sources):
        return None
    try:
        statements = [statement for source in sources for statement in ast.parse(source).body]
    except (SyntaxError, ValueError):
        return None
    return _one_by_one(statements) or None


def _one_by_one(statements: list[ast.stmt]) -> list[str]:
    """A test for every assert and every call; what stands before one prepares it."""
    tests, before = [], ""
    for statement in statements:
        source = ast.unparse(statement)
        if isinstance(statement, ast.Assert | ast.Expr):
            tests.append(f"{before}{source}")
            before = ""
        else:
            before += f"{source}\n"
    return tests


def _lines(text: str) -> list[list[str]]:
    """What is compared of an output: its words, line by line, without empty lines at the end."""
    return [line.split() for line in text.rstrip().splitlines()]
