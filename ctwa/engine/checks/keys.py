"""Which keys a configuration may have: those of verl's own files and of ours; and which of them do nothing.

Hydra refuses a key that is not there, but takes any that is written with a plus, or in a task file of the user's own.
Such a key would be ignored, and the run be another one than was meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from ctwa.engine.checks.bounds import ACTOR, BOUNDS, MODEL, REF, ROLLOUT, in_quotes
from ctwa.engine.choices import OURS, main_file
from ctwa.engine.groups import data_node_of, node_of
from ctwa.errors import shown
from ctwa.run.dotted import dotted as values_of

NO_DEFAULT: dict[str, tuple[str, ...]] = {
    ACTOR: ("ppo_infer_micro_batch_size_per_gpu", "ppo_infer_max_token_len_per_gpu", "use_rollout_log_probs"),
    f"{ACTOR}.checkpoint": ("save_lora_only",),
    f"{ACTOR}.fsdp_config": ("router_replay",),
    f"{ACTOR}.fsdp_config.wrap_policy": ("transformer_layer_cls_to_wrap",),
    f"{REF}.fsdp_config": ("router_replay",),
    f"{REF}.fsdp_config.wrap_policy": ("transformer_layer_cls_to_wrap",),
    ROLLOUT: (
        *("repetition_penalty", "standalone_gpu_memory_utilization", "moe_tensor_parallel_size", "server", "custom"),
        *("checkpoint_manager_class", "layer_name_map", "sglang_engine_mode", "limit_images", "enable_sleep_mode"),
    ),
    f"{ROLLOUT}.agent": ("agent_loop_manager_class",),
    MODEL: ("target_parameters", "architectures"),
    "algorithm": ("gdpo_reward_keys", "gdpo_reward_weights"),
    "data": ("cache_dir", "chat_template_func", "need_tools_kwargs", "filter_prompts"),
    "reward": ("reward_kwargs", "timeout"),
    "trainer": ("remove_previous_ckpt_in_save",),
}
"""Keys that verl 0.9.1 reads, but has in none of its YAML files."""

OPEN = {"ray_init", "runtime_env", "tool_config", "global_tool_config", "teacher_models", "fused_kernel_options"}
"""Sections whose keys are another program's. So is every section that is empty or null by default."""

DEAD: dict[str, str] = {
    f"{ACTOR}.grad_clip": f"write {ACTOR}.optim.clip_grad",
    f"{ACTOR}.use_torch_compile": f"write {ACTOR}.fsdp_config.use_torch_compile",
    f"{REF}.use_torch_compile": f"write {REF}.fsdp_config.use_torch_compile",
    f"{ACTOR}.ppo_micro_batch_size": f"write {ACTOR}.ppo_micro_batch_size_per_gpu",
    f"{REF}.log_prob_micro_batch_size": f"write {REF}.log_prob_micro_batch_size_per_gpu",
    f"{ROLLOUT}.log_prob_micro_batch_size": f"write {ROLLOUT}.log_prob_micro_batch_size_per_gpu",
    f"{ROLLOUT}.do_sample": f"write {ROLLOUT}.temperature",
    f"{ROLLOUT}.over_sample_rate": "leave it out",
    f"{ROLLOUT}.multi_stage_wake_up": "leave it out",
    f"{ACTOR}.freeze_vision_tower": "leave it out",
    **{
        f"{MODEL}.lora.{key}": f"write {MODEL}.{instead}" if instead else "leave it out, for it is Megatron's"
        for key, instead in {
            "rank": "lora_rank",
            "alpha": "lora_alpha",
            "adapter_path": "lora_adapter_path",
            "target_modules": "target_modules",
            "exclude_modules": "exclude_modules",
            **dict.fromkeys(("type", "dropout", "dropout_position", "lora_A_init_method", "lora_B_init_method")),
            **dict.fromkeys(("a2a_experimental", "dtype")),
            **{f"freeze_{part}": None for part in ("vision_model", "vision_projection", "language_model")},
        }.items()
    },
    **dict.fromkeys((f"{ACTOR}.rollout_n", f"{REF}.rollout_n"), f"write {ROLLOUT}.n"),
    f"{ACTOR}.use_prefix_grouper": "leave it out",
    f"{ACTOR}.checkpoint.async_save": "leave it out",
    f"{ACTOR}.checkpoint.strict": "leave it out",
    f"{ROLLOUT}.repetition_penalty": "leave it out, for verl samples with 1.0 whatever it says",
    f"{ROLLOUT}.agent.agent_loop_manager_class": "leave it out",
    f"{ROLLOUT}.agent.custom_async_server": "leave it out",
    **{
        f"{ROLLOUT}.multi_turn.{key}": "leave it out"
        for key in ("use_inference_chat_template", "tokenization_sanity_check_mode", "num_repeat_rollouts")
    },
    f"{MODEL}.tiled_mlp": "leave it out",
    "actor_rollout_ref.nccl_timeout": "leave it out",
    "actor_rollout_ref.hybrid_engine": "leave it out",
    "algorithm.use_pf_ppo": "leave it out",
    "algorithm.pf_ppo": "leave it out",
    "critic": "leave it out, for no method has a critic",
    **dict.fromkeys(
        ("custom_reward_function", "reward.custom_reward_function", "sandbox_fusion", "reward_model"),
        "write ctwa.objectives, whose reward_fn is the function",
    ),
    "reward.reward_manager": "leave it out, for ctwa.objectives are scored without one",
    "reward.reward_kwargs": "write ctwa.objectives, each with its kwargs",
    "data.tokenizer": f"write {MODEL}.tokenizer_path",
    "data.reward_fn_key": "write data.columns={data_source: NAME}",
    **{
        f"data.{key}": "leave it out"
        for key in (
            *("return_raw_input_ids", "return_raw_chat", "return_full_prompt", "return_multi_modal_inputs"),
            *("chat_template_func", "filter_prompts"),
        )
    },
    "ray_kwargs.timeline_json_file": "leave it out",
    "trainer.balance_batch": "leave it out, for the ranks' shares are always balanced",
    "trainer.default_local_dir": "write ctwa.run, in whose folder the checkpoints are",
    "trainer.default_hdfs_dir": "write ctwa.run, in whose folder the checkpoints are",
    "trainer.log_val_generations": "write ctwa.num_samples, for samples.jsonl in the run's folder",
    "trainer.max_critic_ckpt_to_keep": "leave it out",
    "trainer.ray_wait_register_center_timeout": "leave it out",
    "trainer.remove_previous_ckpt_in_save": "write trainer.max_actor_ckpt_to_keep",
    **dict.fromkeys(("trainer.v1.colocate_async", "trainer.v1.separate_async"), "leave it out"),
    "trainer.esi_redundant_time": "leave it out",
    "trainer.rollout_data_dir": "write ctwa.num_samples, for samples.jsonl in the run's folder",
    "trainer.validation_data_dir": "write ctwa.num_samples, for samples.jsonl in the run's folder",
    "trainer.del_local_ckpt_after_load": "leave it out",
    "skip.rollout_tq.enable": "leave it out",
    "trainer.resume_from_path": "write ctwa.resume=true, with the run's folder in ctwa.run",
}
"""Keys and sections of verl 0.9.1 that nothing reads in a run of ctwa, and what is to be written instead."""

SYNONYMS: dict[str, str] = {
    "learning_rate": f"{ACTOR}.optim.lr",
    "lr": f"{ACTOR}.optim.lr",
    "max_grad_norm": f"{ACTOR}.optim.clip_grad",
    "clip_grad": f"{ACTOR}.optim.clip_grad",
    "grad_clip": f"{ACTOR}.optim.clip_grad",
    "weight_decay": f"{ACTOR}.optim.weight_decay",
    "warmup_steps": f"{ACTOR}.optim.lr_warmup_steps",
    "warmup_ratio": f"{ACTOR}.optim.lr_warmup_steps_ratio",
    "beta": f"{ACTOR}.kl_loss_coef",
    "kl_coef": f"{ACTOR}.kl_loss_coef",
    "epsilon": f"{ACTOR}.clip_ratio",
    "mini_batch_size": f"{ACTOR}.ppo_mini_batch_size",
    "micro_batch_size": f"{ACTOR}.ppo_micro_batch_size_per_gpu",
    "batch_size": "data.train_batch_size",
    "per_device_train_batch_size": "data.train_batch_size",
    "max_completion_length": "data.max_response_length",
    "max_new_tokens": "data.max_response_length",
    "max_tokens": "data.max_response_length",
    "dataset": "data.train_files",
    "train_data": "data.train_files",
    "num_generations": f"{ROLLOUT}.n",
    "temperature": f"{ROLLOUT}.temperature",
    "top_p": f"{ROLLOUT}.top_p",
    "model": f"{MODEL}.path",
    "model_path": f"{MODEL}.path",
    "model_name_or_path": f"{MODEL}.path",
    "lora_r": f"{MODEL}.lora_rank",
    "gradient_checkpointing": f"{MODEL}.enable_gradient_checkpointing",
    "epochs": "trainer.total_epochs",
    "num_epochs": "trainer.total_epochs",
    "num_train_epochs": "trainer.total_epochs",
    "steps": "trainer.total_training_steps",
    "max_steps": "trainer.total_training_steps",
    "save_steps": "trainer.save_freq",
    "eval_steps": "trainer.test_freq",
    "gpus": "trainer.n_gpus_per_node",
    "num_gpus": "trainer.n_gpus_per_node",
    "nodes": "trainer.nnodes",
    "num_nodes": "trainer.nnodes",
    "report_to": "trainer.logger",
    "seed": "ctwa.seed",
    "run": "ctwa.run",
    "output_dir": "ctwa.run",
    "resume": "ctwa.resume",
    "resume_from_checkpoint": "ctwa.resume",
    "rewards": "ctwa.objectives",
    "reward_funcs": "ctwa.objectives",
    "reward_weights": "ctwa.objectives",
}
"""What other trainers call a key, or its last name alone."""

_NEAR = 0.75
FAR = ("critic", "distillation", "reward_model", "global_profiler", "skip", "sandbox_fusion", "custom_reward_function")
"""Sections of verl that are seldom meant."""


def verl_files() -> Path:
    """The folder of verl's YAML files, found without importing verl, which takes seconds."""
    spec = find_spec("verl")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations))) / "trainer" / "config"


@cache
def known_keys(command: str) -> dict[str, Any]:
    """Every key a command's configuration may have, nested, with the default of verl or, for our keys, of ours."""
    ours, main = files("ctwa.config"), main_file(command)
    groups = [*(ours / "engine").iterdir(), *(ours / "generation").iterdir()]
    if "base" in main["defaults"]:
        groups.append(ours / "base.yaml")
    known: dict[str, Any] = {}
    _merge(known, {"ctwa": node_of(command) | {section: {} for section in OURS}, "model_engine": "dp"})
    _merge(known, {"data": data_node_of(command)})
    for part in (*(yaml.safe_load(path.read_text()) for path in groups), main):
        _merge(known, part)
    for key in ("defaults", "hydra"):
        known.pop(key, None)
    for section, names in NO_DEFAULT.items():
        node: dict[str, Any] = dict.fromkeys(names)
        for part_of in reversed(section.split(".")):
            node = {part_of: node}
        _merge(known, node)
    # verl's own file of its composed defaults; last, for its values are the defaults that DEAD is compared with.
    text = (verl_files() / "_generated_ppo_trainer.yaml").read_text()
    _merge(known, yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    return known


def _merge(into: dict[str, Any], other: Mapping[str, Any]) -> None:
    for key, value in other.items():
        if value and isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)  # but what is empty stays empty, which is to say open
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def wrong_keys(config: Mapping[str, Any], known: Mapping[str, Any], near: Callable[[str], str]) -> dict[str, str]:
    """What is wrong with the keys of a composed configuration, before its interpolations are resolved.

    Args:
        config: the configuration, of plain containers.
        known: every key there may be.
        near: the end of the sentence about a key that is not known: what may have been meant.

    Returns:
        By dotted key, a sentence that begins with it.
    """
    wrong = dict(_compare(config, known, "", near))
    for dead in DEAD:
        for key, value in values_of({dead: value_at(config, dead)}).items():
            if instead := unread(key, value, known):
                wrong[key] = f"{key}={shown(value)} would do nothing, for nothing reads this key of verl: {instead}"
    return wrong


def unread(key: str, value: object, known: Mapping[str, Any]) -> str:
    """What is to be written in the place of a key of verl that nothing reads; nothing where it says nothing.

    Args:
        key: dotted.
        value: what it is set to; it says nothing where it is verl's default, or as empty as that.
        known: every key there may be, with its default.
    """
    default = value_at(known, key)
    if key in BOUNDS or _is_interpolation(value) or value in (None, {}) or (value or None) == (default or None):
        return ""
    names = key.split(".")
    sections = (".".join(names[:number]) for number in range(1, len(names) + 1))
    return next((DEAD[section] for section in sections if section in DEAD), "")


def _compare(
    node: Mapping[str, Any], known: Mapping[str, Any], prefix: str, near: Callable[[str], str]
) -> Iterator[tuple[str, str]]:
    for name, value in node.items():
        key = f"{prefix}{name}"
        if name not in known:
            yield key, f"{key} is no key of the configuration{near(key)}"
            continue
        default = known[name]
        if isinstance(default, Mapping) and not isinstance(value, Mapping) and not _is_interpolation(value):
            if value is not None or default:
                yield key, f"{key}={shown(value)} is not possible, for it is a section: write {key}.<key>=<value>"
        elif isinstance(default, Mapping) and default and name not in OPEN:
            yield from _compare(value, default, f"{key}.", near) if isinstance(value, Mapping) else ()
        elif key not in BOUNDS and not _fits(value, default):
            words = {bool: "true or false", list: "a list"}.get(type(default), "a number")
            yield key, f"{key}={in_quotes(value)} is not possible: write {words}"


def _fits(value: object, default: object) -> bool:
    """Whether a value is of its default's kind; null and interpolations are everybody's."""
    if value is None or _is_interpolation(value) or isinstance(default, Mapping):
        return True
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, int | float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, list | str) or not isinstance(default, list)


def _is_interpolation(value: object) -> bool:
    return isinstance(value, str) and ("${" in value or value == "???")


def dotted(node: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every key of a nested config, sections too."""
    keys = []
    for name, value in node.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, Mapping):
            keys += dotted(value, f"{prefix}{name}.")
    return keys


def near_key(key: str, known: Iterable[str]) -> str:
    """The key that was meant, as the end of a sentence.

    Args:
        key: what the user wrote, the whole of a dotted key or its end.
        known: every key there may be, dotted.

    Returns:
        ``; did you mean actor_rollout_ref.actor.optim.lr?``, or nothing where none is near.
    """
    near = near_keys(key, known, most=1)
    return f"; did you mean {near[0]}?" if near else ""


def near_keys(key: str, known: Iterable[str], *, most: int = 5) -> list[str]:
    """The keys that may have been meant, the likeliest first: what other trainers call so, and names that are near.

    Args:
        key: what the user wrote, the whole of a dotted key or its end.
        known: every key there may be, dotted.
        most: of them.
    """
    names = key.lower().replace("-", "_").split(".")
    synonym = SYNONYMS.get(names[-1])
    meant = [synonym] if synonym not in (None, key) else []
    if len(meant) >= most:
        return meant
    # The less often wanted parts of verl last: of equally near keys the first is offered.
    keys = sorted((each for each in known if each != key), key=lambda each: each.split(".")[0] in FAR)
    nearness = {each: _nearness(names, each.split(".")) for each in keys}
    near = sorted((each for each in keys if nearness[each] >= _NEAR), key=lambda each: -nearness[each])
    return list(dict.fromkeys([*meant, *near]))[:most]


def is_named_after(key: str, word: str) -> bool:
    """Whether a word is among those of a key's last name, as ``kl`` of ``kl_loss_coef``; no dead keys, no far ones."""
    return word in key.split(".")[-1].split("_") and key not in DEAD and key.split(".")[0] not in FAR


def _nearness(names: list[str], known: list[str]) -> float:
    """Of two keys, 0 to 1: their last names are to be near, and what stands before them where both have it."""
    last = SequenceMatcher(None, names[-1], known[-1])
    if last.real_quick_ratio() < _NEAR or last.quick_ratio() < _NEAR or last.ratio() < _NEAR:
        return 0.0
    before = SequenceMatcher(None, ".".join(names[:-1]), ".".join(known[-len(names) : -1])).ratio()
    return 0.7 * last.ratio() + 0.25 * before + 0.05 * (len(names) == len(known))


def value_at(node: Any, key: str) -> Any:
    """What a nested config has at a dotted key; None where there is nothing."""
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node
