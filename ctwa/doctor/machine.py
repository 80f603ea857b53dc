"""The machine: cores, memory, disk, files, and the way a process finds another."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ctwa.doctor.findings import Finding, Needs
from ctwa.errors import CtwaError
from ctwa.run.cores import CGROUPS, quota
from ctwa.run.disk import check_place

GB = 1 << 30
MEMORY = {"cpu": 4 * GB, "cuda": 32 * GB}
"""By device, the memory without which the processes of a run hardly start."""
DISK = 5 * GB
"""Room that a run's folder and Ray's own should have."""
RAY_FULL = 0.95
"""Of a disk: from there on Ray refuses to write its objects to it."""
SHARED = {"cpu": GB // 2, "cuda": 4 * GB}
"""By device, shared memory below which Ray, vLLM or NCCL complain or fail."""
OPEN_FILES = 4096
SOCKET_PATH = 107
"""Bytes of the path of a Unix socket; Ray puts its own under its temporary folder."""
RAY_SOCKET = "/ray/session_2000-01-01_00-00-00_000000_1234567/sockets/plasma_store"


def machine(needs: Needs) -> Iterator[Finding]:
    """Look at all of it."""
    yield cores(os.cpu_count() or 1, len(os.sched_getaffinity(0)), CGROUPS)
    yield memory(needs, Path("/proc/meminfo"), CGROUPS)
    yield from disks(needs)
    yield shared_memory(needs, Path("/dev/shm"))
    yield open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))
    yield ray_folder(str(_place_of_ray()))
    yield loopback()
    yield host_name(socket.gethostname())


def cores(found: int, allowed: int, cgroup: Path) -> Finding:
    """The cores that this process may use, by affinity and by quota."""
    granted = quota(cgroup)
    usable = min(allowed, granted or allowed)
    what = f"{found} cores" + (f", of which {usable:g} may be used" if usable < found else "")
    if usable < 2:
        means = "ranks, rollout and rewards are processes of their own, and share one core"
        return Finding("cores", "warn", what, means, "give the container, or the job, more")
    if granted is not None and granted < allowed:
        means = "libraries that count cores start a thread for each, and the threads wait for each other"
        return Finding("cores", "warn", what, means, f"set OMP_NUM_THREADS={max(1, int(granted))} or less")
    return Finding("cores", "ok", what)


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def memory(needs: Needs, meminfo: Path, cgroup: Path) -> Finding:
    """The memory that is free, of the machine and of the control group."""
    sizes = {line.split(":")[0]: int(line.split()[1]) << 10 for line in _read(meminfo).splitlines() if line}
    free = sizes.get("MemAvailable", 0)
    limits = [_read(cgroup / name) for name in ("memory.max", "memory/memory.limit_in_bytes")]
    used = [_read(cgroup / name) for name in ("memory.current", "memory/memory.usage_in_bytes")]
    left = [int(limit) - int(now) for limit, now in zip(limits, used, strict=True) if limit.isdigit() and now.isdigit()]
    free = max(0, min([free, *left]))
    what, least = f"{free / GB:.0f} GB free", MEMORY[needs.device]
    if free < least:
        means = "the kernel ends processes of a run that runs out of it; the plan of `ctwa train --dry-run` has a guess"
        return Finding("memory", "warn", what, means, f"end what else runs, or take a machine with {least / GB:.0f} GB")
    return Finding("memory", "ok", what)


def disks(needs: Needs) -> Iterator[Finding]:
    """Room where the run's folder is to be, and where Ray writes."""
    for topic, place in {"disk of runs": Path(needs.run), "disk of Ray": _place_of_ray()}.items():
        try:
            check_place(place)
        except CtwaError as error:
            yield Finding(topic, "fail", str(error))
            continue
        there = next(each for each in (place, *place.absolute().parents) if each.exists())
        usage = shutil.disk_usage(there)
        what = f"{there}: {usage.free / GB:.0f} GB free"
        if topic == "disk of Ray" and usage.used > RAY_FULL * usage.total:
            means = f"it is more than {RAY_FULL:.0%} full, and Ray then writes no objects to it"
            yield Finding(topic, "fail", what, means, "make room, or set RAY_TMPDIR to a folder elsewhere")
        elif usage.free < DISK:
            means = "checkpoints are 16 bytes a parameter each, and logs grow"
            yield Finding(topic, "warn", what, means, "make room, or give another folder with ctwa.run")
        else:
            yield Finding(topic, "ok", what)


def _place_of_ray() -> Path:
    return Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())


def shared_memory(needs: Needs, place: Path) -> Finding:
    """Room in the memory that processes share."""
    if not place.is_dir():
        return Finding("shared memory", "warn", f"there is no {place}", "Ray keeps its objects on the disk, slowly")
    free, least = shutil.disk_usage(place).free, SHARED[needs.device]
    what = f"{place}: {free / GB:.1f} GB free"
    if free >= least:
        return Finding("shared memory", "ok", what)
    means = "Ray keeps its objects on the disk, slowly" + "; NCCL and vLLM fail" * (needs.device == "cuda")
    do = f"in Docker: --shm-size={least // GB or 1}g; elsewhere: take away what fills {place}"
    return Finding("shared memory", "fail" if needs.device == "cuda" else "warn", what, means, do)


def open_files(soft: int, hard: int) -> Finding:
    """How many files a process may open; Ray raises the soft limit to the hard one."""
    what = f"{'no limit' if hard == resource.RLIM_INFINITY else hard} (now {soft})"
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        means = "Ray's processes open many sockets, and end when they cannot"
        return Finding("open files", "warn", what, means, f"raise the hard limit to {OPEN_FILES} or more (ulimit -Hn)")
    return Finding("open files", "ok", what)


def ray_folder(place: str) -> Finding:
    """Whether Ray's sockets, whose paths may not be long, have room under its folder."""
    longest = SOCKET_PATH - len(RAY_SOCKET)
    if len(place.encode()) > longest:
        means = f"Ray's sockets would have paths of more than {SOCKET_PATH} bytes, and it would not start"
        return Finding("folder of Ray", "fail", place, means, f"set RAY_TMPDIR to a path of at most {longest} bytes")
    return Finding("folder of Ray", "ok", place)


def loopback() -> Finding:
    """Whether a process can listen on this machine and another reach it."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port), timeout=2):
                return Finding("loopback", "ok", "ports can be opened and reached on 127.0.0.1")
    except OSError as error:
        means = "the processes of a run talk over ports of this machine"
        return Finding("loopback", "fail", f"127.0.0.1: {error}", means, "allow it: ip link set lo up, or the firewall")


def host_name(name: str) -> Finding:
    """Whether the machine's own name leads to an address, as gloo and Ray want it."""
    try:
        addresses = sorted({str(info[4][0]) for info in socket.getaddrinfo(name, None)})
    except OSError as error:
        means = "gloo's ranks look for each other by it, and would not start"
        return Finding("host name", "fail", f"{name}: {error}", means, f"write `127.0.0.1 {name}` into /etc/hosts")
    return Finding("host name", "ok", f"{name} is {', '.join(addresses)}")
