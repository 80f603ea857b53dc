"""The inside of ``sandbox``: it shuts itself in, then runs a program that a model wrote.

Started as ``python -I sandboxed.py SETTINGS`` in an empty folder; it imports nothing of ours. Three processes, one
inside the other: the one that was started, the first of the new namespaces, which waits and takes all others with it
when it ends, and the one that the program runs in. Without namespaces the program runs in the one that was started.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import runpy
import signal
import sys
from collections.abc import Set
from decimal import Decimal
from fractions import Fraction
from typing import Any

NAMESPACES = 0x10000000 | 0x40000000 | 0x20000000 | 0x08000000  # of users, networks, processes and shared memory
_SET_DEATH_SIGNAL, _SET_NO_NEW_PRIVILEGES = 1, 38  # of prctl
LOADED = b"loaded\n"
_LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Shut in, then run."""
    settings = json.loads(sys.argv[1])
    _die_with_parent()
    _LIBC.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if settings["isolated"]:
        if _LIBC.unshare(NAMESPACES) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        _go_on_in_child()  # the first of the namespace of processes
        _go_on_in_child()
    for name, limit in settings["limits"].items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    sys.argv[:] = ["program.py"]
    if settings["channel"] is None:
        runpy.run_path("program.py", run_name="__main__")
    else:
        _run_tests(settings["channel"])


def _run_tests(channel: int) -> None:
    """Load the program, ask for the tests, and say of each that holds.

    The tests come when the program is loaded, each with a word that the program cannot know, so that neither an exit
    nor whatever it prints is taken for a test that holds.
    """
    space: dict[str, Any] = runpy.run_path("program.py", run_name="program")
    os.write(channel, LOADED)
    with os.fdopen(os.dup(channel)) as tests:
        for line in iter(tests.readline, "\n"):
            word, source, expression = json.loads(line)
            answer = ""
            try:
                exec(compile(source, "test", "exec"), space)
                if expression is not None:
                    answer = f" {_plain(eval(compile(expression, 'test', 'eval'), space))!r}"
            except BaseException:  # noqa: BLE001 - whatever a program raises, its exit included
                continue
            os.write(channel, f"{word}{answer}\n".encode())


def _plain(value: Any) -> Any:
    """A value as what can be written as a literal; other kinds of numbers and collections are taken as the plain ones.

    Raises:
        TypeError: it is none of these.
    """
    if value is None or isinstance(value, bool):
        return value
    plain: tuple[Any, ...] = (int, float, complex, str, bytes)
    for kind in plain:
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return (list if isinstance(value, list) else tuple)(map(_plain, value))
    if isinstance(value, Set):
        return set(map(_plain, value))
    if hasattr(value, "tolist"):  # numpy's
        return _plain(value.tolist())
    if isinstance(value, Fraction | Decimal):
        return int(value) if value == int(value) else float(value)
    raise TypeError(f"no literal: {type(value)}")


def _go_on_in_child() -> None:
    """Fork; the parent waits for the child, and ends as it did."""
    child = os.fork()
    if child == 0:
        _die_with_parent()
        return
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _die_with_parent() -> None:
    _LIBC.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    main()
