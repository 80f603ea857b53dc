"""From a command line to a finished run: compose, check, start Ray, train, sum up.

verl reads its platform and its plug-ins from the environment while it is imported, so nothing here imports it before
the environment is set, and nothing expensive starts before the checks have passed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.text import Text

from ctwa.engine.checks.config import check_config, num_steps
from ctwa.engine.checks.engine import check_with_verl
from ctwa.engine.checks.resources import check_machine
from ctwa.engine.compose import compose_config
from ctwa.engine.plan import plan_text
from ctwa.engine.ray_session import ray_session
from ctwa.engine.signals import end_request
from ctwa.report.summary import summary_text, write_summary
from ctwa.run.console import ConsoleReporter
from ctwa.run.folder import ObjectiveInfo, RunFolder, RunInfo
from ctwa.run.follow import following
from ctwa.run.log import quiet

if TYPE_CHECKING:
    from ctwa.engine.prefer_settings import PreferenceSettings
    from ctwa.engine.recorder import Stop
    from ctwa.engine.settings import Settings
    from ctwa.engine.train import MultiObjectiveTrainer


def plugins(named: str) -> str:
    """What ``VERL_USE_EXTERNAL_MODULES`` is to be: the modules that the user names there, and ours."""
    return ",".join(dict.fromkeys([*filter(None, named.split(",")), "ctwa.engine.verl.plugin"]))


# verl looks for plug-ins while it is imported.
os.environ["VERL_USE_EXTERNAL_MODULES"] = PLUGINS = plugins(os.environ.get("VERL_USE_EXTERNAL_MODULES", ""))


def set_environment(config: DictConfig) -> None:
    """Tell verl and ray, here and in every process of the run, what they read from the environment.

    Raises:
        CtwaError: verl was imported before under another platform.
    """
    environment = {
        "VERL_USE_EXTERNAL_MODULES": PLUGINS,
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "TENSORBOARD_DIR": str(Path(config.ctwa.run) / "tensorboard"),
        # Every process would warn of the engines that are not installed.
        "PYTHONWARNINGS": "ignore::UserWarning:verl.workers.engine",
    }
    if config.trainer.device == "cpu":
        environment |= {
            "VERL_PLATFORM": "cpu",
            # Two threads of one process beside another busy process spin on each other's barriers.
            "OMP_NUM_THREADS": "1",
            # Ray would start as many idle Python processes as it was told there are CPUs.
            "RAY_prestart_worker_first_driver": "0",
            "RAY_preload_python_modules": "ctwa.engine.process",
            "TQ_NUM_THREADS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # vLLM compiles parts of its sampler at its first step, with a C++ compiler, even where it is to be eager.
            "TORCH_COMPILE_DISABLE": str(int(config.actor_rollout_ref.rollout.enforce_eager)),
        }
    os.environ.update(environment)
    OmegaConf.update(config, "ray_kwargs.ray_init.runtime_env.env_vars", environment, force_add=True)


def train(
    overrides: Sequence[str], *, stop_on: Sequence[str] = (), dry_run: bool = False, console: Console | None = None
) -> Stop | None:
    """Run ``ctwa train``.

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
    config = compose_config(overrides, stop_on=stop_on)
    set_environment(config)
    settings = check_run(config)
    if dry_run:
        print_plan(config, plan_text(config, settings), console)
        return None
    run = make_folder(config, _run_info(config, settings))
    return told(run, settings, lambda: run_training(config, settings, run))


def print_plan(config: DictConfig, plan: str, console: Console | None = None) -> None:
    """Print what a dry run shows: the resolved config, and what it would do."""
    console = console or Console()
    console.print(OmegaConf.to_yaml(config), markup=False, highlight=False, soft_wrap=True)
    console.print(plan, markup=False, highlight=False, soft_wrap=True)


def check_run(config: DictConfig) -> Settings:
    """Check all that can be known before a run's folder is made, the cheapest first.

    Raises:
        CtwaError: a mistake in the config, or something that this machine has not.
    """
    settings = check_config(config)
    check_machine(config)
    check_with_verl(config)
    return settings


def prepare_run(config: DictConfig) -> tuple[Settings, RunFolder]:
    """Check the config and make the run's folder.

    Raises:
        CtwaError: a mistake in the config, or the folder holds another run.
    """
    settings = check_run(config)
    return settings, make_folder(config, _run_info(config, settings))


def make_folder(config: DictConfig, info: RunInfo) -> RunFolder:
    """Make the folder of a run, or continue the one that is there.

    Raises:
        CtwaError: the folder holds another run.
    """
    return RunFolder.create(
        config.ctwa.run,
        OmegaConf.to_container(config, resolve=True),
        info,
        resume=config.ctwa.resume,
        how_to_resume="ctwa.resume=true",
    )


def told(run: RunFolder, settings: Settings | PreferenceSettings, train: Callable[[], Stop | None]) -> Stop | None:
    """Train, and tell the user on the terminal how it goes and what came of it; the engine's own words go to its log.

    Args:
        run: the run's folder.
        settings: say how often to tell, and how long a signal waits for a step.
        train: the run; gives the alarm or signal that ended it, if one did.

    Raises:
        RunFailed: the run ended by an error, which the user has been told of.
    """
    with quiet(run.engine_log) as terminal:
        end_request.within = settings.stop_within
        # Not by way of the console: a signal may come while the console prints.
        end_request.say = partial(_write, terminal.file.fileno())
        reporter = ConsoleReporter(run.read_info(), terminal, folder=run.path, every=settings.print_every)
        with following(run, reporter):
            reporter.header()
            stopped_by = train()
        if run.metrics.stat().st_size:  # else a signal came before there was anything to sum up
            terminal.print(Text(summary_text(write_summary(run))), soft_wrap=True, highlight=False)
    return stopped_by


def _write(descriptor: int, text: str) -> None:
    with contextlib.suppress(OSError):  # a terminal that is gone is told nothing
        os.write(descriptor, f"{text}\n".encode())


def _run_info(config: DictConfig, settings: Settings) -> RunInfo:
    targets = settings.build_scalarizer().covariance_targets
    return RunInfo(
        method=settings.method.type,
        objectives={
            name: ObjectiveInfo(weight=objective.weight, target=targets.get(name))
            for name, objective in settings.objectives.items()
        },
        num_steps=num_steps(config),
        engine=f"{config.trainer.device}, {config.trainer.nnodes * config.trainer.n_gpus_per_node} ranks, "
        f"{config.actor_rollout_ref.rollout.name}",
        model=config.actor_rollout_ref.model.path,
        seed=settings.seed,
        alarms=settings.alarms,
        versions={package: version(package) for package in ("ctwa", "verl", "torch", "transformers", "ray")},
    )


def run_training(
    config: DictConfig,
    settings: Settings,
    run: RunFolder,
    make_trainer: Callable[..., MultiObjectiveTrainer] | None = None,
) -> Stop | None:
    """Start the engine, train, and end everything that was started.

    Args:
        config: the resolved config, checked.
        settings: our part of it.
        run: the run's folder.
        make_trainer: what to train with, in place of ``MultiObjectiveTrainer``.

    Returns:
        The alarm or signal that ended the run, if one did.
    """
    from ctwa.engine.recorder import Recorder

    began = time.monotonic()
    with Recorder(
        run,
        resume=settings.resume,
        num_samples=settings.num_samples,
        seed=settings.seed,
        stop_on=settings.stop_on,
    ) as recorder:
        # verl's import takes seconds, in which a signal is the recorder's already.
        from ctwa.engine.train import MultiObjectiveTrainer
        from ctwa.engine.verl.registry import build_generation, start_servers
        from ctwa.objectives.evaluator import RewardEvaluator

        scalarizer = settings.build_scalarizer()
        if recorder.resume_from is not None:
            config.trainer.val_before_train = False
        with (
            RewardEvaluator(
                settings.objectives,
                num_workers=settings.rewards.num_workers,
                max_unscored=settings.rewards.max_unscored,
            ) as evaluator,
            ray_session(config, transfer_queue=True) as wait_for_queue,
        ):
            servers = start_servers(config)
            trainer = (make_trainer or MultiObjectiveTrainer)(
                config, settings=settings, scalarizer=scalarizer, evaluator=evaluator, recorder=recorder
            )
            trainer.init()
            wait_for_queue()
            generation = build_generation(config, trainer, servers)
            recorder.event("start", f"the engine is up after {time.monotonic() - began:.0f} s")
            trainer.fit(generation)
            trainer.logger.finish()
    return recorder.stopped_by
