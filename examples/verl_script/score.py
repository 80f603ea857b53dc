"""A reward function as verl calls it, which returns the parts of its reward."""

from __future__ import annotations

from typing import Any


def compute_score(
    data_source: str, solution_str: str, ground_truth: str, extra_info: dict[str, Any] | None = None
) -> dict[str, float]:
    """Whether the truth is the last word, and how short the response is; ``score`` is what verl alone trains on."""
    del data_source, extra_info
    words = solution_str.split()
    accuracy = float(bool(words) and words[-1].strip(".") == ground_truth)
    brevity = max(0.0, 1 - len(words) / 50)
    return {"score": accuracy + 0.5 * brevity, "accuracy": accuracy, "brevity": brevity}
