"""How often answers of outside solvers were not believed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Fallbacks:
    """How many answers of outside solvers were not believed."""

    num: int = 0


_counting: ContextVar[tuple[Fallbacks, ...]] = ContextVar("counting", default=())


@contextmanager
def count_fallbacks() -> Iterator[Fallbacks]:
    """Count what falls back inside the ``with``, however deep the call is."""
    counted = Fallbacks()
    token = _counting.set((*_counting.get(), counted))
    try:
        yield counted
    finally:
        _counting.reset(token)


def note_fallback() -> None:
    """An answer was not believed."""
    for counted in _counting.get():
        counted.num += 1
