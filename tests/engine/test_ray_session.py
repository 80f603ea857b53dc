"""A run's own Ray, and its own transfer queue."""

from __future__ import annotations

import pytest
import ray
from omegaconf import OmegaConf

from ctwa.engine.ray_session import _transfer_queue
from ctwa.errors import CtwaError


def test_two_runs_do_not_share_a_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one would attach itself to the first one's, and mix their rows."""
    there = [{"namespace": "transfer_queue", "name": "TransferQueueController"}]
    monkeypatch.setattr(ray.util, "list_named_actors", lambda all_namespaces: there if all_namespaces else [])

    with (
        pytest.raises(CtwaError, match="another run has its transfer queue in this Ray cluster"),
        _transfer_queue(OmegaConf.create()),
    ):
        pass
