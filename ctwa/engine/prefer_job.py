"""From the command line of `ctwa prefer` to a finished run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, open_dict
from rich.console import Console

from ctwa.engine.checks.batches import check_token_budgets, num_data_ranks
from ctwa.engine.checks.folders import check_folders
from ctwa.engine.checks.gradients import check_backward_passes
from ctwa.engine.checks.look import look_at_trained_model, model_source
from ctwa.engine.checks.resources import check_machine
from ctwa.engine.compose import compose_config
from ctwa.engine.job import make_folder, print_plan, set_environment, told
from ctwa.engine.plan import passes_text
from ctwa.engine.ray_session import ray_session
from ctwa.errors import CtwaError
from ctwa.models.look import Source, look_at_model, look_at_tokenizer
from ctwa.preference.catalogue import alignment_name
from ctwa.run.folder import ObjectiveInfo, RunFolder, RunInfo

if TYPE_CHECKING:
    from ctwa.engine.pairs.data import PreferenceData
    from ctwa.engine.prefer_settings import PreferenceSettings
    from ctwa.engine.recorder import Recorder, Stop

RESULT = "share of held-out pairs that the policy ranks as the objective prefers"


def prefer(
    overrides: Sequence[str], *, stop_on: Sequence[str] = (), dry_run: bool = False, console: Console | None = None
) -> Stop | None:
    """Run ``ctwa prefer``.

    Args:
        overrides: Hydra overrides.
        stop_on: alarms that end the run, beside those of the key ``ctwa.stop_on``.
        dry_run: print the resolved config and the plan, and start nothing.
        console: where to print.

    Returns:
        The alarm or signal that ended the run, if one did.

    Raises:
        CtwaError: a mistake that was found before anything started.
        RunFailed: the run ended by an error, which the user has been told of.
    """
    config = compose_config(overrides, stop_on=stop_on, command="prefer")
    set_environment(config)
    settings = check_preference_config(config)
    check_machine(config)
    data, tokenizer, num_steps = prepare_data(config, settings)
    if dry_run:
        print_plan(config, plan_text(config, settings, data, num_steps), console)
        return None
    run = make_folder(config, run_info(config, settings, num_steps))
    return told(run, settings, lambda: run_preference(config, settings, run, data, tokenizer, num_steps))


def check_preference_config(config: DictConfig) -> PreferenceSettings:
    """Check all that can be known from the config and the models' folders.

    Raises:
        CtwaError: what is wrong, where, and what to write instead.
    """
    check_folders(config)
    from ctwa.engine.prefer_settings import read_preference_settings  # torch's import takes seconds

    settings = read_preference_settings(config)
    aggregator = settings.build_aggregator()
    if not aggregator.has_fixed_weights or settings.diagnostics.gradients_every:
        check_backward_passes(config, settings.gradients)
    # The two responses of a pair are in one micro-batch.
    check_token_budgets(config, 2 * settings.max_length, "2 x ctwa.max_length")
    look_at_trained_model(config)
    for name, policy in (settings.modpo.policies if settings.modpo else {}).items():
        look_at_model(Source(policy, f"ctwa.modpo.policies.{name}"))
    return settings


def prepare_data(config: DictConfig, settings: PreferenceSettings) -> tuple[PreferenceData, object, int]:
    """Read the pairs, and see that batches, micro-batches and ranks fit them.

    Returns:
        The pairs, the tokenizer, and the number of steps.

    Raises:
        CtwaError: what does not fit, and what to write.
    """
    from transformers import AutoTokenizer

    from ctwa.engine.pairs.data import read_data
    from ctwa.preference.sampling import PairSampler

    source = model_source(config)
    tokenizer = look_at_tokenizer(source, look_at_model(source)) or AutoTokenizer.from_pretrained(source.name)
    data = read_data(settings, tokenizer)
    sampler = PairSampler(
        [len(part.pairs) for part in data.train], batch_size=config.data.train_batch_size, seed=settings.seed
    )
    num_ranks = num_data_ranks(config)
    if sampler.pairs_per_set % num_ranks:
        raise CtwaError(
            f"{sampler.pairs_per_set} pairs of a data set in a step do not divide over {num_ranks} ranks: write "
            f"data.train_batch_size={num_ranks * len(data.train)} or a multiple of it"
        )
    actor = config.actor_rollout_ref.actor
    per_rank, micro = config.data.train_batch_size // num_ranks, actor.ppo_micro_batch_size_per_gpu
    if not actor.use_dynamic_bsz and (micro is None or per_rank % min(micro, per_rank)):
        raise CtwaError(
            f"a rank's {per_rank} pairs of a step are not a multiple of "
            f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={micro}: write a divisor of {per_rank}"
        )
    with open_dict(config):
        if not actor.use_dynamic_bsz:
            actor.ppo_micro_batch_size_per_gpu = min(micro, per_rank)
            config.actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu = min(micro, per_rank)
    steps = config.trainer.total_training_steps
    if steps is None:
        steps = sampler.steps_per_epoch * config.trainer.total_epochs
    return data, tokenizer, steps


def run_preference(
    config: DictConfig,
    settings: PreferenceSettings,
    run: RunFolder,
    data: PreferenceData,
    tokenizer: object,
    num_steps: int,
) -> Stop | None:
    """Start the engine, train, and end everything that was started; the alarm or signal that ended it, if one did."""
    from ctwa.engine.recorder import Recorder

    began = time.monotonic()
    with open_dict(config):
        config.actor_rollout_ref.actor.optim.total_training_steps = num_steps
    with (
        Recorder(run, resume=settings.resume, num_samples=0, seed=settings.seed, stop_on=settings.stop_on) as recorder,
        ray_session(config, transfer_queue=False),
    ):
        from ctwa.engine.pairs.workers import start_workers  # verl's import takes seconds

        group = start_workers(config)
        recorder.event("start", f"the engine is up after {time.monotonic() - began:.0f} s")
        for source, reasons in data.skipped.items():
            told = ", ".join(f"{number} {reason}" for reason, number in reasons.items())
            recorder.event("skipped", f"rows left out of {source}: {told}")
        train(group, config, settings, recorder, data, tokenizer, num_steps)
    return recorder.stopped_by


def train(
    group: Any,
    config: DictConfig,
    settings: PreferenceSettings,
    recorder: Recorder,
    data: PreferenceData,
    tokenizer: object,
    num_steps: int,
) -> None:
    """Train on workers that are up, and hold the model that is the reference."""
    from ctwa.engine.pairs.objective import PairLoss
    from ctwa.engine.pairs.workers import PreferenceWorkers
    from ctwa.engine.prefer import PreferenceTrainer

    actor = config.actor_rollout_ref.actor
    workers = PreferenceWorkers(
        group,
        PairLoss(settings.training_loss, settings.trained, skip_absent=not actor.use_dynamic_bsz),
        pad_token_id=_pad_token_id(tokenizer),
        micro_batch=1 if actor.use_dynamic_bsz else actor.ppo_micro_batch_size_per_gpu,
    )
    if settings.needs_reference:
        # The policy is the reference still: a checkpoint is loaded afterwards.
        data.add_reference(settings, config.actor_rollout_ref.model.path, tokenizer, workers.log_probs)
    if settings.modpo is not None:
        data.add_margins(settings, tokenizer)
    PreferenceTrainer(
        config, settings=settings, data=data, workers=workers, recorder=recorder, num_steps=num_steps
    ).fit()


def plan_text(config: DictConfig, settings: PreferenceSettings, data: PreferenceData, num_steps: int) -> str:
    """What a run would do: pairs, steps, passes a step."""
    aggregator = settings.build_aggregator()
    num = len(settings.objectives)
    num_backward = 1 if aggregator.has_fixed_weights else num
    passes = passes_text(config, num_backward if settings.gradients.passes == "sequential" else 1, num_backward)
    lines = ["plan:", f"  method       {alignment_name(settings.method.type)}, loss {settings.loss.type}"]
    lines.append(f"  objectives   {', '.join(f'{name} ({weight:g})' for name, weight in settings.weights.items())}")
    for train, validation in zip(data.train, data.validation, strict=True):
        lines.append(
            f"  pairs        {len(train.pairs)} of {train.tokens.source} ({', '.join(train.tokens.objectives)}), "
            f"{len(validation.pairs)} to validate"
        )
    stopping = settings.early_stopping
    fewer = "" if stopping is None else f", fewer if {stopping.patience} validations in a row are no better"
    lines += [
        f"  engine       {_engine(config)}",
        f"  model        {config.actor_rollout_ref.model.path}",
        f"  steps        {num_steps}{fewer}",
        f"  a step       {config.data.train_batch_size} pairs, {passes}",
        f"  validation   every {config.trainer.test_freq} steps; checkpoint every {config.trainer.save_freq} steps",
        f"  run folder   {settings.run}",
    ]
    return "\n".join(lines)


def _engine(config: DictConfig) -> str:
    ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    return f"{config.trainer.device}, {ranks} ranks, {config.actor_rollout_ref.actor.strategy}"


def run_info(config: DictConfig, settings: PreferenceSettings, num_steps: int) -> RunInfo:
    """What runs, for the readers of the run's folder."""
    return RunInfo(
        method=f"{alignment_name(settings.method.type)}, {settings.loss.type}",
        objectives={name: ObjectiveInfo(weight=weight) for name, weight in settings.weights.items()},
        num_steps=num_steps,
        engine=_engine(config),
        model=config.actor_rollout_ref.model.path,
        seed=settings.seed,
        result=RESULT,
        alarms=settings.alarms,
        versions={package: version(package) for package in ("ctwa", "verl", "torch", "transformers", "ray")},
    )


def _pad_token_id(tokenizer: object) -> int:
    pad = getattr(tokenizer, "pad_token_id", None)
    return int(pad if pad is not None else tokenizer.eos_token_id)  # type: ignore[attr-defined]
