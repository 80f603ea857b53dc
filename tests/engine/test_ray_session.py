"""A run's own Ray, and its own transfer queue."""

from __future__ import annotations

import pytest
import ray
from omegaconf import OmegaConf
from ray._private.node import Node

from ctwa.engine.ray_session import _less_of_ray, _transfer_queue
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


@pytest.mark.parametrize(
    ("ray_init", "left_out"),
    [
        ({"address": "local", "include_dashboard": False}, {"start_monitor", "start_api_server"}),
        ({"address": "local", "include_dashboard": True}, {"start_monitor"}),
        ({"address": "local"}, {"start_monitor"}),
        ({"address": "10.0.0.1:6379"}, set()),
    ],
)
def test_a_ray_of_our_own_starts_what_a_run_needs(ray_init: dict[str, object], left_out: set[str]) -> None:
    """No autoscaler, and no server for a dashboard that is not wanted; afterwards Ray is as it was."""
    names = ("start_monitor", "start_api_server", "start_log_monitor", "start_raylet", "start_gcs_server")
    methods = {name: getattr(Node, name) for name in names}

    with _less_of_ray(ray_init):
        assert {name for name in names if getattr(Node, name) is not methods[name]} == left_out

    assert {name: getattr(Node, name) for name in names} == methods
