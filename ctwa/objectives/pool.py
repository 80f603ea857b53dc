"""Worker processes for reward calls, each call under a deadline after which its process is killed.

Why our own and not a library: concurrent.futures cannot kill a call. pebble can, but it is LGPL, starts its workers
through multiprocessing (which runs the parent's ``__main__`` again), and gives a deadline to each message: to a call
sent alone, at 0.13 ms a call where this takes 0.04, or to a whole chunk, of which a timeout then loses every value.
Here a chunk is sent at once and every result comes back by itself, so that each call has its own deadline.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any, Literal, Protocol

from ctwa.chat.scorer import USERS_DEVICES
from ctwa.errors import CtwaError, signal_name
from ctwa.objectives.calls import CallQueue, Chunk, Ended
from ctwa.objectives.contract import Contract, Outcome
from ctwa.objectives.messages import Decoder, Done, Function, Ready, Stepping, Work, encode
from ctwa.objectives.output import Output
from ctwa.objectives.worker import USERS_PYTHONPATH

START_TIMEOUT = 180.0  # s: a reward function that imports torch on a busy machine
SLOW_START = 10.0  # s, after which the user is told what is waited for
# s: async calls time themselves out; a worker that is this much later has a call that blocks its event loop.
ASYNC_GRACE = 1.0


class Pool(Protocol):
    """Workers, on this machine or on another, that take calls from a queue."""

    @property
    def num_workers(self) -> int:
        """How many calls can run at a time."""

    def run(self, queue: CallQueue) -> Generator[Ended, None, None]:
        """Run calls of a queue, which others may take from too, until it is over; yield each that came to an end."""

    def close(self) -> None:
        """End the workers."""


class WorkerPool:
    """``num_workers`` processes with the same functions loaded, started once and replaced when killed.

    Not to be used by two threads at a time; any one thread may.

    Args:
        functions: to load.
        num_workers: processes.
        path: where they find modules; without it, where this process does.
        max_memory: GB that a process may take; half of the machine's by default.

    Raises:
        CtwaError: a function cannot be loaded, or not be called as the contract says.
    """

    def __init__(
        self,
        functions: Sequence[Function],
        num_workers: int,
        *,
        path: Sequence[str] | None = None,
        max_memory: float | None = None,
    ) -> None:
        if num_workers < 1:
            raise CtwaError(f"num_workers is {num_workers}; give at least 1 process for the reward functions")
        self._functions = list(functions)
        self._path = module_path() if path is None else path
        self._max_bytes = None if max_memory is None else int(max_memory * 1e9)
        self._selector = selectors.DefaultSelector()
        self._alarm, self._bell = socket.socketpair()
        self._alarm.setblocking(False)
        self._bell.setblocking(False)
        self._selector.register(self._alarm, selectors.EVENT_READ)
        self._output = Output()
        self._workers: list[_Worker] = []
        try:
            for _ in range(num_workers):
                self._workers.append(self._start())
            self._load()
        except BaseException:
            self.close()
            raise
        self.contracts: list[Contract] = self._workers[0].contracts or []
        self._functions = [replace(function, is_checked=True) for function in self._functions]

    @property
    def num_workers(self) -> int:
        """How many calls can run at a time."""
        return len(self._workers)

    @property
    def processes(self) -> list[int]:
        """The workers' process ids."""
        return [worker.pid for worker in list(self._workers)]

    def run(self, queue: CallQueue) -> Generator[Ended, None, None]:
        """Run the calls of a queue until it is over; yield each with its outcomes, in the order they come to an end.

        A caller may stop early, and the queue may be cancelled: what still runs then is killed.
        """
        queue.listen(self._wake)
        try:
            while not (queue.is_over or queue.is_cancelled):
                idle = [worker for worker in self._workers if worker.contracts is not None and worker.chunk is None]
                for place, worker in enumerate(idle):
                    chunk = queue.take(len(idle) - place)
                    if chunk is None:
                        break
                    worker.assign(chunk)
                    self._flush(worker)
                for call, outcomes in self._wait(queue):
                    queue.finish()
                    yield call, outcomes
        finally:
            for worker in list(self._workers):
                if worker.chunk is not None:
                    self._replace(worker)

    def close(self) -> None:
        """Kill the workers."""
        for worker in self._workers:
            worker.kill()
        self._workers = []
        self._selector.close()
        self._alarm.close()
        self._bell.close()
        self._output.close()

    def _wake(self) -> None:
        """Let ``run`` look at its queue again; any thread may call it."""
        with contextlib.suppress(BlockingIOError, OSError):  # it is full of such calls, or the pool is closed
            self._bell.send(b"!")

    def _start(self) -> _Worker:
        worker = _Worker(self._functions, self._path, self._max_bytes, self._output.file.fileno())
        self._selector.register(worker.channel, selectors.EVENT_READ, worker)
        self._flush(worker)
        return worker

    def _load(self) -> None:
        """Wait until every worker has loaded the functions; where that takes long, say so once."""
        slow = monotonic() + SLOW_START
        while any(worker.contracts is None for worker in self._workers):
            for _ in self._wait(None, until=slow):
                pass
            if monotonic() >= slow:
                slow = math.inf
                logging.getLogger(__name__).warning(
                    "still loading the reward functions %s after %g s: an import is slow, or waits for something; "
                    "they have %g s",
                    self._specs(),
                    SLOW_START,
                    START_TIMEOUT,
                )

    def _specs(self) -> str:
        return ", ".join(function.spec for function in self._functions)

    def _why_not_loaded(self, reason: Literal["timeout", "crashed"], status: str) -> str:
        how = f"did not load within {START_TIMEOUT:g} s"
        if reason == "crashed":
            how = f"ended the worker process ({status})"
        if len(self._functions) == 1:
            return f"the reward function {self._specs()} {how}; see what its file does when it is imported"
        instead = "import one after the other with `ctwa check-reward` to see which"
        return f"the reward functions {self._specs()} {how}; {instead}"

    def _replace(self, worker: _Worker) -> int:
        """Kill a worker and start another in its place; return the exit status of the killed one."""
        self._selector.unregister(worker.channel)
        status = worker.kill()
        self._workers[self._workers.index(worker)] = self._start()
        return status

    def _flush(self, worker: _Worker) -> None:
        is_empty = worker.flush()
        events = selectors.EVENT_READ if is_empty else selectors.EVENT_READ | selectors.EVENT_WRITE
        self._selector.modify(worker.channel, events, worker)

    def _wait(self, queue: CallQueue | None, *, until: float = math.inf) -> Iterator[Ended]:
        """Wait until a worker says something or is overdue, or the queue changes; yield the calls that ended.

        Args:
            queue: of the calls; None while functions are loaded.
            until: when to stop waiting.
        """
        next_deadline = min(until, *(worker.deadline for worker in self._workers))
        timeout = None if next_deadline == math.inf else max(0.0, next_deadline - monotonic())
        events = [(key.data, mask) for key, mask in self._selector.select(timeout) if key.data is not None]
        with contextlib.suppress(BlockingIOError):
            while self._alarm.recv(1 << 12):
                pass
        now = monotonic()
        heard = {id(worker) for worker, _ in events}
        overdue = [worker for worker in self._workers if worker.deadline <= now and id(worker) not in heard]
        for worker, mask in events:
            if mask & selectors.EVENT_WRITE:
                self._flush(worker)
            if mask & selectors.EVENT_READ:
                messages = worker.receive()
                if messages is None:
                    yield from self._break_off(worker, "crashed", queue)
                else:
                    for message in messages:
                        yield from worker.take(message)
        for worker in overdue:
            yield from self._break_off(worker, "timeout", queue)

    def _break_off(
        self, worker: _Worker, reason: Literal["timeout", "crashed"], queue: CallQueue | None
    ) -> Iterator[Ended]:
        """Kill and replace a worker; yield the call that was to blame, and put the others back in the queue."""
        chunk = worker.chunk
        status = _status_text(self._replace(worker))
        if worker.contracts is None:
            raise CtwaError(self._why_not_loaded(reason, status))
        if chunk is None or queue is None:  # it died between two chunks: nobody's call
            return
        chunk.seconds += monotonic() - worker.assigned
        blamed = worker.running()
        if reason == "crashed":
            text = f"the call ended its process ({status})"
        elif chunk.kind.is_async and len(blamed) == 1:
            text = (
                f"no value within {chunk.kind.timeout:g} s: it blocks the event loop; await, or write it as a plain def"
            )
        elif chunk.kind.is_async:
            text = (
                f"no value within {chunk.kind.timeout:g} s: one of the calls that ran together blocked the event loop"
            )
        else:
            text = f"no value within {chunk.kind.timeout:g} s"
        seconds = monotonic() - worker.since
        ended = [chunk.calls[index] for index in blamed]
        ended_or_finished = {*worker.finished, *blamed}
        queue.give_back([call for index, call in enumerate(chunk.calls) if index not in ended_or_finished])
        for call in ended:
            yield call, [Outcome(None, reason, text, seconds)] * len(call.rows)


class _Worker:
    """The parent's end of one worker process."""

    def __init__(self, functions: list[Function], path: Sequence[str], max_bytes: int | None, output: int) -> None:
        self.channel, theirs = socket.socketpair()
        lifeline, ours = os.pipe()
        self._lifeline = os.fdopen(ours, "wb", buffering=0)
        with theirs:
            fds = (theirs.fileno(), lifeline)
            told = [str(each) for each in (*fds, max_bytes) if each is not None]
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-P", "-m", "ctwa.objectives.worker", *told],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # out of reach of Ctrl-C, and one process group to kill
                env=_environment(path),
            )
        os.close(lifeline)
        self.channel.setblocking(False)
        self._decoder = Decoder()
        self._outgoing = encode(functions)
        self.contracts: list[Contract] | None = None
        self.chunk: Chunk | None = None
        self.finished: set[int] = set()
        self._stepping: int | None = None
        self.assigned = self.since = monotonic()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def deadline(self) -> float:
        """When the worker is to be killed if it has said nothing until then."""
        if self.contracts is None:
            return self.since + START_TIMEOUT
        if self.chunk is None:
            return math.inf
        return self.since + self.chunk.kind.timeout + (ASYNC_GRACE if self.chunk.kind.is_async else 0.0)

    def assign(self, chunk: Chunk) -> None:
        calls = [(call.arguments, len(call.rows)) for call in chunk.calls]
        self._outgoing += encode(Work(chunk.function, chunk.kind.timeout, calls))
        self.chunk, self.finished, self._stepping = chunk, set(), None
        self.assigned = self.since = monotonic()

    def flush(self) -> bool:
        """Send what the socket takes now; whether that was everything."""
        try:
            self._outgoing = self._outgoing[self.channel.send(self._outgoing) :] if self._outgoing else b""
        except BlockingIOError:
            pass
        except ConnectionError:  # it died, as the next read will show
            self._outgoing = b""
        return not self._outgoing

    def receive(self) -> list[Any] | None:
        """The messages that have come in; None where the process is gone."""
        try:
            data = self.channel.recv(1 << 18)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        return list(self._decoder.feed(data)) if data else None

    def take(self, message: Any) -> Iterator[Ended]:
        """Note what the worker said; yield the call that is done, if it was that."""
        match message:
            case Ready(contracts, error):
                if error is not None:
                    raise CtwaError(error)
                self.contracts = contracts
            case Stepping(stepping):
                self._stepping = stepping
            case Done(index, outcomes) if self.chunk is not None:
                call = self.chunk.calls[index]
                self.finished.add(index)
                now = monotonic()
                if not self.chunk.kind.is_async:
                    self.since = now
                if len(self.finished) == len(self.chunk.calls):
                    self.chunk.seconds += now - self.assigned
                    self.chunk = None
                yield call, outcomes

    def running(self) -> list[int]:
        """The calls of the chunk that run now: the next one in turn; of an async chunk the one that holds the loop.

        Where none holds it, something a call started does, and every unfinished call may be the one.
        """
        assert self.chunk is not None
        unfinished = [index for index in range(len(self.chunk.calls)) if index not in self.finished]
        if not self.chunk.kind.is_async:
            return unfinished[:1]
        return unfinished if self._stepping is None else [self._stepping]

    def kill(self) -> int:
        """End the process and what it started; return its exit status."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.channel.close()
        self._lifeline.close()
        return self._process.wait()


def module_path() -> list[str]:
    """Where this process finds modules, as another one can be told.

    The current directory comes last: an installed console script does not have it, and a user's own package may lie
    there.
    """
    return list(dict.fromkeys(path or os.getcwd() for path in [*sys.path, ""]))


def _environment(path: Sequence[str]) -> dict[str, str]:
    """The worker's environment: the parent's, less what ties it to Ray and the accelerators."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment[USERS_PYTHONPATH] = environment.get("PYTHONPATH", "")
    environment["PYTHONPATH"] = os.pathsep.join(path)
    if (devices := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        environment[USERS_DEVICES] = devices  # for a reward model's process
    environment["CUDA_VISIBLE_DEVICES"] = ""
    environment.setdefault("OMP_NUM_THREADS", "1")
    environment.setdefault("PYTHONHASHSEED", "0")  # sets iterate in the same order in every run
    return environment


def _status_text(status: int) -> str:
    return f"killed by {signal_name(-status)}" if status < 0 else f"exit status {status}"
