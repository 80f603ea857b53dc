"""Rewarded Soups (Rame et al. 2023, arXiv 2306.04488): models trained on one objective each, merged by the preference.

Merged are weights: ``theta = sum_m w_m theta_m``, of models that started from the same one. A LoRA adapter stands for
the product ``scale * B A``, and it is the products that are merged: the mean of the B times the mean of the A is
something else. A sum of products is again one, of factors set side by side: its rank is the sum of the ranks, and it is
exact.
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ctwa.errors import CtwaError
from ctwa.method_info import MethodInfo, Options
from ctwa.models.adapter import ADAPTER_CONFIG, unlike_products
from ctwa.run.disk import let_others_read, sync
from ctwa.run.documents import read_document
from ctwa.weights import shares

SOUPS = MethodInfo(
    Options,
    "models of one objective each, merged",
    "Rame et al. 2023, arXiv 2306.04488",
    level="model",
    passes="M runs, any weights",
)

_DOWN = (".lora_A.", ".lora_embedding_A")
_UP = (".lora_B.", ".lora_embedding_B")
_OUTPUT = ("lm_head.weight", "embed_out.weight")
# Those that mean the same for the mean of the products where all adapters have them alike.
_ALIKE = ("fan_in_fan_out", "bias", "layer_replication", "trainable_token_indices", "ensure_weight_tying")
# Configuration and tokenizer; no optimizer, no README.
_ALONG = {".json", ".txt", ".model", ".jinja", ".py", ".tiktoken"}


def merge_folders(folders: Mapping[str, Path], weights: Mapping[str, float], target: Path) -> None:
    """Merge models, or LoRA adapters, that are saved in folders as Hugging Face libraries save them.

    One tensor of each model is in memory at a time, and one file of the result. The result appears as a whole: it is
    written beside ``target`` and renamed when it is complete. Configuration and tokenizer are those of the first model
    with a weight.

    Means are summed in float64 and given in the models' own type: where one model has all the weight, the result is it
    to the last bit. Of adapters the result has a scale of 1 and factors in float32 at least: the A below one another,
    and beside one another the B times weight and scale. What is no factor (modules saved whole, biases) is the mean.

    Args:
        folders: by objective, with ``*.safetensors`` files; adapters have an ``adapter_config.json`` too.
        weights: by objective; only their ratios matter. A folder of weight 0 is not read.
        target: the folder to make.

    Raises:
        CtwaError: ``target`` is there already; a folder is missing or holds no safetensors files; some are adapters and
            some are not; adapters are of different base models, or have options with which they may be no plain
            products; the models' keys, shapes or types differ, or what are no floating-point numbers does.
    """
    chosen = _chosen(folders, weights)
    if target.exists():
        raise CtwaError(f"{target} exists already; remove it, or give another folder")
    sources = {name: _Folder(name, folders[name]) for name in chosen}
    _share_tied_embeddings(list(sources.values()))
    adapters = {name for name, source in sources.items() if source.adapter is not None}
    if adapters and adapters != sources.keys():
        raise CtwaError(
            f"{sorted(adapters)} are LoRA adapters and {sorted(sources.keys() - adapters)} are whole models; merge "
            "adapters with adapters"
        )
    _common_keys(sources)
    if adapters:
        scales = {name: source.scale() for name, source in sources.items()}
        files = {ADAPTER_CONFIG: _merged_config({name: source.adapter or {} for name, source in sources.items()})}
        merge = partial(_merge_adapter_tensor, weights=chosen, scales=scales)
    else:
        files = {}
        merge = partial(_mean, weights=chosen)

    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
        made = Path(temporary) / target.name
        made.mkdir()
        first = next(iter(sources.values()))
        for path in first.path.iterdir():
            if path.suffix == ".json":
                _check_json(path)
            if path.suffix in _ALONG:
                shutil.copy2(path, made / path.name)
        for file, text in files.items():
            (made / file).write_text(text)
        for file, keys in first.files.items():
            merged = {key: merge(key, {name: source[key] for name, source in sources.items()}) for key in keys}
            save_file(merged, made / file, metadata={"format": "pt"})
        let_others_read(made)
        for path in made.iterdir():
            sync(path)
        made.rename(target)
    sync(target.parent)


class _Folder(Mapping[str, Tensor]):
    """A saved model as a state dict whose tensors are read when they are asked for."""

    def __init__(self, name: str, path: Path) -> None:
        self.name, self.path = name, path
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise CtwaError(f"{path}, given for '{name}', holds no safetensors files; give the folder of a saved model")
        self.files: dict[str, list[str]] = {}
        for file in files:
            try:
                with safe_open(file, framework="pt") as tensors:
                    self.files[file.name] = list(tensors.keys())
            except SafetensorError as error:
                raise CtwaError(f"{file}, given for '{name}', cannot be read: {error}") from error
        self._file_of = {key: file for file, keys in self.files.items() for key in keys}
        self.adapter = _read_config(path / ADAPTER_CONFIG)
        self.copies: dict[str, str] = {}  # parameters that are not saved, and the ones that they are the same as

    def __getitem__(self, key: str) -> Tensor:
        key = self.copies.get(key, key)
        with safe_open(self.path / self._file_of[key], framework="pt") as tensors:
            tensor: Tensor = tensors.get_tensor(key)
            return tensor

    def __iter__(self) -> Iterator[str]:
        return iter([*self._file_of, *self.copies])

    def __len__(self) -> int:
        return len(self._file_of) + len(self.copies)

    def shape(self, key: str) -> list[int]:
        """The shape of a parameter, which is not read for it."""
        key = self.copies.get(key, key)
        with safe_open(self.path / self._file_of[key], framework="pt") as tensors:
            return list(tensors.get_slice(key).get_shape())

    def drop(self, key: str) -> None:
        """Do as if a parameter were not saved."""
        self.files[self._file_of.pop(key)].remove(key)

    def scale(self) -> float:
        """What an adapter's products are multiplied with."""
        config = self.adapter or {}
        if config.get("peft_type") != "LORA":
            raise CtwaError(
                f"the adapter of '{self.name}' is of type {config.get('peft_type')!r}; only LORA can be merged"
            )
        wrong = unlike_products(config, ("modules_to_save", *_ALIKE))
        wrong += sorted({_kind(key) for key in self if _kind(key) not in (*_DOWN, *_UP, "")})
        if wrong:
            raise CtwaError(
                f"the adapter of '{self.name}' has {', '.join(wrong)}, with which it is, or may be, no plain product "
                "of factors; merge it into its base model first, and then the models"
            )
        rank, alpha = config.get("r"), config.get("lora_alpha")
        if not (
            isinstance(rank, int)
            and rank is not True  # which Python counts among the integers
            and rank > 0
            and isinstance(alpha, int | float)
            and math.isfinite(alpha)
        ):
            raise CtwaError(
                f"the adapter of '{self.name}' has r={rank} and lora_alpha={alpha} in its {ADAPTER_CONFIG}; the rank "
                "has to be a positive integer, and lora_alpha a number"
            )
        for key in (key for key in self if _kind(key) in _DOWN):
            if (found := self.shape(key)[0]) != rank:
                raise CtwaError(
                    f"the adapter of '{self.name}' has r={rank} in its {ADAPTER_CONFIG}, and {key} is of rank {found}; "
                    "give the configuration that it was trained with"
                )
        return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def _read_config(path: Path) -> dict[str, Any] | None:
    """An adapter's configuration; None where there is none."""
    if not path.exists():
        return None
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise CtwaError(f"{path} is no JSON ({error}); save the adapter anew") from error
    if not isinstance(config, dict):
        raise CtwaError(f"{path} holds no options; save the adapter anew")
    return config


def _kind(key: str) -> str:
    """Which part of LoRA a parameter is: ``.lora_A.`` and the like; nothing for one that stands for itself."""
    found = re.search(r"\.lora_embedding_[AB]|\.lora_\w+(\.|$)", key)
    return found.group() if found else ""


def _share_tied_embeddings(folders: list[_Folder]) -> None:
    """Let an output layer be there for all models that have it, saved or tied to the embedding, or for none.

    One that is saved and equal to an embedding, to the bit, is what a model with tied embeddings has without saving it.
    """
    for key in {key for folder in folders for key in folder if key.endswith(_OUTPUT)}:
        saved = [folder for folder in folders if key in set(folder)]
        others = [folder for folder in folders if key not in set(folder)]
        if not others:
            continue
        common = set.intersection(*map(set, folders))
        embeddings = [other for other in common if re.search(r"embed|wte", other) and not other.endswith(_OUTPUT)]
        tied = next((e for e in embeddings if all(torch.equal(folder[e], folder[key]) for folder in saved)), None)
        if tied is None:
            continue
        if key in set(folders[0]):  # whose files the result is cut as
            for folder in others:
                folder.copies[key] = tied
        else:
            for folder in saved:
                folder.drop(key)


def _chosen(given: Mapping[str, Any], weights: Mapping[str, float]) -> dict[str, float]:
    """The shares of those that have one, in alphabetical order."""
    if given.keys() != weights.keys():
        raise CtwaError(f"there are models of {sorted(given)} and weights of {sorted(weights)}; give both for each")
    return {name: share for name, share in shares(weights).items() if share > 0}


def _common_keys(models: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    (first_name, first), *others = models.items()
    for name, model in others:
        if differing := sorted(set(first).symmetric_difference(model)):
            raise CtwaError(
                f"the models of '{first_name}' and '{name}' differ in {len(differing)} parameters, the first of them "
                f"{differing[0]}; merge models of one architecture"
            )
    return sorted(first)


def _mean(key: str, tensors: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """The weighted mean of one parameter; what are no floating-point numbers has to be the same everywhere."""
    (first_name, first), *others = tensors.items()
    for name, tensor in others:
        if (tensor.shape, tensor.dtype) != (first.shape, first.dtype):
            raise CtwaError(
                f"{key} is {tuple(first.shape)} of {first.dtype} for '{first_name}' and {tuple(tensor.shape)} of "
                f"{tensor.dtype} for '{name}'; merge models of one architecture, saved in one type"
            )
        if not first.is_floating_point() and not torch.equal(tensor, first):
            raise CtwaError(
                f"{key} holds {first.dtype} and differs between '{first_name}' and '{name}'; only floating-point "
                "numbers can be merged"
            )
    if not first.is_floating_point():
        return first.clone()
    total = torch.zeros(first.shape, dtype=torch.float64, device=first.device)
    for name, tensor in tensors.items():
        total.add_(tensor, alpha=weights[name])
    return total.to(first.dtype)


def _check_json(path: Path) -> None:
    """Refuse what no model could be loaded with; a configuration has keys, another file may be a list."""
    if path.name in ("config.json", "adapter_config.json"):
        read_document(path, "give a folder as it was saved")
        return
    try:
        json.loads(path.read_bytes())
    except ValueError as error:
        raise CtwaError(f"{path} is not JSON ({error}): give a folder as it was saved") from error


def _merge_adapter_tensor(
    key: str, tensors: Mapping[str, Tensor], weights: Mapping[str, float], scales: Mapping[str, float]
) -> Tensor:
    """One factor of the merged adapter, or the weighted mean of what is none."""
    down, up = any(part in key for part in _DOWN), any(part in key for part in _UP)
    if not down and not up:
        return _mean(key, tensors, weights)
    axis = 0 if down else 1
    (first_name, first), *others = tensors.items()
    for name, tensor in others:
        if tensor.ndim != first.ndim or tensor.select(axis, 0).shape != first.select(axis, 0).shape:
            raise CtwaError(
                f"{key} is {tuple(first.shape)} for '{first_name}' and {tuple(tensor.shape)} for '{name}'; merge "
                "adapters of one base model"
            )
    parts = []
    for name, tensor in tensors.items():
        wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        parts.append(wide if down else (wide.double() * (weights[name] * scales[name])).to(wide.dtype))
    return torch.cat(parts, axis)


def _merged_config(configs: Mapping[str, Mapping[str, Any]]) -> str:
    """The first adapter's configuration, with the sum of the ranks and a scale of 1."""
    bases = {name: (config.get("base_model_name_or_path"), config.get("revision")) for name, config in configs.items()}
    if len(set(bases.values())) > 1:
        listed = ", ".join(f"'{name}' of {base}" for name, (base, _) in bases.items())
        raise CtwaError(f"the adapters are of different base models ({listed}); merge adapters of one")
    for option in _ALIKE:
        values = {name: config.get(option) or None for name, config in configs.items()}
        if any(value != next(iter(values.values())) for value in values.values()):
            listed = ", ".join(f"{value} for '{name}'" for name, value in values.items())
            raise CtwaError(f"the adapters differ in {option} ({listed}); merge adapters that have the same")
    rank = sum(config["r"] for config in configs.values())
    merged = {**next(iter(configs.values())), "r": rank, "lora_alpha": rank, "use_rslora": False}
    return json.dumps(merged, indent=2) + "\n"
