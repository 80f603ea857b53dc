"""What a run sets for its processes."""

from __future__ import annotations

import os

import pytest

from ctwa.engine.job import plugins, set_environment
from tests.engine.conftest import Compose


def test_workers_on_a_cpu_keep_the_memory_that_they_free(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "4096")
    monkeypatch.delenv("MALLOC_MMAP_MAX_", raising=False)
    for engine, found in (("cpu", ("0", "4096")), ("gpu", (None, None))):
        config = compose("task=testbed", f"engine={engine}")
        set_environment(config)
        of_workers = config.ray_kwargs.ray_init.runtime_env.env_vars

        assert (of_workers.get("MALLOC_MMAP_MAX_"), of_workers.get("MALLOC_TRIM_THRESHOLD_")) == found
    assert "MALLOC_MMAP_MAX_" not in os.environ  # the driver gives back what it frees


@pytest.mark.parametrize(
    ("named", "used"),
    [
        ("", "ctwa.engine.verl.plugin"),
        ("my.plugin", "my.plugin,ctwa.engine.verl.plugin"),
        ("my.plugin,other", "my.plugin,other,ctwa.engine.verl.plugin"),
        ("ctwa.engine.verl.plugin", "ctwa.engine.verl.plugin"),
    ],
)
def test_the_users_own_plugins_of_verl_stay(named: str, used: str) -> None:
    assert plugins(named) == used
