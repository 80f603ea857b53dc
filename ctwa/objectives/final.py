r"""The final answer of a response, for rewards that compare texts.

``ctwa.data.boxed`` has what the grader of mathematics takes: the last ``\boxed{...}``.
"""

from __future__ import annotations

from typing import Literal, get_args

from ctwa.data.answers import extract
from ctwa.data.boxed import last_boxed

Place = Literal["whole", "tags", "boxed", "hashes", "last_line", "last_number"]
_THOUGHT_ENDS = "</think>"
_OPENS, _CLOSES = "<answer>", "</answer>"


def final_text(response: str, place: Place) -> str | None:
    r"""What a response answers; None where there is no answer at its place.

    Args:
        response: the response. What is thought, up to ``</think>``, is no part of it.
        place: ``whole``: all of it; ``tags``: within ``<answer>`` and ``</answer>``, which are there once; ``boxed``:
            in the last ``\boxed{}``; ``hashes``: behind the last ``####``; ``last_line``; ``last_number``. A
            number behind ``####``, or the last one, has no commas of thousands.

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
        found, end, _ = response.partition(_OPENS)[2].partition(_CLOSES)
        return found.strip() or None if end and response.count(_OPENS) == 1 else None
    text, fault = extract(response, place)
    return None if fault else str(text)
