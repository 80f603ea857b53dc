"""What is checked before anything expensive starts, and the plan of a run."""

from __future__ import annotations

import contextlib
import io
import math
from importlib.util import find_spec
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig

from ctwa.engine.look import check_files, look, prompt_lines
from ctwa.engine.settings import Settings, read_settings
from ctwa.errors import CtwaError
from ctwa.objectives.loading import resolve_spec
from ctwa.objectives.rows import open_rows
from ctwa.scalarizers.base import Scalarizer


def check_config(config: DictConfig) -> Settings:
    """Check all that can be known from the config and the disk.

    Raises:
        CtwaError: what is wrong, where, and what to write instead.
    """
    settings: Settings = read_settings(config)
    check_settings(config, settings)
    _check_steps(config)
    look(config, settings)
    return settings


def check_settings(config: DictConfig, settings: Settings) -> None:
    """Check all of it that does not depend on how many steps there are.

    Raises:
        CtwaError: what is wrong, where, and what to write instead.
    """
    settings.build_scalarizer()  # names in weights and targets, estimator against method
    for objective in settings.objectives.values():
        resolve_spec(objective.reward_fn)  # the file is there; whether the function is, its worker says
    _check_task_dir(config)
    check_files(config)
    _check_batches(config)
    _check_engine(config)
    _check_gradients(config, settings)
    _check_probe(config, settings)
    reference = settings.reference_length
    if reference is not None and reference.needs_validation and not config.trainer.val_before_train:
        raise CtwaError(
            "ctwa.reference_length takes its length from the validation before the first step, which is off: write "
            "trainer.val_before_train=true, or give the length as a number"
        )


def _check_task_dir(config: DictConfig) -> None:
    task_dir = config.ctwa.get("task_dir")
    if task_dir is not None and not Path(task_dir).expanduser().is_dir():
        raise CtwaError(
            f"ctwa.task_dir: {task_dir} does not exist; make it (`ctwa testbed make`, scripts/prepare_math500.py) or "
            "give the folder of the task's files"
        )


def num_steps(config: DictConfig) -> int:
    """The steps of the run: as configured, else what the epochs make (fewer where overlong prompts are left out)."""
    steps: int | None = config.trainer.total_training_steps
    return _steps_of_epochs(config) if steps is None else steps


def _steps_of_epochs(config: DictConfig) -> int:
    return _num_rows(config) // config.data.train_batch_size * config.trainer.total_epochs


def _num_rows(config: DictConfig) -> int:
    rows: int = sum(open_rows(Path(path)).num_rows for path in config.data.train_files)
    return min(rows, config.data.train_max_samples) if config.data.train_max_samples > 0 else rows


def _check_steps(config: DictConfig) -> None:
    rows, prompts, epochs = _num_rows(config), config.data.train_batch_size, config.trainer.total_epochs
    if rows < prompts:
        raise CtwaError(
            f"data.train_files have {rows} rows, less than one step's data.train_batch_size={prompts}: "
            f"write at most {rows}"
        )
    if num_steps(config) > _steps_of_epochs(config):
        raise CtwaError(
            f"trainer.total_training_steps={num_steps(config)}, but trainer.total_epochs={epochs} of {rows} rows in "
            f"batches of {prompts} end after {_steps_of_epochs(config)}: write "
            f"trainer.total_epochs={math.ceil(num_steps(config) / (rows // prompts))}"
        )


def _check_batches(config: DictConfig) -> None:
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    num_ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    prompts, mini = config.data.train_batch_size, actor.ppo_mini_batch_size
    if rollout.n < 2:
        raise CtwaError(
            f"actor_rollout_ref.rollout.n={rollout.n}: covariances within a prompt need at least 2 completions of it; "
            "write 2 or more"
        )
    if prompts % mini:
        raise CtwaError(
            f"data.train_batch_size={prompts} is not a multiple of actor_rollout_ref.actor.ppo_mini_batch_size={mini}: "
            f"write {mini * math.ceil(prompts / mini)} or another multiple"
        )
    if (mini * rollout.n) % num_ranks:
        raise CtwaError(
            f"a mini-batch of {mini} prompts x {rollout.n} completions does not divide over {num_ranks} ranks: "
            "change ppo_mini_batch_size, rollout.n or trainer.n_gpus_per_node"
        )
    if not actor.use_dynamic_bsz:
        per_rank, micro = mini * rollout.n // num_ranks, actor.ppo_micro_batch_size_per_gpu
        if micro is not None and micro < per_rank and per_rank % micro:
            raise CtwaError(
                f"a rank's {per_rank} rows of a mini-batch are not a multiple of ppo_micro_batch_size_per_gpu={micro}: "
                f"write a divisor of {per_rank}"
            )


def _check_engine(config: DictConfig) -> None:
    if config.trainer.v1.trainer_mode != "sync":
        raise CtwaError(
            f"trainer.v1.trainer_mode={config.trainer.v1.trainer_mode!r}: the multi-objective trainer is synchronous; "
            "write sync"
        )
    if config.algorithm.use_kl_in_reward:
        raise CtwaError(
            "algorithm.use_kl_in_reward=true would count the KL penalty once for each objective: "
            "write actor_rollout_ref.actor.use_kl_loss=true instead"
        )
    if config.algorithm.filter_groups.enable:
        raise CtwaError("algorithm.filter_groups.enable=true needs a scalar reward while sampling: write false")
    if config.reward.reward_model.enable:
        raise CtwaError(
            "reward.reward_model.enable=true is verl's single reward model: write false, and call the model from a "
            "reward function"
        )
    rollout = config.actor_rollout_ref.rollout
    if config.trainer.device != "cpu" and rollout.name == "transformers":
        raise CtwaError("generation=transformers is for the CPU: write generation=vllm")
    if rollout.name == "vllm":
        _check_vllm(config)
    longest = config.data.max_prompt_length + config.data.max_response_length
    if rollout.max_model_len is not None and rollout.max_model_len < longest:
        raise CtwaError(
            f"actor_rollout_ref.rollout.max_model_len={rollout.max_model_len} is less than data.max_prompt_length + "
            f"data.max_response_length = {longest}: write {longest} or more"
        )


def _check_vllm(config: DictConfig) -> None:
    on_cpu = config.trainer.device == "cpu"
    worker = (config.actor_rollout_ref.rollout.engine_kwargs.get("vllm") or {}).get("worker_extension_cls")
    if on_cpu and worker is None:
        raise CtwaError("generation=vllm would lose the updates of the weights on a CPU: write generation=vllm_cpu")
    if not on_cpu and worker == "ctwa.engine.rollout.vllm_cpu.LiveWeights":
        raise CtwaError("generation=vllm_cpu is for the CPU: write generation=vllm")
    if on_cpu and find_spec("vllm") is None:
        raise CtwaError(
            "generation=vllm_cpu needs vLLM, which is not installed: run scripts/install_vllm_cpu.sh, or write "
            "generation=transformers"
        )


def _check_gradients(config: DictConfig, settings: Settings) -> None:
    if settings.build_scalarizer().aggregator is None and not settings.diagnostics.gradients_every:
        return
    actor = config.actor_rollout_ref.actor
    if actor.strategy != "fsdp2":
        raise CtwaError(
            f"actor_rollout_ref.actor.strategy={actor.strategy!r}: the objectives' gradients are taken on FSDP2's "
            "shards; write fsdp2"
        )
    precision = actor.fsdp_config.get("mixed_precision") or {}
    if str(precision.get("param_dtype", actor.fsdp_config.get("dtype"))) in ("fp16", "float16"):
        raise CtwaError(
            "actor_rollout_ref.actor.fsdp_config computes in fp16, whose loss scaling knows one loss: write bf16"
        )


def _check_probe(config: DictConfig, settings: Settings) -> None:
    requirements, actor = settings.build_scalarizer().requirements, config.actor_rollout_ref.actor
    source = settings.probe_source(requirements)
    if settings.diagnostics.probe not in ("none", source):
        raise CtwaError(
            f"ctwa.diagnostics.probe={settings.diagnostics.probe}, but the method measures with source: {source}; "
            "write the same, or diagnostics.probe=none"
        )
    if source == "minibatch":
        if actor.ppo_mini_batch_size >= config.data.train_batch_size or actor.ppo_epochs > 1 or actor.shuffle:
            raise CtwaError(
                "the probe 'minibatch' looks at a step's last mini-batch, which the others have not seen: write "
                "an actor_rollout_ref.actor.ppo_mini_batch_size below data.train_batch_size, ppo_epochs=1 and "
                "shuffle=false, or take the probe 'backward'"
            )
        if requirements.log_probs == "post_update":
            raise CtwaError(
                "the probe 'minibatch' needs the log-probs of the update itself, but the method's statistic those "
                "after it: write ctwa.method.statistic=in_update, or take the probe 'backward'"
            )
    num_held_out = settings.diagnostics.held_out_prompts
    if source == "held_out" and num_held_out >= config.data.train_batch_size:
        raise CtwaError(
            f"ctwa.diagnostics.held_out_prompts={num_held_out} leaves none of the data.train_batch_size="
            f"{config.data.train_batch_size} prompts of a step to train on: write less"
        )


def check_with_verl(config: DictConfig) -> None:
    """Let verl check its own part of the config, as its trainer and workers will (its import takes seconds).

    Raises:
        CtwaError: what verl says.
    """
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    actor_rollout_ref = config.actor_rollout_ref
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            validate_config(config, use_reference_policy=actor_rollout_ref.actor.use_kl_loss, use_critic=False)
        for node in (actor_rollout_ref.rollout, config.algorithm):
            omega_conf_to_dataclass(node)
    except (AssertionError, ValueError, NotImplementedError, HydraException) as error:
        raise CtwaError(f"verl does not accept the configuration: {error}") from error


def check_resources(config: DictConfig) -> None:
    """Compare what the run will ask of Ray with what Ray has: verl waits for ever for what is missing.

    Raises:
        CtwaError: the resource, how much is there, how much is needed.
    """
    import ray  # not needed, and slow to import, where only the config is checked

    resources = ray.cluster_resources()
    num_ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    # verl's placement groups take three CPUs a rank; then come a server a rank, agent loops, the transfer queue.
    num_cpus = 4 * num_ranks + config.actor_rollout_ref.rollout.agent.num_workers + 4
    needed = {"GPU": num_ranks, "CPU": num_cpus}
    for name, amount in needed.items():
        available = resources.get(name, 0)
        if available < amount:
            hint = "num_cpus" if name == "CPU" else "num_gpus, or trainer.n_gpus_per_node"
            raise CtwaError(
                f"Ray has {available:g} {name} but the run needs {amount:g}: change ray_kwargs.ray_init.{hint}"
            )


def _update_passes(settings: Settings, scalarizer: Scalarizer) -> str:
    """The passes of an update; with a method that combines gradients, of one that takes them."""
    if scalarizer.aggregator is None:
        return "1 forward and 1 backward"
    num, gradients = len(settings.objectives), settings.gradients
    forwards = 1 if gradients.passes == "shared_forward" else num
    if gradients.last_layers is not None:
        return f"{forwards + 1} forward, {num} backward through {gradients.last_layers} layers and 1 through all"
    return f"{forwards} forward and {num} backward"


def plan_text(config: DictConfig, settings: Settings) -> str:
    """What a run would do: steps, tokens, passes a step."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    scalarizer = settings.build_scalarizer()
    rows = config.data.train_batch_size * rollout.n
    num_updates = config.data.train_batch_size // actor.ppo_mini_batch_size * actor.ppo_epochs
    source = settings.log_probs_source(scalarizer.requirements)
    passes = ["old log-probs (1 forward)"] * (not config.algorithm.rollout_correction.bypass_mode)
    passes += ["reference log-probs (1 forward)"] * bool(actor.use_kl_loss)
    passes += [f"update ({num_updates} optimizer steps, {_update_passes(settings, scalarizer)} of the batch an epoch)"]
    passes += ["statistic after the update (1 forward)"] * (source == "post_update")
    passes += ["probe (1 forward)"] * (settings.probe_source(scalarizer.requirements) == "backward")
    lines = [
        "plan:",
        f"  method       {settings.method.type}, log-probs of the statistic: {source}",
        f"  objectives   {', '.join(f'{name} ({weight:g})' for name, weight in scalarizer.weights.items())}",
        f"  engine       {config.trainer.device}, {config.trainer.nnodes * config.trainer.n_gpus_per_node} ranks, "
        f"{actor.strategy}, rollout on {rollout.name}",
        f"  model        {config.actor_rollout_ref.model.path}",
        *prompt_lines(config),
        f"  steps        {num_steps(config)}",
        f"  a step       {config.data.train_batch_size} prompts x {rollout.n} completions = {rows} completions, "
        f"at most {rows * (config.data.max_prompt_length + config.data.max_response_length):,} tokens",
        f"  passes       {'; '.join(passes)}",
        f"  validation   every {config.trainer.test_freq} steps; checkpoint every {config.trainer.save_freq} steps",
        f"  run folder   {settings.run}",
    ]
    return "\n".join(lines)
