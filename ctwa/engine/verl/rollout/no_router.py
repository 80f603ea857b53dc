"""A request router that routes nothing."""

from __future__ import annotations

from typing import Any


class NoRouter:
    """Takes the place of verl's router, whose process would import all of verl, where batches are dealt out whole."""

    def __init__(self, *_: Any) -> None: ...
