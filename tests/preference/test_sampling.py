from __future__ import annotations

from collections import Counter

import pytest

from ctwa.errors import CtwaError
from ctwa.preference.sampling import PairSampler


def test_a_pass_takes_every_pair_once_and_the_next_in_another_order() -> None:
    sampler = PairSampler([12], batch_size=4, seed=0)
    passes = [[index for step in range(first, first + 3) for index in sampler.step(step)[0]] for first in (1, 4)]
    assert [sorted(each) for each in passes] == [list(range(12))] * 2
    assert passes[0] != passes[1]
    assert sampler.steps_per_epoch == 3


def test_a_step_follows_from_the_seed_and_its_number_alone() -> None:
    sampler = PairSampler([50, 30], batch_size=8, seed=3)
    late = sampler.step(17)
    assert PairSampler([50, 30], batch_size=8, seed=3).step(17) == late
    assert PairSampler([50, 30], batch_size=8, seed=4).step(17) != late


def test_every_set_gives_equally_many_and_small_ones_begin_anew() -> None:
    sampler = PairSampler([20, 4], batch_size=4, seed=0)
    assert sampler.steps_per_epoch == 10
    counts = Counter(index for step in range(1, 11) for index in sampler.step(step)[1])
    assert counts == dict.fromkeys(range(4), 5)


@pytest.mark.parametrize(("sizes", "batch", "told"), [([5, 5], 3, "multiple of 2"), ([5, 1], 4, "the smallest has 1")])
def test_a_batch_that_does_not_fit_is_refused(sizes: list[int], batch: int, told: str) -> None:
    with pytest.raises(CtwaError, match=told):
        PairSampler(sizes, batch_size=batch, seed=0)
