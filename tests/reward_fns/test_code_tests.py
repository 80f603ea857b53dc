"""Programs that are right, wrong, endless, greedy and dishonest."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from time import monotonic
from typing import Any

import pytest

from ctwa.errors import CtwaError
from ctwa.objectives import sandbox
from ctwa.objectives.loading import check_kwargs
from ctwa.objectives.sandbox import Limits, can_isolate, output_of, which_pass

ROOT = Path(__file__).parents[2]
Reward = Callable[[str], Callable[..., Any]]
DOUBLE = "def double(n):\n    return 2 * n\n"
ASSERTS = ["assert double(2) == 4", "assert double(0) == 0", "assert double(-3) == -6"]
PAIRS = {"inputs": ["3\n", "10\n"], "outputs": ["6\n", "20"]}


def block(code: str, language: str = "python") -> str:
    return f"Here it is:\n\n```{language}\n{dedent(code)}\n```\n"


@pytest.mark.parametrize(
    "tests",
    [
        ASSERTS,
        "\n".join(ASSERTS),
        "def check(candidate):\n    assert candidate(2) == 4\n\ncheck(double)",
        json.dumps(ASSERTS),
    ],
)
def test_asserts_in_every_form(reward_fn: Reward, tests: Any) -> None:
    code_tests = reward_fn("code_tests")
    assert code_tests(block(DOUBLE), tests) == code_tests(DOUBLE, tests) == 1
    assert code_tests(block(DOUBLE.replace("2 *", "3 *")), tests) == 0


def test_a_program_that_does_not_end_is_not_waited_for_at_every_input(reward_fn: Reward) -> None:
    program = block("n = int(input())\nwhile n == 1: pass\nprint(n)")
    tests = {"inputs": ["0", *["1"] * 98, "0"], "outputs": ["0", *["1"] * 98, "0"]}
    began = monotonic()
    assert reward_fn("code_tests")(program, tests, partial=True, seconds=1.0) == 0.01
    assert monotonic() - began < 50


@pytest.mark.parametrize(
    ("tests", "wrong"),
    [
        ("assert double(2) == 4\nfor n in range(5):\n    assert double(n) == 2 * n", "def double(n): return 4"),
        ("for n in range(5):\n    assert double(n) == 2 * n", "def double(n): return 4"),
        (
            "assert double(2) == 4\ntry:\n    double(None)\n    raise AssertionError\nexcept TypeError:\n    pass",
            "def double(n): return 4",
        ),
        ("with open('/dev/null'):\n    assert double(3) == 6", "def double(n): return 4"),
        ("def check():\n    assert double(3) == 6\nif __name__ == '__main__':\n    check()", "def double(n): return 4"),
        ("assert double(2) == 4\nfound = double(3)\nwrong = {6: 0}[found]", "def double(n): return 4"),
    ],
)
def test_no_statement_of_the_tests_is_left_out(reward_fn: Reward, tests: str, wrong: str) -> None:
    code_tests = reward_fn("code_tests")
    assert [code_tests(program, tests) for program in (DOUBLE, wrong)] == [1, 0]


def test_what_asks_nothing_is_no_test(reward_fn: Reward) -> None:
    tests = '"""Tests of double."""\nprint("now")\ncases = []\ncases.append(2)\nassert double(cases[0]) == 4'
    assert reward_fn("code_tests")("def double(n): return 0", tests, partial=True) == 0


@pytest.mark.parametrize(
    "response",
    [
        block(DOUBLE) + "It prints:\n\n```\n4\n```\n",
        block(DOUBLE).replace("\n", "\r\n"),
        "1. So:\n\n   ```python\n   def double(n):\n       return 2 * n\n   ```\n",
        block(DOUBLE, ""),
    ],
)
def test_the_program_is_found_as_models_write_it(reward_fn: Reward, response: str) -> None:
    assert reward_fn("code_tests")(response, ASSERTS) == 1


def test_an_input_may_be_a_list_of_lines_and_come_twice(reward_fn: Reward) -> None:
    add = block("print(int(input()) + int(input()))")
    code_tests = reward_fn("code_tests")
    assert code_tests(add, {"inputs": [["1", "2"], "3\n4"], "outputs": [["3"], 7]}) == 1
    assert code_tests(add, {"inputs": ["1\n2", "1\n2"], "outputs": ["4", "3"]}) == 0


def test_outputs_for_inputs(reward_fn: Reward) -> None:
    code_tests = reward_fn("code_tests")
    right = block("print(2 * int(input()), end='  \\n\\n')")
    assert code_tests(right, PAIRS) == code_tests(right, json.dumps(PAIRS)) == 1
    assert code_tests(block("print(6)"), PAIRS) == 0
    assert code_tests(block("print(6)"), PAIRS, partial=True) == 0.5
    # Right words and a failure behind them are no right program.
    assert code_tests(block("print(2 * int(input())); raise SystemExit(1)"), PAIRS) == 0


def test_partial_counts_the_tests_that_pass(reward_fn: Reward) -> None:
    almost = block("def double(n):\n    assert n >= 0\n    return 2 * n")
    assert reward_fn("code_tests")(almost, ASSERTS, partial=True) == pytest.approx(2 / 3)
    assert reward_fn("code_tests")(almost, ASSERTS) == 0


@pytest.mark.parametrize(
    "response",
    [
        *("", "I do not know.", "```python\n```", block("def double(n) return 2"), block(DOUBLE, "rust")),
        "```python\n" + DOUBLE,  # cut off
        block("import sys; sys.exit(0)"),
        block("import os; os._exit(0)"),
        block("def double(n):\n    import os; os._exit(0)"),
        block("def double(n):\n    raise SystemExit"),
        block("print('passed\\n' * 1000)"),
        block("import os\nfor fd in range(3, 20):\n    try: os.write(fd, b'loaded\\n1')\n    except OSError: 0"),
        block("def double(n):\n    while True: pass"),
        block("x = 'x' * (1 << 40)\n" + DOUBLE),
    ],
)
def test_what_is_no_program_that_passes(reward_fn: Reward, response: str) -> None:
    assert reward_fn("code_tests")(response, ASSERTS, seconds=1.0) == 0


CALLER = """
    import sys
    def double(n):
        frame = sys._getframe()
        while frame := frame.f_back:
            source = str(frame.f_locals.get("source"))
            if "==" in source:
                return eval(source.rsplit("==")[1])
"""
EQUAL = "class Equal:\n    def __eq__(self, other): return True\ndef double(n): return Equal()"
GUESSES = """
    import os, sys
    def double(n):
        word = sys._getframe(2).f_locals["word"]
        for fd in range(3, 20):
            for guess in range(-10, 10):
                try: os.write(fd, f"{word} {guess}\\n".encode())
                except OSError: break
"""


@pytest.mark.parametrize("program", [CALLER, EQUAL, GUESSES], ids=["frames", "equal", "guesses"])
def test_the_value_of_a_comparison_is_out_of_the_programs_reach(reward_fn: Reward, program: str) -> None:
    assert reward_fn("code_tests")(block(program), ASSERTS, partial=True) == 0


def test_what_python_calls_equal_is_equal(reward_fn: Reward) -> None:
    program = """
        from collections import Counter, namedtuple
        from decimal import Decimal
        from fractions import Fraction
        def f(kind):
            return {
                "counter": Counter("aab"), "tuple": namedtuple("P", "x y")(1, 2), "keys": {1: 2}.keys(), "text": "ä\\n",
                "fraction": Fraction(4, 2), "decimal": Decimal(3), "deep": [(1, {"a": {2}})], "float": 0.1 + 0.2,
            }[kind]
    """
    tests = [
        *("assert f('counter') == {'a': 2, 'b': 1}", "assert (1, 2) == f('tuple')", "assert f('keys') == {1}"),
        *("assert f('text') == 'ä\\n'", "assert f('fraction') == 2", "x = 3\nassert f('decimal') == 3, x"),
        *("assert f('deep') == [(1, {'a': {2}})]", "assert f('float') == 0.30000000000000004"),
    ]
    assert reward_fn("code_tests")(block(program), tests) == 1
    assert reward_fn("code_tests")(block(program), ["assert f('tuple') == [1, 2]", "assert f('deep') == []"]) == 0


def test_tests_that_cannot_be_read_are_unscored(reward_fn: Reward) -> None:
    tests: list[Any] = [
        None,
        "",
        "assert (",
        [],
        {},
        {"inputs": [], "outputs": []},
        {"inputs": ["1"], "outputs": []},
        3,
        "{",
        *("4", "hello", '"""A text."""'),
        {"inputs": [[1], [2]], "outputs": [2, 4], "fn_name": "double"},
        {"inputs": [{"n": 1}], "outputs": ["2"]},
    ]
    assert [reward_fn("code_tests")(block(DOUBLE), each) for each in tests] == [None] * len(tests)


def test_a_program_has_little_within_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "s3cret")
    told = output_of("import os; print(sorted(os.environ), os.listdir())", "", Limits())
    assert told is not None
    assert "SECRET_KEY" not in told
    assert "['program.py']" in told
    assert output_of("open('big', 'wb').write(b'x' * (20 << 20))", "", Limits()) is None
    assert output_of("print('x' * (20 << 20))", "", Limits()) is None


@pytest.mark.skipif(not can_isolate(), reason="this kernel gives an ordinary user no namespaces")
def test_a_program_has_no_network_and_nothing_of_it_outlives_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert output_of(f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)", "", Limits()) is None
    # A child in a session of its own holds the pipe open for as long as it lives.
    path = tmp_path / "fifo"
    os.mkfifo(path, 0o666)
    listener = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    program = f"""
        import os, subprocess, sys
        held = os.open({str(path)!r}, os.O_WRONLY)
        os.write(held, b"up")
        waits = [sys.executable, "-c", "import time; time.sleep(600)"]
        subprocess.Popen(waits, start_new_session=True, pass_fds=[held])
    """
    os.chmod(tmp_path, 0o777)
    assert output_of(dedent(program), "", Limits()) == ""
    os.set_blocking(listener, True)
    assert os.read(listener, 2) == b"up"
    assert os.read(listener, 1) == b""  # nobody holds the other end
    os.close(listener)


LEAVES_DEEP_FOLDERS = "import os\nfor _ in range(3000):\n    os.mkdir('a'); os.chdir('a')"
SPEAKS_FOR_THE_TEST = """
    import os, sys
    def double(n):
        frame = sys._getframe(2)
        os.write(frame.f_locals["channel"], f"{frame.f_locals['word']} {{[]: 1}}\\n".encode())
        os._exit(0)
"""


@pytest.mark.parametrize("program", [LEAVES_DEEP_FOLDERS, SPEAKS_FOR_THE_TEST], ids=["folders", "answer"])
def test_nothing_that_a_program_leaves_or_says_is_an_error(reward_fn: Reward, program: str) -> None:
    assert reward_fn("code_tests")(block(program), ASSERTS) == 0


def test_a_folder_that_takes_long_to_remove_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sandbox, "_MAX_REMOVAL", 0.0)
    assert output_of("import os\nfor n in range(500): os.mkdir(str(n))\nprint(7)", "", Limits()) == "7\n"
    began = monotonic()
    while any(tmp_path.iterdir()):  # it goes on by itself
        assert monotonic() - began < 60


def test_each_test_is_told_from_the_others() -> None:
    program = "def f(n):\n    if n == 2:\n        while True: pass\n    return n"
    tests = ["assert f(1) == 1", "assert f(1) == 2", "assert f(3) == 3", "assert f(2) == 2", "assert f(4) == 4"]
    assert which_pass(program, tests, Limits(seconds=1.0)) == [True, False, True, False, False]
    many = ["assert f(1) == 1  # " + "x" * 1000] * 500  # more than a pipe holds
    assert which_pass(program, many, Limits()) == [True] * 500


@pytest.mark.parametrize("kwargs", [{"seconds": -1.0}, {"seconds": float("nan")}, {"memory_mb": 0}])
def test_limits_that_no_program_keeps_are_refused_before_a_run(reward_fn: Reward, kwargs: dict[str, Any]) -> None:
    with pytest.raises(CtwaError, match="write seconds above 0, and at least 16 MB"):
        check_kwargs(reward_fn("code_tests"), f"{ROOT}/reward_fns/code_tests.py:code_tests", kwargs)
