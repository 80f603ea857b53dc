"""Soft over-long punishment, of DAPO (Yu et al. 2025, arXiv 2503.14476, equation 13)."""


def soft_overlong(response_tokens: int, max_tokens: int, buffer: int) -> float:
    """0 up to `max_tokens - buffer` tokens, from there down to -1 at `max_tokens`, and -1 beyond.

    Args:
        response_tokens: the response's tokens, the end of sequence among them.
        max_tokens: the length that is never to be exceeded; at most that of the rollout.
        buffer: the tokens before it in which the punishment grows.
    """
    return -min(1.0, max(0.0, (response_tokens - (max_tokens - buffer)) / buffer))


def check_soft_overlong(max_tokens: int, buffer: int) -> None:
    """Refuse a buffer that does not fit."""
    if not 0 < buffer <= max_tokens:
        raise ValueError(f"buffer={buffer} and max_tokens={max_tokens}: write 0 < buffer <= max_tokens")
