"""A LoRA adapter by itself, as PEFT has it: what a run has trained, without the model that it was trained beside."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

ADAPTER = "lora_adapter"
"""The folder of a checkpoint's policy that holds it."""
PREFIX, DOWN, UP = "base_model.model.", "lora_A.default.weight", "lora_B.default.weight"
"""How PEFT names the weights of a model with an adapter while it is trained."""


def keep_adapter(model: Path, folder: Path, *, rank: int, alpha: float) -> None:
    """Write the adapter of a model that verl has saved with PEFT's names in a folder that PEFT loads.

    Args:
        model: the folder with the ``*.safetensors`` files, one or several; they are left as they are.
        folder: where.
        rank: of the adapter.
        alpha: its scale, times the rank.
    """
    tensors, beside = {}, set()
    with ExitStack() as stack:
        for path in sorted(model.glob("*.safetensors")):
            opened = stack.enter_context(safe_open(path, framework="pt"))
            for key in opened.keys():  # noqa: SIM118 - it is no dict
                if key.endswith((DOWN, UP)):
                    tensors[key.replace(".default.", ".")] = opened.get_tensor(key)
                elif len(opened.get_slice(key).get_shape()) == 2:
                    beside.add(_module(key))
    adapted = {_module(key) for key in tensors}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": _targets(adapted, beside - adapted),
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _module(key: str) -> str:
    """The name of the matrix that a weight is of, without PEFT's words around it."""
    name = key.removeprefix(PREFIX).removesuffix(".weight")
    for word in (".lora_A", ".lora_B", ".base_layer"):
        name = name.partition(word)[0]
    return name


def _targets(adapted: set[str], others: set[str]) -> list[str]:
    """The last words of the matrices' names, where they say which; else the whole names."""
    ends = {name.rpartition(".")[2] for name in adapted}
    is_clear = not any(name.rpartition(".")[2] in ends for name in others)
    return sorted(ends if is_clear else adapted)
