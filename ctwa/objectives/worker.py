"""A worker process: it loads the reward functions once and runs their calls, one chunk after the other.

Started by ``pool`` as ``python -m ctwa.objectives.worker CHANNEL LIFELINE [BYTES]`` and not through multiprocessing,
because its spawn would run the parent's ``__main__`` again (in a Ray process that is Ray's own worker script) and its
fork would copy a process that has threads. Nothing heavy is imported here: a worker that was killed must be back soon.

On CHANNEL, a socket, the worker receives the functions, answers with their contracts, then receives chunks of calls
and answers every call as soon as it is done (``messages``).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import inspect
import os
import pickle
import resource
import socket
import sys
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from time import perf_counter
from typing import Any

from ctwa.errors import CtwaError
from ctwa.objectives.contract import Contract, Outcome, read_contract, shortened, to_group_outcomes, to_outcome
from ctwa.objectives.loading import check_kwargs, describe_error, load_function
from ctwa.objectives.messages import HEADER, Done, Function, Ready, Stepping, Work, encode

# The user's own PYTHONPATH; the worker's is the parent's sys.path, so that both import the same modules.
USERS_PYTHONPATH = "CTWA_USERS_PYTHONPATH"

_Keys = tuple[str | None, ...]  # what the objectives that share a function take of the dict that it returns


class _Worker:
    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._reader = channel.makefile("rb")
        self._process = os.getpid()
        self._loop = asyncio.Runner()  # one event loop for the worker's life: clients that a module keeps stay usable

    def run(self) -> None:
        functions: list[Function] = self._receive()
        loaded: list[Callable[..., Any]] = []
        contracts: list[Contract] = []
        try:
            for function in functions:
                loaded.append(load_function(function.spec))
                contracts.append(read_contract(loaded[-1], function.spec, function.kwargs))
                if not function.is_checked:
                    check_kwargs(loaded[-1], function.spec, function.kwargs)
        except CtwaError as error:
            self._send(Ready([], str(error)))
            return
        self._send(Ready(contracts, None))
        while True:
            work: Work = self._receive()
            contract, keys = contracts[work.function], functions[work.function].keys
            if contract.is_async:
                self._loop.run(self._run_together(loaded[work.function], contract, keys, work))
            else:
                self._run_in_turn(loaded[work.function], contract, keys, work)

    def _run_in_turn(self, function: Callable[..., Any], contract: Contract, keys: _Keys, work: Work) -> None:
        for call, (payload, num_completions) in enumerate(work.calls):
            started = perf_counter()
            try:
                value = function(**pickle.loads(payload))
                if inspect.iscoroutine(value):  # of an async function within a plain one, such as a decorator's
                    value = self._loop.run(value)
                outcomes = _judged(value, contract, keys, num_completions, perf_counter() - started)
            except BaseException as error:  # noqa: BLE001 - a reward function may raise anything, sys.exit() included
                outcomes = _failed(error, num_completions, perf_counter() - started)
            self._send(Done(call, outcomes))

    async def _run_together(self, function: Callable[..., Any], contract: Contract, keys: _Keys, work: Work) -> None:
        async def run(call: int, payload: bytes, num_completions: int) -> None:
            def announce(holds_loop: bool) -> None:
                self._send(Stepping(call if holds_loop else None))

            started = perf_counter()
            deadline = asyncio.timeout(work.timeout)
            try:
                async with deadline:
                    value = await _Announced(function, payload, announce)
                outcomes = _judged(value, contract, keys, num_completions, perf_counter() - started)
            except BaseException as error:  # noqa: BLE001 - as above
                seconds = perf_counter() - started
                outcomes = _failed(error, num_completions, seconds)
                if deadline.expired():
                    late = Outcome(None, "timeout", f"no value within {work.timeout:g} s", seconds)
                    outcomes = [late] * num_completions
            self._send(Done(call, outcomes))

        await asyncio.gather(*(run(call, *payload) for call, payload in enumerate(work.calls)))

    def _send(self, message: object) -> None:
        if os.getpid() != self._process:  # a function forked, and its child came back from it: the value is said once
            os._exit(0)
        self._channel.sendall(encode(message))

    def _receive(self) -> Any:
        header = self._reader.read(HEADER.size)
        if not header:  # the parent closed the channel
            sys.exit(0)
        return pickle.loads(self._reader.read(*HEADER.unpack(header)))


class _Announced:
    """A coroutine that says when it takes hold of the event loop and when it lets go.

    With this the parent knows which of the calls that run together blocks the loop, or brought the process down.
    """

    def __init__(self, function: Callable[..., Any], payload: bytes, announce: Callable[[bool], None]) -> None:
        self._function, self._payload, self._announce = function, payload, announce

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine: Coroutine[Any, Any, Any] = self._function(**pickle.loads(self._payload))
        step, argument = coroutine.send, None
        while True:
            self._announce(True)
            try:
                awaited = step(argument)
            except StopIteration as stop:
                return stop.value
            finally:
                self._announce(False)
            try:
                argument = yield awaited
                step = coroutine.send
            except BaseException as error:  # noqa: BLE001 - it is handed on to the coroutine
                argument, step = error, coroutine.throw


def _judged(value: Any, contract: Contract, keys: _Keys, num_completions: int, seconds: float) -> list[Outcome]:
    if contract.is_group:
        return to_group_outcomes(value, num_completions, seconds, keys)
    return [to_outcome(value, seconds, keys)]


def _failed(error: BaseException, num_completions: int, seconds: float) -> list[Outcome]:
    return [Outcome(None, "exception", shortened(describe_error(error)), seconds / num_completions)] * num_completions


def _die_with_parent(lifeline: int) -> None:
    """Have the kernel end this process group when the parent's end of the lifeline closes, as it does on any death.

    SIGIO's default action ends the process even where a call holds the interpreter lock (a runaway regular expression),
    which a watching thread could not. On systems without it, a worker ends when it next reads its channel.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)


def _machine_memory(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that the machine has, or a container that this process may be in."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("memory.max", "memory/memory.limit_in_bytes"):  # of control groups, version 2 and 1
        with contextlib.suppress(OSError, ValueError):  # there is no such group, or no limit ("max")
            memory = min(memory, int((cgroups / file).read_text()))
    return memory


def _limit_memory(max_bytes: int) -> None:
    """Let a function that takes too much memory fail, and where memory runs out nevertheless, let it be this process.

    The data limit is of what a process asks for and may write to, also of its children, each by itself.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))
    with contextlib.suppress(OSError):  # Linux has it
        Path("/proc/self/oom_score_adj").write_text("1000")


def main() -> None:
    """Serve the parent until it closes the channel."""
    channel_fd, lifeline_fd, *limit = (int(argument) for argument in sys.argv[1:])
    os.set_inheritable(channel_fd, False)
    os.set_inheritable(lifeline_fd, False)
    _die_with_parent(lifeline_fd)
    _limit_memory(*limit or [_machine_memory() // 2])
    if python_path := os.environ.pop(USERS_PYTHONPATH, ""):
        os.environ["PYTHONPATH"] = python_path
    else:
        os.environ.pop("PYTHONPATH", None)
    _Worker(socket.socket(fileno=channel_fd)).run()


if __name__ == "__main__":
    main()
