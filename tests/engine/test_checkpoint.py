"""A checkpoint is whole or not there, whatever moment a run was killed at."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from ctwa.engine import checkpoint
from ctwa.engine.checkpoint import (
    STATE_FILE,
    clear_the_way,
    find_resumption,
    read_state,
    saving,
    write_state,
)
from ctwa.errors import CtwaError
from ctwa.models.locate import newest_complete, step_folder, steps
from ctwa.models.seal import is_complete, seal
from ctwa.run.disk import DiskFull

STATE = {"step": 3, "scalarizer": {"growth": {"accuracy": 0.1 + 0.2}}, "reference_length": None}


def save(checkpoints: Path, step: int, *, sealed: bool = True) -> Path:
    """A step's folder as the trainer leaves it: our state, then verl's files, then the seal."""
    folder = step_folder(checkpoints, step)
    write_state(folder, STATE)
    (folder / "actor").mkdir(exist_ok=True)
    (folder / "actor" / "model_world_size_1_rank_0.pt").write_bytes(b"weights" * step)
    (folder / "data.pt").write_bytes(b"position")
    if sealed:
        seal(folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_model_says_what_type_its_tensors_have_and_names_no_attention(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    # As verl leaves it: the tensors as they were trained, and a config that says bfloat16 whatever they are.
    config = Qwen2Config(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    model = Qwen2ForCausalLM(config).to(dtype)
    model.config.dtype = torch.bfloat16
    model.save_pretrained(tmp_path, state_dict=model.state_dict())
    (tmp_path / "config.json").write_text(
        json.dumps({**config.to_dict(), "torch_dtype": "bfloat16", "attn_implementation": "ctwa_packed"})
    )

    checkpoint.correct_config(tmp_path)

    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


class TestState:
    def test_it_comes_back_to_the_last_bit(self, tmp_path: Path) -> None:
        write_state(tmp_path, STATE)

        assert read_state(tmp_path) == STATE

    def test_a_folder_of_another_program_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(CtwaError, match=r"has no ctwa_state\.json: resume from a checkpoint that ctwa made"):
            read_state(tmp_path)

    def test_another_version_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / STATE_FILE).write_text(json.dumps({"version": 99, **STATE}))

        with pytest.raises(CtwaError, match="is of another version of ctwa"):
            read_state(tmp_path)

    def test_a_failed_write_leaves_the_state_that_was_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_state(tmp_path, STATE)

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(DiskFull, match=rf"the disk is full at {tmp_path} .*: ctwa_state\.json cannot be written"):
            write_state(tmp_path, {**STATE, "step": 4})

        assert read_state(tmp_path) == STATE

    def test_a_state_that_cannot_be_written_as_json_leaves_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError):
            write_state(tmp_path, {"scalarizer": object()})

        assert list(tmp_path.iterdir()) == []


class TestSaving:
    def save(self, checkpoints: Path, step: int, *, keep: int | None = 3, spare: int | None = None) -> Path:
        folder = step_folder(checkpoints, step)
        with saving(folder, STATE, keep=keep, spare=spare):
            (folder / "actor").mkdir()
            (folder / "actor" / "model.pt").write_bytes(b"weights")
        return folder

    def test_it_is_sealed_when_the_engines_part_is_there(self, tmp_path: Path) -> None:
        assert is_complete(self.save(tmp_path, 3))

    @pytest.mark.parametrize(
        ("keep", "left"), [(3, [4, 5, 6]), (1, [6]), (None, [1, 2, 3, 4, 5, 6]), (0, [1, 2, 3, 4, 5, 6])]
    )
    def test_the_newest_are_kept_whichever_process_made_them(
        self, keep: int | None, left: list[int], tmp_path: Path
    ) -> None:
        for step in range(1, 7):
            self.save(tmp_path, step, keep=None if step < 6 else keep)

        assert steps(tmp_path) == left

    @pytest.mark.parametrize(("keep", "there"), [(3, 3), (2, 2), (1, 2)])
    def test_older_ones_make_room_before_and_one_always_stays(self, keep: int, there: int, tmp_path: Path) -> None:
        for step in (1, 2, 3):
            self.save(tmp_path, step, keep=keep)
        folder = step_folder(tmp_path, 4)
        with saving(folder, STATE, keep=keep):
            assert len(steps(tmp_path)) == there

    def test_one_is_spared(self, tmp_path: Path) -> None:
        for step in range(1, 6):
            self.save(tmp_path, step, keep=2, spare=2)

        assert steps(tmp_path) == [2, 4, 5]

    def test_what_is_not_complete_counts_for_nothing_and_goes_with_its_age(self, tmp_path: Path) -> None:
        self.save(tmp_path, 1)
        (self.save(tmp_path, 2) / "actor/model.pt").unlink()  # as verl prunes: the actor's files alone
        self.save(tmp_path, 3)
        self.save(tmp_path, 4, keep=3)
        assert steps(tmp_path) == [1, 2, 3, 4]

        self.save(tmp_path, 5, keep=3)
        assert steps(tmp_path) == [3, 4, 5]

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, "No space left on device"),
            RuntimeError("SafetensorError: I/O error: No space left on device (os error 28)"),
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 2232000 vs 2231892"),
        ],
    )
    def test_a_full_disk_is_named_and_not_kept_full(
        self, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.save(tmp_path, 3)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
        folder = step_folder(tmp_path, 6)

        def save() -> None:
            with saving(folder, STATE, keep=3):
                (folder / "half.pt").write_bytes(b"weights")
                raise error

        said = (
            rf"^the disk is full at {folder} \(0 MB free there\): global_step_6 could not be saved, .* is removed; make"
        )
        with pytest.raises(DiskFull, match=said):
            save()

        assert steps(tmp_path) == [3]

    def test_our_own_state_that_does_not_fit_is_a_full_disk_too(self, tmp_path: Path) -> None:
        folder = step_folder(tmp_path, 6)
        folder.mkdir()
        (folder / f"{STATE_FILE}.tmp").symlink_to("/dev/full")

        with pytest.raises(DiskFull, match="global_step_6 could not be saved"), saving(folder, STATE, keep=3):
            pytest.fail("nothing else is tried")
        assert not folder.exists()

    def test_another_error_is_that_error(self, tmp_path: Path) -> None:
        folder = step_folder(tmp_path, 6)
        with pytest.raises(RuntimeError, match="inline_container"), saving(folder, STATE, keep=3):
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 2232000 vs 2231892")
        assert not is_complete(folder)


class TestResumption:
    def test_it_is_the_newest_whole_one_and_what_stands_in_the_way_of_its_steps_is_taken_away(
        self, tmp_path: Path
    ) -> None:
        save(tmp_path, 3)
        (save(tmp_path, 6) / "data.pt").unlink()
        (save(tmp_path, 8) / "data.pt").write_bytes(b"Position")  # of the same size
        save(tmp_path, 9, sealed=False)
        (tmp_path / "global_step_12_mine").mkdir()
        (tmp_path / "global_step_5").mkdir()
        (tmp_path / "global_step_5" / "notes.txt").touch()  # the user's
        (tmp_path / "damaged_global_step_8").mkdir()

        found = find_resumption(tmp_path)
        said = clear_the_way(found)

        assert found.folder == tmp_path / "global_step_3"
        assert found.damaged == {tmp_path / f"global_step_{step}": ("data.pt",) for step in (8, 6)}
        assert said == (
            "; global_step_9 was not saved to its end, and was removed; global_step_8 is not what was saved (data.pt), "
            "global_step_6 is not what was saved (data.pt), and was kept as damaged_*"
        )
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "damaged_global_step_6",
            "damaged_global_step_8",
            "damaged_global_step_8.1",
            "global_step_12_mine",
            "global_step_3",
            "global_step_5",
        ]
        assert find_resumption(tmp_path) == (tmp_path / "global_step_3", {}, [])

    def test_what_is_older_is_not_looked_at(self, tmp_path: Path) -> None:
        (save(tmp_path, 3) / "data.pt").write_bytes(b"Position")
        save(tmp_path, 6)

        assert find_resumption(tmp_path) == (tmp_path / "global_step_6", {}, [])

    def test_there_is_none(self, tmp_path: Path) -> None:
        assert find_resumption(tmp_path) == (None, {}, [])
        assert find_resumption(tmp_path / "checkpoints") == (None, {}, [])
        assert clear_the_way(find_resumption(tmp_path)) == ""


class TestNewestComplete:
    def test_it_is_the_highest_step_and_not_the_last_name(self, tmp_path: Path) -> None:
        for step in (9, 10, 2):
            save(tmp_path, step)

        assert newest_complete(tmp_path) == tmp_path / "global_step_10"

    def test_a_folder_of_the_users_is_no_step(self, tmp_path: Path) -> None:
        save(tmp_path, 4)
        (tmp_path / "global_step_5_kept").mkdir()

        assert steps(tmp_path) == [4]
        assert newest_complete(tmp_path) == tmp_path / "global_step_4"

    def test_it_falls_back_over_folders_that_are_not_whole(self, tmp_path: Path) -> None:
        save(tmp_path, 10)
        (save(tmp_path, 20) / "data.pt").unlink()
        save(tmp_path, 30, sealed=False)

        assert newest_complete(tmp_path) == tmp_path / "global_step_10"

    def test_a_folder_that_verl_pruned_is_passed_over(self, tmp_path: Path) -> None:
        """verl removes the actor's files of old steps and leaves the rest."""
        pruned = save(tmp_path, 20)
        (pruned / "actor" / "model_world_size_1_rank_0.pt").unlink()
        (pruned / "actor").rmdir()

        assert newest_complete(tmp_path) is None

    def test_verls_own_marker_is_not_believed(self, tmp_path: Path) -> None:
        save(tmp_path, 10)
        save(tmp_path, 20, sealed=False)
        (tmp_path / "latest_checkpointed_iteration.txt").write_text("20")
        (tmp_path / "global_step_latest").mkdir()

        assert newest_complete(tmp_path) == tmp_path / "global_step_10"

    def test_nothing_was_saved(self, tmp_path: Path) -> None:
        assert newest_complete(tmp_path) is None
        assert newest_complete(tmp_path / "checkpoints") is None
