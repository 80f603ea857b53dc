from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctwa.objectives.loading import load_function

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def reward_fn() -> Callable[[str], Callable[..., Any]]:
    """A reward function of the repository, by name."""
    return lambda name: load_function(f"{ROOT}/reward_fns/{name}.py:{name}")
