"""Ray's nodes: where one of them is lost, the run says so, and not what became of it in another process."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ctwa.errors import CtwaError
from ctwa.run.log import remote_cause

PATIENCE = 10.0
"""Seconds in which Ray hears of a lost node that a broken connection has told of already."""


def node_names() -> dict[str, str]:
    """The nodes that are there, by their ids: what they are called in messages."""
    import ray

    return {
        node["NodeID"]: f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})" for node in ray.nodes() if node["Alive"]
    }


@contextmanager
def losses_told() -> Iterator[None]:
    """While the body runs on several nodes: an error that comes as one of them is lost is told as that.

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
    from ray.exceptions import RayError

    until = time.monotonic() + PATIENCE
    while len(began_with) > 1:
        try:
            gone = began_with.keys() - node_names().keys()
        except (RayError, OSError, RuntimeError):  # nobody is left to ask: what was caught says more
            break
        if gone:
            return sorted(began_with[node] for node in gone)
        if time.monotonic() > until:
            break
        time.sleep(0.2)
    return []
