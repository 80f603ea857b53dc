"""The objectives of `task=instructions`. What is no answer scores 0 in each of them: see ``text.is_answer``."""

from __future__ import annotations

import re
from collections import Counter

from ctwa.instructions.constraints import from_json
from ctwa.instructions.text import is_answer, is_closed, lines, runs_of, shown, words

# Marks of a chat template, and a turn that the model writes itself.
_MARKS = re.compile(r"<\|\w*\|?>|^(?:user|assistant|system|human)\s*(?::|$)", re.IGNORECASE | re.MULTILINE)
MAX_SHARE = 0.25
"""Share of an answer's words that one word may be, in an answer of twelve words or more."""
MIN_DISTINCT = 0.8
"""Share of an answer's runs of three words that are different."""


def constraints(response: str, prompt: str, ground_truth: str) -> float:
    """The share of the prompt's constraints that the response keeps: 0, a half or 1."""
    if not is_answer(shown(response), prompt):
        return 0.0
    asked, seen = from_json(ground_truth), shown(response)
    return sum(each.holds(seen) for each in asked) / len(asked)


def brevity(response: str, prompt: str, response_tokens: int, budget: int) -> float:
    """How much of the budget of tokens is left, from 0 to 1; an answer that says too little to be one has none."""
    return max(0.0, 1 - response_tokens / budget) if is_answer(shown(response), prompt) else 0.0


def well_formed(response: str, prompt: str, finished: bool) -> float:
    """1 for an answer that ends by itself and at an end, repeats nothing, and has no marks of a chat in it."""
    seen = shown(response)
    sound = finished and is_answer(seen, prompt) and is_closed(seen)
    return float(sound and not repeats(seen) and _MARKS.search(seen) is None)


def repeats(text: str) -> bool:
    """Whether the text goes round in circles: a line, a word or runs of three words come too often."""
    said, found = words(text), lines(text)
    if len(said) >= 12 and max(Counter(said).values()) > MAX_SHARE * len(said):
        return True
    if any(a == b == c for a, b, c in runs_of(said, 3)) or len(set(found)) < len(found):
        return True
    triples = runs_of(said, 3)
    return len(set(triples)) < MIN_DISTINCT * len(triples)
