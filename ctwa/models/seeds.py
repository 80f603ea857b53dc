"""A sampling seed for each completion, made from its prompt's name and its index, whatever order things arrive in."""

from __future__ import annotations

import hashlib


def completion_seed(prompt_seed: str, index: int) -> int:
    """A seed of 63 bits for one completion.

    Args:
        prompt_seed: what names the prompt within the run, e.g. ``"0/train/12/3"`` (run seed, split, step, prompt).
        index: which of the prompt's completions.
    """
    digest = hashlib.blake2b(f"{prompt_seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
