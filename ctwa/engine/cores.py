"""How many cores a run may use, and how many threads of each process that holds a model.

A rank's trainer and its rollout server never compute at the same time, so both have the rank's share of the cores.
"""

from __future__ import annotations

import os
from pathlib import Path

from ctwa.models.size import is_small

CGROUPS = Path("/sys/fs/cgroup")

THREADS_OF_THE_USER = os.environ.get("OMP_NUM_THREADS", "")
"""What the user exported, before a run sets the variable for its own processes."""


def usable_cores(cgroups: Path = CGROUPS) -> int:
    """The cores that this process may use: by its affinity, and by the quota of a container it may be in."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _quota(cgroups)
    return cores if quota is None else max(1, min(cores, int(quota)))


def _quota(cgroups: Path) -> float | None:
    """The cores' worth of time that a control group (version 2, or 1) grants; None without a limit."""
    places = [(cgroups / "cpu.max",), (cgroups / "cpu/cpu.cfs_quota_us", cgroups / "cpu/cpu.cfs_period_us")]
    for files in places:
        try:
            quota, period = " ".join(file.read_text() for file in files).split()
        except (OSError, ValueError):
            continue
        if quota not in ("max", "-1"):
            return int(quota) / int(period)
    return None


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
