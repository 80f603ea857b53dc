"""Ray's own processes on the driver's machine: should one of them die or be stopped, that is said.

Ray ends the driver without a word as soon as that notices that its raylet is gone, and lets it wait where the GCS is.
Of one that was stopped it says nothing.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ctwa.engine.watchdog import Process, actors, is_stopped

SERVERS = {"raylet": "raylet", "gcs_server": "GCS"}
"""Ray's names for the kinds of processes without which it runs nothing, and those in its documentation."""


@contextmanager
def servers_seen(died: Callable[[str], None]) -> Iterator[None]:
    """While the body runs, look after the servers that `ray.init` has started here; there is none elsewhere.

    Args:
        died: told in a sentence which of them has died, once, from another thread.
    """
    with seen({each.kind: each.pid for each in servers() if each.pid is not None}, died):
        yield


def servers() -> list[Process]:
    """Those that `ray.init` has started here."""
    from ray._private.worker import _global_node

    started = {} if _global_node is None else _global_node.all_processes
    found = [(name, each.process.pid) for kind, name in SERVERS.items() for each in started.get(kind, ())]
    return [Process(_named(name, pid), pid, kind=name) for name, pid in found]


def processes() -> list[Process]:
    """The servers here, and the actors of this Ray job: not while a server is stopped, for who asked it would wait."""
    here = servers()
    return here if any(is_stopped(each.pid) for each in here) else [*here, *actors()]


def _named(name: str, pid: int) -> str:
    return f"Ray's {name} (process {pid})"


@contextmanager
def seen(processes: Mapping[str, int], died: Callable[[str], None]) -> Iterator[None]:
    """While the body runs, wait for the death of one of the processes."""
    names = {os.pidfd_open(process): _named(name, process) for name, process in processes.items()}
    over, end = os.pipe()

    def wait() -> None:
        poll = select.poll()
        for each in (over, *names):
            poll.register(each, select.POLLIN | select.POLLHUP)
        ready = [each for each, _ in poll.poll()]
        if over not in ready:
            died(
                f"{' and '.join(names[each] for each in ready)} has died: it was killed, or crashed, or was told to end"
            )

    thread = threading.Thread(target=wait, daemon=True, name="ctwa-ray-servers")
    thread.start()
    try:
        yield
    finally:
        os.close(end)
        thread.join()
        for each in (over, *names):
            os.close(each)
