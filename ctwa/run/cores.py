"""How many cores a process may use, and what comes of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

MOST_REWARD_WORKERS = 16
"""Processes for reward functions on a machine, where nothing says how many: each imports for itself what they need."""
CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = CGROUPS) -> int:
    """The cores that this process may use: by its affinity, and by the quota of a container it may be in."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    granted = quota(cgroups)
    return cores if granted is None else max(1, min(cores, int(granted)))


def reward_workers(wanted: int | Literal["auto"], cores: int | None = None) -> int:
    """How many processes run reward functions on a machine.

    Args:
        wanted: a number, or ``auto``: one a core, up to `MOST_REWARD_WORKERS`.
        cores: that the machine has; None: that this process may use.
    """
    if wanted != "auto":
        return wanted
    return min(usable_cores() if cores is None else cores, MOST_REWARD_WORKERS)


def quota(cgroups: Path = CGROUPS) -> float | None:
    """The cores' worth of time that a control group (version 2, or 1) grants; None without a limit."""
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            time, period = " ".join((cgroups / file).read_text() for file in files).split()
        except (OSError, ValueError):  # there is no such group
            continue
        if time.isdigit():  # "max" and -1 are no limit
            return int(time) / int(period)
    return None
