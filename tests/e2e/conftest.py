"""Runs of the real engine, each in a process of its own, as a user starts them."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from ctwa.testbed.prepare import prepare
from ctwa.testbed.presets import get_preset

SMALL = [
    "data.train_batch_size=8",
    "actor_rollout_ref.actor.ppo_mini_batch_size=4",
    "actor_rollout_ref.rollout.n=4",
    "data.val_max_samples=32",
    "trainer.n_gpus_per_node=1",
    "trainer.test_freq=-1",
    "trainer.save_freq=-1",
    "actor_rollout_ref.actor.optim.lr=3e-4",
    "algorithm.rollout_correction.bypass_mode=false",
]
"""One rank, small batches, a learning rate that moves the policy within a few steps. The trainer computes the old
log-probs anew, and so measures how far the rollout's are from them."""


@dataclass(frozen=True)
class Run:
    """What a run left and said."""

    folder: Path
    returncode: int
    output: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """The metrics of the steps, in their order."""
        return [json.loads(line)["metrics"] for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    @property
    def log(self) -> str:
        """What the engine said behind the user's back."""
        return (self.folder / "engine.log").read_text(errors="replace")

    def checked(self) -> Run:
        """This run, if it ended well."""
        assert self.returncode == 0, f"{self.output}\n--- engine.log ---\n{self.log[-5000:]}"
        return self


def comparable(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that the computation determines: without clocks, memory and processes."""
    volatile = ("time/", "perf/", "actor/perf/", "seconds", "memory/", "left_processes")
    return {key: value for key, value in metrics.items() if not any(part in key for part in volatile)}


def weights_of(run: Run, step: int) -> dict[str, torch.Tensor]:
    """The policy that a run saved."""
    return load_file(run.folder / f"checkpoints/global_step_{step}/actor/huggingface/model.safetensors")


def assert_same_weights(one: Run, other: Run, step: int, other_step: int | None = None) -> None:
    """Of the policies of two runs after a step, or each after its own, to the last bit."""
    first, second = weights_of(one, step), weights_of(other, step if other_step is None else other_step)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.fixture(scope="session")
def testbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Testbed D with few problems, on the base model that comes with the package."""
    return prepare(replace(get_preset("D"), num_train=96), tmp_path_factory.mktemp("testbed") / "D").root


CTWA_TRAIN = ("-m", "ctwa.cli", "train")


@pytest.fixture(scope="session")
def command(testbed: Path) -> Callable[..., list[str]]:
    """The command line of a small run in a folder."""

    def build(folder: Path, overrides: Sequence[str], program: Sequence[str] = CTWA_TRAIN) -> list[str]:
        own = [f"ctwa.run={folder}", f"ctwa.task_dir={testbed}"]
        return [sys.executable, *program, *own, *SMALL, *overrides]

    return build


@pytest.fixture(scope="session")
def run_command() -> Callable[[Path, list[str]], Run]:
    """Start Python with these arguments, which leave a run in a folder; wait for its end."""

    def start(folder: Path, arguments: list[str]) -> Run:
        with process([sys.executable, *arguments]) as running:
            output, _ = running.communicate(timeout=600)
        return Run(folder, running.returncode, output)

    return start


@pytest.fixture(scope="session")
def train(command: Callable[..., list[str]], run_command: Callable[[Path, list[str]], Run]) -> Callable[..., Run]:
    """Start a run, wait for its end."""

    def start(folder: Path, *overrides: str, program: Sequence[str] = CTWA_TRAIN) -> Run:
        return run_command(folder, command(folder, overrides, program)[1:])

    return start


class process:  # noqa: N801 - reads as a statement
    """A command in a session of its own; all that it started is ended with it, Ray's processes too."""

    def __init__(self, command: list[str]) -> None:
        self._command = command

    def __enter__(self) -> subprocess.Popen[str]:
        self._running = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, "COLUMNS": "100"},
        )
        return self._running

    def __exit__(self, *_: object) -> None:
        end_session(self._running.pid)
        self._running.wait()
        if self._running.stdout:
            self._running.stdout.close()


def processes_in(session: int) -> list[psutil.Process]:
    """The processes of a session that this test started."""
    found = []
    for each in psutil.process_iter():
        with suppress(ProcessLookupError):
            if os.getsid(each.pid) == session:
                found.append(each)
    return found


def end_session(session: int) -> None:
    """End every process of a session that this test started."""
    for each in processes_in(session):
        with suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGKILL)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """While no other process of the tests is in here."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def ctwa_on_two_ranks(train: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run as a user's: CTWA with the paper's statistic. One process of the tests makes it for all."""
    own = tmp_path_factory.getbasetemp()
    place = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    folder, said = place / "ctwa-on-two-ranks", place / "ctwa-on-two-ranks.txt"
    with locked(place / "ctwa-on-two-ranks.lock"):
        if not said.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of one that failed for another process of the tests
            run = train(
                folder,
                "trainer.n_gpus_per_node=2",
                "trainer.total_training_steps=4",
                "trainer.save_freq=4",
                "trainer.test_freq=4",
            ).checked()
            said.write_text(run.output)
    return Run(folder, 0, said.read_text())


@pytest.fixture
def watched_process(command: Callable[..., list[str]]) -> Iterator[Callable[..., Any]]:
    """Start a run without waiting for it."""
    started: list[process] = []

    def start(folder: Path, *overrides: str, program: Sequence[str] = CTWA_TRAIN) -> subprocess.Popen[str]:
        started.append(process(command(folder, overrides, program)))
        return started[-1].__enter__()

    yield start
    for running in started:
        running.__exit__()
