"""What is said of the run's folder, and of the files and folders that it reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import DictConfig

from ctwa.engine.checkpoint import shard_file
from ctwa.engine.checks.checkpoint import KINDS
from ctwa.engine.checks.config import check_config
from ctwa.errors import CtwaError
from ctwa.models.seal import seal
from tests.engine.names import Changed


class TestRunFolder:
    @pytest.fixture
    def in_folder(self, changed: Changed) -> Callable[..., DictConfig]:
        return lambda folder, **values: changed({"ctwa.run": str(folder), **values})

    def test_a_file_or_what_is_under_one(self, in_folder: Callable[..., DictConfig], tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")

        with pytest.raises(CtwaError, match=f"^{tmp_path}/file is a file: give a folder for the run$"):
            check_config(in_folder(tmp_path / "file"))
        with pytest.raises(CtwaError, match=f"^{tmp_path}/file/a/b cannot be written, for {tmp_path}/file is a file: "):
            check_config(in_folder(tmp_path / "file" / "a" / "b"))

    def test_one_that_cannot_be_written(
        self, in_folder: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ctwa.run.disk.os.access", lambda *_: False)

        with pytest.raises(CtwaError, match=f"^{tmp_path}/run cannot be written, for {tmp_path} is not yours to: give"):
            check_config(in_folder(tmp_path / "run"))

    def test_one_that_holds_a_run(self, in_folder: Callable[..., DictConfig], tmp_path: Path) -> None:
        (tmp_path / "config.yaml").write_text("")

        with pytest.raises(CtwaError, match=r"already holds a run: write ctwa\.resume=true to continue it, or give"):
            check_config(in_folder(tmp_path))
        check_config(in_folder(tmp_path, **{"ctwa.resume": True}))

    def test_a_checkpoint_of_another_number_of_ranks(
        self, in_folder: Callable[..., DictConfig], tmp_path: Path
    ) -> None:
        resumed: dict[str, Any] = {"ctwa.resume": True}
        checkpoint = tmp_path / "checkpoints" / "global_step_4"
        policy = checkpoint / "actor"
        policy.mkdir(parents=True)
        saved_by = policy / "fsdp_config.json"

        def saved(content: str) -> DictConfig:
            saved_by.write_text(content)
            seal(checkpoint)
            return in_folder(tmp_path, **resumed)

        for kind in KINDS.values():
            for rank in (0, 2):
                torch.save({}, shard_file(policy, kind, 3, rank))
        with pytest.raises(CtwaError, match=r"global_step_4 lacks what rank 1 of 3 saved: a run folder lies on a file"):
            check_config(saved('{"FSDP_version": 2, "world_size": 3}'))
        for kind in KINDS.values():
            torch.save({}, shard_file(policy, kind, 3, 1))
        check_config(saved('{"FSDP_version": 2, "world_size": 3}'))

        resumed["actor_rollout_ref.actor.strategy"] = "fsdp"
        with pytest.raises(
            CtwaError, match=r"_4 was saved by 3 ranks, and the run has .* = 2: only FSDP2's .* write as many as there"
        ):
            check_config(saved('{"FSDP_version": 1, "world_size": 3}'))
        with pytest.raises(CtwaError, match=r"fsdp_config\.json cannot be read .*: restore it, or take .*_4 away$"):
            check_config(saved('{"FSDP_version": 2, "world_size": [}'))


class TestFiles:
    def test_a_task_folder_that_was_not_made(self, changed: Changed) -> None:
        with pytest.raises(
            CtwaError, match=r"^ctwa\.task_dir: nowhere/D does not exist; make it \(`ctwa testbed make`"
        ):
            check_config(changed({"ctwa.task_dir": "nowhere/D"}))

    @pytest.mark.parametrize("key", ["train_files", "val_files"])
    def test_data_that_is_not_there(self, changed: Changed, key: str, tmp_path: Path) -> None:
        with pytest.raises(CtwaError, match=f"^data.{key}: {tmp_path}/a.parquet does not exist; give a .parquet"):
            check_config(changed({f"data.{key}": [f"{tmp_path}/a.parquet"]}))
        with pytest.raises(CtwaError, match=f"^data.{key} names no file"):
            check_config(changed({f"data.{key}": []}))

    def test_data_that_is_not_parquet(self, changed: Changed, tmp_path: Path) -> None:
        (tmp_path / "a.parquet").write_text("prompt,answer\n1,2\n")

        with pytest.raises(CtwaError, match=r"a\.parquet is not a parquet file; name it .jsonl if"):
            check_config(changed({"data.train_files": [f"{tmp_path}/a.parquet"]}))

    def test_data_in_another_format(self, changed: Changed, tmp_path: Path) -> None:
        pq.write_table(pa.table({"task": ["1 + 1"], "result": ["2"]}), tmp_path / "a.parquet")

        with pytest.raises(
            CtwaError,
            match=r"^data\.val_files: .*a\.parquet has no column .*columns=\{prompt: task, ground_truth: result\}",
        ):
            check_config(changed({"data.val_files": [f"{tmp_path}/a.parquet"]}))

    def test_a_folder_is_no_file_and_a_file_no_folder(self, changed: Changed, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("")

        with pytest.raises(CtwaError, match=f"^data.train_files: {tmp_path} is a folder; give a .parquet, .jsonl"):
            check_config(changed({"data.train_files": [str(tmp_path)]}))
        with pytest.raises(
            CtwaError,
            match=f"^actor_rollout_ref.model.path: {tmp_path}/a is a file; give the folder it is in: {tmp_path}",
        ):
            check_config(changed({"actor_rollout_ref.model.path": f"{tmp_path}/a"}))
        with pytest.raises(CtwaError, match=f"^ctwa.task_dir: {tmp_path}/a is a file; make it"):
            check_config(changed({"ctwa.task_dir": f"{tmp_path}/a"}))

    def test_data_that_cannot_be_read(self, changed: Changed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def forbidden(path: Path, *_: str) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        (tmp_path / "a.parquet").write_text("")
        monkeypatch.setattr(Path, "open", forbidden)

        with pytest.raises(CtwaError, match=r"a\.parquet cannot be read \(Permission denied\); mend that"):
            check_config(changed({"data.train_files": [f"{tmp_path}/a.parquet"]}))

    @pytest.mark.parametrize("path", ["/nowhere/model", "./model", "~/model", "runs/no-such/model"])
    def test_a_model_folder_that_is_not_there(self, changed: Changed, path: str) -> None:
        with pytest.raises(
            CtwaError, match=f"^actor_rollout_ref.model.path: {path} does not exist; give a model folder"
        ):
            check_config(changed({"actor_rollout_ref.model.path": path}))

    def test_a_name_on_a_hub_is_not_looked_for_on_the_disk(self, changed: Changed) -> None:
        check_config(changed({"actor_rollout_ref.model.path": "Qwen/Qwen2.5-1.5B"}))
