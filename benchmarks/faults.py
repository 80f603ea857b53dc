"""Faults in a run of the testbed: what it survives, what that costs, and whether it goes on as the undisturbed run did.

    python benchmarks/faults.py --out runs/faults [--minutes 4] [--only PATTERN] [--seed 0]
    python benchmarks/faults.py --out runs/faults --compare
    python benchmarks/faults.py --out docs/results/data/faults --table

One run is disturbed again and again, at moments that the seed draws: a process of each kind is killed or stopped, the
run is told to end, its disk fills up, its files change. What ended is resumed; what was taken without ending is
followed by the next fault at once. Every fault is a line of OUT/faults.jsonl, and is not tried again: the script may
be ended and started at will. --minutes begins no fault after so long. --compare makes an undisturbed run, says which
steps are the same, and prints two tables (docs/reliability.md): of each fault, and of each kind. --table only prints
these.

The run is on a small file system, which this user must be allowed to mount. Afterwards: umount OUT/disk.
(What reward functions may do to a run is in tests/e2e/test_faults.py.)
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from fault_kinds import FAULTS, PATIENCE, Disturbed, end_all, ended, processes, processes_of, system, wait_until
from fault_records import Outcome, Trial, by_kind, each_fault, line, read_outcomes, row

from ctwa.run.folder import RunFolder
from ctwa.run.jsonl import read_jsonl

SETTINGS = (
    "method=ctwa",
    "trainer.total_training_steps=10000",  # the schedule ends it
    "trainer.save_freq=2",
    "trainer.test_freq=-1",
    "trainer.val_before_train=false",
    "trainer.n_gpus_per_node=1",
    "data.train_batch_size=8",
    "actor_rollout_ref.actor.ppo_mini_batch_size=8",
    "actor_rollout_ref.rollout.n=4",
    "ctwa.watchdog.every=1",
    "ctwa.rewards.max_unscored=1",
    "ctwa.resume=true",
)
SUBREAPER = 36  # of Linux' prctl
AGAIN = ("driver", "rank", "rollout server", "raylet", "GCS", "queue's controller", "queue's storage")
SCHEDULE = [
    *(Trial(name) for name in ("SIGSTOP, 5 s: rank", "SIGKILL: rank", "SIGKILL: raylet", "SIGTERM: process group")),
    *(Trial(name) for name in ("a bit of a checkpoint changes", "the disk is full", "the folder is read-only")),
    # A command that has resumed its run once is as one without --max-restarts, so that each serves two faults.
    *(Trial(f"SIGKILL: {kind}", restarts=restarts) for kind in AGAIN for restarts in (1, 0)),
    *(Trial(name) for name in FAULTS),
    *(Trial(f"SIGKILL: {kind}", "save") for kind in AGAIN),
    Trial("SIGTERM: process group", "save"),
    *(Trial(name, "save") for name in FAULTS if name.startswith("SIGSTOP")),
    *(Trial(f"SIGKILL: {kind}", "start") for kind in ("driver", "rank", "raylet", "GCS")),
    Trial("SIGTERM: process group", "start"),
]
# Each once, at its first place. What completions a reward worker had stay unscored, so that later steps are others.
SCHEDULE = sorted(dict.fromkeys(SCHEDULE), key=lambda trial: "reward worker" in trial.fault)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--only", default="", help="faults whose names match this expression")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", action="store_true", help="with an undisturbed run, as far as that comes in time")
    parser.add_argument("--table", action="store_true", help="of what is in OUT")
    arguments = parser.parse_args()
    records = arguments.out / "faults.jsonl"
    outcomes = read_outcomes(records)
    if not arguments.table:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that nothing of the run is left
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored, and so would the runs
        ctypes.CDLL(None).prctl(SUBREAPER, 1)  # what a command leaves becomes this script's
        disk = small_disk(arguments.out)
        chain = Chain(disk / "run", make_testbed(arguments.out))
        until = time.monotonic() + 60 * arguments.minutes
        try:
            if arguments.compare:
                compare(chain, Chain(disk / "undisturbed", chain.testbed), outcomes, until)
                records.write_text("".join(line(each) for each in outcomes))
            else:
                tried = {each.trial for each in outcomes}
                chosen = [each for each in SCHEDULE if re.search(arguments.only, each.fault)]
                schedule = [replace(each, seed=arguments.seed) for each in chosen]
                try_all([each for each in schedule if each not in tried], chain, records, until)
        finally:
            end_all()
    if arguments.table or arguments.compare:
        print(f"{each_fault(outcomes)}\n\n{by_kind(outcomes)}")


def make_testbed(out: Path) -> Path:
    """Testbed D with few problems, on the base model that comes with the package."""
    from ctwa.testbed.prepare import prepare
    from ctwa.testbed.presets import get_preset

    folder = out / "testbed"
    return folder if folder.exists() else prepare(replace(get_preset("D"), num_train=96), folder).root


def small_disk(out: Path) -> Path:
    """A file system of its own for the run, so that it can be filled."""
    disk = out / "disk"
    disk.mkdir(parents=True, exist_ok=True)
    if not disk.is_mount():
        system("mount", "-t", "tmpfs", "-o", "size=200m", "ctwa-faults", str(disk))
    return disk


def try_all(trials: list[Trial], chain: Chain, records: Path, until: float) -> None:
    """Try faults, one after the other, until all are done or a time (monotonic, s) has come."""
    for trial, following in zip(trials, [*trials[1:], None], strict=True):
        if time.monotonic() > until:
            return
        try:
            outcome = chain.tried(trial, restarts_then=following.restarts if following else 0)
        except LookupError as error:
            print(f"{trial.fault} could not be tried: {error}", file=sys.stderr)
            continue
        with records.open("a") as file:
            file.write(line(outcome))
        print(row(outcome), flush=True)


# -- a run that is disturbed ------------------------------------------------------------------------------------------


class Chain:
    """A run that is disturbed again and again, and resumed.

    Args:
        folder: of the run.
        testbed: what it learns.
    """

    def __init__(self, folder: Path, testbed: Path) -> None:
        self.run = RunFolder(folder)
        self.testbed = testbed
        self.output = folder.with_suffix(".output")
        self._command: subprocess.Popen[bytes] | None = None
        self._restarts = 0  # that the command has left

    def start(self, restarts: int) -> subprocess.Popen[bytes]:
        """Start it, or resume it."""
        own = [f"ctwa.run={self.run.path}", f"ctwa.task_dir={self.testbed}", *SETTINGS]
        words = [sys.executable, "-m", "ctwa.cli", "train", "--max-restarts", str(restarts), *own]
        with self.output.open("wb") as output:
            self._command = subprocess.Popen(words, start_new_session=True, stdout=output, stderr=subprocess.STDOUT)
        self._restarts = restarts
        return self._command

    def stop(self) -> None:
        """End what goes on, without a fault."""
        if self._command is not None:
            self._command.terminate()
            self._command.wait(PATIENCE)

    def tried(self, trial: Trial, restarts_then: int) -> Outcome:
        """A fault, and how the run goes on; what has ended is resumed for a trial with so many restarts.

        Raises:
            LookupError: it cannot be tried.
        """
        draw, command = random.Random(f"{trial}"), self._command
        if command is None or ended(command) or self._restarts != trial.restarts or trial.moment == "start":
            self.stop()
            command = self.start(trial.restarts)
        self.wait_for(trial.moment, command, draw)
        before, num_dropped = self.last_record(), len(self.dropped())
        began = time.time()
        outcome = Outcome(trial, before["step"], phase_at(began, before) if trial.moment == "step" else "")
        with ExitStack() as mending:
            FAULTS[trial.fault](Disturbed(command, self.run, draw, mending))
            outcome.survived = self.goes_on(command, began, settled=20 if trial.restarts else 5)
            if not outcome.survived:
                self.wait_for_end(outcome, command, began)
            outcome.said = self.said(began, command)
        self._restarts -= len(self.events(began, "resume"))
        if ended(command):
            outcome.survived = self.goes_on(self.start(restarts_then), time.time(), settled=0)
        outcome.steps_lost = len(self.dropped()) - num_dropped
        ends = [before["time"], *(each["time"] for each in latest(self.run.metrics) if each["time"] > began)]
        outcome.pause = round(max((later - one for one, later in pairwise(ends)), default=0), 1) or None
        return outcome

    def wait_for(self, moment: str, command: subprocess.Popen[bytes], draw: random.Random) -> None:
        """Until a moment of that kind comes.

        Raises:
            RuntimeError: the command ends before.
        """
        since = time.time()
        if moment == "start":
            wait_until(lambda: bool(processes_of("rank")) or ended(command))
            time.sleep(draw.uniform(0, 5))
        else:
            # Two steps of this process' own: then it is warm.
            wait_until(lambda: self.has_made(2, since) or ended(command))
            if moment == "step":
                time.sleep(draw.uniform(0, 2))
            else:
                wait_until(lambda: self.saves() or ended(command), every=0.001)
        if ended(command):
            raise RuntimeError(f"the run ended before the next fault came: see {self.output}")

    def goes_on(self, command: subprocess.Popen[bytes], began: float, *, settled: float) -> bool:
        """Whether the run makes three steps after a time or a resumption that follows it (it may make the first even
        though it dies), and is there so many seconds later.
        """

        def does() -> bool:
            resumed = [each["time"] for each in self.events(began, "resume")]
            return time.time() > began + settled and self.has_made(3, max(resumed, default=began))

        wait_until(lambda: does() or ended(command))
        return does() and not ended(command)

    def wait_for_end(self, outcome: Outcome, command: subprocess.Popen[bytes], began: float) -> None:
        """How the command ends, or is ended here."""
        if not ended(command):
            outcome.said = f"nothing for {PATIENCE:g} s: killed by this script"
            end_all()
        outcome.status, outcome.seconds_to_end = command.wait(), round(time.time() - began, 1)
        wait_until(lambda: not processes(), patience=20)
        outcome.orphans = len(processes())
        end_all()

    def saves(self) -> bool:
        """Whether there is a checkpoint without its seal."""
        return any(not (each / "complete.json").exists() for each in self.run.checkpoints.glob("global_step_*"))

    def has_made(self, num_steps: int, since: float) -> bool:
        """Whether so many steps were made since a time."""
        return len([each for each in latest(self.run.metrics) if each["time"] > since]) >= num_steps

    def last_record(self) -> dict[str, Any]:
        """That of the last step; an empty one before the first."""
        return (latest(self.run.metrics) or [{"step": 0, "time": time.time(), "metrics": {}}])[-1]

    def dropped(self) -> list[dict[str, Any]]:
        """The records of the steps that were made again."""
        path = self.run.metrics.with_suffix(".dropped.jsonl")
        return read_jsonl(path) if path.exists() else []

    def events(self, since: float, *kinds: str) -> list[dict[str, Any]]:
        """What the run has said since a time."""
        return [each for each in latest(self.run.events) if each["time"] > since and each["kind"] in kinds]

    def said(self, since: float, command: subprocess.Popen[bytes]) -> str:
        """What a user reads of a fault."""
        told = [str(each["text"]) for each in self.events(since, "error", "stop", "stuck")]
        lines = [each.strip() for each in self.output.read_text(errors="replace").splitlines() if "error" in each]
        return (told or (lines[-1:] if ended(command) else []) or [""])[0]


def compare(chain: Chain, undisturbed: Chain, outcomes: list[Outcome], until: float) -> None:
    """Make the undisturbed run, as far as the other one came or time (monotonic, s) allows; say which steps are the
    same.
    """
    last = chain.last_record()["step"]
    if undisturbed.last_record()["step"] < last:
        command = undisturbed.start(0)
        wait_until(
            lambda: undisturbed.last_record()["step"] >= last or ended(command), patience=until - time.monotonic()
        )
        undisturbed.stop()
    ours, theirs = (
        {record["step"]: record for record in read_jsonl(each.run.metrics)} for each in (chain, undisturbed)
    )
    differ = [step for step in ours if step in theirs and numbers(ours[step]) != numbers(theirs[step])]
    for each, later in zip(outcomes, [*outcomes[1:], None], strict=True):
        end = last if later is None else later.step
        if each.same is None and end <= max(theirs):
            each.same = not any(each.step < step <= end for step in differ)


def numbers(record: dict[str, Any]) -> dict[str, float]:
    """The metrics of a record that the computation determines: without clocks, memory and processes."""
    volatile = ("time/", "perf/", "seconds", "memory/", "left_processes")
    return {key: value for key, value in record["metrics"].items() if not any(part in key for part in volatile)}


def phase_at(now: float, before: dict[str, Any]) -> str:
    """The phase of the step that goes on, by the times of the step before, whose record this is."""
    left = now - before["time"]
    for phase in ("update_weights", "gen", "reward", "old_log_prob", "adv", "update_actor", "statistic"):
        left -= before["metrics"].get(f"time/{phase}", 0.0)
        if left < 0:
            return phase
    return "save_checkpoint"


def latest(path: Path, size: int = 1 << 18) -> list[dict[str, Any]]:
    """The last records of a file that grows; none where there is no such file now."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            lines = file.read().split(b"\n")[1 if file.tell() > size else 0 : -1]
    except FileNotFoundError:
        return []
    return [json.loads(each) for each in lines]


if __name__ == "__main__":
    main()
