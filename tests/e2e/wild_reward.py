"""A reward function that misbehaves once when it is told to."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path


def wild(response: str) -> float:
    """The share of digits in the response; or what the file ``$CTWA_WILD`` names, by whoever takes it away first."""
    told = Path(os.environ["CTWA_WILD"])
    mine = told.with_suffix(f".{os.getpid()}")
    try:
        told.rename(mine)
    except FileNotFoundError:
        return sum(map(str.isdigit, response)) / max(len(response), 1)
    how = mine.read_text()
    mine.unlink()
    return misbehave(how)


def misbehave(how: str) -> float:
    """Do what no reward function should."""
    if how == "raise":
        raise ValueError("of the reward function")
    if how == "nan":
        return float("nan")
    if how == "exit":
        os._exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "fork":
        for _ in range(20):
            subprocess.Popen(["sleep", "3600"], start_new_session=True)
    if how == "memory":
        hog = []
        while True:
            hog.append(bytearray(1 << 28))
    if how == "print":
        for _ in range(1000):
            sys.stdout.write("x" * 1_000_000)
    return 0.5
