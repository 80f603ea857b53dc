"""Whose turn it is in rotating_run.py: two turns of every method, then steps that are not finite."""

from __future__ import annotations

from ctwa.scalarizers import METHODS

LAST = 2 * len(METHODS)
"""The last step of the second turn."""
BROKEN = (
    ("linear", "log-probs"),
    ("ctwa", "advantages"),
    ("gdpo", "advantages"),
    ("upgrad", "advantages"),
    ("gradnorm", "log-probs"),
)
"""The methods of the steps after that, some of each level, and what of each completion's first token is NaN there."""
