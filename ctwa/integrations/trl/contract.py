"""What the trainer builds on inside TRL, and whether a version still has it."""

from __future__ import annotations

import inspect
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ctwa.errors import CtwaError

TESTED = "1.16"
"""The version that the tests run against; docs/trl.md names it, too."""

METHODS = {
    "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
    "_generate_and_score_completions": ("inputs",),
    "_get_per_token_logps_and_entropies": ("model", "input_ids", "attention_mask", "logits_to_keep"),
    "_compute_loss": ("model", "inputs"),
    "_save_checkpoint": ("model", "trial"),
    "_get_output_dir": (),
    "train": ("resume_from_checkpoint", "trial"),
    "evaluate": (),
}
"""The methods of ``GRPOTrainer`` that are overridden or called, with their first parameters."""

SETTINGS = (
    *("reward_weights", "multi_objective_aggregation", "scale_rewards", "num_generations", "num_generations_eval"),
    *("steps_per_generation", "num_iterations", "gradient_accumulation_steps", "save_steps", "save_strategy"),
    "eval_strategy",
    *("loss_type", "epsilon", "epsilon_high", "delta", "importance_sampling_level", "off_policy_mask_threshold"),
    *("top_entropy_quantile", "sapo_temperature_pos", "sapo_temperature_neg", "temperature", "output_dir", "seed"),
    *("gradient_checkpointing_kwargs", "optim", "fp16", "torch_compile", "generation_batch_size"),
)
"""The settings of ``GRPOConfig`` that are read."""


ATTRIBUTES = (
    *("accelerator", "optimizer", "state", "reward_func_names", "reward_weights", "num_generations", "num_iterations"),
    *("num_generations_eval", "scale_rewards", "beta", "aux_loss_enabled", "_entropy_bonus_enabled"),
    *("_metrics", "_logs", "_step", "_buffered_inputs"),
)
"""What a trainer that is made has, and is read or set."""


def what_moved(trainer: type, config: type, made: Any = None) -> list[str]:
    """What a version of TRL has no longer, a phrase each; nothing for one that the trainer works with.

    Args:
        trainer: TRL's ``GRPOTrainer``.
        config: TRL's ``GRPOConfig``.
        made: a trainer, where there is one.
    """
    attributes = () if made is None else ATTRIBUTES
    moved = [f"GRPOTrainer has no {name}" for name in attributes if not hasattr(made, name)]
    for name, wanted in METHODS.items():
        method: Any = getattr(trainer, name, None)
        if method is None:
            moved.append(f"GRPOTrainer.{name} is gone")
        elif (found := tuple(inspect.signature(method).parameters)[1 : 1 + len(wanted)]) != wanted:
            moved.append(f"GRPOTrainer.{name} takes {', '.join(found)} first, and not {', '.join(wanted)}")
    known = {name for each in config.__mro__ for name in getattr(each, "__annotations__", ())}
    return moved + [f"GRPOConfig.{name} is gone" for name in SETTINGS if name not in known]


def check_contract(trainer: type, config: type, made: Any = None) -> None:
    """Refuse a TRL that the trainer cannot work with, by what has moved.

    Raises:
        CtwaError: something has.
    """
    if moved := what_moved(trainer, config, made):
        raise unknown_version("; ".join(moved))


def unknown_version(moved: str) -> CtwaError:
    """The error of a TRL in which something has moved."""
    return CtwaError(f"TRL {installed()} is not the one that ctwa knows ({moved}): pip install 'trl=={TESTED}.*'")


def installed() -> str:
    """The version of TRL that is installed."""
    try:
        return version("trl")
    except PackageNotFoundError:
        return "of an unknown version"
