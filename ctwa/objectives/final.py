r"""The final answer of a response, for rewards that compare texts.

``ctwa.data.boxed`` has what the grader of mathematics takes: the last ``\boxed{...}``.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from ctwa.data.answers import extract
from ctwa.data.boxed import last_boxed

Place = Literal["whole", "tags", "boxed", "hashes", "last_line", "last_number"]
_THOUGHT_ENDS = "</think>"


def final_text(response: str, place: Place) -> str | None:
    r"""What a response answers; None where there is no answer at its place.

    Args:
        response: the response. What is thought, up to ``</think>``, is no part of it.
        place: ``whole``: all of it; ``tags``: within ``<answer>`` and ``</answer>``, which are there once; ``boxed``:
            in the last ``\boxed{}``; ``hashes``: behind the last ``####``; ``last_line``; ``last_number``.

    Raises:
        ValueError: there is no such place.
    """
    if place not in get_args(Place):
        raise ValueError(f"{place!r} is no place of an answer: write one of {', '.join(get_args(Place))}")
    response = response.rpartition(_THOUGHT_ENDS)[2]
    if place == "whole":
        return response.strip() or None
    if place == "last_line":
        return response.strip().rpartition("\n")[2].strip() or None
    if place == "boxed":
        return last_boxed(response)
    if place == "tags":
        found = re.findall(r"<answer>([^<]*)</answer>", response) if response.count("<answer>") == 1 else []
        return found[0].strip() or None if found else None
    text, fault = extract(response, place)
    return None if fault else str(text)
