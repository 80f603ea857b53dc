"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
END_TO_END = Path(__file__).parent / "e2e"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what starts the engine last: a mistake in the core shows within seconds.

    Where tests run in several processes, one of them has all that start the engine: two at once on two cores may
    exceed the half minute that Ray gives its node to start.
    """
    items.sort(key=lambda item: END_TO_END in item.path.parents)
    for item in items:
        if END_TO_END in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("engine"))
