"""Conciseness: is the response shorter than the reference length of the run (docs/rewards.md)?"""


def conciseness(response_tokens: int, reference_tokens: float | None) -> float | None:
    """1 if the response has fewer tokens, its end-of-sequence token included, than the reference; a tie is 0.

    None where there is no reference: a completion that is alone in its group.
    """
    if reference_tokens is None:
        return None
    return float(response_tokens < reference_tokens)
