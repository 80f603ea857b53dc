"""Which pairs a step trains on: a function of the seed and the step alone, so that a resumed run needs no state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ctwa.errors import CtwaError


def pairs_per_set(batch_size: int, num_sets: int) -> int:
    """The pairs of a step that each data set gives.

    Raises:
        CtwaError: the batch does not divide over the sets.
    """
    if batch_size % num_sets:
        raise CtwaError(
            f"a batch of {batch_size} pairs does not divide over {num_sets} data sets: write a multiple of {num_sets}"
        )
    return batch_size // num_sets


class PairSampler:
    """Draws the pairs of a step: equally many of every data set, each set in a new order every time it is through.

    Args:
        sizes: the number of pairs of every data set.
        batch_size: pairs of a step, over all sets.
        seed: of the orders.

    Attributes:
        pairs_per_set: of a step.
        steps_per_epoch: how long the largest set lasts; smaller ones begin anew meanwhile.

    Raises:
        CtwaError: the batch does not divide over the sets, or a set has fewer pairs than its part.
    """

    def __init__(self, sizes: Sequence[int], *, batch_size: int, seed: int) -> None:
        self.pairs_per_set = pairs_per_set(batch_size, len(sizes))
        if min(sizes) < self.pairs_per_set:
            raise CtwaError(
                f"a step takes {self.pairs_per_set} pairs of each data set, and the smallest has {min(sizes)}: write a "
                "smaller batch"
            )
        self.sizes, self.seed = tuple(sizes), seed
        self.steps_per_epoch = max(sizes) // self.pairs_per_set

    def step(self, step: int) -> list[list[int]]:
        """The indices of a step's pairs in every set; steps count from 1.

        What is left over at the end of a pass, fewer pairs than a step takes, is left out of it.
        """
        drawn = []
        for which, size in enumerate(self.sizes):
            steps_per_pass = size // self.pairs_per_set
            epoch, place = divmod(step - 1, steps_per_pass)
            order = np.random.default_rng([self.seed, which, epoch]).permutation(size)
            drawn.append(order[place * self.pairs_per_set : (place + 1) * self.pairs_per_set].tolist())
        return drawn
