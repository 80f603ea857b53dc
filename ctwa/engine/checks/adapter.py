"""Whether a saved model has an adapter as it is trained: where it sits, and the one that a run begins with."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig

from ctwa.engine.checks.model import model_source
from ctwa.errors import CtwaError, did_you_mean, one_line, shown
from ctwa.models.adapter import linear_layers, misplaced
from ctwa.models.look import build_on_meta, look_at_adapter
from ctwa.models.source import Source

if TYPE_CHECKING:
    from peft import LoraConfig

MODEL = "actor_rollout_ref.model"
EVERYWHERE = "all-linear"
"""verl's default of where an adapter sits."""


def look_at_adapter_of(config: DictConfig, model: Any) -> None:
    """See that an adapter that a run begins with is as its settings say, and sits where a saved model has it.

    Args:
        config: the resolved config.
        model: the model's own; None where it is not here.

    Raises:
        CtwaError: what is wrong, and what to write.
    """
    node = config.actor_rollout_ref.model
    if path := node.get("lora_adapter_path"):
        begun = Source(path, f"{MODEL}.lora_adapter_path")
        if (adapter := look_at_adapter(begun)) is not None:
            _check_settings(node, begun, adapter)
            if model is not None:
                _check_begun(build_on_meta(model_source(config), model), begun)
    elif model is not None:
        check_new_adapter(config, model)


def check_new_adapter(config: DictConfig, model: Any) -> None:
    """See, where an adapter begins anew, that a saved model has it where it sits; arguments as above.

    Raises:
        CtwaError: where a saved model would not have it, or none can be.
    """
    node = config.actor_rollout_ref.model
    if node.get("lora_rank") and not node.get("lora_adapter_path"):
        _check_places(build_on_meta(model_source(config), model), node)


def _check_settings(node: DictConfig, begun: Source, adapter: dict[str, Any]) -> None:
    """See that the settings are those of the adapter that a run begins with; verl takes the rank from the settings."""
    own = {"lora_rank": adapter.get("r"), "lora_alpha": adapter.get("lora_alpha")}
    asked = {key: node.get(key) for key in own}
    if asked != own:
        raise begun.error(
            f"has r={own['lora_rank']} and lora_alpha={own['lora_alpha']} in its adapter_config.json, and the run has "
            f"{' and '.join(f'{key}={value}' for key, value in asked.items())}: write "
            + " ".join(f"{MODEL}.{key}={value}" for key, value in own.items())
        )
    for key in ("target_modules", "exclude_modules"):
        if (named := node.get(key)) not in (None, EVERYWHERE) and _as_names(named) != _as_names(adapter.get(key)):
            raise begun.error(f"says in its adapter_config.json where it sits, and not as {MODEL}.{key}: leave it out")


def _as_names(named: Any) -> Any:
    """What names modules, in any order; a text is a pattern."""
    return named if isinstance(named, str) else set(named or [])


def _check_begun(model: Any, begun: Source) -> None:
    """See that the adapter that a run begins with is one of the model, in places that a saved model has it in."""
    from peft import LoraConfig

    adapter = LoraConfig.from_pretrained(str(begun.folder()))
    adapter.inference_mode = False
    try:
        places = _misplaced(model, adapter)
    except ValueError as error:
        raise begun.error(f"is no adapter of this model ({one_line(error)}); give one of it") from error
    if places:
        raise begun.error(
            f"trains {_first(places)}, which a saved model would not have as trained; merge it into its base (peft's "
            f"merge_and_unload), and give the result as {MODEL}.path"
        )


def _check_places(model: Any, node: DictConfig) -> None:
    """See that a new adapter has layers to sit in, and sits in no others."""
    from peft import LoraConfig

    if not (linear := linear_layers(model)):  # GPT-2 has transposed ones
        raise CtwaError(
            f"{MODEL}.lora_rank={node.lora_rank}: the model has no linear layers that an adapter could sit beside: "
            "leave it out, or give another model"
        )
    ends = sorted({name.rpartition(".")[2] for name in linear})
    targets, excluded = (_named(node, key, model, ends) for key in ("target_modules", "exclude_modules"))
    asked = f"{MODEL}.target_modules={shown(targets)}"
    try:
        adapter = LoraConfig(task_type="CAUSAL_LM", target_modules=targets, exclude_modules=excluded)
        places = _misplaced(model, adapter)
    except (ValueError, re.error) as error:
        if isinstance(targets, str) and targets != EVERYWHERE and not _matches(targets, model):
            raise CtwaError(
                f"{asked}: a text is a pattern of whole names, such as {min(linear)}, and this is of "
                f"none: write a list, e.g. [{ends[0]}], or {EVERYWHERE}"
            ) from error
        raise CtwaError(
            f"{asked}: no adapter can sit there ({one_line(error)}): write some of {', '.join(ends)}"
        ) from error
    if places:
        raise CtwaError(
            f"{asked} puts an adapter in {_first(places)}, where a saved model would not have it: write a list of some "
            f"of {', '.join(ends)}"
        )


def _matches(pattern: str, model: Any) -> bool:
    """Whether a pattern is one of the whole name of any module, as PEFT reads it."""
    try:
        return any(re.fullmatch(pattern, name) for name, _ in model.named_modules())
    except re.error:
        return False


def _named(node: DictConfig, key: str, model: Any, ends: list[str]) -> Any:
    """A setting that names modules, each of which the model has: PEFT matches a name with the ends of theirs."""
    value = node.get(key)
    if not isinstance(value, ListConfig):
        return value
    for name in value:
        if not any(f".{module}".endswith(f".{name}") for module, _ in model.named_modules()):
            raise CtwaError(
                f"{MODEL}.{key}: the model has no {name}: write some of {', '.join(ends)}{did_you_mean(name, ends)}"
            )
    return list(value)


def _misplaced(model: Any, adapter: LoraConfig) -> list[str]:
    """Let PEFT put an adapter into a model without weights, and see what a saved model would not have of it."""
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return misplaced(get_peft_model(model, adapter, low_cpu_mem_usage=True))


def _first(places: list[str]) -> str:
    return ", ".join(places[:3]) + (f" and {len(places) - 3} more" if len(places) > 3 else "")
