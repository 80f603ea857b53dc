"""How many threads each process of a run has that holds a model.

A rank's trainer and its rollout server never compute at the same time, so both have the rank's share of the cores.
"""

from __future__ import annotations

import os

from ctwa.models.size import is_small
from ctwa.run.cores import usable_cores

THREADS_OF_THE_USER = os.environ.get("OMP_NUM_THREADS", "")
"""What the user exported, before a run sets the variable for its own processes."""


def threads_of_a_rank(
    model: str, num_ranks: int, cores: int | None = None, of_the_user: str = THREADS_OF_THE_USER
) -> int:
    """The threads of each process that holds a model, where ``ctwa.threads`` does not say it.

    Args:
        model: its folder; a small model has one thread, for the threads of its short products wait for each other.
        num_ranks: on this machine.
        cores: that there are; None: that this process may use.
        of_the_user: ``OMP_NUM_THREADS``, which wins.
    """
    first = of_the_user.split(",")[0].strip()
    if first.isdigit() and int(first) > 0:
        return int(first)
    return 1 if is_small(model) else max(1, (cores or usable_cores()) // num_ranks)
