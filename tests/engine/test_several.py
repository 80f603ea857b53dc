"""Several methods by one command: what is read of it, and what is refused before an engine starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ctwa.engine import several
from ctwa.engine.job import Job
from ctwa.engine.several import methods_of, train_each
from ctwa.engine.signals import Interruption, end_request
from ctwa.errors import CtwaError
from ctwa.run.folder import RunFolder
from ctwa.run.trace import TraceWriter


@pytest.mark.parametrize(
    ("arguments", "methods"),
    [
        (["method=linear,guard"], ["linear", "guard"]),
        (["method=linear", "ctwa.run=a,b", "method=gdpo,linear,ctwa"], ["gdpo", "linear", "ctwa"]),
        (["method=linear,guard", "method=ctwa"], []),
        (["method=linear"], []),
        (["ctwa.seed=0,1"], []),
        ([], []),
    ],
)
def test_the_last_method_of_a_command_counts(arguments: list[str], methods: list[str]) -> None:
    assert methods_of(arguments) == methods


def test_a_method_is_named_once() -> None:
    with pytest.raises(CtwaError, match=r"^method=linear,guard,linear names linear twice: write each method once$"):
        methods_of(["method=linear,guard,linear"])


@pytest.mark.parametrize("given", ["linear,", ",linear", "linear,,guard", ","])
def test_a_comma_too_many_is_told(given: str) -> None:
    with pytest.raises(CtwaError, match=r" has a comma too many: write method=NAME,NAME$"):
        methods_of([f"method={given}"])


def test_each_run_has_a_folder_of_its_methods_name(
    run_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = train_each(["linear", "guard"], [*run_overrides, f"ctwa.run={tmp_path}/it"], dry_run=True)
    printed = capsys.readouterr().out

    assert stopped is None
    for name in ("linear", "guard"):
        assert f"\n  run folder   {tmp_path}/it/{name}\n" in printed
        assert f"\n  default_local_dir: {tmp_path}/it/{name}/checkpoints\n" in printed
    assert not (tmp_path / "it").exists()


@pytest.mark.parametrize(
    ("methods", "settings", "sentence"),
    [
        (
            ["linear", "guard"],
            ["ctwa.method.floor=0.1"],
            r"^method=linear: ctwa\.method\.floor .*\. Options of one method are for a command of its own$",
        ),
        (["linear", "gaurd"], [], r"method=gaurd is no choice: .* did you mean 'guard'\?"),
        (
            ["linear", "cgpo"],
            [],
            r"^method=cgpo: give a value for ctwa\.method\.constraints\. Options of one method are for a command",
        ),
    ],
    ids=["an option of one of them", "a name of none", "what one of them needs"],
)
def test_what_one_run_would_be_refused_for_begins_none(
    run_overrides: list[str], tmp_path: Path, methods: list[str], settings: list[str], sentence: str
) -> None:
    with pytest.raises(CtwaError, match=sentence):
        train_each(methods, [*run_overrides, f"ctwa.run={tmp_path}/it", *settings])

    assert not (tmp_path / "it").exists()


def test_a_runs_own_folder_is_not_theirs(run_overrides: list[str], tmp_path: Path) -> None:
    (tmp_path / "run.json").touch()

    with pytest.raises(
        CtwaError, match=r" holds a run, and is to hold a folder for each method: give another ctwa\.run$"
    ):
        train_each(["linear", "guard"], [*run_overrides, f"ctwa.run={tmp_path}"])


def test_a_folder_that_is_named_after_the_method_is_refused(run_overrides: list[str]) -> None:
    with pytest.raises(CtwaError, match=r"each method has a folder of its name in ctwa\.run; leave it out of that$"):
        train_each(["linear", "guard"], [*run_overrides, "ctwa.run=runs/${ctwa.method.type}"])


class TestTurns:
    """The runs themselves are in tests/e2e/test_series.py; here they are names that are written down."""

    @pytest.fixture
    def begun(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        names: list[str] = []

        def report(job: Job, run: RunFolder, _: object) -> None:
            assert job.config.trainer.experiment_name == str(run.path)
            names.append(run.path.name)
            end_request.by = self.signal_in.get(run.path.name)

        monkeypatch.setattr(several, "report", report)
        monkeypatch.setattr(several, "tell", lambda **words: self.told.append(words))
        monkeypatch.setattr(end_request, "by", None)
        self.told: list[dict[str, str]] = []
        self.signal_in: dict[str, str] = {}
        return names

    def test_one_after_another_each_known_to_the_keeper(
        self, begun: list[str], run_overrides: list[str], tmp_path: Path
    ) -> None:
        assert train_each(["linear", "guard"], [*run_overrides, f"ctwa.run={tmp_path}/it"]) is None
        assert begun == ["linear", "guard"]
        # What is resumed is all of them.
        assert self.told == [{"folder": f"{tmp_path}/it/{name}", "resume": f"{tmp_path}/it"} for name in begun]

    def test_a_signal_in_the_last_step_of_a_run_begins_no_other(
        self, begun: list[str], run_overrides: list[str], tmp_path: Path
    ) -> None:
        self.signal_in = {"linear": "SIGTERM"}

        assert train_each(["linear", "guard"], [*run_overrides, f"ctwa.run={tmp_path}/it"]) == Interruption(
            "SIGTERM", 0
        )
        assert begun == ["linear"]

    @pytest.mark.parametrize(("in_trace", "made"), [(2, ["guard"]), (1, ["linear", "guard"])])
    def test_a_run_is_complete_when_its_last_step_is_in_the_trace(
        self, begun: list[str], run_overrides: list[str], tmp_path: Path, in_trace: int, made: list[str]
    ) -> None:
        settings = [*run_overrides, f"ctwa.run={tmp_path}/it", "trainer.total_training_steps=2"]
        train_each(["linear", "guard"], settings)
        begun.clear()
        with TraceWriter(tmp_path / "it/linear/metrics.jsonl") as trace:
            for step in range(1, in_trace + 1):
                trace.write(step, {"objective/accuracy/mean": 0.5})
        train_each(["linear", "guard"], [*settings, "ctwa.resume=true"])

        assert begun == made
        assert (tmp_path / "it/linear/summary.json").exists() == (in_trace == 2)

    def test_a_folder_that_is_taken_is_told_before_the_first_run(
        self, begun: list[str], run_overrides: list[str], tmp_path: Path
    ) -> None:
        (tmp_path / "it/guard").mkdir(parents=True)
        (tmp_path / "it/guard/run.json").touch()
        with pytest.raises(CtwaError, match=r"/it/guard .*ctwa\.resume=true"):
            train_each(["linear", "guard"], [*run_overrides, f"ctwa.run={tmp_path}/it"])
        assert begun == []
