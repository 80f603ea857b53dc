"""Faults in runs of the testbed: what a run survives, what that costs, and whether its end is the undisturbed one.

    python benchmarks/faults.py --out runs/faults [--faults 12] [--seed 0] [--testbed runs/testbed-D]

A process of each kind is killed, or stopped for some seconds; the run is told to end; a file of its newest checkpoint
is changed and the run killed. Each fault comes at a moment that the seed draws, in a run of its own (--max-restarts)
that saves every second step. What ended before its last step is resumed by hand once. One undisturbed run is made
first; "same" says that the last policy is its policy to the bit. A table is printed; a fault that is in --out is not
tried again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

from ctwa.engine.restarts import last_step
from ctwa.models.locate import model_folder, newest_complete, step_folder
from ctwa.models.seal import read_seal
from ctwa.run.folder import RunFolder
from ctwa.run.jsonl import read_jsonl

STEPS = 40
LATEST = 12  # of the step after which a fault comes
SETTINGS = (
    "method=ctwa",
    f"trainer.total_training_steps={STEPS}",
    "trainer.save_freq=2",
    "trainer.test_freq=-1",
    "trainer.n_gpus_per_node=1",
    "data.train_batch_size=8",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",
    "actor_rollout_ref.rollout.n=4",
    "ctwa.watchdog.every=1",
)
PROCESSES = {
    "driver": "ctwa.cli train ",
    "rank": "ray::WorkerDict",
    "rollout server": "ray::TransformersServer",
    "queue's controller": "ray::TransferQueueController",
    "queue's storage": "ray::SimpleStorageUnit",
    "reward worker": "ctwa.objectives.worker",
    "raylet": "/raylet/raylet",
    "GCS": "gcs_server",
}
"""Kinds of processes of a run, and what the command line of each has in it."""
STOPPED = 5.0  # seconds
PATIENCE = 400.0  # seconds, for a run that is to end


@dataclass
class Outcome:
    """What became of a run with a fault.

    Attributes:
        fault: which.
        step: the last one made before it.
        status: of the command.
        restarts: by the command, and after it by hand.
        seconds: from the fault to the end of the second step after it (that which it hit may end all the same); None
            where it never came.
        steps_lost: made twice.
        same: whether the last policy is the undisturbed one.
        orphans: processes left after the end.
        said: why the run was resumed, in its own words.
    """

    fault: str
    step: int
    status: int
    restarts: int
    seconds: float | None
    steps_lost: int
    same: bool
    orphans: int
    said: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--testbed", type=Path, help="made in --out by default")
    parser.add_argument("--faults", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    testbed = arguments.testbed or make_testbed(arguments.out)
    undisturbed = RunFolder(arguments.out / "undisturbed")
    if newest_complete(undisturbed.checkpoints) != step_folder(undisturbed.checkpoints, STEPS):
        subprocess.run(command(undisturbed, testbed, "ctwa.resume=true"), check=True)
    outcomes = []
    for number in range(arguments.faults):
        file = arguments.out / f"fault-{arguments.seed}-{number:03}.json"
        if not file.exists():
            outcome = tried(number, arguments.seed, RunFolder(file.with_suffix("")), testbed, undisturbed)
            file.write_text(json.dumps(asdict(outcome), indent=1))
        outcomes.append(Outcome(**json.loads(file.read_text())))
        print(row(outcomes[-1]), file=sys.stderr, flush=True)
    print(table(outcomes))


def make_testbed(out: Path) -> Path:
    """Testbed D, on the base model that comes with the package."""
    from ctwa.testbed.prepare import prepare
    from ctwa.testbed.presets import get_preset

    return prepare(get_preset("D"), out / "testbed-D").root


def command(run: RunFolder, testbed: Path, *more: str) -> list[str]:
    """A run, which is resumed where it fails."""
    own = [f"ctwa.run={run.path}", f"ctwa.task_dir={testbed}", *SETTINGS, *more]
    return [sys.executable, "-m", "ctwa.cli", "train", "--max-restarts", "3", *own]


# -- a fault ----------------------------------------------------------------------------------------------------------


def tried(number: int, seed: int, run: RunFolder, testbed: Path, undisturbed: RunFolder) -> Outcome:
    """A run with a fault, to its last step."""
    draw = random.Random(f"{seed}-{number}")
    faults = list(FAULTS)
    fault = faults[number % len(faults)]
    at, later = draw.randint(1, LATEST), draw.uniform(0, 2)
    with session(command(run, testbed)) as running:
        wait_until(lambda: last_step(run) >= at, running)
        time.sleep(later)  # so that it comes in any phase of a step
        step, began = last_step(run), time.monotonic()
        FAULTS[fault](running, run, draw)
        went_on: list[float] = []

        def is_over() -> bool:
            if not went_on and made_after(run, began_at, step + 2):
                went_on.append(time.monotonic() - began)
            return running.poll() is not None

        began_at = time.time()
        wait_until(is_over, running, patience=PATIENCE)
        status = running.poll()
        orphans = len(processes_of(running))
    if newest_complete(run.checkpoints) != step_folder(run.checkpoints, STEPS):
        subprocess.run(command(run, testbed, "ctwa.resume=true"), check=False)
    resumed = [event["text"] for event in read_jsonl(run.events) if event["kind"] == "resume"]
    errors = [event["text"] for event in read_jsonl(run.events) if event["kind"] in ("error", "stop", "stuck")]
    dropped = run.metrics.with_suffix(".dropped.jsonl")
    return Outcome(
        fault=fault,
        step=step,
        status=-1 if status is None else status,
        restarts=len([text for text in resumed if text.startswith(("continuing", "no checkpoint"))]),
        seconds=went_on[0] if went_on else None,
        steps_lost=len(read_jsonl(dropped)) if dropped.exists() else 0,
        same=same_policy(run, undisturbed),
        orphans=orphans,
        said=errors[0] if errors else "",
    )


def made_after(run: RunFolder, began_at: float, step: int) -> bool:
    """Whether a step, or a later one, was made after a time (s since 1970)."""
    records = read_jsonl(run.metrics) if run.metrics.is_file() else []
    return any(record["time"] > began_at and record["step"] >= step for record in records)


def same_policy(run: RunFolder, other: RunFolder) -> bool:
    """Whether two runs ended with the same policy, to the bit."""
    files = [model_folder(step_folder(each.checkpoints, STEPS)) / "model.safetensors" for each in (run, other)]
    if not all(file.exists() for file in files):
        return False
    one, two = (load_file(file) for file in files)
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


Fault = Callable[["subprocess.Popen[bytes]", RunFolder, random.Random], None]


def killing(kind: str) -> Fault:
    """One process of a kind gets SIGKILL."""

    def kill(running: subprocess.Popen[bytes], run: RunFolder, draw: random.Random) -> None:
        del run
        draw.choice(processes_of(running, PROCESSES[kind])).send_signal(signal.SIGKILL)

    return kill


def stopping(kind: str) -> Fault:
    """One process of a kind does nothing for a while."""

    def stop(running: subprocess.Popen[bytes], run: RunFolder, draw: random.Random) -> None:
        del run
        process = draw.choice(processes_of(running, PROCESSES[kind]))
        process.send_signal(signal.SIGSTOP)
        time.sleep(STOPPED)
        process.send_signal(signal.SIGCONT)

    return stop


def telling(number: signal.Signals) -> Fault:
    """The command and its process group are told to end, as a scheduler does it."""

    def tell(running: subprocess.Popen[bytes], run: RunFolder, draw: random.Random) -> None:
        del run, draw
        os.killpg(running.pid, number)

    return tell


def damage(running: subprocess.Popen[bytes], run: RunFolder, draw: random.Random) -> None:
    """A bit of the newest checkpoint changes, and the driver is killed."""
    newest = newest_complete(run.checkpoints)
    if newest is not None:
        name = draw.choice(sorted(read_seal(newest) or {}))
        content = bytearray((newest / name).read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (newest / name).write_bytes(content)
    killing("driver")(running, run, draw)


FAULTS: dict[str, Fault] = {
    **{f"SIGKILL: {kind}": killing(kind) for kind in PROCESSES},
    **{f"SIGSTOP for {STOPPED:g} s: {kind}": stopping(kind) for kind in ("rank", "rollout server", "reward worker")},
    "SIGTERM: process group": telling(signal.SIGTERM),
    "a bit of the newest checkpoint, and SIGKILL: driver": damage,
}


# -- processes --------------------------------------------------------------------------------------------------------


@contextmanager
def session(words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a session of its own, all of which is ended with it."""
    running = subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield running
    finally:
        for each in processes_of(running):
            each.kill()
        running.wait()


def processes_of(running: subprocess.Popen[bytes], words: str = "") -> list[psutil.Process]:
    """The processes of a session with these words in their command lines; but the first, which waits."""
    found = []
    for each in psutil.process_iter():
        try:
            is_one = os.getsid(each.pid) == running.pid and each.pid != running.pid
            if is_one and each.status() != psutil.STATUS_ZOMBIE and words in f"{' '.join(each.cmdline())} ":
                found.append(each)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return sorted(found, key=lambda each: each.pid)


def wait_until(is_so: Callable[[], bool], running: subprocess.Popen[bytes], *, patience: float = PATIENCE) -> None:
    """Look ten times a second, until it is so, the process has ended, or patience has."""
    began = time.monotonic()
    while not is_so() and running.poll() is None and time.monotonic() - began < patience:
        time.sleep(0.1)


# -- text -------------------------------------------------------------------------------------------------------------


def table(outcomes: list[Outcome]) -> str:
    """A line a fault."""
    header = "| fault | after step | exit status | resumed | s to the second step after | made again | same | left |"
    return "\n".join([header, "|---" * 8 + "|", *(row(each) for each in outcomes)])


def row(each: Outcome) -> str:
    """A line of the table."""
    seconds = "-" if each.seconds is None else f"{each.seconds:.0f}"
    same = "yes" if each.same else "**no**"
    cells = (each.fault, each.step, each.status, each.restarts, seconds, each.steps_lost, same, each.orphans)
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
