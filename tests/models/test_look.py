"""What is said about a model's folder that a run would fail on, or train something else from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, MixtralConfig

from ctwa.errors import CtwaError
from ctwa.models import source as source_module
from ctwa.models.look import look_at_model, look_at_tokenizer
from ctwa.models.source import Source
from ctwa.testbed.model import build_model
from ctwa.testbed.tokenizer import build_tokenizer

WEIGHTS, CONFIG = "model.safetensors", "config.json"
Change = Callable[[Path], Any]
SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "whole"
    build_model(seed=0).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "model")


def said(folder: Path | str) -> str:
    source = Source(str(folder), "model.path")
    with pytest.raises(CtwaError) as error:
        look_at_tokenizer(source, look_at_model(source))
    assert str(error.value).startswith(f"model.path: {folder} ")
    return str(error.value)


def test_a_model_as_it_is_saved(whole: Path) -> None:
    source = Source(str(whole), "model.path")

    assert look_at_model(source).num_hidden_layers == 3
    assert len(look_at_tokenizer(source, look_at_model(source))) == 62


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4),
        MixtralConfig(**SMALL, num_local_experts=4),  # its experts are renamed and stacked as they are loaded
        Gemma3TextConfig(**SMALL, head_dim=8),
    ],
    ids=lambda config: config.model_type,
)
def test_models_of_other_families(tmp_path: Path, config: Any) -> None:
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)

    assert look_at_model(Source(str(tmp_path), "model.path")).model_type == config.model_type


def in_config(**values: Any) -> Change:
    def change(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text()) | values
        (folder / CONFIG).write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))

    return change


def layers(number: int) -> Change:
    return in_config(num_hidden_layers=number, layer_types=["full_attention"] * number)


def cut(name: str, to: int) -> Change:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:to])


def write(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content)


def gone(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names]


def as_bin(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def cut_bin(folder: Path) -> None:
    as_bin(folder)
    cut("pytorch_model.bin", 100_000)(folder)


def in_shards(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    shards = {name: f"model-{1 + index % 2:05}-of-00002.safetensors" for index, name in enumerate(weights)}
    for shard in set(shards.values()):
        part = {name: weight for name, weight in weights.items() if shards[name] == shard}
        save_file(part, folder / shard, {"format": "pt"})
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))


def with_index(content: Any) -> Change:
    def change(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(content))

    return change


def without_a_shard(folder: Path) -> None:
    in_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def with_a_cut_shard(folder: Path) -> None:
    in_shards(folder)
    cut("model-00002-of-00002.safetensors", 5000)(folder)


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights["model.norm.weight"]
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


@pytest.mark.parametrize("change", [as_bin, in_shards, gone("generation_config.json")])
def test_other_ways_to_save_it(copy: Path, change: Change) -> None:
    change(copy)
    source = Source(str(copy), "model.path")

    assert look_at_tokenizer(source, look_at_model(source)) is not None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: [path.unlink() for path in folder.iterdir()], "is an empty folder; give the folder of a model"),
        (
            gone(CONFIG),
            "is no model's folder: it has no config.json (but chat_template.jinja, generation_config.json, ",
        ),
        (write(CONFIG, "{"), "has a config.json that is not JSON (Expecting property name"),
        (write(CONFIG, "[]"), "has a config.json that is no JSON object"),
        (lambda folder: (folder / CONFIG).write_bytes(b"\xff\xfe"), "has a config.json that is not JSON"),
        (write("generation_config.json", "{"), "has a generation_config.json that is not JSON"),
        (in_config(model_type="gone"), "has the model_type None in its config.json, which transformers does not know"),
        (in_config(model_type=["qwen2"]), "has the model_type ['qwen2'] in its config.json, which transformers"),
        (in_config(model_type="qwenn2"), "has the model_type 'qwenn2' .* did you mean 'qwen2'?"),
        (in_config(model_type="t5", architectures=None), "is a t5 (config.json); give a causal language model"),
        (in_config(architectures=["Qwen2ForSequenceClassification"]), "is a Qwen2ForSequenceClassification (config"),
        (in_config(architectures=["Qwen2Model"]), "is a Qwen2Model (config.json); give a causal language model"),
        (in_config(hidden_size="wide"), "has a config.json that transformers does not take ("),
        (in_config(vocab_size=100), "model.embed_tokens.weight is 62 x 128 and should be 100 x 128; give the config"),
        (in_config(hidden_size=64), "has weights of other sizes than its config.json says: model.embed_tokens.weight"),
        (
            layers(5),
            "lacks weights that its config.json asks for, and they would be random: model.layers.3.input_layern",
        ),
        (layers(2), "has more layers than the 2 of its config.json (num_hidden_layers), and they would be left out: "),
        (without_a_weight, "would be random: model.norm.weight; give the config.json of these weights, or all of the"),
        (gone(WEIGHTS), "has no weights (model*.safetensors, pytorch_model*.bin)"),
        (cut(WEIGHTS, 0), "has a model.safetensors that is cut off or damaged ("),
        (cut(WEIGHTS, 4), "has a model.safetensors that is cut off or damaged ("),
        (cut(WEIGHTS, 1_000_000), "has a model.safetensors that is cut off or damaged ("),
        (write(WEIGHTS, "no weights at all" * 9), "has a model.safetensors that is cut off or damaged ("),
        (
            write(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"),
            "has a pointer of Git LFS in place of model.saf",
        ),
        (cut_bin, "has a pytorch_model.bin that is cut off or damaged ("),
        (
            with_index({"weight_map": ["a"]}),
            "has a model.safetensors.index.json without a weight_map of file names; give",
        ),
        (with_index({"weight_map": {"a": 5}}), "has a model.safetensors.index.json without a weight_map of file names"),
        (without_a_shard, "lacks model-00002-of-00002.safetensors (1 of the 2 files of model.safetensors.index.json)"),
        (with_a_cut_shard, "has a model-00002-of-00002.safetensors that is cut off or damaged"),
        (
            gone("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
            "has a tokenizer of 1 tokens where the model has 62; give the files of the model's own",
        ),
        (write("tokenizer.json", "{"), "has no tokenizer that can be loaded ("),
        (write("tokenizer.json", "{}"), "has no tokenizer that can be loaded ("),
        (write("tokenizer_config.json", "["), "has no tokenizer that can be loaded ("),
        (gone("tokenizer.json"), "has no tokenizer that can be loaded ("),
        (gone("tokenizer_config.json"), "has a tokenizer whose tokens go up to 62, and a model of 62 (vocab_size)"),
    ],
)
def test_a_folder_that_is_not_in_order(copy: Path, change: Change, sentence: str) -> None:
    change(copy)
    start, _, end = sentence.partition(" .* ")

    assert start in said(copy)
    assert end in said(copy)


def test_a_model_of_a_much_larger_vocabulary_than_its_tokenizer(copy: Path) -> None:
    weights = load_file(copy / WEIGHTS)
    embedding = weights["model.embed_tokens.weight"]
    save_file(weights | {"model.embed_tokens.weight": embedding.repeat(4, 1)}, copy / WEIGHTS, {"format": "pt"})
    in_config(vocab_size=248)(copy)

    assert "has a tokenizer of 62 tokens where the model has 248" in said(copy)


def test_folders_of_other_things(copy: Path, whole: Path, tmp_path: Path) -> None:
    assert "is a file; give the folder it is in: " in said(copy / CONFIG)
    gone(CONFIG)(copy)
    write("adapter_config.json", "{}")(copy)
    assert "is a LoRA adapter and no whole model; give its base" in said(copy)
    (tmp_path / "testbed").mkdir()
    shutil.copytree(whole, tmp_path / "testbed" / "model")
    assert f"is no model's folder, but it holds one: give {tmp_path}/testbed/model" in said(tmp_path / "testbed")


def test_names_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)

    assert "does not exist; give a model folder or" in said(tmp_path / "none" / "model")
    assert f"; did you mean {tmp_path}/runs/model?" in said(tmp_path / "runs" / "modle")
    assert "is neither a folder nor a name on a hub" in said("no such model")


class TestHub:
    def test_a_name_that_the_hub_has(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(source_module, "ask_hub", lambda _: None)

        assert look_at_model(Source("nobody/nothing", "model.path")) is None

    def test_a_name_that_it_has_not(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        def missing(_: str) -> None:
            raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

        (tmp_path / "model").mkdir()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(source_module, "ask_hub", missing)

        told = said("modle")
        assert "is neither a folder nor among the downloads, and the hub has no such" in told
        assert told.endswith("; did you mean model?")

    def test_without_a_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unreachable(_: str) -> None:
            raise ConnectionError

        monkeypatch.setattr(source_module, "ask_hub", unreachable)
        assert "the hub does not answer (ConnectionError); connect, download it first" in said("nobody/nothing")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "HF_HUB_OFFLINE is set; download it first (hf download), or give a folder" in said("nobody/nothing")

    def test_a_download_is_looked_at(self, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda _, file: str(whole / file))

        assert look_at_model(Source("nobody/nothing", "model.path")).model_type == "qwen2"
