"""Where the engine's processes find modules."""

from __future__ import annotations

import os
import sys

from ray.job_config import JobConfig


class WorkerPath(JobConfig):
    """Keeps the current directory off the path of Ray's workers.

    Ray puts the driver's current directory before everything else, so that a folder there that has the name of a
    package is imported in its place, or makes an optional package look installed. The folder of the program stays, as
    it is on the driver's own path; whoever wants more sets PYTHONPATH.
    """

    def __init__(self) -> None:
        program = os.path.dirname(os.path.realpath(sys.argv[0]))
        super().__init__(_py_driver_sys_path=[program] if program in sys.path else [])

    def _runtime_env_has_working_dir(self) -> bool:
        """Asked by Ray before it adds the two folders: a working directory of its own has them already."""
        return True
