"""All that two ranks do, in one pair of processes: their imports take seconds. A script: two_ranks.py JOB FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

from engine_ranks import every_method
from resharding_ranks import from_ranks_to_ranks


def all_of_it(folder: Path) -> None:
    """Each finds the process group that it joins, and leaves none."""
    from_ranks_to_ranks(folder)
    every_method(folder)


JOBS = {job.__name__: job for job in (all_of_it,)}

if __name__ == "__main__":
    JOBS[sys.argv[1]](Path(sys.argv[2]))
