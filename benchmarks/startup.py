"""Where the start and the end of a run go: phases of the driver, and the work of each process.

    python benchmarks/startup.py --testbed runs/testbed-D [--starts 5] [-- KEY=VALUE...]

Starts a run of one step again and again (`ctwa train`, with the overrides given) and looks a hundred times a second
what the driver does and which processes there are. Prints the median over the starts of each phase's seconds, whose sum
is the time from the command line to the shell's next prompt, and of the CPU seconds of each kind of process.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from types import FrameType

import psutil
from rich.console import Console
from rich.table import Table

OVERRIDES = [
    *("method=linear", "trainer.n_gpus_per_node=1", "trainer.total_training_steps=1", "trainer.test_freq=-1"),
    *("data.train_batch_size=8", "actor_rollout_ref.actor.ppo_mini_batch_size=4", "actor_rollout_ref.rollout.n=4"),
    *("trainer.save_freq=-1", "trainer.val_before_train=false"),
]
PHASES = (
    ("fit", "ctwa/engine/loop.py", "the step"),
    ("close", "transfer_queue/interface.py", "end: the transfer queue"),
    ("shutdown", "ray/_private/worker.py", "end: Ray"),
    ("_get_master_addr_port", "verl/single_controller/ray/base.py", "workers: an address, from a process of its own"),
    ("__call__", "verl/single_controller/ray/base.py", "workers: their imports and the model"),
    ("wrapper", "verl/utils/ray_utils.py", "rollout servers, as far as they are not up yet"),
    ("result", "concurrent/futures/_base.py", "transfer queue, as far as it is not up yet"),
    ("init", "verl/trainer/ppo/v1/trainer_base.py", "tokenizer, data, the rest of the trainer"),
    ("init", "ray/_private/worker.py", "Ray"),
    ("<module>", "ctwa/engine/sampling.py", "imports of verl and of the trainer"),
    ("check", "ctwa/engine/train_job.py", "checks, with the imports of torch and transformers"),
    ("compose_config", "ctwa/engine/compose.py", "the configuration"),
)
"""A function, the end of its file's name, and the phase that it stands for; the first that is being called counts."""
INTERVAL = 0.01
START, OTHER, EXIT = "Python, and imports of the command line", "between the phases", "end: Python"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--testbed", type=Path, required=True, help="what `ctwa testbed make` made")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    phases: list[dict[str, float]] = []
    processes: list[dict[str, float]] = []
    for _ in range(arguments.starts):
        with tempfile.TemporaryDirectory() as folder:
            overrides = [f"ctwa.run={folder}/run", f"ctwa.task_dir={arguments.testbed}", *OVERRIDES]
            phase, process = measure(overrides + arguments.overrides, Path(folder) / "samples")
        phases.append(phase)
        processes.append(process)
    console = Console()
    console.print(_table("phase", "s", phases), _table("process", "CPU s", processes), sep="\n")


def _table(title: str, unit: str, found: Sequence[dict[str, float]]) -> Table:
    """Medians, in the order of the first start, and the median of the sums."""
    table = Table(title, unit, box=None)
    for name in dict.fromkeys(name for each in found for name in each):
        table.add_row(name, f"{median(each.get(name, 0.0) for each in found):.1f}")
    table.add_row("together", f"{median(sum(each.values()) for each in found):.1f}")
    return table


def measure(overrides: Sequence[str], samples: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each phase of one run, and CPU seconds of each kind of process."""
    began = time.time()
    command = [sys.executable, __file__, str(samples), "train", *overrides]
    run = subprocess.Popen(command, env=os.environ | {SAMPLED: "1"}, stdout=subprocess.DEVNULL)
    cpu: dict[int, tuple[str, float]] = {}
    while run.poll() is None:
        for process in _descendants(run.pid):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                cpu[process.pid] = _kind(process.cmdline(), run.pid == process.pid), times.user + times.system
        time.sleep(10 * INTERVAL)
    if run.returncode:
        raise SystemExit(f"the run ended with status {run.returncode}")
    kinds: dict[str, float] = defaultdict(float)
    for kind, seconds in cpu.values():
        kinds[kind] += seconds
    return _seconds(samples, began, time.time()), kinds


def _descendants(pid: int) -> Iterator[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        driver = psutil.Process(pid)
        yield driver
        yield from driver.children(recursive=True)


def _kind(command: Sequence[str], is_driver: bool) -> str:
    if is_driver:
        return "driver"
    if command and command[0].startswith("ray::"):
        return command[0].partition(".")[0]
    program = next((Path(part).name for part in command if part.endswith((".py", "raylet", "gcs_server"))), "")
    return {"default_worker.py": "ray:: (starting)", "setup_worker.py": "ray:: (starting)"}.get(program, program) or (
        "reward workers" if "ctwa.objectives.worker" in command else "others"
    )


def _seconds(samples: Path, began: float, ended: float) -> dict[str, float]:
    """From the samples: each lasts until the next."""
    lines = [line.split("\t") for line in samples.read_text().splitlines()]
    times = [float(moment) for moment, _ in lines]
    seconds: dict[str, float] = defaultdict(float, {START: times[0] - began})
    for (_, phase), moment, following in zip(lines, times, [*times[1:], times[-1]], strict=True):
        seconds[phase] += following - moment
    seconds[EXIT] = ended - times[-1]
    return seconds


SAMPLED = "CTWA_BENCHMARK_STARTUP"
"""Set where this file is the run that is looked at."""


def sampled() -> None:
    """Run ctwa on the arguments, and write down again and again what the main thread does."""
    from ctwa.cli import main as ctwa

    path = sys.argv.pop(1)
    main_thread = threading.get_ident()

    def look() -> None:
        with open(path, "w", buffering=1) as file:
            while (frame := sys._current_frames().get(main_thread)) is not None:
                file.write(f"{time.time()}\t{_phase(frame)}\n")
                time.sleep(INTERVAL)

    threading.Thread(target=look, daemon=True).start()
    ctwa()


def _phase(frame: FrameType | None) -> str:
    called = []
    while frame is not None:
        called.append((frame.f_code.co_name, frame.f_code.co_filename))
        frame = frame.f_back
    for name, file, phase in PHASES:
        if any(function == name and where.endswith(file) for function, where in called):
            return phase
    return OTHER


if __name__ == "__main__":
    sampled() if os.environ.get(SAMPLED) else main()
