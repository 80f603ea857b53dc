"""What of verl's engine, rollout and queue a run with objectives cannot do."""

from __future__ import annotations

import contextlib
import io
import logging
from importlib.util import find_spec

from hydra.errors import HydraException
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from ctwa.engine.checks.batches import check_token_budgets
from ctwa.engine.checks.turns import check_parser, is_installed
from ctwa.errors import CtwaError, did_you_mean, shown


def check_engine(config: DictConfig) -> None:
    """Refuse what verl can do, and a run with objectives cannot."""
    _refuse_other_trainers(config)
    _check_rollout(config)
    if config.actor_rollout_ref.rollout.name == "vllm":
        _check_vllm(config)
    _check_lengths(config)


def _refuse_other_trainers(config: DictConfig) -> None:
    """Refuse what only another trainer, or a reward of verl's own, can do."""
    if config.trainer.v1.trainer_mode != "sync":
        raise CtwaError(
            f"trainer.v1.trainer_mode={config.trainer.v1.trainer_mode!r}: the multi-objective trainer is synchronous "
            "(docs/async.md says why); write sync"
        )
    if config.algorithm.filter_groups.enable:
        raise CtwaError(
            "algorithm.filter_groups.enable=true needs a scalar reward while sampling: write false, and "
            "ctwa.dynamic_sampling.keep=any, which asks the objectives"
        )
    if config.reward.reward_model.enable:
        raise CtwaError(
            "reward.reward_model.enable=true is verl's single reward model: write false, and call the model from a "
            "reward function"
        )
    if config.reward.sandbox_fusion.url:
        raise CtwaError(
            "reward.sandbox_fusion.url is of verl's own scoring of code, which is not called here: write null, and "
            "reward_fns/code_tests.py:code_tests as an objective"
        )
    if (steps := config.actor_rollout_ref.actor.optim.total_training_steps) not in (-1, None):
        raise CtwaError(
            f"actor_rollout_ref.actor.optim.total_training_steps={steps} would be written over by those of the run: "
            "write trainer.total_training_steps"
        )
    if config.trainer.v1.sampler.sync_refill_failed_groups:
        raise CtwaError(
            "trainer.v1.sampler.sync_refill_failed_groups=true would give new prompts the names of prompts in flight: "
            "write false"
        )


def _check_rollout(config: DictConfig) -> None:
    """Refuse a sampling of held-out prompts that contradicts itself, and what our own servers cannot do."""
    rollout = config.actor_rollout_ref.rollout
    if rollout.val_kwargs.n > 1 and is_greedy(rollout.val_kwargs):
        key = "temperature=0" if rollout.val_kwargs.do_sample else "do_sample=false"
        raise CtwaError(
            f"actor_rollout_ref.rollout.val_kwargs.n={rollout.val_kwargs.n} with {key}: the completions of a "
            "held-out prompt would all be the same greedy one; write n=1, or do_sample=true and a temperature above 0"
        )
    if rollout.val_kwargs.temperature > 0 and not rollout.val_kwargs.do_sample:
        raise CtwaError(
            "actor_rollout_ref.rollout.val_kwargs.do_sample=false with a temperature of "
            f"{rollout.val_kwargs.temperature:g}, at which verl would sample: write temperature=0, or do_sample=true"
        )
    if config.trainer.nnodes > 1 and rollout.name == "transformers" and config.trainer.device != "cpu":
        raise CtwaError(
            f"generation=transformers with trainer.nnodes={config.trainer.nnodes}: its servers take the GPUs of one "
            "machine; write generation=vllm"
        )
    _refuse_what_is_another_engines(config)
    model = config.actor_rollout_ref.model
    if rollout.name == "transformers" and model.lora_rank > 0 and not model.lora.merge:
        raise CtwaError(
            "actor_rollout_ref.model.lora.merge=false: the servers of generation=transformers have no adapters, and "
            "get the weights with the adapter in them; write true, or generation=vllm"
        )


_OF_ENGINES = {
    "rollout.ignore_eos": False,
    "rollout.quantization": None,
    "rollout.quantization_config_file": None,
    "rollout.trace.backend": None,
    "rollout.prometheus.enable": False,
    "model.hf_config_path": None,
}
"""What our own servers do not read, and what it is where nobody asks for anything."""


def _refuse_what_is_another_engines(config: DictConfig) -> None:
    """Refuse settings of the rollout that the one which was chosen does not read."""
    name = config.actor_rollout_ref.rollout.name
    for key, nothing in _OF_ENGINES.items() if name == "transformers" else ():
        if (value := OmegaConf.select(config.actor_rollout_ref, key)) not in (nothing, None):
            raise CtwaError(
                f"actor_rollout_ref.{key}={shown(value)} is not read by the servers of generation=transformers: write "
                f"{shown(nothing)}, or generation=vllm"
            )
    if name == "transformers" and config.actor_rollout_ref.rollout.dtype == "auto":
        raise CtwaError(
            "actor_rollout_ref.rollout.dtype=auto is vLLM's: write float32, or another type, for the servers of "
            "generation=transformers"
        )
    for engine, options in config.actor_rollout_ref.rollout.engine_kwargs.items():
        if engine != name and (options or {}).get("worker_extension_cls") in (RECEIVER, LIVE_WEIGHTS):
            raise CtwaError(
                f"actor_rollout_ref.rollout.name={name} with what else generation=vllm says: write generation={name}"
            )
        if options and engine != name:
            raise CtwaError(
                f"actor_rollout_ref.rollout.engine_kwargs.{engine} would do nothing with "
                f"actor_rollout_ref.rollout.name={name}: leave it out"
            )


def _check_lengths(config: DictConfig) -> None:
    rollout = config.actor_rollout_ref.rollout
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


RECEIVER = "ctwa.engine.verl.rollout.vllm_weights.Receiver"
LIVE_WEIGHTS = "ctwa.engine.verl.rollout.vllm_cpu.LiveWeights"


def _check_vllm(config: DictConfig) -> None:
    on_cpu = config.trainer.device == "cpu"
    key = "actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls"
    worker = OmegaConf.select(config, key)
    if on_cpu and worker in (None, RECEIVER):
        raise CtwaError("generation=vllm would lose the updates of the weights on a CPU: write generation=vllm_cpu")
    if not on_cpu and worker == LIVE_WEIGHTS:
        raise CtwaError("generation=vllm_cpu is for the CPU: write generation=vllm")
    if on_cpu and find_spec("vllm") is None:
        raise CtwaError(
            "generation=vllm_cpu needs vLLM, which is not installed: run scripts/install_vllm_cpu.sh, or write "
            "generation=transformers"
        )
    if worker is None:  # rollout.name=vllm without the rest of generation=vllm
        OmegaConf.update(config, key, RECEIVER, force_add=True)
    elif worker not in (RECEIVER, LIVE_WEIGHTS) and find_spec("vllm") is not None:
        _check_worker(key, worker, LIVE_WEIGHTS if on_cpu else RECEIVER)


def _check_worker(key: str, worker: object, needed: str) -> None:
    """Refuse a class for vLLM's workers that would not find the socket by which they are given the weights."""
    logging.getLogger("hydra.utils").disabled = True  # which would tell the same, less well
    try:
        theirs = get_class(str(worker))
    except Exception as error:  # a module of the user's may raise anything
        why = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[-1]
        raise CtwaError(f"{key}={worker} cannot be loaded ({why}): write the dotted name of a class") from error
    if not issubclass(theirs, get_class(needed)):
        raise CtwaError(f"{key}={worker} would not get the trainer's weights: derive it from {needed}")


def check_queue(config: DictConfig) -> None:
    """Refuse a transfer queue that is off, or open to others."""
    if not config.transfer_queue.enable:
        raise CtwaError("transfer_queue.enable=false: rows go to the workers and back through it; write true")
    backend = config.transfer_queue.backend.storage_backend
    if backend not in ("SimpleStorage", "RayStore") and not config.ctwa.trust_network:
        raise CtwaError(
            f"transfer_queue.backend.storage_backend={backend!r} has connections of its own, which let in whoever "
            "reaches them: write SimpleStorage, or ctwa.trust_network=true where nobody else reaches the machines"
        )


def is_greedy(val_kwargs: DictConfig) -> bool:
    """Whether held-out prompts are completed greedily, so that the completions of one are all the same."""
    return not val_kwargs.do_sample or val_kwargs.temperature == 0


def check_correction(config: DictConfig) -> None:
    """Refuse rollout corrections that would be without effect."""
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


def check_old_log_probs(config: DictConfig) -> None:
    """Refuse to take the log-probs of some tokens alone, as the rollout draws them, for the policy's before a step."""
    rollout = config.actor_rollout_ref.rollout
    cuts = [f"top_p={rollout.top_p:g}"] * (rollout.top_p < 1) + [f"top_k={rollout.top_k}"] * (rollout.top_k > 0)
    if cuts and (config.algorithm.get("rollout_correction") or {}).get("bypass_mode"):
        raise CtwaError(
            f"actor_rollout_ref.rollout.{cuts[0]} with algorithm.rollout_correction.bypass_mode=true: the rollout's "
            "log-probs are of the tokens that are left, and the trainer's of all: write "
            "algorithm.rollout_correction.bypass_mode=false, by which the trainer computes its own"
        )


def check_what_is_imported(config: DictConfig) -> None:
    """See that the optimizer's module, the external library and the loggers are installed."""
    optim, model = config.actor_rollout_ref.actor.optim, config.actor_rollout_ref.model
    needed = {"actor.optim.optimizer_impl": optim.optimizer_impl, "model.external_lib": model.external_lib}
    for key, module in needed.items():
        if module is not None and not is_installed(module):
            raise CtwaError(f"actor_rollout_ref.{key}={module}: there is no such module here; install it, or leave it")
    rollout = config.actor_rollout_ref.rollout
    if (tracer := rollout.trace.backend) is not None and not is_installed(tracer):
        raise CtwaError(
            f"actor_rollout_ref.rollout.trace.backend={tracer}: {tracer} is not installed; install it, or write another"
        )
    loggers = [config.trainer.logger] if isinstance(config.trainer.logger, str) else config.trainer.logger
    for name in loggers:
        if name in ("tensorboard", "wandb", "mlflow", "swanlab", "clearml", "trackio") and not is_installed(name):
            raise CtwaError(f"trainer.logger: {name} is not installed; install it, or leave it out")


def check_optimizer(config: DictConfig) -> None:
    """See that torch has the optimizer, where it is torch's, and that its learning rate is said once."""
    optim = config.actor_rollout_ref.actor.optim
    if optim.lr_warmup_steps > 0 and optim.lr_warmup_steps_ratio:
        raise CtwaError(
            f"actor_rollout_ref.actor.optim.lr_warmup_steps_ratio={optim.lr_warmup_steps_ratio:g} would do nothing "
            f"beside lr_warmup_steps={optim.lr_warmup_steps}: write one of the two"
        )
    if optim.warmup_style == "constant" != optim.lr_scheduler_type:
        raise CtwaError(
            f"actor_rollout_ref.actor.optim.lr_scheduler_type={optim.lr_scheduler_type} would do nothing beside "
            "warmup_style=constant, its older name: write lr_scheduler_type alone"
        )
    if optim.optimizer_impl == "torch.optim":
        import torch

        known = [name for name in dir(torch.optim) if isinstance(getattr(torch.optim, name), type)]
        if optim.optimizer not in known:
            raise CtwaError(
                f"actor_rollout_ref.actor.optim.optimizer={optim.optimizer} is none of torch.optim's: write one of "
                f"them, e.g. AdamW{did_you_mean(optim.optimizer, known)}"
            )


def _read_thresholds(config: DictConfig) -> None:
    """Let verl read the bounds by which it rejects, which it does at the first step alone."""
    from verl.trainer.ppo.rollout_corr_helper import _parse_rollout_rs_thresholds

    correction = config.algorithm.get("rollout_correction") or {}
    if asked := correction.get("rollout_rs"):
        options = list(dict.fromkeys(each.strip() for each in asked.split(",")))
        _parse_rollout_rs_thresholds(options, correction.get("rollout_rs_threshold"))


def check_with_verl(config: DictConfig, *, has_reference: bool = False) -> None:
    """Let verl check its own part of the config, as its trainer and workers will (its import takes seconds).

    Args:
        config: the resolved config.
        has_reference: whether there is a reference policy, whose keys are checked then.
    """
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    actor_rollout_ref = config.actor_rollout_ref
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            validate_config(config, use_reference_policy=has_reference, use_critic=False)
        for node in (actor_rollout_ref.rollout, config.algorithm):
            omega_conf_to_dataclass(node)
        _read_thresholds(config)
    except (AssertionError, ValueError, TypeError, NotImplementedError, HydraException) as error:
        # Hydra puts the class around what verl says, over several lines.
        said = " ".join(str(error.__cause__ or error).split())
        raise CtwaError(f"verl does not accept the configuration: {said}") from error
    check_parser(config)
