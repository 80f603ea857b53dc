"""The testbed's three reward functions: each is 0 or 1, and no style of answer has all three on every problem."""

import re
from typing import Any

_BOX = re.compile(r"\\boxed\{\s*([0-9])\s*\}")
MIN_STEPS = 2


def accuracy(response: str, ground_truth: str) -> float:
    r"""1 if the last well-formed ``\boxed{ d }`` of the response holds the answer's digit."""
    boxes = _BOX.findall(response)
    return float(bool(boxes) and boxes[-1] == str(ground_truth))


def conciseness(response_tokens: int, extra_info: dict[str, Any]) -> float:
    """1 if the response, its ``<eos>`` included, is shorter than the row's ``budget`` of tokens."""
    return float(response_tokens < extra_info["budget"])


def clarity(response: str) -> float:
    """1 if the response has a well-formed box and at least two ``Step`` words.

    A surface rule on purpose: an outline that computes nothing satisfies it, which is how clarity comes to conflict
    with accuracy.
    """
    return float(_BOX.search(response) is not None and response.split().count("Step") >= MIN_STEPS)
