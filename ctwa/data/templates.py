"""Whether a chat template writes what a prompt says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def left_out(messages: Sequence[Mapping[str, Any]], written: str) -> Mapping[str, Any] | None:
    """The first message of the system or of a user that a chat template leaves out of a prompt, or changes.

    White space may be taken off its ends. The model's own earlier turns are not looked at: templates leave out what was
    thought in them.

    Args:
        messages: with ``role`` and ``content``; contents that are no text are not looked at.
        written: what the template makes of them.
    """
    for message in messages:
        content = message.get("content")
        if message.get("role") in ("system", "user") and isinstance(content, str) and content.strip() not in written:
            return message
    return None
