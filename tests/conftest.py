"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.chat.endpoint import Server

# The same examples in every run, and as long for each as a busy machine takes.
hypothesis.settings.register_profile("ctwa", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("ctwa")

ROOT = Path(__file__).parent.parent
TESTS = Path(__file__).parent
END_TO_END = TESTS / "e2e"

CORE = (
    *("solvers", "covariance", "aggregators", "scalarizers", "objectives", "reward_fns", "preference", "examples"),
    *("test_architecture.py", "test_batch.py", "test_contributing.py", "test_statistics.py"),
)
"""What the author of a method, a reward or a loss runs: neither verl nor Ray is started or needed."""
ENGINE = tuple(sorted({path.name for path in TESTS.iterdir()} - {"e2e"}))
"""All but what starts Ray clusters: the engine's parts, in processes of their own at most."""
TIERS = {"core": CORE, "engine": ENGINE, "all": (*ENGINE, "e2e")}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """An endpoint in this process, whose clients do not wait between two attempts."""
    monkeypatch.setattr("ctwa.chat.client.wait_random_exponential", lambda **_: lambda _state: 0.0)
    with Server() as server:
        yield server


def pytest_addoption(parser: pytest.Parser) -> None:
    """--tier: how much is tested; ``scripts/test.sh core`` and ``scripts/test.sh engine`` say so."""
    parser.addoption("--tier", choices=sorted(TIERS), default="all", help="how much of the tests to run")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what is not of the tier; its modules are not even imported."""
    if TESTS not in collection_path.parents:
        return None
    return True if collection_path.relative_to(TESTS).parts[0] not in TIERS[config.getoption("tier")] else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run what starts the engine last: a mistake in the core shows within seconds.

    Several processes begin with it: its files are the long ones, and the short ones at the end let none wait.
    """
    several = hasattr(config, "workerinput")
    items.sort(key=lambda item: (END_TO_END in item.path.parents) != several)
