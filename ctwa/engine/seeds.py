"""A sampling seed for each completion.

It is made from the run's seed, the step, the prompt's place in the batch and the completion's index, so a completion
does not depend on the order in which anything arrives, and a resumed run samples what the uninterrupted one would have.
"""

from __future__ import annotations

import hashlib

SEED_FIELD = "sampling_seed"
"""The column of a batch of prompts that names the seed of each."""


def completion_seed(prompt_seed: str, index: int) -> int:
    """A seed of 63 bits for one completion.

    Args:
        prompt_seed: what names the prompt within the run, e.g. ``"0/train/12/3"`` (run seed, split, step, prompt).
        index: which of the prompt's completions.
    """
    digest = hashlib.blake2b(f"{prompt_seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
