"""Kinds of faults in a run, for faults.py: what each does to the run's processes and files."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import psutil

from ctwa.models.locate import newest_complete
from ctwa.models.seal import read_seal
from ctwa.run.folder import RunFolder

PROCESSES = {
    "driver": "ctwa.cli train ",
    "rank": "ray::WorkerDict",
    "rollout server": "ray::TransformersServer",
    "raylet": "/raylet/raylet",
    "GCS": "gcs_server",
    "queue's controller": "ray::TransferQueueController",
    "queue's storage": "ray::SimpleStorageUnit",
    "agent loop": "ray::NoRouter",
    "reward worker": "ctwa.objectives.worker",
    "Ray's log monitor": "log_monitor.py",
    "Ray's agent": "ray::DashboardAgent",
}
"""Kinds of processes of a run, and what the command line of each has in it."""
STOPPED = 5.0
"""Seconds."""
PATIENCE = 600.0
"""Seconds, for what is to come."""


def processes() -> list[psutil.Process]:
    """All of the run that are not over."""
    found = []
    for each in psutil.Process().children(recursive=True):
        try:
            if each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
        except psutil.NoSuchProcess:
            continue
    return found


def processes_of(kind: str) -> list[psutil.Process]:
    """Those of a kind of `PROCESSES`."""
    return [each for each in processes() if PROCESSES[kind] in command_line(each)]


def command_line(process: psutil.Process) -> str:
    """The words of a process, each with a space behind it; none where it has ended."""
    try:
        return "".join(f"{word} " for word in process.cmdline())
    except psutil.Error:
        return ""


def end_all() -> None:
    """Leave nothing of the run."""
    while found := processes():
        for each in found:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.05)


def ended(command: subprocess.Popen[bytes]) -> bool:
    """Whether a command has."""
    return command.poll() is not None


def wait_until(is_so: Callable[[], bool], *, patience: float = PATIENCE, every: float = 0.1) -> None:
    """Look often, until it is so or patience ends."""
    began = time.monotonic()
    while not is_so() and time.monotonic() - began < patience:
        time.sleep(every)


def system(*command: str) -> None:
    """Run a command that is to end well."""
    subprocess.run(command, check=True)


# -- faults ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disturbed:
    """The run as a fault finds it.

    Attributes:
        command: the process that a user sees.
        run: its folder.
        draw: of the seed.
        mending: what is to be done when the run has ended, before it is resumed.
    """

    command: subprocess.Popen[bytes]
    run: RunFolder
    draw: random.Random
    mending: ExitStack

    def first(self, kind: str) -> psutil.Process:
        """The process of a kind that was started first: of the driver's copies the driver itself.

        Raises:
            LookupError: there is none.
        """
        for _ in range(20):
            if found := [each for each in processes_of(kind) if each.pid != self.command.pid]:
                return min(found, key=lambda each: each.create_time())
            time.sleep(0.05)  # a process that gives itself another title has none for a moment
        raise LookupError(f"there is no process of the kind {kind!r}")

    def kill_driver(self) -> None:
        """Kill it, and wait for the command to end."""
        self.first("driver").kill()
        wait_until(lambda: self.command.poll() is not None)


Fault = Callable[[Disturbed], None]


def sending(number: signal.Signals, kind: str) -> Fault:
    """One process of a kind gets a signal; what is stopped goes on after a while."""

    def send(found: Disturbed) -> None:
        process = found.first(kind)
        process.send_signal(number)
        if number == signal.SIGSTOP:
            time.sleep(STOPPED)
            process.send_signal(signal.SIGCONT)

    return send


def tell_command(number: signal.Signals) -> Fault:
    """The command gets a signal."""
    return lambda found: found.command.send_signal(number)


def tell_group(number: signal.Signals) -> Fault:
    """The command's process group gets a signal, as terminals and most schedulers do it."""
    return lambda found: os.killpg(found.command.pid, number)


def tell_every_process(number: signal.Signals) -> Fault:
    """All processes of a run get a signal at once, as `scancel` does it."""

    def tell(found: Disturbed) -> None:
        del found
        for each in processes():
            each.send_signal(number)

    return tell


def changing_a_bit(which: str) -> Fault:
    """A bit changes in a file of the newest checkpoint, whose driver is killed."""

    def change(found: Disturbed) -> None:
        found.kill_driver()
        newest = newest_complete(found.run.checkpoints)
        if newest is None:
            raise LookupError("there is no checkpoint")
        path = newest / (found.draw.choice(sorted(read_seal(newest) or {})) if which == "any" else which)
        content = bytearray(path.read_bytes())
        content[found.draw.randrange(len(content))] ^= 1 << found.draw.randrange(8)
        path.write_bytes(content)

    return change


def leave_half_a_line(found: Disturbed) -> None:
    """The driver is killed while it writes a record: the trace ends in the middle of one."""
    found.kill_driver()
    with found.run.metrics.open("ab") as trace:
        trace.write(b'{"schema": 2, "step": ')


def fill_disk(found: Disturbed) -> None:
    """Nothing more can be written."""
    filler = found.run.path.parent / "filler"
    found.mending.callback(filler.unlink)
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue  # it is full, up to that size


def make_read_only(found: Disturbed) -> None:
    """No file can be made in the run's folder."""
    folder = str(found.run.path)
    system("mount", "--bind", folder, folder)
    found.mending.callback(system, "umount", "-l", folder)
    system("mount", "-o", "remount,bind,ro", folder)


def take_away(found: Disturbed) -> None:
    """The run's folder has another name; what the run makes in its place is kept aside."""
    folder, away = found.run.path, found.run.path.with_name("away")
    folder.rename(away)

    def bring_back() -> None:
        if folder.exists():
            folder.rename(folder.with_name(f"anew-{time.time():.0f}"))
        away.rename(folder)

    found.mending.callback(bring_back)


def start_another(found: Disturbed) -> None:
    """A second run begins in the folder, and is to be refused."""
    words = found.command.args
    assert isinstance(words, list)
    status = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode
    if status != 2:
        raise RuntimeError(f"the second run in a folder ended with {status}")


def run_out_of_files(found: Disturbed) -> None:
    """The driver may open no further file."""
    driver = found.first("driver")
    driver.rlimit(psutil.RLIMIT_NOFILE, (driver.num_fds(), driver.num_fds()))


STOPPABLE = ("rank", "rollout server", "driver", "raylet", "GCS", "queue's controller", "reward worker")
FAULTS: dict[str, Fault] = {
    **{f"SIGKILL: {kind}": sending(signal.SIGKILL, kind) for kind in PROCESSES},
    **{f"SIGSTOP, {STOPPED:g} s: {kind}": sending(signal.SIGSTOP, kind) for kind in STOPPABLE},
    "SIGTERM: command": tell_command(signal.SIGTERM),
    "SIGTERM: process group": tell_group(signal.SIGTERM),
    "SIGTERM: every process": tell_every_process(signal.SIGTERM),
    "SIGTERM: rank": sending(signal.SIGTERM, "rank"),
    "SIGINT: process group": tell_group(signal.SIGINT),
    "SIGHUP: process group": tell_group(signal.SIGHUP),
    "SIGKILL: command": tell_command(signal.SIGKILL),
    "SIGKILL: every process": tell_every_process(signal.SIGKILL),
    "a bit of a checkpoint changes": changing_a_bit("any"),
    "a bit of a checkpoint's state changes": changing_a_bit("ctwa_state.json"),
    "a bit of a checkpoint's seal changes": changing_a_bit("complete.json"),
    "half a line in the trace": leave_half_a_line,
    "the disk is full": fill_disk,
    "the folder is read-only": make_read_only,
    "the folder vanishes": take_away,
    "a second run in the folder": start_another,
    "the driver may open no file": run_out_of_files,
}
