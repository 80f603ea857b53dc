"""Ray's processes on a machine of its own: fewer than it would start, and with the time that a busy machine needs."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from ctwa.engine.keeper import end_by
from ctwa.engine.ray_nodes import listens
from ctwa.engine.ray_servers import dead_server, seen
from ctwa.engine.replaced import replaced
from ctwa.errors import CtwaError

START = 180.0
"""Seconds that Ray's processes have to come up; Ray itself gives them 30, which a busy machine needs."""
ASK = 1
"""Seconds that Ray waits within one question for a node; it would be 30, in which nobody sees that a process dies."""
SOON = 5.0
"""Seconds after the GCS' death in which who waits for it may notice; Ray's own clients wait for it for a minute."""
PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
"""Of the raylet's agents. Where an agent is to choose one itself, and takes 15 s to come up, the raylet aborts."""
_AGAIN = "start again when it is not (--max-restarts 3 does so by itself)"


@contextmanager
def less_of_ray(ray_init: Mapping[str, Any]) -> Iterator[None]:
    """Start Ray without its autoscaler, and without the server of a dashboard that there is not to be.

    On a machine of its own the one has nothing to scale, and the other, which Ray starts and waits for all the same,
    nothing to serve. Both take a second to start, and the autoscaler another to end. Ray gives up early on processes
    that are slow to come up: they are given `START`, unless one of them dies.

    Raises:
        CtwaError: one of them has died, or they are not up in time.
    """
    from ray._private import node as node_module
    from ray._private import services
    from ray._private.node import Node

    nodes: list[Node] = []
    with ExitStack() as stack:
        if ray_init["address"] == "local":
            start_gcs, wait_for_port = services.start_gcs_server, node_module.wait_for_persisted_port
            stack.enter_context(replaced(services, "start_gcs_server", _watched(start_gcs, stack)))
            stack.enter_context(replaced(Node, "start_gcs_server", _noting(Node.start_gcs_server, nodes)))
            stack.enter_context(replaced(node_module, "wait_for_persisted_port", _patient_port(wait_for_port, nodes)))
            stack.enter_context(replaced(Node, "start_monitor", _nothing))
            stack.enter_context(replaced(Node, "start_ray_processes", _noted(Node.start_ray_processes, nodes)))
            stack.enter_context(replaced(services, "get_node", _patient(services.get_node, nodes)))
            if ray_init.get("include_dashboard") is False:
                stack.enter_context(replaced(Node, "start_api_server", _nothing))
        try:
            yield
        except CtwaError:
            raise
        except Exception:
            _check_servers(nodes)  # that one of them is dead says more than what followed
            raise


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _watched(start_gcs_server: Callable[..., Any], stack: ExitStack) -> Callable[..., Any]:
    """Look after the GCS from its first moment on, until the start is over."""

    def start(*arguments: Any, **named: Any) -> Any:
        started = start_gcs_server(*arguments, **named)
        stack.enter_context(_gcs_seen(started.process.pid, named.get("log_dir") or "Ray's logs"))
        return started

    return start


@contextmanager
def _gcs_seen(process: int, logs: str) -> Iterator[None]:
    """While the body runs: should the GCS die and nobody say so, end the run, whose main thread waits for it in Ray."""
    over = threading.Event()

    def died(death: str) -> None:
        if not over.wait(SOON):
            end_by(f"as Ray started, {death}; its last words are in {logs}")

    with seen({"GCS": process}, died):
        try:
            yield
        finally:
            over.set()


def _noting(start_gcs_server: Callable[[Any], None], nodes: list[Any]) -> Callable[[Any], None]:
    """Note a node whose GCS is started: it is the first of its processes."""

    def start(node: Any) -> None:
        nodes.append(node)
        start_gcs_server(node)

    return start


def _patient_port(wait_for_port: Callable[..., int], nodes: list[Any]) -> Callable[..., int]:
    """Wait for the port that a process writes down when it is up, as long as it has to come up and all servers live."""

    def wait(*arguments: Any, timeout_ms: int) -> int:
        if timeout_ms == 0:
            return wait_for_port(*arguments, timeout_ms=0)
        until = time.monotonic() + START
        while time.monotonic() < until:
            with suppress(RuntimeError):  # it is not there yet
                return wait_for_port(*arguments, timeout_ms=ASK * 1000)
            _check_servers(nodes)
        raise _not_up()

    return wait


def _noted(start_ray_processes: Callable[[Any], None], nodes: list[Any]) -> Callable[[Any], None]:
    """Note a node whose processes are started, after its agents have been given ports, and time to listen there."""

    def start(node: Any) -> None:
        from ray._raylet import persist_port  # type: ignore[attr-defined]

        os.environ.setdefault("RAY_agent_register_timeout_ms", f"{START * 1000:.0f}")
        given = node._ray_params
        taken = {getattr(given, name) for name in PORTS}
        for name in PORTS:
            if not getattr(given, name):
                setattr(given, name, node._get_unused_port(taken))
                taken.add(getattr(given, name))
            persist_port(node.get_session_dir_path(), node.node_id, name, getattr(given, name))
        nodes.append(node)
        start_ray_processes(node)

    return start


def _patient(get_node: Callable[..., Any], nodes: list[Any]) -> Callable[..., Any]:
    """Ask for a node again and again, as long as it has to come up with its agents and all its servers live."""

    def ask(*arguments: Any) -> Any:
        from ray._raylet import Config  # type: ignore[attr-defined]
        from ray.exceptions import RaySystemError

        Config.initialize(json.dumps({"raylet_start_wait_time_s": ASK}))  # of this process alone
        until = time.monotonic() + START
        while time.monotonic() < until:
            found = None
            with suppress(RuntimeError, RaySystemError):  # there is no such node yet, or nobody to ask
                found = get_node(*arguments)
            _check_servers(nodes)
            if found is not None and all(_agents_listen(node) for node in nodes[-1:]):
                return found
            time.sleep(0.1)
        raise _not_up()

    return ask


def _not_up() -> CtwaError:
    return CtwaError(
        f"Ray's processes were not up within {START:g} s: the machine is too busy, or out of memory; {_AGAIN}"
    )


def _check_servers(nodes: list[Any]) -> None:
    for node in nodes[-1:]:
        if (dead := dead_server(node)) is not None:
            raise CtwaError(
                f"{dead} has died at the start: it was killed, or crashed, or the machine is too busy; its last words "
                f"are in {node.get_logs_dir_path()}; {_AGAIN}"
            )


def _agents_listen(node: Any) -> bool:
    """Whether the agents are there that have been given ports: Ray would have waited for them, too."""
    names = ("metrics_agent_port", "runtime_env_agent_port")
    return all(listens(node.node_ip_address, getattr(node._ray_params, name)) for name in names)
