"""Whether the configuration goes with the model's own: what its config.json tells, without weights or tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from ctwa.capacity.shape import num_key_heads, shares_heads
from ctwa.engine.checks.batches import attention_of, sequence_parallel_size
from ctwa.engine.verl import PACKED_ATTENTION
from ctwa.errors import CtwaError, did_you_mean, shown
from ctwa.models.look import class_name
from ctwa.models.source import Source

if TYPE_CHECKING:
    from ctwa.gradients.settings import GradientSettings


LORA_ALPHA = 16
"""verl's default, by which nobody has asked for an adapter."""


def model_source(config: DictConfig) -> Source:
    """The model that is trained."""
    model = config.actor_rollout_ref.model
    return Source(model.path, "actor_rollout_ref.model.path", bool(model.get("trust_remote_code")))


def check_model(config: DictConfig, gradients: GradientSettings, model: Any, longest: int, what: str) -> None:
    """Check all that can be known of the model's config.

    Args:
        config: the resolved config.
        gradients: how the objectives' are taken.
        model: the model's config; None where it is not here.
        longest: tokens of a row.
        what: allows as many.

    Raises:
        CtwaError: what does not go together, and what to write.
    """
    check_adapter(config)
    check_attention(config)
    check_architecture(config, model)
    check_heads(config, model)
    check_positions(config, model, longest, what)
    check_layers(gradients, model)


def check_adapter(config: DictConfig) -> None:
    """Refuse what would be a LoRA adapter's, where there is none, and where a saved model has none."""
    model = config.actor_rollout_ref.model
    if parameters := model.get("target_parameters"):
        raise CtwaError(
            f"actor_rollout_ref.model.target_parameters={shown(list(parameters))}: a saved model has an adapter "
            "in linear layers alone: leave it out, and write actor_rollout_ref.model.target_modules"
        )
    if not model.get("lora_rank") and (path := model.get("lora_adapter_path")):
        raise CtwaError(
            f"actor_rollout_ref.model.lora_adapter_path={path} would not be loaded: write its r "
            "(adapter_config.json) as actor_rollout_ref.model.lora_rank, and its lora_alpha as "
            "actor_rollout_ref.model.lora_alpha"
        )
    targets = model.get("target_modules")
    if not model.get("lora_rank") and isinstance(targets, ListConfig):
        raise CtwaError(
            f"actor_rollout_ref.model.target_modules={shown(list(targets))} does nothing without an adapter: write "
            "actor_rollout_ref.model.lora_rank=32 or another rank, or leave it out"
        )
    if not model.get("lora_rank") and model.get("lora_alpha", LORA_ALPHA) != LORA_ALPHA:
        raise CtwaError(
            f"actor_rollout_ref.model.lora_alpha={model.lora_alpha:g} does nothing without an adapter: write "
            "actor_rollout_ref.model.lora_rank=32 or another rank, or leave it out"
        )


def check_attention(config: DictConfig) -> None:
    """See that transformers knows the attention by name; one from a hub of kernels has a slash in it."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    attention = attention_of(config)
    theirs = [name for name in ALL_ATTENTION_FUNCTIONS.valid_keys() if name != PACKED_ATTENTION]
    known = ["eager", *theirs, *[PACKED_ATTENTION] * (config.trainer.device == "cpu")]
    if attention not in known and "/" not in attention:
        raise CtwaError(
            f"actor_rollout_ref.model.override_config.attn_implementation={attention} is no attention of transformers: "
            f"write one of {', '.join(known)}{did_you_mean(attention, known)}"
        )


def _own(config: DictConfig) -> DictConfig:
    """What is written over the model's config, in either of the places where verl reads it."""
    own: DictConfig = config.actor_rollout_ref.model.get("override_config") or OmegaConf.create()
    return own.get("model_config") or own


OF_WEIGHTS = (
    *("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size", "head_dim", "tie_word_embeddings"),
    *("num_attention_heads", "num_key_value_heads", "num_experts", "num_local_experts", "moe_intermediate_size"),
)
"""Of a model's config, what its weights have to be of."""


def check_architecture(config: DictConfig, model: Any) -> None:
    """See that the model is of one architecture, as verl wants it, and is trained with the sizes of its weights."""
    if model is None:
        return
    own, text = _own(config), model.get_text_config()
    for key in OF_WEIGHTS:
        if key in own and own[key] != getattr(text, key, own[key]):
            raise CtwaError(
                f"actor_rollout_ref.model.override_config.{key}={shown(own[key])}: the weights are of a model with "
                f"{shown(getattr(text, key))}, and what does not fit would be left out or random; leave it out"
            )
    named = own.get("architectures", model.architectures) or []
    if len(named) != 1:
        raise model_source(config).error(
            f"names {len(named) or 'no'} architectures in its config.json, where verl wants one: write "
            f'"architectures": ["{class_name(model)}"] there'
        )


def check_heads(config: DictConfig, model: Any) -> None:
    """See that verl finds the model's heads of attention, and that ranks and GPUs which share them have whole ones."""
    if model is None:
        return
    text, own = model.get_text_config(), _own(config)
    heads = getattr(text, "num_attention_heads", None)
    if not isinstance(heads, int):
        raise model_source(config).error(
            "has no num_attention_heads in its config.json, without which verl loads no model: give a transformer"
        )
    node, trainer, key_heads = config.actor_rollout_ref, config.trainer, num_key_heads(text)
    of_text = "" if text is model else "text_config."  # where verl looks, too
    if (OmegaConf.select(own, f"{of_text}num_key_value_heads") or getattr(text, "num_key_value_heads", None)) is None:
        raise model_source(config).error(
            "has no num_key_value_heads in its config.json, without which verl loads no model: write "
            f"++actor_rollout_ref.model.override_config.{of_text}num_key_value_heads={key_heads}"
        )
    num_ranks = trainer.nnodes * trainer.n_gpus_per_node
    shared = [("actor.ulysses_sequence_parallel_size", sequence_parallel_size(config), num_ranks)]
    if node.rollout.name != "transformers":  # whose servers split no model
        size = node.rollout.tensor_model_parallel_size
        shared.append(("rollout.tensor_model_parallel_size", size, trainer.n_gpus_per_node))
    for key, size, most in shared:
        if not shares_heads(heads, key_heads, size):
            sizes = [str(n) for n in range(1, most + 1) if most % n == 0 and shares_heads(heads, key_heads, n)]
            raise CtwaError(
                f"actor_rollout_ref.{key}={size}: so many cannot share the model's {heads} heads of attention, with "
                f"{key_heads} of keys and values: write {' or '.join(sizes)}"
            )


def check_positions(config: DictConfig, model: Any, longest: int, what: str) -> None:
    """See that the model has places for as many tokens as a row may have; one that stretches them says so itself.

    Args:
        config: the resolved config.
        model: its own; None where it is not here.
        longest: tokens of a row.
        what: allows as many.
    """
    text = model if model is None else model.get_text_config()
    own = _own(config)
    most = own.get("max_position_embeddings") or getattr(text, "max_position_embeddings", None)
    rope = getattr(text, "rope_parameters", None) or {}
    is_stretched = rope.get("rope_type", "default") != "default" or "rope_scaling" in own or "rope_parameters" in own
    if isinstance(most, int) and 0 < most < longest and not is_stretched:
        raise model_source(config).error(
            f"has places for {most} tokens (max_position_embeddings), less than {what} = {longest}: write less, or "
            "give a model that takes longer texts"
        )


def check_layers(settings: GradientSettings, model: Any) -> None:
    """See that the last layers, in which gradients are measured, are not all: that would be a pass for nothing."""
    asked, has = settings.last_layers, model and getattr(model.get_text_config(), "num_hidden_layers", None)
    if asked is not None and isinstance(has, int) and asked >= has:
        raise CtwaError(
            f"ctwa.gradients.last_layers={asked}, and the model has {has} layers: write fewer, or null for all of them"
        )
