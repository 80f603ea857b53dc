"""Ray's own processes on the driver's machine: should one of them die or be stopped, that is said.

Ray ends the driver without a word as soon as that notices that its raylet is gone, and lets it wait where the GCS is.
The raylet ends itself, and with it the driver, where one of its agents is gone. Without its log monitor a run goes on,
and lacks what the other processes print. Of a process that was stopped Ray says nothing.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ctwa.engine.process_tree import descendants
from ctwa.engine.ray_nodes import actors_seen
from ctwa.engine.watchdog import Process, is_stopped

SERVERS = {"raylet": "raylet", "gcs_server": "GCS"}
"""Ray's names for the kinds of processes without which it runs nothing, and those in its documentation."""
AGENTS = {"DashboardAgent": "dashboard agent", "RuntimeEnvAgent": "runtime environment agent"}
"""The raylet's children without which it ends itself: what their titles have in them, and what they are."""


LOG_MONITOR = {"log_monitor": "log monitor"}
"""The same of the process without which nothing that others print comes to the driver."""


@contextmanager
def servers_seen(died: Callable[[str], None], say: Callable[[str], None]) -> Iterator[None]:
    """While the body runs, look after the servers that `ray.init` has started here, and the raylet's agents.

    Args:
        died: told in a sentence which of them has died, once, from another thread.
        say: told the same of the log monitor, without which the run goes on.
    """
    found = {each.kind: each.pid for each in servers() if each.pid is not None}
    if "raylet" in found:
        found |= agents(found["raylet"])
    monitor = {each.kind: each.pid for each in servers(LOG_MONITOR) if each.pid is not None}
    with seen(found, died), seen(monitor, lambda death: say(f"{death}; {_unheard()}")):
        yield


def _unheard() -> str:
    from ray._private.worker import _global_node

    where = "Ray's logs" if _global_node is None else _global_node.get_logs_dir_path()
    return f"the run goes on, and what its other processes print is no more in engine.log, but in {where} alone"


def agents(raylet: int) -> dict[str, int]:
    """The processes of the agents of a raylet, by what they are."""
    found: dict[str, int] = {}
    for process in descendants([raylet]):
        with suppress(OSError):  # it has ended
            title = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace")
            found |= {name: process for words, name in AGENTS.items() if words in title}
    return found


def servers(kinds: Mapping[str, str] = SERVERS) -> list[Process]:
    """Those that `ray.init` has started here.

    Args:
        kinds: Ray's names for what is looked for, and those that they are to have.
    """
    from ray._private.worker import _global_node

    started = {} if _global_node is None else _global_node.all_processes
    found = [(name, each.process.pid) for kind, name in kinds.items() for each in started.get(kind, ())]
    return [Process(_named(name, pid), pid, kind=name) for name, pid in found]


def dead_server(node: Any) -> str | None:
    """Which server of one of Ray's nodes has died, among those that this process has started."""
    for kind, process in node.dead_processes():
        if kind in SERVERS:
            return _named(SERVERS[kind], process.pid)
    return None


def processes() -> list[Process]:
    """The servers here, and the actors of this Ray job: not while a server is stopped, for who asked it would wait."""
    here = servers()
    return here if any(is_stopped(each.pid) for each in here) else [*here, *actors_seen()]


def _named(name: str, pid: int) -> str:
    return f"Ray's {name} (process {pid})"


@contextmanager
def seen(processes: Mapping[str, int], died: Callable[[str], None]) -> Iterator[None]:
    """While the body runs, wait for the death of one of the processes."""
    names, dead = dict[int, str](), list[str]()
    for name, process in processes.items():
        try:
            names[os.pidfd_open(process)] = _named(name, process)
        except ProcessLookupError:  # it is not even to be waited for any more
            dead.append(_named(name, process))
    over, end = os.pipe()

    def wait() -> None:
        poll = select.poll()
        for each in (over, *names):
            poll.register(each, select.POLLIN | select.POLLHUP)
        ready = [] if dead else [each for each, _ in poll.poll()]
        if over not in ready:
            gone = dead or [names[each] for each in ready]
            died(f"{' and '.join(gone)} has died: it was killed, or crashed, or was told to end")

    thread = threading.Thread(target=wait, daemon=True, name="ctwa-ray-servers")
    thread.start()
    try:
        yield
    finally:
        os.write(end, b".")  # closing it would tell nothing: whoever was forked meanwhile has it open too
        thread.join()
        for each in (over, end, *names):
            os.close(each)
