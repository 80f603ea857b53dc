"""What the trainer leaves in the run folder, and how a resumed run continues it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ctwa.batch import RewardMatrix
from ctwa.engine import checkpoint
from ctwa.engine.recorder import Recorder
from ctwa.errors import CtwaError
from ctwa.models import locate
from ctwa.models.seal import SEAL_FILE, seal
from ctwa.objectives.completion import Completion
from ctwa.objectives.evaluator import Evaluation
from ctwa.report.summary import summarize
from ctwa.report.watch.state import Status, WatchedRun
from ctwa.run.alarms import AlarmLimits
from ctwa.run.folder import ObjectiveInfo, RunFolder, RunInfo
from ctwa.run.jsonl import read_jsonl
from ctwa.run.trace import read_trace


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    info = RunInfo(method="linear", objectives={"accuracy": ObjectiveInfo(weight=1.0)}, num_steps=4)
    return RunFolder.create(tmp_path / "run", {}, info)


@pytest.fixture
def recorder(run: RunFolder) -> Iterator[Recorder]:
    recorder = Recorder(run, resume=False, num_samples=2, seed=0)
    yield recorder
    recorder.close()


def steps(run: RunFolder) -> list[int]:
    return [record["step"] for record in read_trace(run.metrics)]


def save_checkpoint(run: RunFolder, step: int) -> None:
    folder = locate.step_folder(run.checkpoints, step)
    checkpoint.write_state(folder, {"step": step})
    seal(folder)


def test_a_record_holds_the_numbers_and_nothing_else(run: RunFolder, recorder: Recorder) -> None:
    recorder.step(
        1,
        {
            "objective/accuracy/mean": 0.5,
            "actor/grad_norm": np.float32(2.0),
            "training/epoch": np.int64(3),
            "text": "no number",
            "list": [1.0],
            "flag": True,
        },
    )

    assert read_trace(run.metrics)[0]["metrics"] == {
        "objective/accuracy/mean": 0.5,
        "actor/grad_norm": 2.0,
        "training/epoch": 3,
    }


def test_a_phase_has_its_time_once(run: RunFolder, recorder: Recorder) -> None:
    recorder.step(
        1,
        {"time/gen": 1.5, "timing_s/gen": 1.5, "timing_per_token_ms/gen": 0.1, "perf/time_per_step": 2.0, "perf/x": 1},
    )

    assert read_trace(run.metrics)[0]["metrics"] == {"time/gen": 1.5, "perf/x": 1}


def test_a_number_that_is_not_finite_is_named(run: RunFolder, recorder: Recorder) -> None:
    recorder.step(1, {"actor/grad_norm": float("nan")})

    assert read_trace(run.metrics)[0]["non_finite"] == ["actor/grad_norm"]


def test_samples_keep_what_could_not_be_scored_apart(run: RunFolder, recorder: Recorder) -> None:
    row = {"prompt": "1 + 1 ?", "reward_model": {"ground_truth": "2"}}
    completions = [Completion.from_row(row, response=text, response_tokens=1) for text in ("2", "3")]
    matrix = RewardMatrix(
        ("accuracy", "clarity"),
        torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64),
        torch.tensor([[True, False], [True, True]]),
    )

    recorder.samples(1, completions, Evaluation(matrix, (), {}), split="train")

    samples = read_jsonl(run.samples)
    assert [sample["rewards"] for sample in samples] == [
        {"accuracy": 1.0, "clarity": None},
        {"accuracy": 0.0, "clarity": 1.0},
    ]
    assert [sample["response"] for sample in samples] == ["2", "3"]


def test_events_are_told_in_words(run: RunFolder, recorder: Recorder) -> None:
    recorder.event("start", "the engine is up after 20 s")

    assert [(event["kind"], event["text"]) for event in read_jsonl(run.events)] == [
        ("start", "the engine is up after 20 s")
    ]


@pytest.mark.parametrize(
    ("steps", "error", "said"),
    [
        (
            0,
            RuntimeError("no route\nto host"),
            "failed before its first step was made: RuntimeError: no route; there is no ",
        ),
        (  # as Ray tells of an actor
            1,
            RuntimeError("The actor died.\n\tclass_name: WorkerDict\n\tpid: 7\nIt was killed."),
            "failed after step 1: RuntimeError: The actor died. (class_name: WorkerDict, pid: 7); there is no ",
        ),
        (
            2,
            CtwaError("clarity scored nothing"),
            "failed after step 2: clarity scored nothing; there is no checkpoint yet",
        ),
    ],
)
def test_what_a_run_failed_by_is_told_to_whoever_was_not_there(
    run: RunFolder, steps: int, error: Exception, said: str
) -> None:
    def fail() -> None:
        with Recorder(run, resume=False, num_samples=0, seed=0) as recorder:
            recorder.begins("starting Ray")
            for step in range(1, steps + 1):
                recorder.step(step, {"x": 1})
            raise error

    with pytest.raises(type(error)):
        fail()

    phase, failed = read_jsonl(run.events)
    assert (phase["kind"], failed["kind"], failed["step"]) == ("phase", "error", steps)
    assert failed["text"].startswith(said)
    with pytest.raises(CtwaError, match=f"has no result of any objective: it {said[:20]}"):
        summarize(run)
    watched = WatchedRun(run.path)
    watched.poll()
    assert watched.status() == Status("ended", failed["text"])


def test_a_run_is_not_written_over(run: RunFolder, recorder: Recorder) -> None:
    recorder.step(1, {"x": 1})
    recorder.close()

    with pytest.raises(CtwaError, match="already has records of a run"):
        Recorder(run, resume=False, num_samples=2, seed=0)


class TestResume:
    def test_records_after_the_checkpoint_are_made_again(self, run: RunFolder, recorder: Recorder) -> None:
        for step in (1, 2, 3):
            recorder.step(step, {"x": step})
        recorder.close()
        save_checkpoint(run, 2)

        resumed = Recorder(run, resume=True, num_samples=2, seed=0)

        assert resumed.resume_from == run.checkpoints / "global_step_2"
        assert steps(run) == [1, 2]
        resumed.step(3, {"x": 30})
        resumed.close()
        assert [record["metrics"]["x"] for record in read_trace(run.metrics)] == [1, 2, 30]
        assert [event["text"] for event in read_jsonl(run.events)] == ["continuing from global_step_2"]

    def test_a_checkpoint_that_is_not_whole_is_passed_over(self, run: RunFolder, recorder: Recorder) -> None:
        for step in (1, 2, 3, 4):
            recorder.step(step, {"x": step})
        recorder.close()
        save_checkpoint(run, 2)
        save_checkpoint(run, 4)
        torn = run.checkpoints / "global_step_4" / SEAL_FILE
        torn.write_text(torn.read_text()[:10])

        resumed = Recorder(run, resume=True, num_samples=2, seed=0)
        resumed.close()

        assert resumed.resume_from == run.checkpoints / "global_step_2"
        assert steps(run) == [1, 2]
        said = (
            "continuing from global_step_2; "
            "global_step_4 is not what was saved (complete.json), and was kept as damaged_*"
        )
        assert [event["text"] for event in read_jsonl(run.events)] == [said]
        assert (run.checkpoints / "damaged_global_step_4" / SEAL_FILE).is_file()
        assert locate.steps(run.checkpoints) == [2]  # the step can be saved anew

    @pytest.mark.parametrize("complete", [True, False])
    def test_a_checkpoint_that_was_not_saved_to_its_end_makes_room_and_that_is_said(
        self, run: RunFolder, recorder: Recorder, complete: bool
    ) -> None:
        recorder.close()
        if complete:
            save_checkpoint(run, 2)
        checkpoint.write_state(locate.step_folder(run.checkpoints, 4), {"step": 4})

        Recorder(run, resume=True, num_samples=2, seed=0).close()

        beginning = "continuing from global_step_2" if complete else "no checkpoint is complete: starting over"
        became = "removed" if complete else "kept as damaged_*"  # perhaps only its seal was lost
        said = f"{beginning}; global_step_4 was not saved to its end, and was {became}"
        assert [event["text"] for event in read_jsonl(run.events)] == [said]
        assert locate.steps(run.checkpoints) == [2] * complete
        assert (run.checkpoints / "damaged_global_step_4").exists() is not complete

    def test_without_a_checkpoint_the_run_starts_over(self, run: RunFolder, recorder: Recorder) -> None:
        recorder.step(0, {"val/accuracy": 0.1})
        recorder.step(1, {"x": 1})
        recorder.close()

        resumed = Recorder(run, resume=True, num_samples=2, seed=0)
        resumed.step(0, {"val/accuracy": 0.1})
        resumed.close()

        assert resumed.resume_from is None
        assert steps(run) == [0]
        dropped = run.metrics.with_suffix(".dropped.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in dropped] == [0, 1]
        said = "no checkpoint is complete: starting over; the records up to step 1 are in metrics.dropped.jsonl"
        assert [event["text"] for event in read_jsonl(run.events)] == [said]

    def test_the_checkpoints_own_step_is_not_recorded_twice(self, run: RunFolder, recorder: Recorder) -> None:
        recorder.step(2, {"x": 2})
        recorder.close()
        save_checkpoint(run, 2)

        resumed = Recorder(run, resume=True, num_samples=2, seed=0)
        resumed.step(2, {"val/accuracy": 0.1})
        resumed.close()

        assert [record["metrics"] for record in read_trace(run.metrics)] == [{"x": 2}]

    def test_resuming_a_run_that_never_began_begins_it(self, run: RunFolder) -> None:
        resumed = Recorder(run, resume=True, num_samples=2, seed=0)
        resumed.step(0, {"x": 0})
        resumed.close()

        assert steps(run) == [0]


def test_a_crash_between_checkpoint_and_record_costs_no_record(run: RunFolder, recorder: Recorder) -> None:
    """verl saves a step before it measures it; the checkpoint brings the record along."""
    recorder.step(1, {"objective/accuracy/mean": 0.25})
    save_checkpoint(run, 2)
    recorder.close()

    resumed = Recorder(run, resume=True, num_samples=2, seed=0)
    resumed.step(2, {"objective/accuracy/mean": 0.5})
    resumed.step(2, {"objective/accuracy/mean": 0.5})
    resumed.close()

    assert steps(run) == [1, 2]


class TestAlarms:
    """Of a run whose alarm `negative-covariance` needs three steps."""

    LOW, FINE = {"covariance/accuracy": -0.1}, {"covariance/accuracy": 0.1}

    @pytest.fixture
    def run(self, tmp_path: Path) -> RunFolder:
        objectives = {"accuracy": ObjectiveInfo(weight=1.0)}
        limits = AlarmLimits(negative_covariance_steps=3)
        info = RunInfo(method="linear", objectives=objectives, num_steps=9, alarms=limits)
        return RunFolder.create(tmp_path / "run", {}, info)

    @staticmethod
    def record(run: RunFolder, *steps: int, low: bool = True, resume: bool = False) -> Recorder:
        recorder = Recorder(run, resume=resume, num_samples=2, seed=0, stop_on=["negative-covariance"])
        for step in steps:
            recorder.step(step, TestAlarms.LOW if low else TestAlarms.FINE)
        return recorder

    @staticmethod
    def told(run: RunFolder) -> list[tuple[str, int | None]]:
        return [(event["kind"], event["step"]) for event in read_jsonl(run.events)]

    def test_an_alarm_is_told_once_at_its_step_with_what_to_try(self, run: RunFolder) -> None:
        self.record(run, 1, 2, 3, 4).close()

        assert self.told(run) == [("alarm", 3)]
        text = read_jsonl(run.events)[0]["text"]
        assert text.startswith("negative-covariance: The updates have worked against accuracy for 3 steps")
        assert f"`ctwa suggest-targets {run.path}`" in text

    def test_the_alarm_that_ends_the_run_is_known_before_the_record(self, run: RunFolder) -> None:
        recorder = self.record(run, 1, 2)

        assert recorder.stopping(3, self.FINE) is None
        alarm = recorder.stopping(3, self.LOW)
        assert alarm is not None
        assert (alarm.kind, alarm.step) == ("negative-covariance", 3)
        assert (steps(run), self.told(run), recorder.stopped_by) == ([1, 2], [], None)
        recorder.step(3, self.LOW | {"val/accuracy": 0.5})
        recorder.stop(alarm)
        recorder.close()
        assert recorder.stopped_by is alarm
        assert self.told(run) == [("alarm", 3), ("stop", 3)]
        assert read_jsonl(run.events)[1]["text"] == (
            "stopped by the alarm negative-covariance after step 3, whose checkpoint is saved"
        )

    def test_other_alarms_end_no_run(self, run: RunFolder) -> None:
        recorder = self.record(run)

        assert recorder.stopping(1, {"objective/accuracy/scored_frac": 0.5}) is None
        recorder.step(1, {"objective/accuracy/scored_frac": 0.5})
        recorder.close()
        assert self.told(run) == [("alarm", 1)]

    def test_a_resumed_run_remembers_what_it_kept(self, run: RunFolder) -> None:
        """Two steps were wrong before; the third is the one that counts."""
        self.record(run, 1, 2, 3).close()
        save_checkpoint(run, 2)

        recorder = self.record(run, resume=True)
        assert recorder.stopping(3, self.FINE) is None
        assert recorder.stopping(3, self.LOW) is not None
        recorder.step(3, self.LOW)
        recorder.close()
        assert self.told(run) == [("alarm", 3), ("resume", 2), ("alarm", 3)]  # the step was run twice

    def test_an_alarm_from_before_ends_a_resumed_run_only_when_it_comes_again(self, run: RunFolder) -> None:
        self.record(run, 1, 2, 3).close()
        save_checkpoint(run, 3)

        recorder = self.record(run, 4, resume=True)
        assert recorder.stopping(5, self.LOW) is None
        recorder.step(5, self.FINE)
        for step in (6, 7):
            recorder.step(step, self.LOW)
        assert recorder.stopping(8, self.LOW) is not None
        recorder.close()
        assert self.told(run) == [("alarm", 3), ("resume", 3)]
        assert read_jsonl(run.events)[1]["text"] == (
            "continuing from global_step_3; negative-covariance was raised before and holds: it ends the run only if "
            "it is over and comes again"
        )

    def test_an_alarm_that_is_over_needs_no_word_on_resuming(self, run: RunFolder) -> None:
        self.record(run, 1, 2, 3).close()
        save_checkpoint(run, 4)
        self.record(run, 4, low=False, resume=True).close()
        self.record(run, resume=True).close()

        assert read_jsonl(run.events)[-1]["text"] == "continuing from global_step_4"
