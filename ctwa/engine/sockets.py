"""The sockets of the file system by which processes of one run and one machine talk, where no other run finds them."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ctwa.engine.ray_security import private_folder

VARIABLE = "CTWA_SOCKETS"
"""Of the environment of a run's processes: what its sockets' names begin with."""
PLACE = Path("/tmp")
"""Every machine has it, and its name is short: that of a socket has at most 107 bytes."""


def name_of_run() -> dict[str, str]:
    """The environment by which the processes of a run agree on its sockets."""
    return {VARIABLE: secrets.token_hex(8)}


def address(name: str) -> str:
    """The address, for ZeroMQ, of this run's socket of a name, in a folder that only this user may enter.

    Raises:
        KeyError: this is not a process of a run.
        PermissionError: the folder is somebody else's.
    """
    return f"ipc://{private_folder(PLACE) / f'{os.environ[VARIABLE]}-{name}'}"
