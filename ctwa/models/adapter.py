"""A LoRA adapter: which can be trained and saved, the plain model with it merged, and it by itself, as PEFT has it."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from safetensors.torch import save_file

from ctwa.errors import CtwaError
from ctwa.run.jsonl import write_atomically

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

ADAPTER = "lora_adapter"
"""The folder of a checkpoint's policy that holds it."""
ADAPTER_CONFIG = "adapter_config.json"
_PREFIX, _DOWN, _UP = "base_model.model.", "lora_A.default.weight", "lora_B.default.weight"
"""How PEFT names the weights of a model with an adapter while it is trained."""
# An adapter's options that are understood, whatever their values: those that say where it is and how it was trained,
# those that act on its first weights alone, and its scale.
_UNDERSTOOD = {
    *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "lora_dropout", "megatron_core", "runtime_config"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("init_lora_weights", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    *("r", "lora_alpha", "use_rslora", "qalora_group_size"),
}
# Other initialisations subtract the start from the base model.
_LEAVES_THE_BASE = (None, True, False, "true", "false", "gaussian", "eva", "orthogonal")


def unlike_products(config: Mapping[str, Any], also: Collection[str] = ()) -> list[str]:
    """The options of an ``adapter_config.json`` with which the adapter is, or may be, more than products of factors.

    Args:
        config: the file's content.
        also: options that are understood as well.
    """
    understood = {*_UNDERSTOOD, *also}
    unlike = [option for option, value in config.items() if value and value != "none" and option not in understood]
    start = config.get("init_lora_weights")
    if (start.lower() if isinstance(start, str) else start) not in _LEAVES_THE_BASE:
        unlike.append("init_lora_weights")
    return unlike


def misplaced(model: PeftModel) -> list[str]:
    """What a model with an adapter trains, and a merged model or a saved adapter would not have: with its layer's type.

    They have ``W + scale B A`` for the linear layers below the output layer. PEFT knows other layers (embeddings, the
    parameters of experts), other adapters (DoRA) and modules that are trained whole.
    """
    from peft.tuners.lora import Linear

    head = model.get_output_embeddings()
    modules = dict(model.named_modules())
    plain = {
        name
        for name, module in modules.items()
        if isinstance(module, Linear) and not module.fan_in_fan_out and not module.lora_variant and module is not head
    }
    wrong = {}
    for name, parameter in model.named_parameters():
        module, _, factor = name.rpartition("lora_")
        if parameter.requires_grad and not (module.removesuffix(".") in plain and f"lora_{factor}" in (_DOWN, _UP)):
            holder = (module or name).removesuffix(".")
            wrong[holder.removeprefix(_PREFIX).replace(".base_layer", "")] = _kind(modules.get(holder), head)
    return [f"{name} ({kind})" for name, kind in wrong.items()]


def _kind(layer: Any, head: Any) -> str:
    if layer is None:
        return "trained whole"
    return "the output layer" if layer is head else type(layer.get_base_layer()).__name__


def linear_layers(model: Any) -> list[str]:
    """The names of a model's linear layers below the output layer: those that an adapter may sit beside."""
    from torch.nn import Linear

    head = model.get_output_embeddings()
    return [name for name, module in model.named_modules() if isinstance(module, Linear) and module is not head]


def scale_of(model: PeftModel) -> float:
    """What PEFT multiplies an adapter's products with, in all layers.

    Raises:
        CtwaError: it is not the same in all of them.
    """
    from peft.tuners.lora import LoraLayer

    scales = {module.scaling["default"] for module in model.modules() if isinstance(module, LoraLayer)}
    if len(scales) != 1:
        raise CtwaError(
            f"the adapter has the scales {sorted(scales)} (rank_pattern, alpha_pattern), and one is saved: merge it "
            "into its base first (peft's merge_and_unload), and give the result as actor_rollout_ref.model.path"
        )
    return float(scales.pop())


def keep_adapter(model: Path, folder: Path, config: LoraConfig) -> None:
    """Write the adapter of a model that verl has saved with PEFT's names in a folder that PEFT loads.

    Args:
        model: the folder with the ``*.safetensors`` files, one or several; they are left as they are.
        folder: where.
        config: what PEFT trains it with.
    """
    tensors = {}
    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, framework="pt") as opened:
            for key in (key for key in opened.keys() if key.endswith((_DOWN, _UP))):  # noqa: SIM118 - it is no dict
                tensors[key.replace(".default.", ".")] = opened.get_tensor(key)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    kept = copy.copy(config)
    kept.inference_mode, kept.base_model_name_or_path = True, None
    if isinstance(kept.target_modules, set):
        kept.target_modules = sorted(kept.target_modules)
    kept.save_pretrained(str(folder))


def merge_adapter(model: Path, *, scale: float) -> None:
    """Turn a saved LoRA model into the plain one that ``transformers`` loads: every weight plus ``scale * B A``.

    verl writes PEFT's names beside the config of the plain model. ``from_pretrained`` knows none of them, and would
    make a model of random weights.

    Args:
        model: the folder with the ``*.safetensors`` files, one or several.
        scale: of the products.

    Raises:
        CtwaError: a tensor is no factor of such a product, and no plain weight; the files are left as they are.
    """
    files = sorted(model.glob("*.safetensors"))
    with ExitStack() as stack:
        opened = {path: stack.enter_context(safe_open(path, framework="pt")) for path in files}
        home = {key: path for path, tensors in opened.items() for key in tensors.keys()}  # noqa: SIM118
        _refuse_left_over(home)
        weight_map: dict[str, str] = {}
        for path, tensors in opened.items():
            plain = {}
            for key in (key for key, of in home.items() if of == path and not key.endswith((_DOWN, _UP))):
                weight = tensors.get_tensor(key)
                module = key.removesuffix("base_layer.weight")
                if module + _DOWN in home:
                    down_RI, up_OR = (opened[home[module + half]].get_tensor(module + half) for half in (_DOWN, _UP))
                    weight = (weight.float() + scale * up_OR.float() @ down_RI.float()).to(weight.dtype)
                plain[_plain_name(key)] = weight
            weight_map |= dict.fromkeys(plain, path.name)
            merged = path.with_suffix(".merged")
            save_file(plain, merged, metadata={"format": "pt"})
            merged.replace(path)
    index = model / "model.safetensors.index.json"
    if index.is_file():
        content = {**json.loads(index.read_text()), "weight_map": weight_map}
        write_atomically(index, json.dumps(content, indent=1).encode())


def _plain_name(key: str) -> str:
    return key.removeprefix(_PREFIX).replace(".base_layer.", ".")


def _refuse_left_over(keys: Collection[str]) -> None:
    """See that each tensor is a weight of the plain model, or a factor whose other factor and matrix are there."""
    halves = ("base_layer.weight", _DOWN, _UP)
    products = {key.removesuffix(_DOWN) for key in keys if key.endswith(_DOWN)}
    used = {module + half for module in products for half in halves if all(module + each in keys for each in halves)}
    left = [key for key in keys if key not in used and (".default" in key or "base_layer" in _plain_name(key))]
    if left:
        raise CtwaError(
            f"the adapter has {', '.join(left[:3])}{', ...' * (len(left) > 3)}, which would be lost in a plain model: "
            "write actor_rollout_ref.model.target_modules with linear layers alone"
        )
