"""What all tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
END_TO_END = Path(__file__).parent / "e2e"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run what starts the engine last: a mistake in the core shows within seconds.

    Of several processes one begins with it, and the others do the rest.
    """
    several = hasattr(config, "workerinput")
    items.sort(key=lambda item: (END_TO_END in item.path.parents) != several)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where tests run in several processes, one of them has all that start the engine, the others go file by file.

    Two engines that start at once on two cores may exceed the half minute that Ray gives its node.
    """
    from xdist.scheduler import LoadScopeScheduling

    class OneEngineAtATime(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "engine" if file.startswith("tests/e2e/") else file

    return OneEngineAtATime(config, log)
