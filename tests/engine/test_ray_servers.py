"""The death of one of Ray's own processes is seen at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading

import pytest

from ctwa.engine.ray_servers import AGENTS, agents, seen


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
