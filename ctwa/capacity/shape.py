"""How large a model's parts are, from its config.json alone: no weights, no network."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctwa.errors import CtwaError, one_line

_BLOCK = re.compile(r"\.(?:layers|layer|h|blocks|block)\.\d+\.")


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a language model of transformer blocks.

    Attributes:
        num_parameters: of all of it; tied embeddings count once.
        num_block_parameters: of its largest block.
        num_active_parameters: that a token is multiplied with: all but the table of embeddings, and of experts those
            that are chosen.
        num_layers: its blocks.
        hidden: width of the residual stream.
        intermediate: width of the feed-forward part of a block; of all experts that a token sees, shared ones too.
        heads: of queries.
        key_heads: of keys and values.
        head_width: of one head.
        vocabulary: number of tokens.
        normalizes_heads: whether queries and keys are normalized, as Qwen3's are.
        latent: width of what a block keeps of a token for all heads in common, where it keeps no keys and values
            (multi-head latent attention); 0 of others.
        num_state_layers: blocks that keep a state of one size in place of every token's keys and values (linear
            attention, state spaces).
        num_sharing_layers: blocks that take another block's keys and values.
        linear_widths: input and output width of every matrix that an adapter is put beside by default, with its name.
    """

    num_parameters: int
    num_block_parameters: int
    num_active_parameters: int
    num_layers: int
    hidden: int
    intermediate: int
    heads: int
    key_heads: int
    head_width: int
    vocabulary: int
    normalizes_heads: bool = False
    latent: int = 0
    num_state_layers: int = 0
    num_sharing_layers: int = 0
    linear_widths: tuple[tuple[str, int, int], ...] = ()

    def adapter_parameters(
        self, rank: int, targets: str | Iterable[str] = "all-linear", excluded: str | Iterable[str] = ()
    ) -> int:
        """Parameters of a LoRA adapter: ``rank * (input + output)`` for each matrix that has one.

        Args:
            rank: of the adapter.
            targets: the ends of the matrices' names; or a pattern of all of a name; or ``all-linear``.
            excluded: those of them that have none, in the same words.
        """
        has, has_not = (_pattern(".*" if names == "all-linear" else names) for names in (targets, excluded))
        return sum(
            rank * (into + out)
            for name, into, out in self.linear_widths
            if re.fullmatch(has, name) and not re.fullmatch(has_not, name)
        )


def _pattern(names: str | Iterable[str]) -> str:
    """As peft reads names of modules: a text is a pattern of all of a name, a list has their ends."""
    return names if isinstance(names, str) else rf"(.*\.)?({'|'.join(map(re.escape, names))})"


def read_shape(folder: Path, *, trust_remote_code: bool = False) -> ModelShape:
    """The shape of the model whose config.json is in a folder: it is built without memory for its weights.

    Raises:
        CtwaError: transformers cannot build a language model of it, or it has no blocks with attention.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from ctwa.models.libraries import quiet_transformers
    from ctwa.models.look import loader_of

    try:
        with quiet_transformers(), torch.device("meta"):
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
            loader = loader_of(config) or AutoModelForCausalLM  # of the model's own code
            model = loader.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # the model's own code may raise anything
        raise CtwaError(
            f"no language model can be built from {folder}/config.json ({one_line(error)}); give the model's own"
        ) from error
    return shape_of(model, config.get_text_config())


def shape_of(model: Any, config: Any) -> ModelShape:
    """The shape of a model, which may be without memory.

    Args:
        model: of transformers.
        config: its config; of one that sees images that of its text.

    Raises:
        CtwaError: its blocks have no attention.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if not (heads := getattr(config, "num_attention_heads", None)):
        raise CtwaError(
            f"nothing is known of what a {type(model).__name__} takes: a plan counts blocks with attention, and its "
            "config.json has no num_attention_heads; give a transformer"
        )
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    of_block: dict[str, int] = {}  # of one that sees images, too, whose blocks have numbers of their own
    for name, size in sizes.items():
        if found := _BLOCK.search(f".{name}"):
            block = f".{name}"[: found.end()]
            of_block[block] = of_block.get(block, 0) + size
    num = sum(sizes.values())
    embeddings = model.get_input_embeddings().weight
    is_tied = model.get_output_embeddings() is not None and model.get_output_embeddings().weight is embeddings
    experts, chosen = _experts(config)
    in_experts = sum(
        weight.numel()
        for name, weight in model.named_parameters()
        if ".experts." in name or (experts and weight.ndim == 3 and len(weight) == experts)
    )
    linear = [
        (name, *(each.weight.shape if isinstance(each, Conv1D) else each.weight.shape[::-1]))
        for name, each in model.named_modules()
        if isinstance(each, nn.Linear | Conv1D) and each is not model.get_output_embeddings()
    ]
    latent, head_width = _latent_and_head_width(config)
    return ModelShape(
        num_parameters=num,
        num_block_parameters=max(of_block.values(), default=0),
        num_active_parameters=num
        - (0 if is_tied else embeddings.numel())
        - (in_experts - in_experts * chosen // experts if experts else 0),
        num_layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        intermediate=_intermediate(config, chosen if in_experts else 0),
        heads=heads,
        key_heads=num_key_heads(config),
        head_width=head_width,
        vocabulary=config.vocab_size,
        normalizes_heads=any(name.endswith("q_norm.weight") for name in sizes),
        latent=latent,
        num_state_layers=_num_state_layers(config),
        num_sharing_layers=getattr(config, "num_kv_shared_layers", None) or 0,
        linear_widths=tuple(linear),
    )


def num_key_heads(config: Any) -> int:
    """Heads of keys and values in the passes of training; where a latent is kept, every head has keys of its own.

    Args:
        config: of transformers; of a model that sees images that of its text.
    """
    heads: int = config.num_attention_heads
    if getattr(config, "kv_lora_rank", None):
        return heads
    if config.model_type == "falcon":  # whose configuration has names of its own
        of_falcon: int = config.num_kv_heads if config.new_decoder_architecture else 1 if config.multi_query else heads
        return of_falcon
    return getattr(config, "num_key_value_heads", None) or heads


def shares_heads(heads: int, key_heads: int, num_ranks: int) -> bool:
    """Whether each of some ranks that share attention has whole heads: of keys as many as the others, or a copy of one.

    The rule of verl's sequence parallelism (its ``apply_monkey_patch``), and of vLLM's servers of several GPUs.

    Args:
        heads: of queries.
        key_heads: of keys and values.
        num_ranks: that share them.
    """
    return heads % num_ranks == 0 and (key_heads % num_ranks == 0 or num_ranks % key_heads == 0)


def _latent_and_head_width(config: Any) -> tuple[int, int]:
    """The width of the latent that is kept of a token, or 0; a head's width.

    In multi-head latent attention (DeepSeek-V2, arXiv 2405.04434) the passes of training make every head's keys of the
    latent, while a server keeps the latent and the one part of the keys that has the position.
    """
    if rank := getattr(config, "kv_lora_rank", None):
        return rank + config.qk_rope_head_dim, config.qk_nope_head_dim + config.qk_rope_head_dim
    return 0, getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _intermediate(config: Any, chosen: int) -> int:
    """Of a block, whose tokens see so many experts; 0 where there are none."""
    plain = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    if isinstance(plain, list):  # block by block
        plain = max(plain)
    if not chosen:
        return int(plain)
    width = getattr(config, "moe_intermediate_size", None) or plain
    if isinstance(width, list):
        width = max(width)
    shared = getattr(config, "shared_expert_intermediate_size", None)
    if shared is None:
        shared = (getattr(config, "n_shared_experts", None) or 0) * width
    return int(width * chosen + shared)


def _num_state_layers(config: Any) -> int:
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or []
    keeps_keys = [kind == "hybrid" or ("attention" in kind and not kind.startswith("linear")) for kind in kinds]
    return keeps_keys.count(False)


def _experts(config: Any) -> tuple[int, int]:
    """How many experts a block has, and how many of them a token sees; 0 where there are none."""
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    experts = next((getattr(config, name) for name in names if getattr(config, name, None)), 0)
    return experts, getattr(config, "num_experts_per_tok", None) or experts
