"""How much work a grade may be: operations, counted where they are made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

MAX_OPERATIONS = 30_000  # of some 5 to 10 microseconds of CPU; what takes longer counts as several


class TooMuchWork(Exception):
    """More operations than there may be."""


@dataclass
class _Budget:
    operations: int


_BUDGET: ContextVar[_Budget | None] = ContextVar("budget", default=None)


@contextmanager
def bounded(operations: int = MAX_OPERATIONS) -> Iterator[None]:
    """What is done in this context takes no more operations than these, all of it together."""
    token = _BUDGET.set(_Budget(operations))
    try:
        yield
    finally:
        _BUDGET.reset(token)


def spend(operations: int = 1) -> None:
    """Count operations that are about to be made; outside of ``bounded`` there is no bound on them.

    Raises:
        TooMuchWork: they would be more than there may be.
    """
    budget = _BUDGET.get()
    if budget is not None:
        budget.operations -= operations
        if budget.operations < 0:
            raise TooMuchWork
