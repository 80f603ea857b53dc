"""What looking costs: the report of many long runs, and the live view of a run that goes on.

    python benchmarks/monitor.py [--runs 20] [--steps 10000] [--objectives 8] [--watch-seconds 60]

The runs are made up: random walks under every metric that a run of CTWA writes. Prints the time of `ctwa report` and
the size of its page; then lets a run grow by a step every two seconds, watches it in a terminal of 120 x 40 and prints
the processor time of `ctwa watch` as a share of one core, which is the most by which it can slow a step.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

import numpy as np
import psutil

from ctwa.run.folder import ObjectiveInfo, RunFolder, RunInfo
from ctwa.run.trace import TraceWriter

VALIDATE_EVERY = 10
STEP_SECONDS = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--objectives", type=int, default=8)
    parser.add_argument("--watch-seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    names = [f"objective {index}" for index in range(arguments.objectives)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        runs = [write_run(root / f"run-{seed}", names, arguments.steps, seed=seed) for seed in range(arguments.runs)]
        began = time.perf_counter()
        command = [sys.executable, "-m", "ctwa.cli", "report", *map(str, runs), "--out", str(root / "report.html")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - began
        size = (root / "report.html").stat().st_size / 1e6
        print(
            f"report of {arguments.runs} runs x {arguments.steps} steps x {arguments.objectives} objectives: "
            f"{seconds:.1f} s, {size:.1f} MB"
        )
        share = watch(root / "live", names, arguments)
        print(f"watch of a growing run of {arguments.steps} steps: {share:.2%} of one core")


def write_run(path: Path, names: list[str], steps: int, *, seed: int) -> Path:
    """A made-up run."""
    run = new_run(path, names, steps, seed=seed)
    with TraceWriter(run.metrics) as trace:
        for step, metrics in enumerate(made_up(names, steps, seed=seed)):
            trace.write(step, metrics)
    return path


def new_run(path: Path, names: list[str], steps: int, *, seed: int) -> RunFolder:
    objectives = {name: ObjectiveInfo(weight=1 / len(names), target=0.1) for name in names}
    info = RunInfo(method=f"method {seed // 5}", objectives=objectives, num_steps=steps, seed=seed)
    return RunFolder.create(path, {"seed": seed}, info)


def made_up(names: list[str], steps: int, *, seed: int) -> list[dict[str, float]]:
    """The metrics of every step."""
    keys = [
        f"{prefix}{name}{suffix}"
        for name in names
        for prefix, suffix in (
            *(("objective/", f"/{kind}") for kind in ("mean", "std", "scored_frac", "timeout_frac", "error_frac")),
            *((f"{kind}/", "") for kind in ("covariance", "weight")),
            *((f"ctwa/{kind}/", "") for kind in ("ema", "deficit", "log_weight", "target")),
        )
    ]
    keys += ["ctwa/feasibility", "clip/fraction", "clip/distortion", "actor/entropy", "actor/grad_norm", "time/gen"]
    keys += ["time/update_actor", "time/reward", "response_length/mean"]
    walk = np.random.default_rng(seed).normal(0, 0.003, (steps + 1, len(keys))).cumsum(0) + 0.5
    records = [dict(zip(keys, row, strict=True)) | {"time/step": STEP_SECONDS} for row in walk.tolist()]
    for record in records[::VALIDATE_EVERY]:
        record |= {f"val/{name}": record[f"objective/{name}/mean"] for name in names}
        record |= {f"val_standard_error/{name}": 0.02 for name in names}
    return records


def watch(path: Path, names: list[str], arguments: argparse.Namespace) -> float:
    """The processor time of the live view, over the time it was watched after its first look."""
    run = new_run(path, names, arguments.steps, seed=0)
    records = made_up(names, arguments.steps, seed=0)
    first = arguments.steps // 2
    terminal, view = pty.openpty()
    fcntl.ioctl(view, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    with TraceWriter(run.metrics) as trace:
        for step in range(first):
            trace.write(step, records[step])
        environment = os.environ | {"TERM": "xterm-256color"}
        process = subprocess.Popen(
            [sys.executable, "-m", "ctwa.cli", "watch", str(path)], stdin=view, stdout=view, env=environment
        )
        os.set_blocking(terminal, False)
        try:
            used, step = [], first
            for _ in range(int(arguments.watch_seconds / STEP_SECONDS) + 5):
                trace.write(step, records[step])
                step += 1
                until = time.monotonic() + STEP_SECONDS
                while (left := until - time.monotonic()) > 0:
                    drain(terminal)
                    time.sleep(min(left, 0.05))
                times = psutil.Process(process.pid).cpu_times()
                used.append((time.monotonic(), times.user + times.system))
        finally:
            os.write(terminal, b"q")
            process.wait(timeout=30)
            os.close(terminal)
            os.close(view)
    (began, before), (ended, after) = used[4], used[-1]  # the first looks read all that is there
    return (after - before) / (ended - began)


def drain(terminal: int) -> None:
    """Take what the view wrote, so that it never waits for its reader."""
    try:
        while os.read(terminal, 1 << 16):
            pass
    except BlockingIOError:
        return


if __name__ == "__main__":
    main()
