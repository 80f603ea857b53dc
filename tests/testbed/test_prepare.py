import io
import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from ctwa.errors import CtwaError
from ctwa.testbed import prepare as prepare_module
from ctwa.testbed.data import held_out_rows, train_rows
from ctwa.testbed.evaluate import sample_scores
from ctwa.testbed.prepare import prepare
from ctwa.testbed.presets import PRESETS, get_preset
from ctwa.testbed.tasks import Problem

SMALL = replace(PRESETS["D"], max_sft_steps=2, num_train=64, num_held_out=16)


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    console = Console(file=io.StringIO(), width=200)
    made = prepare(SMALL, tmp_path_factory.mktemp("testbed") / "D", console=console)
    return made, console.file.getvalue()


def problem_of(row):
    chain = row["prompt"][0]["content"].split()[4:-1]
    return Problem(tuple(map(int, chain[::2])), tuple(chain[1::2]))


def test_rows_are_in_verls_format(made):
    prepared, _ = made
    rows = pq.read_table(prepared.train).to_pylist()
    assert len(rows) == 64
    problem = problem_of(rows[5])
    assert rows[5] == {
        "data_source": "testbed",
        "prompt": [{"role": "user", "content": problem.prompt}],
        "ability": "arithmetic",
        "reward_model": {"style": "rule", "ground_truth": str(problem.answer)},
        "extra_info": {
            "index": 5,
            "split": "train",
            "num_operations": problem.num_operations,
            "budget": 32.0,
        },
    }


def test_train_and_held_out_are_disjoint(made):
    prepared, _ = made
    train = {problem_of(row) for row in pq.read_table(prepared.train).to_pylist()}
    held_out = {problem_of(row) for row in pq.read_table(prepared.held_out).to_pylist()}
    assert (len(train), len(held_out)) == (64, 16)
    assert not any(problem.is_test for problem in train)
    assert all(problem.is_test for problem in held_out)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_write_their_budgets(name):
    preset = replace(PRESETS[name], num_train=32)
    for row in train_rows(preset, 0):
        expected = {3: 32.5, 4: 42.0} if name in ("F", "G") else {3: 32.0, 4: 32.0}
        assert row["extra_info"]["budget"] == expected[problem_of(row).num_operations]


def test_presets_share_their_held_out_problems():
    prompts = {name: [row["prompt"] for row in held_out_rows(PRESETS[name], 0)] for name in PRESETS}
    assert prompts["A"] == prompts["C"] == prompts["F"] == prompts["G"]
    assert prompts["D"] == prompts["C"][:400]
    assert len(prompts["C"]) == 512


def test_presets_are_the_measured_testbeds():
    assert {name: (p.base_accuracy, p.sft_seed) for name, p in PRESETS.items()} == {
        "A": (0.47, 0),
        "C": (0.61, 1),
        "D": (0.42, 1),
        "F": (0.61, 1),
        "G": (0.40, 1),
    }


def test_model_loads_and_generates_with_plain_transformers(made):
    prepared, _ = made
    model = AutoModelForCausalLM.from_pretrained(prepared.model)
    tokenizer = AutoTokenizer.from_pretrained(prepared.model)
    assert type(model).__name__ == "Qwen2ForCausalLM"
    assert model.dtype == torch.float32
    prompt = [{"role": "user", "content": "Compute mod 10 : 3 + 4 * 2 - 5 ?"}]
    inputs = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert output.shape[1] <= 13 + 5
    assert output[0, :13].tolist() == inputs["input_ids"][0].tolist()


def test_saved_weights_are_the_scored_ones(made):
    prepared, _ = made
    model = AutoModelForCausalLM.from_pretrained(prepared.model)
    tokenizer = AutoTokenizer.from_pretrained(prepared.model)
    rows = pq.read_table(prepared.held_out).to_pylist()
    assert sample_scores(model, tokenizer, rows) == prepared.base_scores
    assert set(prepared.base_scores) == {"accuracy", "conciseness", "clarity", "response_tokens"}


def test_console_shows_progress_and_scores(made):
    _, text = made
    assert "Base model of testbed D" in text
    assert "step 2" in text
    assert "loss" in text
    assert "Base model after 2 steps, on 16 held-out problems, sampled: accuracy" in text


def test_training_stops_at_the_first_check_that_reaches_the_accuracy(tmp_path, monkeypatch, console):
    accuracies = iter([0.1, 0.3, 0.6, 0.9])
    preset = replace(SMALL, max_sft_steps=9, first_check=3, check_every=2, base_accuracy=0.5, num_check_problems=4)
    monkeypatch.setattr(prepare_module, "sample_scores", lambda *_, **__: {"accuracy": next(accuracies)})
    prepared = prepare(preset, tmp_path / "D", console=console)
    # Checks at steps 4, 6 and 8; the fourth value is the score on held-out problems.
    assert json.loads((prepared.root / "testbed.json").read_text())["num_sft_steps"] == 8
    assert prepared.base_scores == {"accuracy": 0.9}


def test_second_call_reuses(made, console):
    prepared, _ = made
    weights = prepared.model / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert prepare(SMALL, prepared.root, console=console) == prepared
    assert weights.stat().st_mtime_ns == before
    assert "reusing" in console.file.getvalue()


def test_other_settings_are_refused_by_name(made, console):
    prepared, _ = made
    with pytest.raises(CtwaError, match=r"sft\.seed is 1 there and 9 here.*write another folder"):
        prepare(SMALL, prepared.root, seed=9, console=console)
    with pytest.raises(CtwaError, match="data_seed is 0 there and 4 here"):
        prepare(SMALL, prepared.root, data_seed=4, console=console)
    with pytest.raises(CtwaError, match="preset is 'D' there and 'A' here"):
        prepare("A", prepared.root, console=console)


def test_a_folder_with_other_things_is_refused(tmp_path, console):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(CtwaError, match="is not a testbed: write a folder that is new or empty"):
        prepare(SMALL, tmp_path, console=console)


def test_unknown_preset_lists_the_known():
    with pytest.raises(CtwaError, match="no testbed 'E': write one of A, C, D, F, G"):
        get_preset("E")


def test_a_failure_leaves_nothing(tmp_path, monkeypatch, console):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(prepare_module, "train_base", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        prepare(SMALL, tmp_path / "D", console=console)
    assert list(tmp_path.iterdir()) == []


def test_record_names_what_it_was_made_with(made):
    prepared, _ = made
    record = json.loads((prepared.root / "testbed.json").read_text())
    assert record["settings"]["sft"]["mixture"] == dict(SMALL.mixture)
    assert record["made_with"]["torch"] == torch.__version__
    assert record["base_scores"] == prepared.base_scores
