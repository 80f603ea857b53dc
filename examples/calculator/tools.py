"""The tool: a calculator of the testbed's arithmetic."""

from __future__ import annotations

from verl.tools.function_tool import function_tool

from ctwa.testbed.tasks import OPERATORS, Problem


@function_tool
def calculator(expression: str) -> str:
    """Calculate from left to right, modulo 10.

    Args:
        expression: digits with + - * between them, set off by spaces, e.g. 3 + 4 * 2.
    """
    operands, operators = expression.split()[::2], expression.split()[1::2]
    if len(operands) != len(operators) + 1 or not {*operators} <= {*OPERATORS}:
        raise ValueError(f"{expression!r} is no expression of digits with + - * between them")
    return str(Problem(tuple(map(int, operands)), tuple(operators)).answer)
