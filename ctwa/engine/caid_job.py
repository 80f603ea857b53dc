"""From the command line of `ctwa caid` to a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, open_dict
from rich.console import Console

from ctwa.engine.checks.config import check_disk
from ctwa.engine.checks.engine import check_with_verl
from ctwa.engine.checks.look import prompt_lines
from ctwa.engine.checks.resources import check_machine
from ctwa.engine.compose import compose_config
from ctwa.engine.job import make_folder, print_plan, run_training, set_environment, told
from ctwa.run.folder import ObjectiveInfo, RunInfo

if TYPE_CHECKING:
    from ctwa.engine.caid import CaidTrainer
    from ctwa.engine.caid_settings import CaidSettings
    from ctwa.engine.recorder import Stop

RESULT = "mean score of the policy's samples"


def caid(
    overrides: Sequence[str], *, stop_on: Sequence[str] = (), dry_run: bool = False, console: Console | None = None
) -> Stop | None:
    """Run ``ctwa caid``.

    Args:
        overrides: Hydra overrides.
        stop_on: alarms that end the run after the policy that raises them, beside those of the key ``ctwa.stop_on``.
        dry_run: print the resolved config and the plan, and start nothing.
        console: where to print.

    Returns:
        The alarm or signal that ended the run, if one did.

    Raises:
        CtwaError: a mistake that was found before anything started.
        RunFailed: the run ended by an error, which the user has been told of.
    """
    config = compose_config(overrides, stop_on=stop_on, command="caid")
    set_environment(config)
    check_disk(config)
    from ctwa.engine.caid_settings import read_caid_settings  # torch's import takes seconds

    settings = read_caid_settings(config)
    check_machine(config)
    check_with_verl(config)
    num_steps = settings.caid.iterations * settings.steps_per_iteration
    with open_dict(config):
        config.trainer.total_training_steps = num_steps
    if dry_run:
        print_plan(config, plan_text(config, settings), console)
        return None
    run = make_folder(config, _run_info(config, settings, num_steps))
    return told(run, settings, lambda: run_training(config, settings, run, make_trainer=_make_trainer))


def _make_trainer(*arguments: Any, **options: Any) -> CaidTrainer:
    from ctwa.engine.caid import CaidTrainer  # verl's import takes seconds

    return CaidTrainer(*arguments, **options)


def plan_text(config: DictConfig, settings: CaidSettings) -> str:
    """What a run would do: samples, policies, steps."""
    rollout = config.actor_rollout_ref.rollout
    prompts, samples = config.data.val_max_samples, rollout.val_kwargs.n
    kind = "PeCAID" if settings.policies else "MoCAID"
    reward = " + ".join(f"{weight:g} {name}" for name, weight in settings.reward_weights.items())
    lines = [
        "plan:",
        f"  method       {kind}, labels {settings.labels}",
        f"  reward       {reward}",
        *(
            f"  constraint   {name} at least {value:g} above the reference"
            for name, value in settings.caid.thresholds.items()
        ),
        f"  engine       {_engine(config)}",
        f"  model        {config.actor_rollout_ref.model.path}",
        *prompt_lines(config),
        f"  samples      {prompts} prompts x {samples}, of the reference and of each policy",
        f"  policies     at most {settings.caid.iterations}, {settings.steps_per_iteration} steps of "
        f"{config.data.train_batch_size} pairs each",
        f"  run folder   {settings.run}",
    ]
    return "\n".join(lines)


def _engine(config: DictConfig) -> str:
    ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    return f"{config.trainer.device}, {ranks} ranks, {config.actor_rollout_ref.rollout.name}"


def _run_info(config: DictConfig, settings: CaidSettings, num_steps: int) -> RunInfo:
    weights = settings.reward_weights
    return RunInfo(
        method="caid",
        objectives={name: ObjectiveInfo(weight=weights.get(name, 0.0)) for name in settings.names},
        num_steps=num_steps,
        engine=_engine(config),
        model=config.actor_rollout_ref.model.path,
        seed=settings.seed,
        result=RESULT,
        alarms=settings.alarms,
        versions={package: version(package) for package in ("ctwa", "verl", "torch", "transformers", "ray")},
    )
