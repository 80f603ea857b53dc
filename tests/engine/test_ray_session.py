"""A run's own Ray, and its own transfer queue."""

from __future__ import annotations

import inspect

import pytest
import ray
from omegaconf import OmegaConf
from ray._private.node import Node

from ctwa.engine.ray_session import _TOO_LATE, _less_of_ray, _patient, _transfer_queue, in_words
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


def test_a_ray_that_does_not_come_up_in_time_is_told_in_words() -> None:
    assert _TOO_LATE in inspect.getsource(Node)
    with (
        pytest.raises(CtwaError, match="not up within 180 s: the machine is too busy"),
        in_words(),
    ):
        raise Exception(f"The current node {_TOO_LATE}.")
    with pytest.raises(KeyError), in_words():
        raise KeyError


def test_a_node_that_is_slow_to_come_up_is_waited_for() -> None:
    """Ray's own loop around the question ends after 30 s."""
    assert "services.get_node(" in inspect.getsource(Node.__init__)
    answers = iter([RuntimeError(), RuntimeError(), {"node": 1}])

    def get_node(address: str) -> object:
        answer = next(answers)
        if isinstance(answer, RuntimeError):
            raise answer
        return address, answer

    assert _patient(get_node)("here") == ("here", {"node": 1})
