"""The rewards of this project. A reward is a function that names the arguments it wants, and returns a number."""

import re

BOX = re.compile(r"\\boxed\{\s*(-?\d+)\s*\}")


def correct(response: str, ground_truth: str) -> float:
    r"""1 if the last ``\boxed{...}`` of the response holds the row's ground truth."""
    answers = BOX.findall(response)
    return float(bool(answers) and answers[-1] == ground_truth)


def short(response_tokens: int, limit: int = 40) -> float:
    """From 1, for no token at all, down to 0 at ``limit`` tokens."""
    return max(0.0, 1 - response_tokens / limit)
