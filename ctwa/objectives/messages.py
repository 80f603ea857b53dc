"""What the parent and its reward workers say to each other: a 4-byte length and a pickled message."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ctwa.objectives.contract import Contract, Outcome

HEADER = struct.Struct(">I")


@dataclass(frozen=True)
class Function:
    """Parent to worker, once, in a list: a reward function to load.

    Attributes:
        spec: where it is.
        kwargs: of its objective.
        keys: of the dict that it returns, what each of the objectives that share it takes; None for `score`.
        is_checked: whether another worker has looked at the kwargs already.
    """

    spec: str
    kwargs: dict[str, Any]
    keys: tuple[str | None, ...] = (None,)
    is_checked: bool = False


@dataclass(frozen=True)
class Work:
    """Parent to worker: calls of one function, each ``(arguments, number of completions)``.

    The arguments of a call are a pickle of their own, so that calls share no dict a function could change.
    """

    function: int
    timeout: float
    calls: list[tuple[bytes, int]]


@dataclass(frozen=True)
class Ready:
    """Worker to parent, once: how each function is called; or why one cannot be."""

    contracts: list[Contract]
    error: str | None


@dataclass(frozen=True)
class Stepping:
    """Worker to parent: this call of an async chunk holds the event loop now; None: no call does."""

    call: int | None


@dataclass(frozen=True)
class Done:
    """Worker to parent: the outcomes of a call, one a completion."""

    call: int
    outcomes: list[Outcome]


def encode(message: object) -> bytes:
    """A message as it travels."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(body)) + body


class Decoder:
    """Cuts a stream of bytes, fed in pieces, into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """Take in the next bytes; yield the messages that are now complete."""
        self._buffer += data
        while len(self._buffer) >= HEADER.size:
            (length,) = HEADER.unpack_from(self._buffer)
            end = HEADER.size + length
            if len(self._buffer) < end:
                return
            message = pickle.loads(bytes(self._buffer[HEADER.size : end]))
            del self._buffer[:end]
            yield message
