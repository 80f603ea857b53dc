"""Runs programs that a model wrote: in a process of their own, with limits, and with little of ours within reach.

The process has an empty folder, an empty environment, limits of memory, processor time, files and their size, and a
deadline; at its end it is killed with all that it started. Where the kernel lets an ordinary user make namespaces (most
do; containers often forbid it), it has no network, and a process that leaves its group does not outlive it. It can
still read what this user can read, and the superuser's may start as many processes as it likes before its deadline. To
run the programs of an enemy, run ctwa in a container.
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path
from time import monotonic
from typing import Any

from ctwa.objectives.sandboxed import LOADED

_INSIDE = str(Path(__file__).with_name("sandboxed.py"))
_MAX_OUTPUT = 1 << 20  # bytes that are read of what a program prints
_NUM_FILES, _NUM_PROCESSES = 64, 64  # at once
_REMOVE = 'rm -rf "$1" || { chmod -R u+rwx "$1"; rm -rf "$1"; }'
_MAX_REMOVAL = 1.0  # s that are waited for the removal of a program's folder; it goes on by itself


@dataclass(frozen=True)
class Limits:
    """What a program may take.

    Attributes:
        seconds: until it is killed; all of its tests together.
        memory_mb: of addresses, in each of its processes; Python itself takes some 30.
        file_mb: of a file that it writes, and of what it prints.
    """

    seconds: float = 5.0
    memory_mb: int = 512
    file_mb: int = 8


def output_of(program: str, text: str, limits: Limits) -> str | None:
    """What a Python program prints for a text on its standard input; None where it fails or does not come to an end."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as printed:
        given.write(text.encode(errors="replace"))
        given.seek(0)
        with _started(
            program, limits, isolated=can_isolate(), stdin=given.fileno(), stdout=printed.fileno()
        ) as process:
            _wait(process, monotonic() + limits.seconds)
        printed.seek(0)
        return printed.read(_MAX_OUTPUT).decode(errors="replace") if process.returncode == 0 else None


def which_pass(program: str, tests: Sequence[str], limits: Limits) -> list[bool]:
    """Which of some tests, each Python code that raises where it does not hold, a Python program passes.

    Of a test that ends in ``assert EXPRESSION == VALUE`` the program's process is asked for the expression alone, and
    the value, a literal, is compared here: neither an object that is equal to everything nor a look into the frames of
    the caller passes it. Any other test runs beside the program, which can pass it so. None is passed by leaving early
    or by what is printed.
    """
    words, asked = [secrets.token_hex(16) for _ in tests], [_asked(test) for test in tests]
    lines = [json.dumps([word, each.source, each.expression]) + "\n" for word, each in zip(words, asked, strict=True)]
    ours, theirs = socket.socketpair()
    with ours, theirs, _started(program, limits, isolated=can_isolate(), channel=theirs.fileno()) as process:
        theirs.close()
        said = _converse(process, monotonic() + limits.seconds, ours, "".join([*lines, "\n"]).encode())
    answers: dict[str, set[str]] = {}
    for line in said.decode(errors="replace").splitlines():
        word, _, answer = line.partition(" ")
        answers.setdefault(word, set()).add(answer)
    return [each.is_answered_by(answers.get(word, set())) for word, each in zip(words, asked, strict=True)]


@dataclass(frozen=True)
class _Asked:
    """What a program's process is asked.

    Attributes:
        source: code to run.
        expression: whose value is asked for behind it; None where the code is to run to its end, no more.
        value: that it is to have.
    """

    source: str
    expression: str | None = None
    value: Any = None

    def is_answered_by(self, answers: Collection[str]) -> bool:
        """Whether there is one answer, and it is right: who gives several guesses."""
        if len(answers) != 1:
            return False
        (answer,) = answers
        if self.expression is None:
            return answer == ""
        try:
            return bool(ast.literal_eval(answer) == self.value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            return False


def _asked(test: str) -> _Asked:
    *before, last = ast.parse(test).body
    compared = last.test if isinstance(last, ast.Assert) else None
    if isinstance(compared, ast.Compare) and [type(each) for each in compared.ops] == [ast.Eq]:
        sides = (compared.left, compared.comparators[0])
        for expression, literal in (sides, sides[::-1]):
            try:
                value = ast.literal_eval(literal)
            except (ValueError, TypeError):
                continue
            return _Asked("\n".join(map(ast.unparse, before)), ast.unparse(expression), value)
    return _Asked(test)


@lru_cache(maxsize=1)
def can_isolate() -> bool:
    """Whether the kernel gives an ordinary user namespaces: then a program has no network."""
    limits = Limits(seconds=20.0)
    with _started("", limits, isolated=True) as process:
        _wait(process, monotonic() + limits.seconds)
    return process.returncode == 0


@contextlib.contextmanager
def _started(
    program: str,
    limits: Limits,
    *,
    isolated: bool,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    channel: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a folder of its own, killed at the end with all that it started."""
    bounds = {
        "RLIMIT_AS": limits.memory_mb << 20,
        "RLIMIT_CPU": ceil(limits.seconds) + 1,
        "RLIMIT_FSIZE": limits.file_mb << 20,
        "RLIMIT_NOFILE": _NUM_FILES,
        "RLIMIT_CORE": 0,
    }
    if isolated:  # else those of the user's other processes would count
        bounds["RLIMIT_NPROC"] = _NUM_PROCESSES
    settings = {"isolated": isolated, "limits": bounds, "channel": channel}
    with _folder() as folder:
        (Path(folder) / "program.py").write_bytes(program.encode(errors="replace"))
        process = subprocess.Popen(
            [sys.executable, "-I", _INSIDE, json.dumps(settings)],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": folder, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"},
            pass_fds=[] if channel is None else [channel],
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """A folder that is removed, with however much a program has written there, and however deep."""
    folder = tempfile.mkdtemp(prefix="ctwa-code-")
    try:
        yield folder
    finally:
        # A program could put its score off until the deadline of the call by leaving a million files.
        removal = subprocess.Popen(["sh", "-c", _REMOVE, "sh", folder], stderr=subprocess.DEVNULL)
        try:
            removal.wait(_MAX_REMOVAL)
        except subprocess.TimeoutExpired:
            threading.Thread(target=removal.wait, daemon=True).start()


def _wait(process: subprocess.Popen[bytes], deadline: float) -> None:
    """Wait for the end of a process, or its deadline."""
    end = os.pidfd_open(process.pid)
    try:
        select.select([end], [], [], max(0.0, deadline - monotonic()))
        process.poll()
    finally:
        os.close(end)


def _converse(process: subprocess.Popen[bytes], deadline: float, channel: socket.socket, answer: bytes) -> bytes:
    """What a process says until it ends, or its deadline; the answer goes out when it has said that it is ready."""
    said = b""
    channel.setblocking(False)
    end = os.pidfd_open(process.pid)
    try:
        while (left := deadline - monotonic()) > 0:
            is_ready = bool(answer) and said.startswith(LOADED)
            channels = [channel.fileno()]
            readable, writable, _ = select.select([*channels, end], channels if is_ready else [], [], left)
            if channel.fileno() in readable:
                piece = channel.recv(1 << 16)
                if not piece:
                    break
                said = (said + piece)[:_MAX_OUTPUT]
            elif end in readable:
                break
            elif writable:
                answer = answer[channel.send(answer) :]
    except ConnectionError:  # it ended in the middle of it
        pass
    finally:
        os.close(end)
    return said
