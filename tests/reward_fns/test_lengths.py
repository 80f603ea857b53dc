"""Rewards of the length, at the values of their formulas and where a policy could slip through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Reward = Callable[[str], Callable[..., Any]]


def test_a_budget_costs_nothing_up_to_it_and_all_at_the_limit(reward_fn: Reward) -> None:
    length_budget = reward_fn("length_budget")
    assert [length_budget("a", tokens, budget=10) for tokens in (1, 10, 15, 20, 99)] == [1, 1, 0.5, 0, 0]
    assert [length_budget("a", tokens, budget=10, limit=14) for tokens in (10, 11, 14)] == [1, 0.75, 0]
    assert [length_budget("a", tokens, budget=10, limit=10) for tokens in (10, 11)] == [1, 0]
    # Silence is the shortest response there is.
    assert [length_budget(silence, 1, budget=10) for silence in ("", " \n", "...")] == [0] * 3


def test_soft_overlong_is_dapos(reward_fn: Reward) -> None:
    soft_overlong = reward_fn("soft_overlong")
    values = [soft_overlong(tokens, max_tokens=100, buffer=20) for tokens in (0, 80, 85, 100, 101, 5000)]
    assert values == [0, 0, -0.25, -1, -1, -1]


def test_the_cosine_prefers_short_right_answers_and_long_wrong_ones(reward_fn: Reward) -> None:
    cosine_length = reward_fn("cosine_length")
    right, wrong = r"so \boxed{7}", r"so \boxed{8}"

    def value(response: str, tokens: int, **options: Any) -> Any:
        return cosine_length(response, "7", tokens, options.pop("finished", True), max_tokens=100, **options)

    assert [value(right, tokens) for tokens in (0, 50)] == pytest.approx([2, 1.5])
    assert [value(wrong, tokens) for tokens in (0, 50)] == pytest.approx([-10, -5])
    assert [value(right, tokens) > value(right, tokens + 1) for tokens in (1, 50, 98)] == [True] * 3
    assert [value(wrong, tokens) < value(wrong, tokens + 1) for tokens in (1, 50, 98)] == [True] * 3
    assert value(right, 100) == value(right, 30, finished=False) == -10
    assert value(wrong, 0, wrong=(-1, -1), cut_off=0) == -1
    assert cosine_length(right, None, 3, True, max_tokens=100) is None
