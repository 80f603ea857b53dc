"""A checkpoint is whole or not there, whatever moment a run was killed at."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from ctwa.engine import checkpoint
from ctwa.engine.checkpoint import (
    SEAL_FILE,
    STATE_FILE,
    is_complete,
    newest_complete,
    read_state,
    seal,
    steps,
    write_state,
)
from ctwa.errors import CtwaError
from ctwa.monitor.disk import DiskFull

STATE = {"step": 3, "scalarizer": {"growth": {"accuracy": 0.1 + 0.2}}, "reference_length": None}


def save(checkpoints: Path, step: int, *, sealed: bool = True) -> Path:
    """A step's folder as the trainer leaves it: our state, then verl's files, then the seal."""
    folder = checkpoint.step_folder(checkpoints, step)
    write_state(folder, STATE)
    (folder / "actor").mkdir(exist_ok=True)
    (folder / "actor" / "model_world_size_1_rank_0.pt").write_bytes(b"weights" * step)
    (folder / "data.pt").write_bytes(b"position")
    if sealed:
        seal(folder)
    return folder


@pytest.mark.parametrize("max_shard_size", ["5GB", "2KB"])
def test_a_saved_adapter_becomes_the_plain_model_with_its_products(max_shard_size: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = Qwen2Config(hidden_size=8, intermediate_size=8, num_hidden_layers=2, vocab_size=9, **heads)
    model = Qwen2ForCausalLM(config)
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=6, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    # As verl leaves it: PEFT's names beside the plain model's config.
    Qwen2ForCausalLM(config).save_pretrained(tmp_path, state_dict=adapted.state_dict(), max_shard_size=max_shard_size)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 or max_shard_size == "2KB"
    checkpoint.merge_adapter(tmp_path, scale=6 / 2)
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    tokens_NT = torch.arange(8)[None]

    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    torch.testing.assert_close(loaded(tokens_NT).logits, adapted.eval()(tokens_NT).logits)
    plain = AutoModelForCausalLM.from_config(config)
    assert loaded.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_model_says_what_type_its_tensors_have(dtype: torch.dtype, tmp_path: Path) -> None:
    # As verl leaves it: the tensors as they were trained, and a config that says bfloat16 whatever they are.
    config = Qwen2Config(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
    model = Qwen2ForCausalLM(config).to(dtype)
    model.config.dtype = torch.bfloat16
    model.save_pretrained(tmp_path, state_dict=model.state_dict())
    (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), "torch_dtype": "bfloat16"}))

    checkpoint.declare_dtype(tmp_path)

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


class TestSeal:
    def test_a_sealed_folder_is_complete(self, tmp_path: Path) -> None:
        assert is_complete(save(tmp_path, 3))

    def test_a_folder_without_a_seal_is_not(self, tmp_path: Path) -> None:
        assert not is_complete(save(tmp_path, 3, sealed=False))
        assert not is_complete(tmp_path / "global_step_9")

    @pytest.mark.parametrize("content", [b"", b'{"files": {"data.'])
    def test_a_torn_seal_is_none(self, tmp_path: Path, content: bytes) -> None:
        folder = save(tmp_path, 3)
        (folder / SEAL_FILE).write_bytes(content)

        assert not is_complete(folder)

    @pytest.mark.parametrize("name", ["data.pt", STATE_FILE, "actor/model_world_size_1_rank_0.pt"])
    def test_a_file_that_is_gone_or_cut_short_breaks_it(self, tmp_path: Path, name: str) -> None:
        cut = save(tmp_path, 3)
        (cut / name).write_bytes((cut / name).read_bytes()[:-1])
        gone = save(tmp_path, 4)
        (gone / name).unlink()

        assert not is_complete(cut)
        assert not is_complete(gone)

    def test_saving_the_same_step_again_breaks_the_old_seal_first(self, tmp_path: Path) -> None:
        folder = save(tmp_path, 3)
        write_state(folder, STATE)

        assert not is_complete(folder)
        seal(folder)
        assert is_complete(folder)

    def test_what_a_crash_left_of_an_earlier_seal_does_not_spoil_the_next(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = save(tmp_path, 3, sealed=False)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                seal(folder)
        assert not is_complete(folder)

        seal(save(tmp_path, 3, sealed=False))

        assert is_complete(folder)

    def test_sealing_twice_is_sealing_once(self, tmp_path: Path) -> None:
        folder = save(tmp_path, 3)
        seal(folder)

        assert is_complete(folder)


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
