"""Ray's nodes: where one of them is lost, the run says so, and not what became of it in another process."""

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

from ctwa.engine.watchdog import NODE_LOST, Process, actors
from ctwa.errors import CtwaError
from ctwa.run.log import remote_cause

PATIENCE = 10.0
"""Seconds in which a node is found lost that a broken connection has told of already."""


def node_names() -> dict[str, str]:
    """The nodes that are there, by their ids: what they are called in messages."""
    import ray

    return {
        node["NodeID"]: f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})" for node in ray.nodes() if node["Alive"]
    }


@contextmanager
def losses_told() -> Iterator[None]:
    """While the body runs on several nodes: an error that comes as one of them is lost is told as that.

    A node that had nothing of the run explains no error, and neither does one whose calls others take.

    Raises:
        CtwaError: which node was lost, and what followed.
    """
    began_with = node_names()
    try:
        yield
    except CtwaError:
        raise
    except Exception as error:
        if not (lost := _lost(began_with)):
            raise
        first = str(remote_cause(error)).strip().partition("\n")[0]
        raise CtwaError(
            f"Ray's node {' and '.join(lost)} was lost: its machine is down, or cannot be reached, or Ray was ended "
            f"there; what ran there is gone ({first})"
        ) from error


def _lost(began_with: Mapping[str, str]) -> list[str]:
    """The nodes that are there no more, once it is clear that a process of the run was on one of them."""
    from ray.exceptions import RayError

    until = time.monotonic() + PATIENCE
    while len(began_with) > 1:
        try:
            gone = _silent()
            if NODE_LOST in {process.died for process in _seen(gone)}:
                return sorted(began_with[node] for node in began_with.keys() & gone)
        except (RayError, OSError, RuntimeError):  # nobody is left to ask: what was caught says more
            break
        if time.monotonic() > until:
            break
        time.sleep(0.2)
    return []


def actors_seen() -> list[Process]:
    """The run's actors. Those whose node is silent are lost with it: Ray itself hears of that 15 s later."""
    return _seen(_silent())


def _seen(gone: Collection[str]) -> list[Process]:
    return [each._replace(died=NODE_LOST) if each.node in gone else each for each in actors()]


def _silent() -> set[str]:
    """The nodes that Ray has given up, and those where nobody listens any more."""
    import ray

    return {
        node["NodeID"]
        for node in ray.nodes()
        if not (node["Alive"] and listens(node["NodeManagerAddress"], node["NodeManagerPort"]))
    }


def listens(address: str, port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        socket.create_connection((address, port), timeout=5).close()
    except OSError:
        return False
    return True
