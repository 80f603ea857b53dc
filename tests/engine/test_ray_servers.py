"""The death of one of Ray's own processes is seen at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading
from types import SimpleNamespace

import pytest
from ray._private import ray_constants

from ctwa.engine.ray_servers import AGENTS, LOG_MONITOR, agents, seen, servers_seen


def test_a_server_that_dies_is_named_and_one_that_lives_is_not() -> None:
    said, died = list[str](), threading.Event()

    def note(text: str) -> None:
        said.append(text)
        died.set()

    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as raylet, subprocess.Popen(["cat"], stdin=-1) as gcs:
        with seen({"raylet": raylet.pid, "GCS": gcs.pid}, note):
            pass
        assert said == []  # the run is over, and both live
        with seen({"raylet": raylet.pid, "GCS": gcs.pid}, note):
            raylet.kill()
            assert died.wait(60)
        gcs.kill()

    expected = f"Ray's raylet (process {raylet.pid}) has died: it was killed, or crashed, or was told to end"
    assert said == [expected]


def test_one_that_was_dead_before_is_named_too() -> None:
    said, died = list[str](), threading.Event()

    def note(text: str) -> None:
        said.append(text)
        died.set()

    with subprocess.Popen(["true"]) as raylet:
        raylet.wait()
    with seen({"raylet": raylet.pid}, note):
        assert died.wait(60)
    assert said == [f"Ray's raylet (process {raylet.pid}) has died: it was killed, or crashed, or was told to end"]


def test_without_its_log_monitor_a_run_goes_on_and_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LOG_MONITOR.keys() == {ray_constants.PROCESS_TYPE_LOG_MONITOR}
    said, told = list[str](), threading.Event()

    def note(text: str) -> None:
        said.append(text)
        told.set()

    with subprocess.Popen(["cat"], stdin=-1) as monitor, subprocess.Popen(["cat"], stdin=-1) as gcs:
        started = {
            kind: [SimpleNamespace(process=each)] for kind, each in (("log_monitor", monitor), ("gcs_server", gcs))
        }
        node = SimpleNamespace(all_processes=started, get_logs_dir_path=lambda: "/tmp/ray/logs")
        monkeypatch.setattr("ray._private.worker._global_node", node)
        with servers_seen(pytest.fail, note):
            monitor.kill()
            assert told.wait(60)
        gcs.kill()
    assert said == [
        f"Ray's log monitor (process {monitor.pid}) has died: it was killed, or crashed, or was told to end; the run "
        "goes on, and what its other processes print is no more in engine.log, but in /tmp/ray/logs alone"
    ]


def test_a_run_ends_though_a_process_that_it_has_forked_lives_on() -> None:
    """The processes of a DataLoader are forked: what the run has open, they have open too."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as raylet:
        with seen({"raylet": raylet.pid}, pytest.fail):
            loader = multiprocessing.get_context("fork").Process(target=signal.pause)
            loader.start()
        assert loader.is_alive()
        loader.kill()
        loader.join()
        raylet.kill()


def test_the_agents_of_a_raylet_are_found_among_what_it_has_started() -> None:
    """Without them it ends itself, and the driver with it."""
    titles = [f"ray::{words}" for words in (*AGENTS, "IDLE")]
    here = [subprocess.Popen([title], executable="/bin/cat", stdin=subprocess.PIPE) for title in titles]
    found = agents(os.getpid())
    for each in here:
        each.communicate()

    assert found == {name: each.pid for name, each in zip(AGENTS.values(), here, strict=False)}
