"""What a signal makes of a run: the loop, each time in a process of its own, with the engine's part played."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn

import pytest
import typer
from omegaconf import OmegaConf

from ctwa.cli import command as cli
from ctwa.engine import job
from ctwa.engine.loop import Trainer
from ctwa.engine.recorder import Recorder, Stop
from ctwa.engine.signals import end_request
from ctwa.engine.watchdog import WatchdogSettings
from ctwa.models.seal import is_complete
from ctwa.run.folder import ObjectiveInfo, RunFolder, RunInfo

LAST = 6
GOES_ON = "the newest checkpoint is global_step_3: ctwa.resume=true goes on from there"


class PlayTrainer(Trainer):
    """Six steps without an engine, a checkpoint at every third."""

    def __init__(self, recorder: Recorder, play: Play) -> None:
        trainer = {"project_name": "tests", "experiment_name": "play", "logger": [], "max_actor_ckpt_to_keep": 3}
        trainer |= {"test_freq": -1, "save_freq": 3, "val_before_train": False}
        super().__init__(OmegaConf.create({"trainer": trainer}), play, recorder, num_steps=LAST)
        self._play = play

    def step(self, number: int) -> dict[str, Any]:
        self._play.at(f"step{number}")
        if f"hang{number}" in self._play.plan:
            time.sleep(60)
        return {"val/accuracy": 0.5}

    def finish_step(self, metrics: dict[str, Any]) -> None:
        super().finish_step(metrics)
        self._play.at(f"recorded{self.steps_made}")

    def validate(self) -> dict[str, Any]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Play:
    """A job, and a policy, that is told of signals at places, by itself.

    Args:
        plan: "place=SIGNAL", the places being compose, start, stepN, recordedN, savingN and shutdown; or "hangN".
        resume: the run that is there.
        within: ctwa.stop_within.
        patience: ctwa.watchdog.ceiling.
    """

    def __init__(self, plan: tuple[str, ...], *, resume: bool, within: float, patience: float) -> None:
        self.plan = plan
        self.settings = SimpleNamespace(
            print_every=1,
            stop_within=within,
            resume=resume,
            seed=0,
            stop_on=(),
            watchdog=WatchdogSettings(factor=2, floor=patience, ceiling=patience, every=0.1),
        )
        self.num_samples = 0
        self.changed: list[str] = []
        self.remarks: list[str] = []

    def at(self, place: str) -> None:
        for each in self.plan:
            if each.startswith(f"{place}="):
                os.kill(os.getpid(), getattr(signal, each.partition("=")[2]))

    def save(self, folder: Path, *, step: int) -> None:
        self.at(f"saving{step}")

    def load(self, folder: Path) -> None: ...

    def run(self, recorder: Recorder) -> None:
        try:
            self.at("start")
            PlayTrainer(recorder, self).fit()
        finally:
            self.at("shutdown")

    def start(self) -> Stop | None:
        self.at("compose")
        info = RunInfo(method="linear", objectives={"accuracy": ObjectiveInfo(weight=1.0)}, num_steps=LAST)
        return job.start(self, RunFolder.create("run", {}, info, resume=self.settings.resume))  # type: ignore[arg-type]

    def __call__(self) -> None:
        cli.app = typer.Typer()
        cli.app.command()(lambda: cli.run(self.start))
        sys.argv = ["ctwa"]
        cli.main()


def forked(folder: Path, body: Callable[[], object]) -> tuple[int, str]:
    """Exit status and output of a body that runs in a fork, in a folder: to import all of it anew takes seconds."""
    output = folder / "output.txt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which do nothing here
        child = os.fork()
    if child == 0:
        _run_and_exit(folder, output, body)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output.read_text()


def _run_and_exit(folder: Path, output: Path, body: Callable[[], object]) -> NoReturn:
    code = 0
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(folder)
    # What pytest put there is another's.
    sys.stdout, sys.stderr = (os.fdopen(os.dup(number), "w") for number in (1, 2))
    try:
        body()
    except SystemExit as error:
        code = int(error.code or 0)
    except BaseException:  # noqa: BLE001 - it must not reach pytest a second time
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Ended(NamedTuple):
    code: int
    output: str
    folder: Path

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "events.jsonl").read_text().splitlines()]

    @property
    def steps(self) -> list[int]:
        return [json.loads(line)["step"] for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


def run(folder: Path, *plan: str, resume: bool = False, within: float = 60, patience: float = 60) -> Ended:
    return Ended(*forked(folder, Play(plan, resume=resume, within=within, patience=patience)), folder / "run")


@pytest.mark.parametrize(
    ("sent", "name", "again"),
    [("SIGTERM", "SIGTERM", ""), ("SIGUSR1", "SIGUSR1", ""), ("SIGINT", "Ctrl-C", " again")],
)
def test_one_signal_ends_a_run_after_its_step_with_a_checkpoint_and_it_goes_on(
    sent: str, name: str, again: str, tmp_path: Path
) -> None:
    ended = run(tmp_path, f"step2={sent}")

    assert ended.code == 4, ended.output
    assert f"{name}: saving after this step; press Ctrl-C{again} to end at once" in ended.output
    said = f"stopped by {name} after step 2, whose checkpoint is saved: ctwa.resume=true goes on from there"
    assert [(event["kind"], event["text"]) for event in ended.events] == [("stop", said)]
    assert json.loads((ended.folder / "summary.json").read_text())["stopped"] == said
    assert is_complete(ended.folder / "checkpoints/global_step_2")
    assert "Traceback" not in ended.output

    resumed = run(tmp_path, resume=True)
    assert (resumed.code, resumed.steps) == (0, [1, 2, 3, 4, 5, 6]), resumed.output


@pytest.mark.parametrize(
    ("plan", "code", "steps", "said"),
    [
        # Before the first step: nothing to save.
        (["start=SIGTERM"], 4, [], "ended at once by SIGTERM after step 0; there is no checkpoint yet"),
        (["start=SIGINT"], 4, [], "ended at once by Ctrl-C after step 0; there is no checkpoint yet"),
        # Ctrl-C twice, wherever the second one comes; a scheduler that repeats itself is no second Ctrl-C.
        (["step5=SIGINT", "step5=SIGINT"], 130, [1, 2, 3, 4], "the newest checkpoint is global_step_3"),
        (["step4=SIGTERM", "saving4=SIGINT"], 130, [1, 2, 3], "the newest checkpoint is global_step_3"),
        (["start=SIGINT", "shutdown=SIGINT"], 130, [], "ended at once by Ctrl-C after step 0"),
        (["step4=SIGUSR1", "step4=SIGTERM", "saving4=SIGTERM"], 4, [1, 2, 3, 4], "stopped by SIGUSR1 after step 4"),
        # Too late for this step: the next one's end.
        (["recorded1=SIGTERM"], 4, [1, 2], "stopped by SIGTERM after step 2"),
        # The last step's end is the run's.
        (["step6=SIGTERM"], 0, [1, 2, 3, 4, 5, 6], None),
    ],
    ids=lambda value: ",".join(map(str, value)) if isinstance(value, list) else "",
)
def test_where_a_signal_comes_decides_what_is_saved(
    plan: list[str], code: int, steps: list[int], said: str | None, tmp_path: Path
) -> None:
    ended = run(tmp_path, *plan)

    assert (ended.code, ended.steps) == (code, steps), ended.output
    stops = [event["text"] for event in ended.events if event["kind"] == "stop"]
    assert len(stops) == (said is not None)
    assert said is None or said in stops[0]
    assert "Traceback" not in ended.output


def test_a_signal_before_there_is_a_run_says_so(tmp_path: Path) -> None:
    ended = run(tmp_path, "compose=SIGTERM")

    assert ended.code == 4
    assert ended.output == "ended by SIGTERM before the run began: nothing was written\n"
    assert not ended.folder.exists()


def test_a_step_that_does_not_end_in_time_is_not_waited_for(tmp_path: Path) -> None:
    ended = run(tmp_path, "step4=SIGTERM", "hang4", within=0.3)

    assert (ended.code, ended.steps) == (1, [1, 2, 3]), ended.output
    said = "SIGTERM: the step after 3 did not end within ctwa.stop_within=0.3 s"
    assert f"error: {said}\n" in ended.output
    assert ended.output.endswith(f"\n{GOES_ON}\n")
    assert "Traceback" not in ended.output
    assert ended.events[-1]["text"] == f"{said}; {GOES_ON}"


def test_a_step_that_does_not_end_ends_the_run(tmp_path: Path) -> None:
    ended = run(tmp_path, "hang4", patience=1)

    assert (ended.code, ended.steps) == (1, [1, 2, 3]), ended.output
    fault = r"the phase step lasts for 0:00:0\d, and took 0:00:00 at most before \(ctwa\.watchdog allows 0:00:01\); no "
    assert re.search(f"error: {fault}", ended.output), ended.output
    assert ended.output.endswith(f"\n{GOES_ON}\n")
    assert "Traceback" not in ended.output
    assert ended.events[-1]["kind"] == "error"
    assert re.match(f"failed after step 3: {fault}.*; {GOES_ON}", ended.events[-1]["text"])


def test_what_is_forked_off_leaves_ctrl_c_to_the_run_and_ends_by_the_other_signals(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to data loaders too; who has started them ends them by SIGTERM."""

    def body() -> None:
        before = signal.getsignal(signal.SIGTERM)  # another test may have left one
        with end_request.listening():
            for sent in (signal.SIGINT, signal.SIGTERM):
                child = os.fork()
                if child == 0:
                    os.kill(os.getpid(), sent)
                    os._exit(0)
                print(sent.name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), end_request.by)
        print(signal.getsignal(signal.SIGTERM) is before)

    assert forked(tmp_path, body)[1].splitlines() == ["SIGINT 0 None", "SIGTERM -15 None", "True"]


@pytest.mark.parametrize(("before", "step"), [("asked", 2), ("asking", 3)])
def test_where_all_is_saved_a_signal_is_not_waited_with(before: str, step: int, tmp_path: Path) -> None:
    """As CAID samples, whose checkpoint is written by then."""

    def body() -> None:
        with end_request.listening():
            end_request.step_begins()
            made = 2
            try:
                if before == "asked":
                    os.kill(os.getpid(), signal.SIGUSR1)
                end_request.all_is_saved()
                made = 3
                os.kill(os.getpid(), signal.SIGUSR1)
                made = 4
            except KeyboardInterrupt:
                print(end_request.by, made)

    assert forked(tmp_path, body)[1] == f"SIGUSR1 {step}\n"


def test_rays_own_handler_counts_while_ray_starts_and_ours_is_put_back(tmp_path: Path) -> None:
    def body() -> None:
        with end_request.listening():
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # as ray.init does
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except SystemExit as error:
                print(end_request.explains(error), end_request.by)
        with end_request.listening():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            end_request.take_signals()
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except KeyboardInterrupt:
                print(end_request.by)

    assert forked(tmp_path, body)[1].splitlines() == ["True SIGTERM", "SIGTERM"]
