"""A reward model in a process of its own, which all reward workers of a machine share: it scores what waits together.

``Scorer`` is the workers' end. The first that asks starts the process, in a session of its own, so that neither a
deadline nor Ctrl-C ends it; it ends by itself when nobody has been connected for a while. Both talk over a socket in a
folder of the user's, in lines of JSON.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ctwa.errors import CtwaError

LIMIT = 1 << 24  # bytes of a line
USERS_DEVICES = "CTWA_USERS_CUDA_VISIBLE_DEVICES"
"""The user's own CUDA_VISIBLE_DEVICES; a reward worker's is empty."""
DECIMALS = 4
"""Of a score: what a model computes depends on what is computed beside it, in the digits behind these."""
_POLL = 0.2  # s between two looks at a process that starts


@dataclass(frozen=True)
class ScorerSettings:
    """What is served.

    Attributes:
        model: a folder or a name of the hub: a sequence classifier.
        label: the label, by name or number, whose probability is the score; None for a model of one number.
        device: cpu, cuda, cuda:1, ...
        dtype: of the weights: float32, bfloat16, float16.
        batch_size: conversations that are scored together, at most.
        max_tokens: of a conversation; a longer one loses its beginning.
        threads: of the CPU.
        linger: seconds without anybody connected, until it ends.
    """

    model: str
    label: str | int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int = 16
    max_tokens: int = 2048
    threads: int = 1
    linger: float = 60.0

    @property
    def place(self) -> Path:
        """Where its socket is, its lock and its log: the same settings share a process."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"ctwa-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise CtwaError(f"{folder} belongs to another user: remove it, or set TMPDIR to another folder")
        return folder / f"scorer-{digest}"


class _Ended(CtwaError):
    """The process ended before it answered."""


class Scorer:
    """A connection to the process; it is started where it does not run."""

    def __init__(self, settings: ScorerSettings) -> None:
        self._settings = settings
        self._connecting = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, asyncio.Future[float]] = {}
        self._next = 0
        self._reading: asyncio.Task[None] | None = None

    async def score(self, conversation: str | Sequence[Any]) -> float:
        """The score of messages, or of a text.

        Raises:
            CtwaError: the process does not start, the model fails, or the process ended twice.
        """
        try:
            return await self._ask(conversation)
        except _Ended:  # as it does when nobody was there for a while
            return await self._ask(conversation)

    async def _ask(self, conversation: str | Sequence[Any]) -> float:
        async with self._connecting:
            if self._writer is None:
                reader, self._writer = await self._connect()
                self._reading = asyncio.create_task(self._read(reader))
            number, self._next = self._next, self._next + 1
            answer = self._waiting[number] = asyncio.get_running_loop().create_future()
            self._writer.write(json.dumps([number, conversation]).encode() + b"\n")
        try:
            return await answer
        finally:
            self._waiting.pop(number, None)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Hand out answers as they come; at the end of the connection, the news of it."""
        try:
            while line := await reader.readline():
                number, score, error = json.loads(line)
                answer = self._waiting.get(number)
                if answer is None or answer.done():
                    continue
                if error is None:
                    answer.set_result(score)
                else:
                    answer.set_exception(CtwaError(f"the reward model {self._settings.model} failed: {error}"))
        except ConnectionError:
            pass
        finally:
            self._writer = None
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(_Ended(f"the reward model {self._settings.model} ended: {self._said()}"))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        path = self._settings.place.with_suffix(".socket")
        with open(self._settings.place.with_suffix(".lock"), "wb") as lock:
            while True:
                try:
                    return await asyncio.open_unix_connection(path, limit=LIMIT)
                except OSError:  # nobody is there
                    pass
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:  # somebody starts it
                    await asyncio.sleep(_POLL)
                    continue
                try:  # it may have been started meanwhile
                    return await asyncio.open_unix_connection(path, limit=LIMIT)
                except OSError:
                    await self._start(path)

    async def _start(self, path: Path) -> None:
        """Start the process, and wait until it serves."""
        path.unlink(missing_ok=True)
        environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        if (devices := environment.pop(USERS_DEVICES, None)) is not None:
            environment["CUDA_VISIBLE_DEVICES"] = devices
        environment["OMP_NUM_THREADS"] = str(self._settings.threads)
        environment["PYTHONPATH"] = os.pathsep.join(each or os.getcwd() for each in sys.path)
        with open(self._settings.place.with_suffix(".log"), "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "ctwa.chat.scorer_process", str(path), json.dumps(asdict(self._settings))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        while not path.exists():
            if process.poll() is not None:
                raise CtwaError(f"the reward model {self._settings.model} does not start: {self._said()}")
            await asyncio.sleep(_POLL)

    def _said(self) -> str:
        """The last line of what the process said."""
        lines = self._settings.place.with_suffix(".log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "without a word"
