"""The cosine reward of Yeo et al. 2025 (arXiv 2502.03373): right answers short, wrong ones at least tried for long."""

from math import cos, pi
from typing import Any

from ctwa.objectives.grading import grade


def cosine_length(
    response: str,
    ground_truth: Any,
    response_tokens: int,
    finished: bool,
    max_tokens: int,
    right: tuple[float, float] = (2.0, 1.0),
    wrong: tuple[float, float] = (-10.0, 0.0),
    cut_off: float = -10.0,
) -> float | None:
    """Between two values by half a cosine of the length; other values for right answers than for wrong ones.

    An answer is right where `accuracy` says so, and unscored where it does. The defaults are the paper's.

    Args:
        response: the response.
        ground_truth: of the row.
        response_tokens: the response's tokens, the end of sequence among them.
        finished: it ended by itself.
        max_tokens: the length limit.
        right: the values of a right answer at no length and at the limit.
        wrong: those of a wrong one.
        cut_off: the value of a response that reached the limit.
    """
    if not finished or response_tokens >= max_tokens:
        return cut_off
    score = grade(response, ground_truth).score
    if score is None:
        return None
    at_none, at_limit = right if score == 1 else wrong
    return at_limit + (at_none - at_limit) * (1 + cos(pi * response_tokens / max_tokens)) / 2


def check_cosine_length(max_tokens: int, **others: Any) -> None:
    """Refuse what is no length, and pairs that are none."""
    if max_tokens < 1:
        raise ValueError(f"max_tokens={max_tokens}: write the length limit, at least 1")
    for name in ("right", "wrong"):
        pair = others.get(name, (0, 0))
        if (
            not isinstance(pair, list | tuple)
            or len(pair) != 2
            or not all(isinstance(each, int | float) for each in pair)
        ):
            raise ValueError(f"{name}={others[name]}: write the values at no length and at the limit, e.g. [2, 1]")
