"""Random models and adapters, and their means."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file, save_file

from ctwa.models.merging import merge_folders

DOWN, UP = "base_model.model.layers.0.q.lora_A.weight", "base_model.model.layers.0.q.lora_B.weight"
WEIGHTS = {"helpful": 0.3, "harmless": 0.7}


def random_model(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {
        "embed.weight": torch.randn(7, 4, generator=generator).to(dtype),
        "layers.0.weight": torch.randn(4, 4, generator=generator).to(dtype),
        "norm.weight": torch.randn(4, generator=generator).to(dtype),
    }


def random_adapter(seed, rank, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {
        DOWN: torch.randn(rank, 6, generator=generator, dtype=torch.float64).to(dtype),
        UP: torch.randn(5, rank, generator=generator, dtype=torch.float64).to(dtype),
    }


def product(adapter, scale=1.0):
    return scale * adapter[UP].double() @ adapter[DOWN].double()


def merge_saved(models, weights, configs=None):
    """The merged state dict of models, or of adapters where they have configurations."""
    with TemporaryDirectory() as temporary:
        folders = {name: Path(temporary) / name for name in models}
        for name, model in models.items():
            folders[name].mkdir()
            save_file(model, folders[name] / "model.safetensors")
            if configs is not None:
                (folders[name] / "adapter_config.json").write_text(json.dumps(configs[name]))
        merge_folders(folders, weights, Path(temporary) / "merged")
        return load_file(Path(temporary) / "merged" / "model.safetensors")


def merge_models(models, weights):
    return merge_saved(models, weights)


def merge_adapters(adapters, weights, scales):
    ranks = {name: len(adapter[DOWN]) for name, adapter in adapters.items()}
    configs = {
        name: {"peft_type": "LORA", "r": rank, "lora_alpha": scales[name] * rank} for name, rank in ranks.items()
    }
    return merge_saved(adapters, weights, configs)
