"""What a run would go on from is looked at before anything starts."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from ctwa.engine.checkpoint import STATE_FILE
from ctwa.engine.checks.checkpoint import check_checkpoint, check_contents
from ctwa.errors import CtwaError
from ctwa.models.locate import step_folder
from ctwa.models.seal import seal


class Planted:
    """Unpickling it would run code."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return eval, ("pytest.fail('a planted file ran')",)


def save(checkpoints: Path, step: int, *, sealed: bool = True, **more: object) -> Path:
    """A checkpoint with what verl's have in it that torch does not take for harmless by itself."""
    folder = step_folder(checkpoints, step)
    (folder / "actor").mkdir(parents=True)
    torch.save({"weight": torch.ones(3)}, folder / "actor" / "model_world_size_1_rank_0.pt")
    torch.save({"numpy": np.random.get_state()}, folder / "actor" / "extra_state_world_size_1_rank_0.pt")
    for name, content in more.items():
        torch.save(content, folder / f"{name}.pt")
    if sealed:
        seal(folder)
    return folder


EVERYTHING = ("model", "optimizer", "extra")


def config(
    *, trust: bool = False, saved: Sequence[str] = (*EVERYTHING, "hf_model"), loaded: Sequence[str] = EVERYTHING
) -> DictConfig:
    actor = {"strategy": "fsdp2", "checkpoint": {"save_contents": list(saved), "load_contents": list(loaded)}}
    trainer = {"nnodes": 1, "n_gpus_per_node": 1}
    return OmegaConf.create(
        {"trainer": trainer, "ctwa": {"trust_checkpoint": trust}, "actor_rollout_ref": {"actor": actor}}
    )


def test_a_whole_one_is_gone_on_from(tmp_path: Path) -> None:
    check_checkpoint(config(), tmp_path)  # without any the run starts over
    save(tmp_path, 2)
    check_checkpoint(config(), tmp_path)


@pytest.mark.parametrize(
    ("saved", "loaded", "sentence"),
    [
        (
            ["model", "hf_model"],
            EVERYTHING,
            r"save_contents=\[model,hf_model\] leaves out optimizer and extra, which a resumed run loads: write "
            r".*\.load_contents=\[model\] to resume without, or save it too$",
        ),
        (
            ["hf_model"],
            EVERYTHING,
            r"save_contents=\[hf_model\] has no model, the ranks' own weights, without which no run can be",
        ),
        (["hf_model"], [], r"save_contents=\[hf_model\] has no model"),
        (EVERYTHING, ["optimizer", "extra"], r"load_contents=\[optimizer,extra\] has no model, .*: write model too"),
    ],
)
def test_a_run_that_could_not_be_resumed_is_told_before_it_starts(
    saved: Sequence[str], loaded: Sequence[str], sentence: str
) -> None:
    with pytest.raises(CtwaError, match=sentence):
        check_contents(config(saved=saved, loaded=loaded))


@pytest.mark.parametrize("loaded", [EVERYTHING, ["model"], ["model", "extra"]])
def test_a_run_may_resume_without_some_of_what_it_saves(loaded: Sequence[str]) -> None:
    check_contents(config(loaded=loaded))


def test_a_checkpoint_without_its_optimizer_is_gone_on_from_where_none_is_loaded(tmp_path: Path) -> None:
    folder = save(tmp_path, 2, sealed=False)
    (folder / "actor" / "fsdp_config.json").write_text(json.dumps({"world_size": 1}))
    seal(folder)

    with pytest.raises(
        CtwaError, match=r"_2 was saved without optimizer .*: write .*\.load_contents=\[model,extra\] to go on without$"
    ):
        check_checkpoint(config(), tmp_path)
    check_checkpoint(config(loaded=["model", "extra"]), tmp_path)


@pytest.mark.parametrize("content", [Planted(), {"state": [Planted()]}, {"reader": open}])
def test_one_that_would_run_code_is_refused_unless_it_is_trusted(content: object, tmp_path: Path) -> None:
    save(tmp_path, 2, data=content)

    with pytest.raises(CtwaError, match=r"^loading .*data\.pt could run code: it names [\w.]+, which no checkpoint of"):
        check_checkpoint(config(), tmp_path)
    check_checkpoint(config(trust=True), tmp_path)


def test_a_file_in_torchs_old_form_is_refused_for_it_cannot_be_looked_into(tmp_path: Path) -> None:
    folder = save(tmp_path, 2, sealed=False)
    (folder / "data.pt").write_bytes(pickle.dumps(Planted()))
    seal(folder)

    with pytest.raises(CtwaError, match=r"data\.pt is no file that torch saved .*: restore it, or take .*_2 away"):
        check_checkpoint(config(), tmp_path)


def test_code_that_is_hidden_among_the_files_of_an_archive_is_found(tmp_path: Path) -> None:
    """torch reads the pickle of the archive's first folder."""
    folder = save(tmp_path, 2, sealed=False)
    with zipfile.ZipFile(folder / "data.pt", "w") as archive:
        archive.writestr("data/data.pkl", pickle.dumps(Planted()))
        archive.writestr("data/version", "3")
        archive.writestr("data/byteorder", "little")
    seal(folder)

    with pytest.raises(CtwaError, match=r"data\.pt"):
        check_checkpoint(config(), tmp_path)


def test_a_folder_that_lies_elsewhere_is_not_gone_on_from_unlooked_at(tmp_path: Path) -> None:
    """No glob follows a link to a folder, and torch does."""
    folder = save(tmp_path, 2, sealed=False)
    torch.save(Planted(), folder / "actor" / "optim_world_size_1_rank_0.pt")
    seal(folder)
    (folder / "actor").rename(tmp_path / "elsewhere")
    (folder / "actor").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(CtwaError, match=r"actor leads to another folder, .*: put .*, or write ctwa.trust_checkpoint="):
        check_checkpoint(config(), tmp_path)
    check_checkpoint(config(trust=True), tmp_path)


def test_a_run_whose_checkpoints_were_all_damaged_does_not_start_over_unasked(tmp_path: Path) -> None:
    for step in (2, 4):
        (save(tmp_path, step, data={}) / "data.pt").write_bytes(b"")

    with pytest.raises(
        CtwaError,
        match=r"is whole: global_step_4 is not what was saved \(data\.pt\), global_step_2 is not .*; restore",
    ):
        check_checkpoint(config(), tmp_path)


def test_a_run_whose_seals_are_gone_does_not_start_over_unasked(tmp_path: Path) -> None:
    save(tmp_path, 2, sealed=False)
    check_checkpoint(config(), tmp_path)  # it died while it saved for the first time
    save(tmp_path, 4, sealed=False)

    with pytest.raises(CtwaError, match=r"is whole: global_step_4, global_step_2 have no complete\.json; restore"):
        check_checkpoint(config(), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        *("[]", "{}", "{", '{"version": 99}', "[" * 100_000),
        *('{"version": 1, "metrics": []}', '{"version": 1, "metrics": "x"}', '{"version": 1, "step": "x"}'),
    ],
)
def test_a_state_that_is_none_is_told_before_the_start(content: str, tmp_path: Path) -> None:
    folder = save(tmp_path, 2, sealed=False)
    (folder / STATE_FILE).write_text(content)
    seal(folder)

    with pytest.raises(CtwaError, match=r"ctwa_state\.json is (no state of ctwa|of another version)"):
        check_checkpoint(config(), tmp_path)


def test_a_file_in_the_place_of_a_steps_folder_is_told_before_that_step_is_made(tmp_path: Path) -> None:
    save(tmp_path, 2)
    (tmp_path / "global_step_latest").touch()  # is no step's
    check_checkpoint(config(), tmp_path)
    (tmp_path / "global_step_9").symlink_to(tmp_path / "nowhere")

    with pytest.raises(CtwaError, match=r"global_step_9 is no folder, and the checkpoint of that step is to be one"):
        check_checkpoint(config(), tmp_path)


def test_an_older_one_is_gone_on_from_where_the_newest_is_damaged(tmp_path: Path) -> None:
    save(tmp_path, 2)
    (save(tmp_path, 4, data=Planted()) / "data.pt").write_bytes(b"")

    check_checkpoint(config(), tmp_path)
