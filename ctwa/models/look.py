"""One look at a model before anything expensive starts: its config, its weights by their headers, its tokenizer.

The weights are loaded as transformers will load them, but onto the meta device and from the headers of their files: it
reports what it did not find, what it found too much, and shapes that differ. In a run it only warns of most of these,
and fills what is missing with random numbers.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from ctwa.errors import CtwaError, did_you_mean, one_line
from ctwa.models.adapter import ADAPTER_CONFIG, unlike_products
from ctwa.models.libraries import quiet_transformers
from ctwa.models.locate import locate
from ctwa.models.source import Source

_HEADS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_LAYER = re.compile(r"\b(?:layers|layer|h|blocks|block)\.(\d+)\.")
_LFS = b"version https://git-lfs"


def look_at_model(source: Source, config_of: Source | None = None) -> Any:
    """Look at a model's config and weights.

    Args:
        source: the model.
        config_of: what has the config that it is to be loaded with, where that is another folder's.

    Returns:
        The config as transformers has it; None of a model that has to be downloaded yet.

    Raises:
        CtwaError: what is wrong, where, and what to write instead.
    """
    folder = source.folder()
    if folder is None:
        return None
    other = None if config_of is None else config_of.folder()
    config = model_config(source, folder) if config_of is None or other is None else model_config(config_of, other)
    if _weights_expected(source, folder) and getattr(config, "quantization_config", None) is None:
        _weights(source, folder, config)
    return config


def look_at_adapter(source: Source) -> dict[str, Any] | None:
    """See that a folder is one of a LoRA adapter that is products of two factors beside linear layers.

    Returns:
        Its ``adapter_config.json``; None of an adapter that has to be downloaded yet.

    Raises:
        CtwaError: what it is instead.
    """
    folder = source.folder()
    if folder is None:
        return None
    config = _json(source, folder / ADAPTER_CONFIG)
    if not isinstance(config, dict):
        raise source.error(f"has an {ADAPTER_CONFIG} that is no JSON object; give the adapter's own")
    if config.get("peft_type") != "LORA":
        raise source.error(f"is an adapter of type {config.get('peft_type')!r}; give one of LORA")
    if unlike := unlike_products(config):
        raise source.error(
            f"has {', '.join(unlike)} in its {ADAPTER_CONFIG}, with which it is no plain product of factors, or more; "
            "merge it into its base (peft's merge_and_unload), and give the result as actor_rollout_ref.model.path"
        )
    return config


def look_at_tokenizer(source: Source, config: Any = None) -> Any:
    """Load a model's tokenizer, and see that it is one of this model.

    Args:
        source: the model, or the folder of its tokenizer.
        config: the model's, where it is known.

    Returns:
        The tokenizer; None of a model that has to be downloaded yet.

    Raises:
        CtwaError: what is wrong, where, and what to write instead.
    """
    from transformers import AutoTokenizer

    folder = source.folder()
    if folder is None:
        return None
    with quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=source.trust_remote_code)
        except Exception as error:  # of as many types as there are kinds of tokenizers
            raise source.error(
                f"has no tokenizer that can be loaded ({one_line(error)}); give a folder with tokenizer.json and "
                "tokenizer_config.json"
            ) from error
    ids = tokenizer.get_vocab().values()
    num_rows = None if config is None else getattr(config.get_text_config(), "vocab_size", None)
    if not ids or (num_rows and len(ids) < num_rows / 2):
        raise source.error(
            f"has a tokenizer of {len(ids)} tokens where the model has {num_rows}; give the files of the model's own "
            "(tokenizer.json, tokenizer_config.json)"
        )
    if num_rows:
        beyond = {each for each in ids if each >= num_rows}  # a few that are never used are usual
        if len(beyond) > len(ids) / 100 or beyond & {tokenizer.eos_token_id, tokenizer.pad_token_id}:
            raise source.error(
                f"has a tokenizer whose tokens go up to {max(ids)}, and a model of {num_rows} (vocab_size): give the "
                "tokenizer of this model, or enlarge its embedding (resize_token_embeddings)"
            )
    return tokenizer


def model_config(source: Source, folder: Path) -> Any:
    """The config of the model that a folder holds, as transformers has it; its weights may be elsewhere.

    Raises:
        CtwaError: what is wrong with it, and what to give.
    """
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if not (folder / "config.json").is_file():
        raise source.error(_instead_of_a_model(folder))
    for name in ("config.json", "generation_config.json"):
        if (folder / name).is_file() and not isinstance(content := _json(source, folder / name), dict):
            raise source.error(f"has a {name} that is no JSON object; give the model's own")
    content = _json(source, folder / "config.json")
    is_remote = "auto_map" in content
    kind = content.get("model_type")
    if not isinstance(kind, str | None) or (not is_remote and kind not in CONFIG_MAPPING):
        raise source.error(
            f"has the model_type {kind!r} in its config.json, which transformers does not know; give the model's own "
            f"config.json, or install a transformers that knows it" + did_you_mean(kind or "", CONFIG_MAPPING.keys())
        )
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder, trust_remote_code=source.trust_remote_code)
    except Exception as error:  # a config may raise anything, code of the model's own included
        raise source.error(
            f"has a config.json that transformers does not take ({one_line(error)}); give the model's own"
        ) from error
    others = [name for name in content.get("architectures") or [] if not str(name).endswith(_HEADS)]
    if others or (not is_remote and loader_of(config) is None):
        raise source.error(
            f"is a {others[0] if others else kind} (config.json); give a causal language model (...ForCausalLM)"
        )
    return config


def _json(source: Source, file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise source.error(f"has a {file.name} that is not JSON ({one_line(error)}); give the model's own") from error
    except OSError as error:
        raise source.error(
            f"has no {file.name} that can be read ({error.strerror}); give the folder it is in"
        ) from error


def _instead_of_a_model(folder: Path) -> str:
    """What a folder without config.json is, and what to give."""
    names = sorted(entry.name for entry in folder.iterdir())
    if not names:
        return "is an empty folder; give the folder of a model (config.json, weights, tokenizer)"
    if ADAPTER_CONFIG in names:
        return (
            f"is a LoRA adapter and no whole model; give its base (base_model_name_or_path in {ADAPTER_CONFIG}), and "
            "this folder as actor_rollout_ref.model.lora_adapter_path, its r as lora_rank and its lora_alpha as "
            "lora_alpha beside it, or merge the two (peft's merge_and_unload)"
        )
    try:
        return f"is no model's folder, but it holds one: give {locate(str(folder))}"
    except CtwaError:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        return f"is no model's folder: it has no config.json (but {shown}); give one that save_pretrained wrote"


def loader_of(config: Any) -> Any:
    """What transformers, and verl, load a model of this config with; None where it is no language model."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    loaders = (AutoModelForCausalLM, AutoModelForImageTextToText)
    return next((loader for loader in loaders if type(config) in loader._model_mapping), None)


def _weights_expected(source: Source, folder: Path) -> bool:
    """Whether the weights are there to be looked at: of a model of the hub they may have to be downloaded yet."""
    is_download = not Path(source.name).expanduser().is_dir()
    return not is_download or any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))


def _weight_files(source: Source, folder: Path) -> list[Path]:
    """The files that transformers will read."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        if (folder / f"{name}.index.json").is_file():
            index = _json(source, folder / f"{name}.index.json")
            named = index.get("weight_map") if isinstance(index, dict) else None
            if not isinstance(named, dict) or not all(isinstance(shard, str) for shard in named.values()):
                raise source.error(f"has a {name}.index.json without a weight_map of file names; give the model's own")
            shards = sorted(set(named.values()))
            if missing := [shard for shard in shards if not (folder / shard).is_file()]:
                raise source.error(
                    f"lacks {', '.join(missing[:3])} ({len(missing)} of the {len(shards)} files of {name}.index.json); "
                    "copy or download it again"
                )
            return [folder / shard for shard in shards]
    raise source.error("has no weights (model*.safetensors, pytorch_model*.bin); give the folder of a whole model")


def weight_shapes(source: Source) -> dict[str, tuple[int, ...]] | None:
    """The shapes of a model's weights, by name, from the headers of their files; None where they are not here yet.

    Raises:
        CtwaError: a file that cannot be read, and what to do about it.
    """
    folder = source.folder()
    if folder is None or not _weights_expected(source, folder):
        return None
    return {name: tuple(shape) for name, shape in _all_shapes(source, folder).items()}


def _all_shapes(source: Source, folder: Path) -> dict[str, Any]:
    shapes: dict[str, Any] = {}
    for file in _weight_files(source, folder):
        with file.open("rb") as opened:
            if opened.read(len(_LFS)) == _LFS:
                raise source.error(f"has a pointer of Git LFS in place of {file.name}; fetch it (git lfs pull)")
        try:
            shapes |= _shapes(file)
        except Exception as error:  # of safetensors, of pickles, of zip files
            raise source.error(
                f"has a {file.name} that is cut off or damaged ({one_line(error)}); copy or download it again"
            ) from error
    return shapes


def _weights(source: Source, folder: Path, config: Any) -> None:
    import torch

    shapes = _all_shapes(source, folder)
    try:
        with quiet_transformers():
            _, found = _model_class(config, source.trust_remote_code).from_pretrained(
                None,
                config=config,
                state_dict={name: torch.empty(shape, device="meta") for name, shape in shapes.items()},
                device_map="meta",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # in the report, all of them, and not an error at the first
            )
    except Exception as error:  # the model's own code may raise anything
        raise source.error(
            f"cannot be built from its config.json and weights ({one_line(error)}); give the config.json of these "
            "weights"
        ) from error
    if fault := loading_fault(found, config):
        raise source.error(fault)


def _shapes(file: Path) -> dict[str, Any]:
    """The shapes of a file's tensors, by name, from its header."""
    import torch
    from safetensors import safe_open

    if file.suffix == ".safetensors":
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 - it is no dict
    content = torch.load(file, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(file))
    return {name: value.shape for name, value in content.items() if isinstance(value, torch.Tensor)}


def _model_class(config: Any, trust_remote_code: bool) -> Any:
    """The class that a model of this config is of."""
    import torch
    from transformers import AutoModelForCausalLM

    loader = loader_of(config)
    if loader is None:  # the model's own code
        with torch.device("meta"):
            return type(AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code))
    found = loader._model_mapping[type(config)]
    several = found if isinstance(found, list | tuple) else [found]
    return next((each for each in several if each.__name__ in (config.architectures or [])), several[0])


def build_on_meta(source: Source, config: Any) -> Any:
    """A model of this config without weights: its modules, on the meta device."""
    import torch
    from transformers import AutoModelForCausalLM

    with quiet_transformers(), torch.device("meta"):
        if loader_of(config) is None:  # the model's own code
            return AutoModelForCausalLM.from_config(config, trust_remote_code=source.trust_remote_code)
        return _model_class(config, source.trust_remote_code)._from_config(config)


def class_name(config: Any) -> str:
    """What the class that transformers loads a model of this config with is called."""
    loader = loader_of(config)
    if loader is None:
        return "..."  # the model's own code
    found = loader._model_mapping[type(config)]
    name: str = (found[0] if isinstance(found, list | tuple) else found).__name__
    return name


def loading_fault(found: dict[str, Any], config: Any) -> str | None:
    """What differs between a model's weights and its config, by transformers' own report; None where nothing does."""
    if different := sorted(found["mismatched_keys"]):
        name, there, wanted = different[0]
        return (
            f"has weights of other sizes than its config.json says: {name} is {_shape(there)} and should be "
            f"{_shape(wanted)}{_and_more(different)}; give the config.json of these weights"
        )
    if missing := sorted(found["missing_keys"]):
        return (
            f"lacks weights that its config.json asks for, and they would be random: {missing[0]}{_and_more(missing)}; "
            "give the config.json of these weights, or all of the weights"
        )
    text = config.get_text_config()
    num_layers = getattr(text, "num_hidden_layers", None)
    extra = sum(getattr(text, key, None) or 0 for key in ("num_nextn_predict_layers", "mtp_num_hidden_layers"))
    left_out = sorted(
        name
        for name in found["unexpected_keys"]
        if num_layers is not None and (layer := _LAYER.search(name)) and int(layer[1]) >= num_layers + extra
    )
    if left_out:
        return (
            f"has more layers than the {num_layers} of its config.json (num_hidden_layers), and they would be left "
            f"out: {left_out[0]}{_and_more(left_out)}; give the config.json of these weights"
        )
    return None


def _shape(size: Any) -> str:
    return " x ".join(map(str, size))


def _and_more(names: list[Any]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
