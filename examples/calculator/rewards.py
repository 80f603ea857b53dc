"""What the third objective rewards: that the calculator is asked."""

from __future__ import annotations

from typing import Any

from ctwa.testbed.tasks import OPERATORS


def tool_use(messages: list[dict[str, Any]], prompt: str) -> float:
    """The share of the problem's operations that the calculator was asked for, at most 1."""
    num_operations = sum(word in OPERATORS for word in prompt.split())
    num_answers = sum(message["role"] == "tool" for message in messages)
    return min(1.0, num_answers / num_operations)
