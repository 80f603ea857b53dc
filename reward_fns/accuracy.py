r"""Accuracy: is the final answer of the response, in its last ``\boxed{...}``, equal to the ground truth?

1 or 0, or None where that cannot be told for want of a ground truth that can be read.
"""

from typing import Any

from ctwa.objectives.grading import grade


def accuracy(response: str, ground_truth: Any) -> float | None:
    """Compare as texts, as numbers, and as answers in MATH's notations (docs/grader.md)."""
    return grade(response, ground_truth).score
