"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
END_TO_END = Path(__file__).parent / "e2e"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what starts the engine last: a mistake in the core shows within seconds."""
    items.sort(key=lambda item: END_TO_END in item.path.parents)
