"""`ctwa merge`: runs, folders and adapters by name, with their weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ctwa.cli import app
from ctwa.errors import CtwaError
from ctwa.models.locate import model_folder
from ctwa.models.seal import seal


def save(folder: Path, value: float, key: str = "weight") -> Path:
    folder.mkdir(parents=True)
    save_file({key: torch.full((2, 2), value)}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return folder


def merge(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["merge", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_whoever_may_read_new_files_may_read_a_merged_model(tmp_path: Path) -> None:
    first, second = save(tmp_path / "first", 1.0), save(tmp_path / "second", 5.0)

    merge(f"{first}=1", f"{second}=1", "--out", str(tmp_path / "merged"))

    new = tmp_path / "new"
    new.touch()
    assert {path.stat().st_mode for path in (tmp_path / "merged").iterdir()} == {new.stat().st_mode}


def test_models_are_merged_by_the_ratios_of_their_weights(tmp_path: Path) -> None:
    first, second = save(tmp_path / "first", 1.0), save(tmp_path / "second", 5.0)

    assert str(tmp_path / "soup") in merge(f"{first}=3", f"{second}=1", "--out", str(tmp_path / "soup"))
    assert load_file(tmp_path / "soup" / "model.safetensors")["weight"].unique().tolist() == [2.0]
    assert json.loads((tmp_path / "soup" / "config.json").read_text()) == {}


def test_a_run_stands_for_its_newest_complete_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run=1"
    for step, value in ((8, 1.0), (64, 2.0), (128, 9.0)):
        folder = run / "checkpoints" / f"global_step_{step}"
        save(model_folder(folder), value)
        if step < 128:
            seal(folder)
    other = save(tmp_path / "other", 0.0)
    merge(f"{run}=0.5", f"{other}=0.5", "--out", str(tmp_path / "soup"))

    assert load_file(tmp_path / "soup" / "model.safetensors")["weight"].unique().tolist() == [1.0]


def test_adapters_are_merged_as_products(tmp_path: Path) -> None:
    for name, value in (("first", 1.0), ("second", 2.0)):
        (tmp_path / name).mkdir()
        factors = {f"base_model.model.q.lora_{factor}.weight": torch.full((1, 1), value) for factor in "AB"}
        save_file(factors, tmp_path / name / "adapter_model.safetensors")
        (tmp_path / name / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": "base", "r": 1, "lora_alpha": 1, "peft_type": "LORA"})
        )
    merge(f"{tmp_path / 'first'}=0.5", f"{tmp_path / 'second'}=0.5", "--out", str(tmp_path / "soup"))
    merged = load_file(tmp_path / "soup" / "adapter_model.safetensors")
    down, up = (merged[f"base_model.model.q.lora_{factor}.weight"] for factor in "AB")

    assert (up @ down).item() == pytest.approx(0.5 * 1 + 0.5 * 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{first}", "{second}=1"], r"first is no model with a weight; write e\.g\. runs/helpful=0\.3"),
        (["{first}=much", "{second}=1"], "first=much is no model with a weight"),
        (["{first}=1", "{first}=2"], "first is there twice"),
        (["{first}=1", "/nowhere=2"], "there is no model /nowhere"),
        (["{first}=0", "{second}=0"], "weight"),
    ],
)
def test_what_cannot_be_merged_is_said(arguments: list[str], message: str, tmp_path: Path) -> None:
    names = {name: str(save(tmp_path / name, 1.0)) for name in ("first", "second")}

    with pytest.raises(CtwaError, match=message):
        merge(*(each.format(**names) for each in arguments), "--out", str(tmp_path / "soup"))
    assert not (tmp_path / "soup").exists()
