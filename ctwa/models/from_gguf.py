"""A GGUF file of a small Llama as the folder that transformers loads.

transformers reads the weights out of it, de-quantised to fp32. What it makes of the rest is not what the original is:
the tokenizer loses the step that takes numbers apart, ends a text at the token that begins one, and pads with none; the
config has a made-up name and a constant that went through fp32. So the tokenizer's files are written here, out of the
GGUF's metadata and in the original's form.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ctwa.errors import CtwaError

PRE_TOKENIZER = "smollm"
"""llama.cpp's name for the one that is known here: each digit for itself, and then GPT-2's."""
_SPECIAL = 3  # of gguf.TokenType: a control token
ANY_CLASS = "PreTrainedTokenizerFast"
"""The original names GPT2Tokenizer, for which transformers 5 leaves the splitting of digits out: " ²" becomes other
tokens than those that the model was trained on."""


def convert(file: Path, folder: Path, *, initializer_range: float) -> None:
    """Write the model of a GGUF file into a folder, in fp32.

    Args:
        file: a Llama with a byte-level BPE.
        folder: an empty one.
        initializer_range: of the original's config, which a GGUF does not tell.

    Raises:
        CtwaError: the file is of a kind that is not known here.
    """
    from gguf import GGUFReader

    metadata = {name: field.contents() for name, field in GGUFReader(file).fields.items()}
    kind = metadata.get("general.architecture"), metadata.get("tokenizer.ggml.pre")
    if kind != ("llama", PRE_TOKENIZER):
        raise CtwaError(
            f"{file} holds a {kind[0]} with the pre-tokenizer {kind[1]!r}; a llama with {PRE_TOKENIZER!r} can be "
            "converted"
        )
    _write_tokenizer(metadata, folder)
    _write_model(file, metadata, folder, initializer_range)


def _write_model(file: Path, metadata: dict[str, Any], folder: Path, initializer_range: float) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = model.config
    for stray in ("_model_name_or_path", "unk_token_id"):
        if hasattr(config, stray):
            delattr(config, stray)
    config.update(
        {
            **_end_tokens(metadata),
            "initializer_range": initializer_range,
            "rms_norm_eps": float(f"{config.rms_norm_eps:.6g}"),  # 9.999999747378752e-06 is 1e-05 in fp32
        }
    )
    model.generation_config = GenerationConfig(**_end_tokens(metadata))
    model.save_pretrained(folder)


def _end_tokens(metadata: dict[str, Any]) -> dict[str, int]:
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    return {name: metadata[f"tokenizer.ggml.{told}_token_id"] for name, told in names.items()}


def _write_tokenizer(metadata: dict[str, Any], folder: Path) -> None:
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    kinds = metadata["tokenizer.ggml.token_type"]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    special = {i: token for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == _SPECIAL}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": token, **plain} for i, token in special.items()],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, _byte_level(add_prefix_space=False)],
        },
        "post_processor": None,
        "decoder": _byte_level(add_prefix_space=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": metadata["tokenizer.ggml.merges"],
        },
    }
    # As the original's was written, to the byte: its checksum is known.
    (folder / "tokenizer.json").write_text(json.dumps(content, indent=2, ensure_ascii=False))
    bos, eos, pad, unk = (
        tokens[metadata[f"tokenizer.ggml.{name}_token_id"]] for name in ("bos", "eos", "padding", "unknown")
    )
    _write(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": {str(i): {"content": token, **plain} for i, token in special.items()},
            "additional_special_tokens": [bos, eos],
            "bos_token": bos,
            "chat_template": metadata["tokenizer.chat_template"],
            "clean_up_tokenization_spaces": False,
            "eos_token": eos,
            "model_max_length": metadata["llama.context_length"],
            "pad_token": pad,
            "tokenizer_class": ANY_CLASS,
            "unk_token": unk,
        },
    )


def _byte_level(*, add_prefix_space: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True, "use_regex": True}


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")
