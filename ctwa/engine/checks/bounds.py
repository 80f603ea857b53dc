"""What each key of the configuration may be: one table, looked at before anything else reads the config.

It has the keys of verl that docs/training.md names, with their siblings; the bounds of our numbers are those of their
fields (``bounds_of``). What depends on two keys, on the disk or on a method is no bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from ctwa.errors import shown

ABSURD = 1e15
"""No number of a configuration is as large: a sum of several, or its square, may not be finite."""


@dataclass(frozen=True)
class Bound:
    """What a key may be.

    Attributes:
        kind: the type, with its limits, for pydantic: strict, so that neither 2.5 nor "2" nor true is a whole number.
        words: the same for the user, after "write".
    """

    kind: Any
    words: str

    def allows(self, value: object) -> bool:
        """Whether a value is within it."""
        try:
            self._adapter.validate_python(value, strict=True)
        except ValidationError:
            return False
        return True

    def __or__(self, other: Bound) -> Bound:
        """What either allows."""
        return Bound(self.kind | other.kind, f"{self.words}, or {other.words}")

    @cached_property
    def _adapter(self) -> TypeAdapter:
        return TypeAdapter(self.kind)


def whole(low: int, high: int = 1_000_000_000) -> Bound:
    """A whole number of [low, high]."""
    return Bound(Annotated[int, Field(ge=low, le=high)], f"a whole number from {low} to {high}")


def number(low: float, high: float, *, above: bool = False, below: bool = False) -> Bound:
    """A finite number of [low, high]; ``above``: not low itself, ``below``: not high itself."""
    limits: dict[str, Any] = {"gt" if above else "ge": low, "lt" if below else "le": high}
    but = " (not {:g} itself)"
    words = f"a number from {low:g}{but.format(low) * above} to {high:g}{but.format(high) * below}"
    return Bound(Annotated[float, Field(allow_inf_nan=False, **limits)], words)


def choice(*names: str) -> Bound:
    """One of these words."""
    return Bound(Annotated[str, Field(pattern=f"^({'|'.join(map(re.escape, names))})$")], f"one of {', '.join(names)}")


def text(what: str) -> Bound:
    """Text that says something."""
    return Bound(Annotated[str, Field(pattern=r"\S")], what)


def listed(each: Bound, words: str, *, least: int = 1, most: int | None = None) -> Bound:
    """A list of so many."""
    kind: Any = list.__class_getitem__(each.kind)  # each.kind is a value to a type checker
    return Bound(Annotated[kind, Field(min_length=least, max_length=most)], words)


def by_name(each: Bound, words: str) -> Bound:
    """Some by their names."""
    kind: Any = dict.__class_getitem__((Annotated[str, Field(pattern=r"\S")], each.kind))
    return Bound(Annotated[kind, Field(min_length=1)], words)


NOTHING = Bound(None, "null")
COUNT = whole(1)
MAYBE = COUNT | NOTHING
SIZE = whole(1, 1_000_000)
WORKERS = whole(1, 1024)
ALL_OR, NEVER_OR = (
    Bound(Annotated[int, Field(ge=1)] | Literal[-1], f"a whole number, 1 or more, or -1 for {what}")
    for what in ("all", "never")
)
SHARE = number(0, 1)
SEED = whole(0, 2**31 - 1)
PATH = text("a file, a folder of datasets.save_to_disk or hf://NAME, or a list of some")
FILES = Bound(PATH.kind | listed(PATH, "").kind, PATH.words)
NAMED_FILES = by_name(FILES, "files by name, as {gsm8k: FILE, math: FILE}")
BETAS = listed(number(0, 1, below=True), "two numbers from 0 to 1 (not 1 itself), e.g. [0.9,0.999]", least=2, most=2)
ALARMS = Bound(str | list[str], "a list of alarms, e.g. [drop]")
TRACKER = choice(
    *("console", "tensorboard", "wandb", "mlflow", "swanlab", "vemlp_wandb", "clearml", "trackio", "file", "rl_insight")
)
TRACKERS = Bound(TRACKER.kind | listed(TRACKER, "", least=0).kind, f"{TRACKER.words}, or a list of some")
CONTENT = choice("model", "optimizer", "extra", "hf_model")
CONTENTS = listed(CONTENT, f"a list of some of {CONTENT.words.removeprefix('one of ')}")
LOAD_FORMAT = choice(
    *("auto", "dummy", "hf", "safetensors", "pt", "npcache", "fastsafetensors", "mistral", "gguf", "bitsandbytes"),
    *("sharded_state", "tensorizer", "runai_streamer", "megatron"),
)
DTYPE = choice("auto", "half", "float16", "bfloat16", "float", "float32")
REJECTION = [
    *(f"token_k{number}" for number in (1, 2, 3)),
    *(f"seq_{over}_k{number}" for over in ("sum", "mean") for number in (1, 2, 3)),
    *("seq_max_k2", "seq_max_k3"),
]
REJECTIONS = Bound(
    Annotated[str, Field(pattern=f"^({'|'.join(REJECTION)})( *, *({'|'.join(REJECTION)}))*$")],
    f"one of {', '.join(REJECTION)}, or several with commas between",
)
PRECISION = choice("fp32", "bf16", "fp16", "float32", "bfloat16", "float16")

ACTOR, REF, ROLLOUT = (f"actor_rollout_ref.{part}" for part in ("actor", "ref", "rollout"))
MODEL = "actor_rollout_ref.model"

BOUNDS: dict[str, Bound] = {
    "ctwa.run": text("a folder for the run"),
    "ctwa.task_dir": text("the folder of the task's files") | NOTHING,
    "ctwa.stop_on": ALARMS,
    #
    "model_engine": choice("dp"),
    "data.train_files": FILES,
    "data.val_files": FILES | NAMED_FILES | NOTHING,
    "data.train_batch_size": SIZE,
    "data.gen_batch_size": MAYBE,
    "data.val_batch_size": MAYBE,
    "data.max_prompt_length": whole(1, 10_000_000),
    "data.max_response_length": whole(1, 10_000_000),
    "data.train_max_samples": ALL_OR,
    "data.val_max_samples": ALL_OR,
    "data.seed": SEED | NOTHING,
    "data.dataloader_num_workers": whole(0, 1024),
    "data.filter_overlong_prompts_workers": WORKERS | NOTHING,
    "data.truncation": choice("error", "left", "right", "middle"),
    "data.prompt_key": text("the name of a column"),
    #
    "trainer.total_epochs": COUNT,
    "trainer.total_training_steps": MAYBE,
    "trainer.nnodes": whole(1, 10_000),
    "trainer.n_gpus_per_node": whole(1, 1024),
    "trainer.device": choice("cpu", "cuda", "npu"),
    "trainer.save_freq": NEVER_OR,
    "trainer.test_freq": NEVER_OR,
    "trainer.max_actor_ckpt_to_keep": MAYBE,
    "trainer.logger": TRACKERS,
    "trainer.critic_warmup": whole(0, 0),
    "trainer.use_v1": Bound(Literal[True], "true: verl's other trainer has no objectives"),
    "trainer.val_only": Bound(Literal[False], "false: `ctwa eval` evaluates models"),
    "trainer.resume_mode": Bound(Literal["disable"], "ctwa.resume=true, with the run's folder in ctwa.run"),
    "critic.enable": Bound(Literal[False] | None, "false: no method has a critic"),
    "reward.custom_reward_function.path": Bound(None, "null, and the function in ctwa.objectives.NAME.reward_fn"),
    "trainer.project_name": text("a name"),
    "trainer.experiment_name": text("a name"),
    #
    f"{MODEL}.path": text("a model folder, or a model's name on a hub"),
    f"{MODEL}.lora_rank": whole(0, 65_536),
    f"{MODEL}.lora_alpha": number(0, 1e6, above=True),
    #
    f"{ACTOR}.strategy": choice("fsdp2", "fsdp"),
    f"{ACTOR}.ppo_mini_batch_size": SIZE,
    f"{ACTOR}.ppo_micro_batch_size_per_gpu": MAYBE,
    f"{ACTOR}.ppo_max_token_len_per_gpu": COUNT,
    f"{ACTOR}.ppo_epochs": whole(1, 1000),
    f"{ACTOR}.clip_ratio": number(0, 1e12),
    f"{ACTOR}.clip_ratio_low": number(0, 1e12) | NOTHING,
    f"{ACTOR}.clip_ratio_high": number(0, 1e12) | NOTHING,
    f"{ACTOR}.clip_ratio_c": number(1, 1e12, above=True),
    f"{ACTOR}.entropy_coeff": number(-1e3, 1e3),
    f"{ACTOR}.kl_loss_coef": number(0, 1e6),
    f"{ACTOR}.kl_loss_type": choice(
        *("low_var_kl", "k3", "kl", "k1", "abs", "mse", "k2", "low_var_kl+", "k3+", "kl+", "k1+", "abs+", "mse+", "k2+")
    ),
    f"{ACTOR}.loss_agg_mode": choice(
        "token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"
    ),
    f"{ACTOR}.loss_scale_factor": MAYBE,
    f"{ACTOR}.ulysses_sequence_parallel_size": whole(1, 1024),
    f"{ACTOR}.checkpoint.save_contents": CONTENTS,
    f"{ACTOR}.checkpoint.load_contents": CONTENTS,
    f"{ACTOR}.optim.lr": number(0, 1),
    f"{ACTOR}.optim.weight_decay": number(0, 1e3),
    f"{ACTOR}.optim.betas": BETAS,
    f"{ACTOR}.optim.clip_grad": number(0, 1e12, above=True),
    f"{ACTOR}.optim.lr_warmup_steps": whole(-1),
    f"{ACTOR}.optim.lr_warmup_steps_ratio": SHARE,
    f"{ACTOR}.optim.lr_scheduler_type": choice("constant", "cosine"),
    f"{ACTOR}.optim.warmup_style": choice("constant", "cosine") | NOTHING,
    f"{ACTOR}.optim.min_lr_ratio": SHARE | NOTHING,
    f"{ACTOR}.optim.num_cycles": number(0, 1e6),
    **{
        f"{part}.fsdp_config.{key}": bound
        for part in (ACTOR, REF)
        for key, bound in {
            "fsdp_size": ALL_OR,
            "ulysses_sequence_parallel_size": whole(1, 1024),
            "model_dtype": PRECISION,
            "dtype": PRECISION,
            **{f"mixed_precision.{of}_dtype": PRECISION | NOTHING for of in ("param", "reduce", "buffer")},
            "seed": SEED,
            "pad_to_length_bucket": COUNT,
        }.items()
    },
    f"{REF}.log_prob_micro_batch_size_per_gpu": MAYBE,
    f"{REF}.log_prob_max_token_len_per_gpu": COUNT,
    #
    f"{ROLLOUT}.name": Bound(
        Literal["vllm", "transformers"], "generation=vllm or generation=transformers: the servers here are of these two"
    ),
    f"{ROLLOUT}.mode": choice("async"),
    f"{ROLLOUT}.dtype": DTYPE,
    f"{ROLLOUT}.trace.backend": choice("weave", "mlflow", "trackio") | NOTHING,
    f"{ROLLOUT}.agent.agent_loop_config_path": text("a YAML file") | NOTHING,
    f"{ROLLOUT}.multi_turn.tool_config_path": text("a YAML file") | NOTHING,
    f"{ROLLOUT}.multi_turn.function_tool_path": text("a Python file") | NOTHING,
    f"{ROLLOUT}.load_format": LOAD_FORMAT,
    f"{ROLLOUT}.n": whole(1, 100_000),
    f"{ROLLOUT}.temperature": number(0, 100, above=True),
    f"{ROLLOUT}.top_p": number(0, 1, above=True),
    f"{ROLLOUT}.top_k": whole(-1),
    f"{ROLLOUT}.seed": SEED,
    f"{ROLLOUT}.prompt_length": whole(1, 10_000_000),
    f"{ROLLOUT}.response_length": whole(1, 10_000_000),
    f"{ROLLOUT}.gpu_memory_utilization": number(0, 1, above=True),
    f"{ROLLOUT}.tensor_model_parallel_size": whole(1, 1024),
    f"{ROLLOUT}.data_parallel_size": whole(1, 1024),
    f"{ROLLOUT}.pipeline_model_parallel_size": whole(1, 1024),
    f"{ROLLOUT}.max_model_len": MAYBE,
    f"{ROLLOUT}.max_num_seqs": COUNT,
    f"{ROLLOUT}.max_num_batched_tokens": COUNT,
    f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu": MAYBE,
    f"{ROLLOUT}.log_prob_max_token_len_per_gpu": COUNT,
    f"{ROLLOUT}.agent.num_workers": WORKERS,
    f"{ROLLOUT}.val_kwargs.n": whole(1, 100_000),
    f"{ROLLOUT}.val_kwargs.temperature": number(0, 100),
    f"{ROLLOUT}.val_kwargs.top_p": number(0, 1, above=True),
    f"{ROLLOUT}.val_kwargs.top_k": whole(-1),
    #
    "algorithm.adv_estimator": text("the name of an estimator, e.g. grpo"),
    "algorithm.gamma": SHARE,
    "algorithm.lam": SHARE,
    "algorithm.kl_penalty": choice("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3"),
    "algorithm.kl_ctrl.type": choice("fixed", "adaptive"),
    "algorithm.kl_ctrl.kl_coef": number(0, 1e6),
    "algorithm.kl_ctrl.target_kl": number(0, 1e6, above=True),
    "algorithm.kl_ctrl.horizon": COUNT,
    "algorithm.rollout_correction.rollout_is": choice("token", "sequence") | NOTHING,
    "algorithm.rollout_correction.rollout_rs": REJECTIONS | NOTHING,
    "algorithm.rollout_correction.rollout_is_threshold": number(0, 1e6, above=True) | NOTHING,
    "reward.num_workers": whole(0, 1024),
    "ray_kwargs.ray_init.address": text("HOST:PORT of a Ray that runs, or auto") | NOTHING,
    "ray_kwargs.ray_init.num_cpus": SIZE | NOTHING,
    "ray_kwargs.ray_init.num_gpus": whole(0, 1_000_000) | NOTHING,
    "transfer_queue.backend.SimpleStorage.num_data_storage_units": WORKERS,
    "transfer_queue.backend.SimpleStorage.total_storage_size": COUNT,
}
"""By dotted key; a star stands for any one name. A key that the configuration does not have is not missed here."""


def bounds_of(kind: Any, prefix: str) -> dict[str, Bound]:
    """The bounds of the numbers of a model, by dotted key, with a star for any name."""
    if get_origin(kind) is Annotated:
        return bounds_of(get_args(kind)[0], prefix)
    if get_origin(kind) is dict:
        return bounds_of(get_args(kind)[1], f"{prefix}.*")
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return {}
    bounds: dict[str, Bound] = {}
    for name, field in kind.model_fields.items():
        bound = _of_number(field.annotation, field.metadata)
        bounds |= {f"{prefix}.{name}": bound} if bound else bounds_of(field.annotation, f"{prefix}.{name}")
    return bounds


def _of_number(kind: Any, metadata: Iterable[Any]) -> Bound | None:
    """The bound of a type that is a number, or a number or else null or some word; None for another."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        more = [each for part in parts[1:] for each in getattr(part, "metadata", [part])]
        return _of_number(parts[0], [*metadata, *more])
    if origin in (Union, UnionType) and (parts[1:] == (NoneType,) or get_origin(parts[1]) is Literal):
        bound = _of_number(parts[0], metadata)
        return bound and bound | (NOTHING if parts[1] is NoneType else Bound(parts[1], " or ".join(get_args(parts[1]))))
    kinds = ("ge", "gt", "le", "lt")
    limits = {name: getattr(each, name) for each in metadata for name in kinds if hasattr(each, name)}
    low, high = (limits.get(f"{side}e", limits.get(f"{side}t")) for side in "gl")
    if kind is int:
        return whole(-(10**9) if low is None else low, 10**9 if high is None else high)
    if kind is float:
        ends = (-ABSURD if low is None else low, ABSURD if high is None else high)
        return number(*ends, above="gt" in limits, below="lt" in limits)
    return None


def out_of_bounds(config: Mapping[str, Any], ours: dict[str, Bound]) -> dict[str, str]:
    """What is wrong with the values of a resolved configuration: by dotted key, a sentence that begins with it.

    Args:
        config: the configuration.
        ours: the bounds of the ``ctwa`` node.
    """
    wrong = {
        key: f"{key}={in_quotes(value)} is not possible: write {bound.words}"
        for pattern, bound in (BOUNDS | ours).items()
        for key, value in _select(config, pattern.split("."), "")
        if not bound.allows(value)
    }
    for key, value in leaves(config):
        if isinstance(value, int | float) and not abs(value) < ABSURD and key not in wrong:
            wrong[key] = f"{key}={shown(value)} is not possible: write a finite number below {ABSURD:g}"
    return wrong


def in_quotes(value: object) -> str:
    """A value, with the quotes that make a text of a number where it has them."""
    try:
        float(value if isinstance(value, str) else "")
    except ValueError:
        return shown(value)
    return f"{value!r}, a text,"


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a nested config that is no mapping and no list, with its dotted key."""
    items: Any = ()
    if isinstance(node, Mapping):
        items = node.items()
    elif isinstance(node, Sequence) and not isinstance(node, str):
        items = enumerate(node)
    else:
        yield prefix, node
    for name, value in items:
        yield from leaves(value, f"{prefix}.{name}" if prefix else str(name))


def _select(node: Any, path: list[str], prefix: str) -> Iterator[tuple[str, Any]]:
    if not path:
        yield prefix.removeprefix("."), node
    elif isinstance(node, Mapping):
        for name in node if path[0] == "*" else [path[0]]:
            if name in node:
                yield from _select(node[name], path[1:], f"{prefix}.{name}")
