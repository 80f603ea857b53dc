"""A run's own Ray comes up with less than it would start, slowly if it must, or says what has died."""

from __future__ import annotations

import inspect
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import _raylet
from ray._private.node import Node

from ctwa.engine.ray_start import PORTS, _noted, _noting, _patient, _patient_port, less_of_ray
from ctwa.errors import CtwaError

OWN = {"start_monitor", "start_ray_processes", "start_gcs_server"}


@pytest.mark.parametrize(
    ("ray_init", "replaced"),
    [
        ({"address": "local", "include_dashboard": False}, {*OWN, "start_api_server"}),
        ({"address": "local", "include_dashboard": True}, OWN),
        ({"address": "local"}, OWN),
        ({"address": "10.0.0.1:6379"}, set()),
    ],
)
def test_a_ray_of_our_own_starts_what_a_run_needs(ray_init: dict[str, object], replaced: set[str]) -> None:
    """No autoscaler, and no server for a dashboard that is not wanted; afterwards Ray is as it was."""
    names = ("start_monitor", "start_api_server", "start_ray_processes", "start_log_monitor", "start_gcs_server")
    methods = {name: getattr(Node, name) for name in names}

    with less_of_ray(ray_init):
        assert {name for name in names if getattr(Node, name) is not methods[name]} == replaced

    assert {name: getattr(Node, name) for name in names} == methods


@pytest.fixture
def agents() -> Iterator[list[int]]:
    """The ports of two that listen."""
    with ExitStack() as stack:
        listening = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        yield [each.getsockname()[1] for each in listening]


def node_with(ports: list[int], dead: list[Any]) -> Any:
    metrics_agent, runtime_env_agent = ports
    given = SimpleNamespace(metrics_agent_port=metrics_agent, runtime_env_agent_port=runtime_env_agent)
    return SimpleNamespace(
        node_ip_address="127.0.0.1",
        _ray_params=given,
        dead_processes=lambda: dead,
        get_logs_dir_path=lambda: "/tmp/ray/session/logs",
    )


def test_a_node_that_is_slow_to_come_up_is_waited_for_and_so_are_its_agents(agents: list[int]) -> None:
    """Ray's own loop around the question ends after 30 s."""
    assert "services.get_node(" in inspect.getsource(Node.__init__)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        nobody = silent.getsockname()[1]
    nodes = [node_with([agents[0], nobody], dead=[])]
    asked = []

    def get_node(address: str) -> object:
        asked.append(address)
        if len(asked) < 3:
            raise RuntimeError("there is no such node")
        if len(asked) == 5:
            nodes.append(node_with(agents, dead=[]))  # the second agent is there now
        return len(asked)

    assert _patient(get_node, nodes)("here") == 5


def test_a_server_that_dies_at_the_start_is_told_at_once(agents: list[int]) -> None:
    with subprocess.Popen(["false"]) as raylet:
        raylet.wait()
    assert hasattr(Node, "dead_processes")

    def get_node() -> object:
        raise RuntimeError("there is no such node")

    said = (
        rf"Ray's raylet \(process {raylet.pid}\) has died at the start: .*; its last words are in "
        r"/tmp/ray/session/logs; start again"
    )
    with pytest.raises(CtwaError, match=said):
        _patient(get_node, [node_with(agents, [("log_monitor", raylet), ("raylet", raylet)])])()


def test_a_gcs_that_dies_before_it_has_a_port_is_told_at_once_and_a_slow_one_waited_for() -> None:
    """Ray would wait for the port of a dead one for 30 s, and name the file that it is not in."""
    assert "wait_for_persisted_port(" in inspect.getsource(Node.start_gcs_server)
    assert "_ray_params.gcs_server_port == 0" in inspect.getsource(Node.start_gcs_server)
    nodes, asked = list[Any](), list[int]()

    def wait(*_: str, timeout_ms: int) -> int:
        asked.append(timeout_ms)
        if len(asked) < 3:
            raise RuntimeError("Timed out waiting for file")
        return 6379

    port = _patient_port(wait, nodes)
    _noting(lambda _: None, nodes)(node_with([0, 0], dead=[]))
    assert port("session", "node", "gcs", timeout_ms=30_000) == 6379
    assert asked == [1000] * 3

    asked.clear()
    with pytest.raises(RuntimeError, match="Timed out"):
        port("session", "node", "gcs", timeout_ms=0)  # whether it is there now

    asked.clear()
    with subprocess.Popen(["false"]) as gcs:
        gcs.wait()
    _noting(lambda _: None, nodes)(node_with([0, 0], dead=[("gcs_server", gcs)]))
    with pytest.raises(
        CtwaError, match=rf"^Ray's GCS \(process {gcs.pid}\) has died at the start: .*session/logs; start"
    ):
        port("session", "node", "gcs", timeout_ms=30_000)
    assert len(asked) == 1


def test_what_follows_from_a_dead_server_is_told_as_its_death(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["false"]) as gcs:
        gcs.wait()
    monkeypatch.setattr(Node, "start_gcs_server", lambda _: None)

    def start(dead: list[Any]) -> None:
        with less_of_ray({"address": "local", "include_dashboard": False}):
            Node.start_gcs_server(node_with([0, 0], dead=dead))
            raise RuntimeError("Failed to start GCS")

    with pytest.raises(CtwaError, match=r"Ray's GCS .* has died at the start"):
        start([("gcs_server", gcs)])
    with pytest.raises(RuntimeError, match="Failed to start GCS"):
        start([])


DIES = """
import subprocess, sys, threading
from ctwa.engine import keeper, ray_start

ray_start.SOON, keeper.GRACE = 0.1, 0.1

def work(settings):
    gcs = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    keeper.tell(folder=sys.argv[1])
    with ray_start._gcs_seen(gcs.pid, "/tmp/ray/logs"):
        gcs.kill()
        threading.Event().wait()  # as Ray's client does, for a minute

sys.exit(keeper.keep(work, [], max_restarts=0, say=print))
"""


def test_a_gcs_that_dies_while_ray_waits_for_it_ends_the_run_and_the_keeper_says_why(tmp_path: Path) -> None:
    kept = subprocess.run([sys.executable, "-c", DIES, str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert kept.returncode == 1
    assert re.match(
        r"failed before its first step was made: as Ray started, Ray's GCS \(process \d+\) has died: .* its last words "
        r"are in /tmp/ray/logs; with it the run's process was ended from within",
        kept.stdout,
    )


def test_agents_are_given_the_ports_that_the_raylet_would_wait_for(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {value for name, value in vars(_raylet).items() if name.endswith("_PORT_NAME")}
    assert set(PORTS) == names - {_raylet.GCS_SERVER_PORT_NAME}
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "1")  # is changed, and then as it was
    given = SimpleNamespace(**dict.fromkeys(PORTS, 0) | {"dashboard_agent_listen_port": 52365})
    free = iter(range(50000, 50100))
    node_id = _raylet.NodeID.from_random().hex()
    node = SimpleNamespace(
        _ray_params=given,
        _get_unused_port=lambda _: next(free),
        get_session_dir_path=lambda: str(tmp_path),
        node_id=node_id,
    )
    nodes, started = list[Any](), list[Any]()

    _noted(started.append, nodes)(node)

    assert nodes == started == [node]
    assert given.dashboard_agent_listen_port == 52365
    assert len({getattr(given, name) for name in PORTS}) == len(PORTS)
    heard = {name: _raylet.wait_for_persisted_port(str(tmp_path), node_id, name, timeout_ms=0) for name in PORTS}
    assert heard == vars(given)
