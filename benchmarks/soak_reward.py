"""A reward function that fails in every way on a few completions, for soak.py: which, the text says."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zlib

HOW = ("hang", "raise", "nan", "exit", "print", "leave")


def wild(response: str) -> float:
    """The share of digits in the response, of most responses; one in 12 fails, each way as often as the others."""
    draw = zlib.crc32(response.encode()) % (12 * len(HOW))
    how = HOW[draw] if draw < len(HOW) else ""
    if how == "hang":
        time.sleep(3600)
    if how == "raise":
        raise ValueError("of the reward function")
    if how == "nan":
        return float("nan")
    if how == "exit":
        os._exit(3)
    if how == "print":
        sys.stdout.write("x" * 100_000)
    if how == "leave":
        subprocess.Popen(["sleep", "3600"], start_new_session=True)
    return sum(map(str.isdigit, response)) / max(len(response), 1)
