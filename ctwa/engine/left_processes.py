"""The processes that reward functions have started and let go: they live until the run's keeper ends them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping

from ctwa import metrics as key_of
from ctwa.engine.keeper import keeper_here
from ctwa.engine.process_tree import Seen, descendants, process_table

NUM_COMMANDS = 3
"""Commands that are told by name, those with the most processes."""


def left_metrics(workers: Iterable[int]) -> dict[str, float]:
    """How many processes the reward functions of this run have started and let go, and most of them by their commands.

    Args:
        workers: process ids of the reward workers.
    """
    table = process_table()
    if not table:  # of another system
        return {}
    left = left_processes(workers, os.getpid(), keeper_here(), table)
    of_commands = {key_of.left_processes(command): float(num) for command, num in left.most_common(NUM_COMMANDS)}
    return {key_of.LEFT_PROCESSES: float(left.total()), **of_commands}


def left_processes(workers: Iterable[int], run: int, keeper: int | None, table: Mapping[int, Seen]) -> Counter[str]:
    """The processes that reward functions have started and let go, by their commands.

    They are below a reward worker. Where that has ended, or they have cut themselves loose, the run's keeper is their
    parent, which has no other child than the run.

    Args:
        workers: process ids of the reward workers.
        run: of the run's first process.
        keeper: of its keeper; None where it has none.
        table: of all processes.
    """
    orphans = [process for process, seen in table.items() if seen.parent == keeper and process != run]
    left = {*orphans, *descendants([*orphans, *workers], table)}
    return Counter(table[process].command for process in left if not table[process].is_over)
