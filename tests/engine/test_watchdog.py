"""A run that waits for what will not come is ended, and told why."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray.core.generated.common_pb2 import ActorDeathCause, ActorDiedErrorContext

from ctwa.engine.recorder import Recorder
from ctwa.engine.signals import end_request
from ctwa.engine.watchdog import Process, Watchdog, WatchdogSettings, _process, cpu_seconds, is_stopped
from ctwa.errors import CtwaError
from ctwa.run.folder import RunFolder, RunInfo
from ctwa.run.jsonl import read_jsonl

QUEUE = Process("Queue (process 7)")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make(said: list[str]) -> Callable[..., Watchdog]:
    def make(**settings: float) -> Watchdog:
        return Watchdog(WatchdogSettings(**settings), end=said.append, say=said.append)

    return make


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits."""
    child = subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], stdin=-1, stdout=-1)
    assert child.stdout is not None
    child.stdout.readline()
    yield child
    child.kill()
    child.communicate()


@pytest.mark.parametrize(
    ("longest", "limit"), [(None, 3600.0), (0.0, 60.0), (5.9, 60.0), (7.0, 70.0), (359.0, 3590.0), (400.0, 3600.0)]
)
def test_a_phase_may_last_a_multiple_of_what_it_lasted_before(longest: float | None, limit: float) -> None:
    assert WatchdogSettings(factor=10, floor=60, ceiling=3600).limit(longest) == limit


def test_a_floor_above_the_ceiling_is_refused() -> None:
    with pytest.raises(ValueError, match=r"floor, 60 s, is above ceiling, 10 s: write a lower one"):
        WatchdogSettings(floor=60, ceiling=10)


def test_a_phase_that_does_not_end_is_told_with_what_it_lasted_before(make: Callable[..., Watchdog]) -> None:
    watchdog = make(factor=2, floor=60, ceiling=600)
    with watchdog.phase("gen"):
        pass
    with watchdog.phase("step"), watchdog.phase("gen"):
        now = time.monotonic()
        assert watchdog.look([], now + 59) is None
        fault = watchdog.look([], now + 61)
        with watchdog.phase("inner"):
            later = watchdog.look([], now + 601)
    assert fault == (
        "the phase gen lasts for 0:01:01, and took 0:00:00 at most before (ctwa.watchdog allows 0:01:00); "
        "no process is here"
    )
    assert later is not None
    assert later.startswith("the phase step lasts for 0:10:01 (ctwa.watchdog allows 0:10:00)")
    assert watchdog.look([], now + 10_000) is None  # between two phases nothing is waited for


def test_a_phase_that_failed_says_nothing_of_how_long_it_takes(make: Callable[..., Watchdog]) -> None:
    watchdog = make(floor=60, ceiling=600)
    with pytest.raises(KeyError), watchdog.phase("gen"):
        raise KeyError
    with watchdog.phase("gen"):
        assert watchdog.look([], time.monotonic() + 500) is None


def test_one_that_has_died_is_told_at_the_second_look(make: Callable[..., Watchdog]) -> None:
    """Who waits for it may know more, and is let speak first."""
    watchdog = make()
    dead = QUEUE._replace(died="it was killed")

    assert watchdog.look([QUEUE], 0) is None
    assert watchdog.look([dead], 0) is None
    assert watchdog.look([dead, Process("Other")], 0) == "Queue (process 7) has died: it was killed"


def test_one_that_is_stopped_is_named_once_and_told_apart(
    make: Callable[..., Watchdog], said: list[str], child: subprocess.Popen[bytes]
) -> None:
    watchdog = make(floor=1, ceiling=1)
    stopped, waiting = Process("rank 0", child.pid), Process("queue", 1)
    os.kill(child.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    assert is_stopped(child.pid)

    watchdog.look([stopped, waiting], 0)
    watchdog.look([stopped, waiting], 0)
    with watchdog.phase("gen"):
        fault = watchdog.look([stopped, waiting], time.monotonic() + 2)

    assert said == [f"rank 0 is stopped (SIGSTOP): `kill -CONT {child.pid}` lets it go on"]
    assert fault is not None
    assert fault.endswith("; stopped: rank 0; waiting: queue")
    os.kill(child.pid, signal.SIGCONT)
    os.waitid(os.P_PID, child.pid, os.WCONTINUED)
    watchdog.look([stopped, waiting], 0)
    watchdog.look([stopped, waiting], 0)
    assert said[1:] == ["rank 0 is stopped no more"]


def test_what_stops_the_driver_is_told_and_takes_no_phase_s_time(
    make: Callable[..., Watchdog], said: list[str]
) -> None:
    watchdog = make(floor=60, ceiling=60)
    with watchdog.phase("gen"):
        watchdog.woke(late=2.5, computed=0.0)  # on a busy machine
        watchdog.woke(late=1000.0, computed=900.0)  # of its own: something has kept Python's lock
        assert said == []
        watchdog.woke(late=1000.0, computed=0.1)
        assert watchdog.look([], time.monotonic() + 1050) is None
        assert watchdog.look([], time.monotonic() + 1070) is not None
    assert len(said) == 1
    assert "was stopped, or its machine was, or found no time for it, for 1000 s" in said[0]


def test_memory_is_that_of_the_largest_of_each_kind(make: Callable[..., Watchdog]) -> None:
    watchdog = make()
    mine, first = os.getpid(), 1
    watchdog.look([Process("a", mine, kind="Rank"), Process("b", first, kind="Rank"), Process("c", kind="Queue")], 0)

    memory = watchdog.metrics()
    assert set(memory) == {"memory/driver", "memory/Rank"}
    assert memory["memory/Rank"] == pytest.approx(memory["memory/driver"], rel=0.1)
    assert 0.01 < memory["memory/driver"] < 100
    watchdog.look([], 0)
    assert set(watchdog.metrics()) == {"memory/driver"}


def test_what_else_a_run_has_is_counted_as_long_as_it_is_seen(make: Callable[..., Watchdog]) -> None:
    watchdog = make()
    with watchdog.sees(list, lambda: {"rewards/left_processes": 3.0}):
        assert watchdog.metrics()["rewards/left_processes"] == 3
    assert set(watchdog.metrics()) == {"memory/driver"}


def test_what_a_process_computes_is_seen() -> None:
    began = cpu_seconds(os.getpid())
    while cpu_seconds(os.getpid()) < began + 0.05:
        sum(range(10_000))
    assert cpu_seconds(None) == 0
    assert not is_stopped(os.getpid())
    assert not is_stopped(None)


Reason = ActorDiedErrorContext.Reason


@pytest.mark.parametrize(
    ("cause", "died"),
    [
        (ActorDeathCause(), None),
        ({"reason": Reason.Value("OUT_OF_SCOPE")}, None),
        ({"reason": Reason.Value("RAY_KILL")}, None),
        (
            {"reason": Reason.Value("WORKER_DIED")},
            "it was killed, or crashed, or found no memory (engine.log may say more)",
        ),
        ({"reason": Reason.Value("NODE_DIED")}, "its node was lost"),
    ],
)
def test_only_what_died_by_itself_counts(cause: object, died: str | None) -> None:
    if isinstance(cause, dict):
        cause = ActorDeathCause(actor_died_error_context=ActorDiedErrorContext(**cause))
    address = {"NodeID": "a", "IPAddress": "10.0.0.7"}
    actor = {"ActorClassName": "f.<locals>.Queue", "Pid": 7, "Address": address, "State": "DEAD", "DeathCause": cause}

    assert _process(actor, here="a") == Process("Queue (process 7)", None, died, "Queue")
    assert _process(actor, here="b").name == "Queue (process 7 on 10.0.0.7)"
    assert _process({**actor, "State": "ALIVE"}, here="a") == QUEUE._replace(pid=7, kind="Queue", node="a")
    assert _process({**actor, "State": "ALIVE"}, here="b").pid is None


def test_a_run_that_waits_for_ever_is_ended_and_what_it_waited_for_is_in_its_folder(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {}, RunInfo(method="linear", objectives={}, num_steps=2))
    settings = WatchdogSettings(every=0.1)
    dead = QUEUE._replace(died="it was killed")

    with end_request.listening():
        recorder = Recorder(run, resume=False, num_samples=0, seed=0, watchdog=settings)
        with (
            pytest.raises(CtwaError, match=r"^Queue \(process 7\) has died: it was killed$"),
            recorder,
            recorder.watchdog.watching(),
            recorder.watchdog.sees(lambda: [dead]),
            recorder.watchdog.phase("gen"),
        ):
            threading.Event().wait()

    (event,) = read_jsonl(run.events)
    assert event["kind"] == "error"
    assert event["text"].startswith("failed after step 0: Queue (process 7) has died: it was killed; there is no check")


def test_one_that_cannot_tell_what_it_saw_ends_the_run(said: list[str]) -> None:
    """A thread that dies in silence would leave the run without a watchdog."""
    over = threading.Event()

    def end(fault: str) -> None:
        said.append(fault)
        over.set()

    def say(text: str) -> None:
        raise CtwaError("the folder was moved")

    watchdog = Watchdog(WatchdogSettings(every=0.1), end=end, say=say)
    watchdog.woke = lambda *_: say("it was stopped")  # type: ignore[method-assign]
    with watchdog.watching():
        assert over.wait(60)
    assert said == ["the folder was moved"]


def test_where_nobody_tells_of_the_processes_a_phase_still_has_its_limit(said: list[str]) -> None:
    over = threading.Event()

    def end(fault: str) -> None:
        said.append(fault)
        over.set()

    def unanswered() -> list[Process]:
        raise RuntimeError("the GCS does not answer")

    watchdog = Watchdog(WatchdogSettings(every=0.1, floor=0.1, ceiling=0.2), end=end, say=said.append)
    with watchdog.watching(), watchdog.sees(unanswered), watchdog.phase("gen"):
        assert over.wait(60)
    assert re.match(r"the phase gen lasts for .* \(ctwa.watchdog allows 0:00:00\); no process is here", said[-1])


def test_after_its_end_nothing_is_looked_at(make: Callable[..., Watchdog], said: list[str]) -> None:
    watchdog = make(every=0.1)
    with watchdog.watching(), watchdog.sees(lambda: [QUEUE]):
        pass
    assert threading.active_count() == len(threading.enumerate())
    assert not [thread for thread in threading.enumerate() if thread.name == "ctwa-watchdog"]
    assert said == []
