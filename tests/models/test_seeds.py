"""The seed of each completion: a stable function of its place, different for every place."""

from __future__ import annotations

import itertools

import torch

from ctwa.models.seeds import completion_seed


def test_seeds_are_the_same_in_every_process_and_version() -> None:
    """A changed value would change what every seeded run samples: such a change belongs into the changelog."""
    assert completion_seed("0/train/12/3", 0) == 8362253045722461017
    assert completion_seed("0/train/12/3", 1) == 4242521142561643011
    assert completion_seed("1/val/0", 0) == 3819964625931054805


def test_no_two_places_share_a_seed() -> None:
    names = [f"{seed}/train/{step}/{place}" for seed in range(3) for step in range(20) for place in range(20)]
    seeds = [completion_seed(name, index) for name, index in itertools.product(names, range(8))]

    assert len(set(seeds)) == len(seeds)


def test_the_index_is_not_read_into_the_prompts_name() -> None:
    assert completion_seed("0/train/1", 11) != completion_seed("0/train/11", 1)
    assert completion_seed("0/train/1/1", 1) != completion_seed("0/train/1", 11)


def test_a_seed_is_one_that_generators_take() -> None:
    for index in range(100):
        seed = completion_seed("0/train/1/0", index)
        assert 0 <= seed < 2**63
        torch.Generator().manual_seed(seed)


def test_the_first_draws_of_neighbouring_completions_are_spread_evenly() -> None:
    draws = torch.tensor(
        [torch.rand(1, generator=torch.Generator().manual_seed(completion_seed("0/train/1/0", i))) for i in range(2000)]
    )

    assert abs(draws.mean() - 0.5) < 4 * (1 / 12 / 2000) ** 0.5
    assert torch.histc(draws, bins=10, min=0, max=1).min() > 150
