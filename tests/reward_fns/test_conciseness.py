from typing import Any

import pytest


@pytest.mark.parametrize(
    ("tokens", "reference", "expected"), [(31, 32, 1.0), (32, 32, 0.0), (33, 32.5, 0.0), (5, None, None)]
)
def test_conciseness(reward_fn: Any, tokens: int, reference: float | None, expected: float | None) -> None:
    assert reward_fn("conciseness")(response_tokens=tokens, reference_tokens=reference) == expected
