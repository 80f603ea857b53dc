"""The folder of a run: where everything is that a run leaves."""

import hmac
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field

from ctwa.errors import CtwaError, one_line
from ctwa.run import origin
from ctwa.run.alarms import AlarmLimits, AlarmMonitor
from ctwa.run.disk import check_place
from ctwa.run.documents import read_document
from ctwa.run.jsonl import SCHEMA, check_schema, write_atomically
from ctwa.run.lock import alone_in, is_held
from ctwa.strict import validated


class ObjectiveInfo(BaseModel):
    """What a reader of the trace needs to know of an objective: its first weight (None where another trainer left none)
    and, if it has one, the covariance with the update that the method aims at (no other target is meant).
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    weight: float | None
    target: float | None = None


class RunInfo(BaseModel):
    """What runs, in the words of the methods and not of a configuration file; kept in run.json."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    schema_: int = Field(default=SCHEMA, alias="schema", ge=1)
    method: str
    objectives: dict[str, ObjectiveInfo]
    num_steps: int = Field(ge=0)
    engine: str = ""
    model: str = ""
    seed: int | None = None
    result: str = "mean reward on held-out problems"  # what a validation measures
    covariances: bool = True  # whether steps measure the rewards' covariances with the update
    decoding: str = ""  # how its prompts are completed
    in_python: bool = False  # whether its settings are arguments in a script, and no configuration of `ctwa train`
    versions: dict[str, str] = {}
    alarms: AlarmLimits = AlarmLimits()
    created: float = Field(default_factory=time.time)  # s since 1970


def alarm_monitor(info: RunInfo | None, path: Path) -> AlarmMonitor:
    """Raises the alarms of the run in a folder: with its own limits, or the default ones where there is no run.json."""
    if info is None:
        return AlarmMonitor(run=str(path))
    return AlarmMonitor(list(info.objectives), info.alarms, run=str(path))


class RunFolder:
    """The layout of a run's folder. Making one of these touches no disk; see `create` and `open`."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.info = self.path / "run.json"
        self.origin = self.path / "origin"
        self.metrics = self.path / "metrics.jsonl"
        self.events = self.path / "events.jsonl"
        self.samples = self.path / "samples.jsonl"
        self.summary = self.path / "summary.json"
        self.engine_log = self.path / "engine.log"
        self.data = self.path / "data"  # rows that verl could not read as they were
        self.data_sources = self.data / "sources.json"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"

    @classmethod
    def create(
        cls,
        path: Path | str,
        config: Mapping[str, Any],
        info: RunInfo,
        *,
        resume: bool = False,
        how_to_resume: str = "resume=true",
        folders: Sequence[str] = ("checkpoints", "tensorboard"),
    ) -> Self:
        """Makes the folder and writes config.yaml and run.json.

        Args:
            path: the folder; its parents are made too.
            config: the resolved configuration, of plain dicts, lists, strings and numbers.
            info: what runs.
            resume: continue the run the folder holds; with none in it, start one. A configuration that differs from
                the one there is written, and the earlier one kept as config.1.yaml, config.2.yaml, ...
            how_to_resume: what the user writes to resume, for the message.
            folders: those inside it that the trainer will write to; one with a layout of its own has none of ours.

        Raises:
            CtwaError: the folder holds a run and `resume` is False, or is none that can be made or written.
        """
        run = cls(path)
        try:
            run.refuse_if_taken(resume=resume, how_to_resume=how_to_resume)
            run.path.mkdir(parents=True, exist_ok=True)
            with alone_in(run.path):  # of two that begin at one moment the second sees what the first has made
                run.refuse_if_taken(resume=resume, how_to_resume=how_to_resume)
                held = run.holds_run()
                try:
                    run._begin(config, info, folders)
                except (OSError, CtwaError):
                    if not held:  # it is no run yet, and must not be taken for one
                        run.info.unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise CtwaError(
                f"the run folder {run.path} cannot be written ({error.strerror}): give another one, or mend that"
            ) from error
        return run

    def _begin(self, config: Mapping[str, Any], info: RunInfo, folders: Sequence[str]) -> None:
        for folder in (self.path, *(self.path / name for name in folders)):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True).encode()
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise CtwaError(
                f"the configuration of the run cannot be written ({one_line(error, 80)}): give plain dicts, lists, "
                "strings and numbers"
            ) from error
        if self.config.exists() and self.config.read_bytes() != text:
            self.config.rename(self._earlier_config())
        if self.info.exists():
            info = info.model_copy(update={"created": self.read_info().created})
        write_atomically(self.info, (info.model_dump_json(by_alias=True, indent=2) + "\n").encode())
        write_atomically(self.config, text)
        if (mark := origin.mark(text)) is not None:
            write_atomically(self.origin, mark.encode())

    def is_ours(self) -> bool:
        """Whether this user began the run, with the config.yaml that is there."""
        if not (self.origin.is_file() and self.config.is_file()):
            return False
        mark = origin.mark(self.config.read_bytes())
        return mark is not None and hmac.compare_digest(mark.encode(), self.origin.read_bytes().strip())

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """The folder of a run that was begun, for reading.

        Raises:
            CtwaError: no run is there.
        """
        run = cls(path)
        if not run.metrics.is_file():
            raise CtwaError(
                f"{run.path} holds no run (no metrics.jsonl in it): give the folder of a run that has begun"
            )
        return run

    def refuse_if_taken(self, *, resume: bool = False, how_to_resume: str | None = "resume=true") -> None:
        """See that a run can be begun here, or continued, without touching the disk.

        Args:
            resume: a run that the folder holds is to be continued.
            how_to_resume: what the user writes to resume, for the message; None where nothing can be.

        Raises:
            CtwaError: the path is a file, is under one or cannot be written, or the folder holds a run and ``resume``
                is false, or a process is seen to write it.
        """
        if self.path.exists() and not self.path.is_dir():
            raise CtwaError(f"{self.path} is a file: give a folder for the run")
        check_place(self.path)
        if self.holds_run() and not resume:
            write = f"write {how_to_resume} to continue it, or " if how_to_resume else ""
            raise CtwaError(f"{self.path} already holds a run: {write}give another folder")
        if is_held(self.metrics) or is_held(self.engine_log):
            raise CtwaError(
                f"the run in {self.path} goes on: it can be resumed when the process that writes it has ended"
            )

    def holds_run(self) -> bool:
        """Whether a run was begun here, however far it came."""
        begun = self.config.exists() or self.info.exists() or self.metrics.exists()
        return begun or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir()))

    def read_info(self) -> RunInfo:
        """What run.json says.

        Raises:
            CtwaError: the file is missing or is not one of ctwa's.
        """
        if not self.info.is_file():
            raise CtwaError(f"{self.info} does not exist: give the folder of a run that ctwa made")
        content = read_document(self.info, "restore it, or give another run")
        if isinstance(schema := content.get("schema"), int):
            check_schema(self.info, schema)
        info: RunInfo = validated(RunInfo, content, heading=f"{self.info}, as it is there,")
        return info

    def _earlier_config(self) -> Path:
        number = 1
        while (path := self.path / f"config.{number}.yaml").exists():
            number += 1
        return path


def refuse_several(path: Path) -> None:
    """See that a folder is not that of several runs, as several methods by one command leave it.

    Raises:
        CtwaError: it is; their folders.
    """
    if not path.is_dir() or RunFolder(path).holds_run():
        return
    if within := sorted(str(each) for each in path.iterdir() if RunFolder(each).info.is_file()):
        raise CtwaError(f"{path} holds several runs: give the folder of one, {' or '.join(within)}")
