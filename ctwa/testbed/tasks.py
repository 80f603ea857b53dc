"""Problems of the arithmetic testbed and the ways in which a demonstration may write an answer.

A problem is a chain of three or four operations on single digits, evaluated strictly from left to right, every
intermediate value reduced modulo 10: ``3 + 4 * 2 - 5`` is ``((3 + 4) * 2) - 5 = 4 - 5 = 9``. The response styles differ
in how much they show, hence in length, clarity and difficulty: the objectives of the testbed conflict through them.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

OPERATORS = ("+", "-", "*")
NUM_OPERATIONS = (3, 4)
TEST_FRACTION = 0.1


@dataclass(frozen=True)
class Problem:
    """``operands[0] operators[0] operands[1] operators[1] ...``, modulo 10; one more operand than operators."""

    operands: tuple[int, ...]
    operators: tuple[str, ...]

    @property
    def num_operations(self) -> int:
        """Three or four."""
        return len(self.operators)

    @property
    def values(self) -> tuple[int, ...]:
        """Running values from the first operand to the answer: ``num_operations + 1`` digits."""
        values = [self.operands[0]]
        for operator, operand in zip(self.operators, self.operands[1:], strict=True):
            values.append(_apply(operator, values[-1], operand))
        return tuple(values)

    @property
    def answer(self) -> int:
        """The value after the last operation."""
        return self.values[-1]

    @property
    def prompt(self) -> str:
        """The user's message; the chat template puts ``<bos>`` before it."""
        steps = (f"{op} {x}" for op, x in zip(self.operators, self.operands[1:], strict=True))
        return " ".join(["Compute mod 10 :", str(self.operands[0]), *steps, "?"])

    @property
    def is_test(self) -> bool:
        """Whether the problem is held out: a fixed pseudo-random tenth of all problems, whatever the seed.

        The split is a rolling hash of operands and operators, so that no generator can leak a held-out problem into
        training by drawing it again.
        """
        h = 17
        for operand in self.operands:
            h = (31 * h + operand + 1) % 1_000_003
        for operator in self.operators:
            h = (37 * h + ord(operator)) % 1_000_003
        return (2_654_435_761 * h % 2**32) / 2**32 < TEST_FRACTION


def _apply(operator: str, left: int, right: int) -> int:
    if operator == "+":
        return (left + right) % 10
    if operator == "-":
        return (left - right) % 10
    return (left * right) % 10


def draw_problem(rng: random.Random, *, test: bool) -> Problem:
    """Draw one problem of the held-out part (``test=True``) or of the training part; operations uniform in {3, 4}."""
    while True:
        num_operations = rng.choice(NUM_OPERATIONS)
        operands = tuple(rng.randrange(10) for _ in range(num_operations + 1))
        operators = tuple(rng.choice(OPERATORS) for _ in range(num_operations))
        problem = Problem(operands, operators)
        if problem.is_test == test:
            return problem


def draw_distinct(rng: random.Random, count: int, *, test: bool) -> list[Problem]:
    """Draw ``count`` different problems of one part, in the order in which they were drawn."""
    problems: dict[Problem, None] = {}
    while len(problems) < count:
        problems[draw_problem(rng, test=test)] = None
    return list(problems)


# --- response styles -------------------------------------------------------------------------------------------------


def _steps(problem: Problem) -> list[tuple[int, int, str, int, int]]:
    """(number of the step, value before, operator, operand, value after) of every operation."""
    values = problem.values
    return [
        (i + 1, values[i], operator, problem.operands[i + 1], values[i + 1])
        for i, operator in enumerate(problem.operators)
    ]


def _boxed(problem: Problem) -> str:
    return rf"\boxed{{ {problem.answer} }}"


def _prose(problem: Problem) -> str:
    steps = [f"we compute {a} {op} {b} to get {c} ," for _, a, op, b, c in _steps(problem)]
    return " ".join([*steps, f"so the answer is {_boxed(problem)} ."])


def _verbose_steps(problem: Problem) -> str:
    steps = [f"Step {i} : we compute {a} {op} {b} to get {c} ." for i, a, op, b, c in _steps(problem)]
    return " ".join([*steps, f"So the answer is {_boxed(problem)} ."])


def _compact_steps(problem: Problem) -> str:
    steps = [f"Step {i} : {a} {op} {b} = {c} ." for i, a, op, b, c in _steps(problem)]
    return " ".join([*steps, _boxed(problem)])


def _terse(problem: Problem) -> str:
    steps = [f"{a} {op} {b} = {c} ;" for _, a, op, b, c in _steps(problem)]
    return " ".join([*steps, _boxed(problem)])


def _outline(problem: Problem) -> str:
    (_, first, op, b, _), *rest = _steps(problem)
    steps = [f"Step 1 : {first} {op} {b} .", *(f"Step {i} : {op} {b} ." for i, _, op, b, _ in rest)]
    return " ".join([*steps, _boxed(problem)])


def _short_outline(problem: Problem) -> str:
    return f"Step 1 : read . Step 2 : solve . {_boxed(problem)}"


def _merged_pairs(problem: Problem) -> str:
    steps = _steps(problem)
    pairs = [steps[i : i + 2] for i in range(0, len(steps), 2)]
    lines = [
        f"Step {k} : {pair[0][1]} {' '.join(f'{op} {b}' for _, _, op, b, _ in pair)} = {pair[-1][4]} ."
        for k, pair in enumerate(pairs, start=1)
    ]
    return " ".join([*lines, _boxed(problem)])


STYLES: Mapping[str, Callable[[Problem], str]] = {
    "P": _prose,
    "V": _verbose_steps,
    "S": _compact_steps,
    "T": _terse,
    "H": _outline,
    "h": _short_outline,
    "D": _boxed,
    "M": _merged_pairs,
}
"""How a demonstration may answer, by the letter that the mixtures use.

P prose, V verbose steps, S compact steps and T terse show every intermediate value; M shows every second one; H lists
the operations without results, h only pretends to have steps, D answers at once. At a budget of 32 tokens S on three
operations is the only one that is correct by its own working, short and clear.
"""


def write_response(problem: Problem, style: str) -> str:
    """The demonstration of ``style`` for ``problem``, words separated by single spaces, without the final ``<eos>``."""
    return STYLES[style](problem)


def num_response_tokens(response: str) -> int:
    """Length of a demonstration in tokens, its ``<eos>`` included (every word is one token)."""
    return len(response.split()) + 1
