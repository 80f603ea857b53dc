"""Means of models and of adapters that lie in folders: what is read, what is written, what is refused."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from ctwa.errors import CtwaError
from ctwa.models.merging import merge_folders
from tests.models.soups import DOWN, WEIGHTS, merge_models, product, random_adapter, random_model


@pytest.fixture
def save_model(tmp_path):
    """Saves a model in two files with an index, the keys distributed as asked."""

    def save_model(name, model, keys_of_the_first=("embed.weight",)):
        folder = tmp_path / name
        folder.mkdir()
        files = {"model-00001-of-00002.safetensors": {}, "model-00002-of-00002.safetensors": {}}
        first, second = files.values()
        for key, tensor in model.items():
            (first if key in keys_of_the_first else second)[key] = tensor
        for file, tensors in files.items():
            save_file(tensors, folder / file, metadata={"format": "pt"})
        index = {key: file for file, tensors in files.items() for key in tensors}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        (folder / "config.json").write_text(json.dumps({"trained_on": name}))
        (folder / "optimizer.pt").write_bytes(b"large")
        return folder

    return save_model


@pytest.fixture
def save_adapter(tmp_path):
    def save_adapter(name, adapter, **config):
        folder = tmp_path / name
        folder.mkdir()
        save_file(adapter, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        rank = len(adapter[DOWN])
        options = {"peft_type": "LORA", "base_model_name_or_path": "base", "r": rank, "lora_alpha": 2 * rank} | config
        (folder / "adapter_config.json").write_text(json.dumps(options))
        return folder

    return save_adapter


class TestFolders:
    def test_models_in_several_files(self, tmp_path, save_model):
        """However each of them is cut into files."""
        models = {name: random_model(seed, torch.bfloat16) for seed, name in enumerate(WEIGHTS)}
        cuts = {"helpful": ("embed.weight", "norm.weight"), "harmless": ("embed.weight",)}
        folders = {name: save_model(name, model, cuts[name]) for name, model in models.items()}
        merge_folders(folders, WEIGHTS, tmp_path / "soups" / "soup")
        soup = tmp_path / "soups" / "soup"
        merged = {}
        for file in soup.glob("*.safetensors"):
            merged |= load_file(file)
        expected = merge_models(models, WEIGHTS)
        assert merged.keys() == expected.keys()
        assert all(torch.equal(merged[key], tensor) for key, tensor in expected.items())
        # The files are cut as those of the first by name, and its index says so.
        weight_map = json.loads((soup / "model.safetensors.index.json").read_text())["weight_map"]
        for key, file in weight_map.items():
            assert key in load_file(soup / file)
        assert json.loads((soup / "config.json").read_text()) == {"trained_on": "harmless"}
        assert not (soup / "optimizer.pt").exists()
        assert os.listdir(tmp_path / "soups") == ["soup"]

    def test_adapters(self, tmp_path, save_adapter):
        adapters = {"helpful": random_adapter(0, 2), "harmless": random_adapter(1, 3)}
        folders = {name: save_adapter(name, adapter, lora_dropout=0.05) for name, adapter in adapters.items()}
        merge_folders(folders, WEIGHTS, tmp_path / "soup")
        config = json.loads((tmp_path / "soup" / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (5, 5, 0.05)
        merged = load_file(tmp_path / "soup" / "adapter_model.safetensors")
        expected = 0.3 * product(adapters["helpful"], 2.0) + 0.7 * product(adapters["harmless"], 2.0)
        torch.testing.assert_close(product(merged), expected, rtol=1e-12, atol=1e-12)

    def test_rank_stabilised_adapters_have_another_scale(self, tmp_path, save_adapter):
        adapter = random_adapter(0, 4)
        folder = save_adapter("helpful", adapter, use_rslora=True)
        merge_folders({"helpful": folder}, {"helpful": 1.0}, tmp_path / "soup")
        merged = load_file(tmp_path / "soup" / "adapter_model.safetensors")
        torch.testing.assert_close(product(merged), product(adapter, 8 / 2))
        assert json.loads((tmp_path / "soup" / "adapter_config.json").read_text())["use_rslora"] is False

    def test_peft_computes_with_it_what_the_mean_of_the_models_would(self, tmp_path):
        """Linear layers alone: there the output of the mean is the mean of the outputs."""
        peft = pytest.importorskip("peft")

        def base():
            torch.manual_seed(0)
            return torch.nn.Sequential(torch.nn.Linear(6, 5))

        inputs, outputs, folders = torch.randn(3, 6, generator=torch.Generator().manual_seed(1)), {}, {}
        for seed, (name, rank) in enumerate({"helpful": 2, "harmless": 3}.items()):
            config = peft.LoraConfig(r=rank, lora_alpha=7, target_modules=["0"], init_lora_weights=False)
            model = peft.get_peft_model(base(), config).eval()
            torch.manual_seed(seed)
            for key, parameter in model.named_parameters():
                if "lora" in key:
                    torch.nn.init.normal_(parameter)
            folders[name] = tmp_path / name
            model.save_pretrained(folders[name])
            outputs[name] = model(inputs)
        merge_folders(folders, WEIGHTS, tmp_path / "soup")
        merged = peft.PeftModel.from_pretrained(base(), tmp_path / "soup").eval()
        expected = 0.3 * outputs["helpful"] + 0.7 * outputs["harmless"]
        torch.testing.assert_close(merged(inputs), expected, rtol=1e-4, atol=1e-4)

    def test_a_folder_of_weight_0_is_not_read(self, tmp_path, save_model):
        model = random_model(0)
        folders = {"helpful": save_model("helpful", model), "harmless": tmp_path / "missing"}
        merge_folders(folders, {"helpful": 1.0, "harmless": 0.0}, tmp_path / "soup")
        assert torch.equal(
            load_file(tmp_path / "soup" / "model-00001-of-00002.safetensors")["embed.weight"], model["embed.weight"]
        )

    def test_what_fails_leaves_nothing_behind(self, tmp_path, save_model):
        first, second = random_model(0), random_model(1)
        second["norm.weight"] = torch.zeros(5)
        folders = {"helpful": save_model("helpful", first), "harmless": save_model("harmless", second)}
        (tmp_path / "soups").mkdir()
        with pytest.raises(CtwaError, match=r"norm\.weight"):
            merge_folders(folders, WEIGHTS, tmp_path / "soups" / "soup")
        assert os.listdir(tmp_path / "soups") == []

    def test_what_is_there_is_not_overwritten(self, tmp_path, save_model):
        folder = save_model("helpful", random_model(0))
        with pytest.raises(CtwaError, match="exists already"):
            merge_folders({"helpful": folder}, {"helpful": 1.0}, folder)

    def test_folders_that_cannot_be_merged_are_refused(self, tmp_path, save_model, save_adapter):
        model, adapter = save_model("model", random_model(0)), save_adapter("adapter", random_adapter(0, 2))
        target = tmp_path / "soup"
        with pytest.raises(CtwaError, match=r"\['b'\] are LoRA adapters and \['a'\] are whole models"):
            merge_folders({"a": model, "b": adapter}, {"a": 1.0, "b": 1.0}, target)
        with pytest.raises(CtwaError, match="holds no safetensors files"):
            merge_folders({"a": tmp_path / "missing"}, {"a": 1.0}, target)
        other = save_adapter("other", random_adapter(1, 2), base_model_name_or_path="another")
        with pytest.raises(CtwaError, match="'a' of base, 'b' of another"):
            merge_folders({"a": adapter, "b": other}, {"a": 1.0, "b": 1.0}, target)
        (model / "model-00001-of-00002.safetensors").write_bytes(b"\0" * 20)
        with pytest.raises(CtwaError, match="cannot be read"):
            merge_folders({"a": model}, {"a": 1.0}, target)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"use_dora": True}, "use_dora"),
            ({"rank_pattern": {"q": 4}}, "rank_pattern"),
            ({"use_bdlora": {"nblocks": 2}}, "use_bdlora"),
            ({"kasa_config": {"beta": 1e-4}}, "kasa_config"),
            ({"monteclora_config": {"n": 1}}, "monteclora_config"),
            ({"megatron_config": {"a": 1}}, "megatron_config"),
            ({"some_option_of_tomorrow": 3}, "some_option_of_tomorrow"),
            ({"target_parameters": ["x"]}, "target_parameters"),
            ({"lora_bias": True}, "lora_bias"),
            ({"init_lora_weights": "lora_ga"}, "init_lora_weights"),
            ({"init_lora_weights": "OLoRA"}, "init_lora_weights"),
            ({"init_lora_weights": "mica"}, "init_lora_weights"),
            ({"r": None}, "r=None"),
            ({"r": 0}, "r=0"),
            ({"r": True}, "r=True"),
            ({"r": 3}, "has r=3 .* is of rank 2"),
            ({"lora_alpha": "16"}, "lora_alpha=16"),
            ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights"),
            ({"peft_type": "LOHA"}, "'LOHA'; only LORA"),
        ],
    )
    def test_adapters_that_are_no_plain_products_are_refused(self, tmp_path, save_adapter, config, message):
        folder = save_adapter("helpful", random_adapter(0, 2), **config)
        with pytest.raises(CtwaError, match=message):
            merge_folders({"helpful": folder}, {"helpful": 1.0}, tmp_path / "soup")

    def test_a_part_of_lora_that_is_not_known_is_refused(self, tmp_path, save_adapter):
        adapter = random_adapter(0, 2)
        folder = save_adapter("helpful", adapter | {DOWN.replace("lora_A.weight", "lora_diag"): torch.ones(2)})
        with pytest.raises(CtwaError, match="lora_diag"):
            merge_folders({"helpful": folder}, {"helpful": 1.0}, tmp_path / "soup")

    @pytest.mark.parametrize("text", ["{", "[]", "3"])
    def test_a_broken_configuration_is_said(self, tmp_path, save_adapter, text):
        folder = save_adapter("helpful", random_adapter(0, 2))
        (folder / "adapter_config.json").write_text(text)
        with pytest.raises(CtwaError, match="adapter_config"):
            merge_folders({"helpful": folder}, {"helpful": 1.0}, tmp_path / "soup")

    def test_what_peft_writes_by_default_is_known(self, tmp_path, save_adapter):
        peft = pytest.importorskip("peft")
        defaults = {
            key: value
            for key, value in peft.LoraConfig(init_lora_weights="gaussian", lora_dropout=0.1).to_dict().items()
            if key not in ("r", "lora_alpha", "base_model_name_or_path", "peft_type")
        }
        adapter = random_adapter(0, 2)
        folder = save_adapter("helpful", adapter, **defaults)
        merge_folders({"helpful": folder}, {"helpful": 1.0}, tmp_path / "soup")
        merged = load_file(tmp_path / "soup" / "adapter_model.safetensors")
        torch.testing.assert_close(product(merged), product(adapter, 2.0))

    @pytest.mark.parametrize(
        ("option", "first", "second"),
        [
            ("trainable_token_indices", [1, 2], [1, 3]),
            ("trainable_token_indices", [1, 2], [2, 1]),
            ("trainable_token_indices", {"embed": [1]}, None),
            ("bias", "none", "lora_only"),
            ("fan_in_fan_out", False, True),
            ("layer_replication", [[0, 4]], [[0, 2]]),
        ],
    )
    def test_adapters_that_differ_in_what_they_train_besides_are_refused(
        self, tmp_path, save_adapter, option, first, second
    ):
        """A mean of rows of other tokens is the mean of nothing."""
        rows = {"base_model.model.embed.token_adapter.trainable_tokens_delta": torch.ones(2, 3)}
        folders = {
            name: save_adapter(name, random_adapter(seed, 2) | rows, **{option: value})
            for seed, (name, value) in enumerate({"harmless": first, "helpful": second}.items())
        }
        with pytest.raises(CtwaError, match=f"differ in {option}"):
            merge_folders(folders, WEIGHTS, tmp_path / "soup")
        with pytest.raises(CtwaError, match="differ in"):  # whichever comes first
            merge_folders(dict(zip(folders, reversed(folders.values()), strict=True)), WEIGHTS, tmp_path / "soup")

    def test_the_same_trainable_tokens_are_averaged(self, tmp_path, save_adapter):
        key = "base_model.model.embed.token_adapter.trainable_tokens_delta"
        folders = {
            name: save_adapter(
                name, random_adapter(0, 2) | {key: torch.full((2, 3), float(seed))}, trainable_token_indices=[1, 2]
            )
            for seed, name in enumerate(WEIGHTS)
        }
        merge_folders(folders, WEIGHTS, tmp_path / "soup")
        merged = load_file(tmp_path / "soup" / "adapter_model.safetensors")
        torch.testing.assert_close(merged[key], torch.full((2, 3), 0.7))


class TestTiedEmbeddings:
    """A checkpoint of a LoRA run has the output layer of a model that ties it to its embedding; others have not."""

    KEY = "lm_head.weight"

    @pytest.mark.parametrize("saved", [("harmless",), ("helpful",)])
    def test_an_output_layer_that_is_the_embedding_is_no_difference(self, tmp_path, save_model, saved):
        models = {name: random_model(seed, torch.bfloat16) for seed, name in enumerate(WEIGHTS)}
        folders = {}
        for name, model in models.items():
            extra = {self.KEY: model["embed.weight"].clone()} if name in saved else {}
            folders[name] = save_model(name, model | extra)
        merge_folders(folders, WEIGHTS, tmp_path / "soup")
        merged, index = {}, json.loads((tmp_path / "soup" / "model.safetensors.index.json").read_text())
        for file in (tmp_path / "soup").glob("*.safetensors"):
            merged |= load_file(file)
        assert set(index["weight_map"]) == set(merged)
        expected = merge_models(models, WEIGHTS)
        assert all(torch.equal(merged[key], tensor) for key, tensor in expected.items())
        assert torch.equal(merged.get(self.KEY, merged["embed.weight"]), merged["embed.weight"])

    def test_one_bit_is_a_difference(self, tmp_path, save_model):
        models = {name: random_model(seed) for seed, name in enumerate(WEIGHTS)}
        head = models["harmless"]["embed.weight"].clone()
        head[0, 0] += 1e-6
        folders = {
            name: save_model(name, model | ({self.KEY: head} if name == "harmless" else {}))
            for name, model in models.items()
        }
        with pytest.raises(CtwaError, match=r"differ in 1 parameters, the first of them lm_head\.weight"):
            merge_folders(folders, WEIGHTS, tmp_path / "soup")
