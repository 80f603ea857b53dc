"""The base models that come with the package."""

import io
import json
import runpy
import shutil
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from ctwa.errors import CtwaError
from ctwa.testbed import bases as bases_module
from ctwa.testbed import prepare as prepare_module
from ctwa.testbed.bases import FOLDER, shipped_base, shipped_bases
from ctwa.testbed.prepare import prepare, sft_config, training_settings
from ctwa.testbed.presets import PRESETS
from tests.conftest import ROOT


def base_of(name):
    return shipped_base(training_settings(PRESETS[name], sft_config(PRESETS[name])))


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def no_training(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("it was to take the base model that is there")

    monkeypatch.setattr(prepare_module, "train_base", fail)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_one_whose_file_is_the_recorded_one(name):
    base = base_of(name)
    assert base is not None
    model = base.load()
    assert model.num_parameters() == 599_424
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert set(base.made_with) == {"torch", "transformers", "num_threads", "processor"}


def test_the_control_starts_from_the_weights_of_c():
    assert base_of("F").sha256 == base_of("C").sha256
    assert len({base.sha256 for base in shipped_bases()}) == len(shipped_bases())


@pytest.mark.parametrize("base", shipped_bases(), ids=lambda base: base.file.stem)
def test_each_is_found_by_its_preset_and_seed(base):
    letter, _, seed = base.file.stem.partition("-")
    preset = replace(PRESETS[letter], sft_seed=int(seed)) if seed else PRESETS[letter]
    assert shipped_base(training_settings(preset, sft_config(preset))) == base


def test_the_script_that_made_them_makes_all_of_them():
    script = runpy.run_path(str(ROOT / "scripts/make_testbed_bases.py"))
    assert set(script["SHIPPED"]) == {base.file.stem for base in shipped_bases()}


def test_every_file_is_recorded():
    assert {path.name for path in FOLDER.glob("*.safetensors")} == {base.file.name for base in shipped_bases()}


def test_a_testbed_is_made_without_training(tmp_path, console, no_training):
    preset = replace(PRESETS["D"], num_train=32)
    made = prepare(preset, tmp_path / "D", console=console)
    saved = AutoModelForCausalLM.from_pretrained(made.model).state_dict()
    shipped = base_of("D").load().state_dict()
    assert saved.keys() == shipped.keys()
    assert all(torch.equal(saved[name], shipped[name]) for name in saved)
    record = json.loads((made.root / "testbed.json").read_text())
    assert record["settings"]["base"] == f"shipped, SHA-256 {base_of('D').sha256[:12]}"
    assert record["num_sft_steps"] == base_of("D").num_sft_steps
    assert record["made_with"] == base_of("D").made_with
    # What the preset asks of its base, within what 400 completions can tell.
    assert made.base_scores["accuracy"] == pytest.approx(PRESETS["D"].base_accuracy, abs=0.06)


def test_other_weights_are_asked_for_in_another_folder(tmp_path, console, no_training):
    preset = replace(PRESETS["D"], num_train=32, num_held_out=8)
    prepare(preset, tmp_path / "D", console=console)
    with pytest.raises(CtwaError, match=r"base is 'shipped, SHA-256 \w+' there and 'trained here' here"):
        prepare(preset, tmp_path / "D", retrain=True, console=console)


def test_another_seed_has_no_base_and_is_trained(tmp_path, console, no_training):
    with pytest.raises(AssertionError, match="it was to take"):
        prepare("D", tmp_path / "D", seed=7, console=console)


def test_a_file_that_was_changed_is_refused(tmp_path, console, monkeypatch):
    shutil.copytree(FOLDER, tmp_path / "bases")
    file = tmp_path / "bases" / base_of("D").file.name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    monkeypatch.setattr(bases_module, "FOLDER", tmp_path / "bases")
    with pytest.raises(CtwaError, match=r"D\.safetensors is not the base model that came with ctwa.*--retrain"):
        prepare("D", tmp_path / "D", console=console)
    assert not (tmp_path / "D").exists()
