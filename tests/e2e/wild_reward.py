"""Reward functions that misbehave, for test_faults.py and benchmarks/soak.py: once when told to, or on some texts."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

AT_TIMES = ("hang", "raise", "nan", "exit", "print", "fork")


def wild(response: str) -> float:
    """The share of digits in the response; or what the file ``$CTWA_WILD`` names, by whoever takes it away first."""
    told = Path(os.environ["CTWA_WILD"])
    mine = told.with_suffix(f".{os.getpid()}")
    try:
        told.rename(mine)
    except FileNotFoundError:
        return _digits(response)
    how = mine.read_text()
    mine.unlink()
    return misbehave(how)


def wild_at_times(response: str) -> float:
    """The share of digits, of most responses; the text says which one in 12 fails, each way as often as the others."""
    draw = zlib.crc32(response.encode()) % (12 * len(AT_TIMES))
    if draw < len(AT_TIMES):
        return misbehave(AT_TIMES[draw], processes=1, megabytes=1)
    return _digits(response)


def misbehave(how: str, *, processes: int = 20, megabytes: int = 1000) -> float:
    """Do what no reward function should.

    Args:
        how: one of the ways.
        processes: that are started and left.
        megabytes: that are printed.
    """
    if how == "hang":
        time.sleep(3600)
    if how == "raise":
        raise ValueError("of the reward function")
    if how == "nan":
        return float("nan")
    if how == "exit":
        os._exit(3)
    if how == "segfault":
        ctypes.string_at(0)
    if how == "fork":
        for _ in range(processes):
            subprocess.Popen(["sleep", "3600"], start_new_session=True)
    if how == "memory":
        hog = []
        while True:
            hog.append(bytearray(1 << 28))
    if how == "print":
        for _ in range(megabytes):
            sys.stdout.write("x" * 1_000_000)
    return 0.5


def _digits(response: str) -> float:
    return sum(map(str.isdigit, response)) / max(len(response), 1)
