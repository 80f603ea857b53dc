"""From a command line to a finished run: compose, check, plan, make the folder, start, sum up.

verl reads its platform and its plug-ins from the environment while it is imported, so nothing here imports it before
the environment is set, and nothing expensive starts before the checks have passed.
"""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.text import Text

from ctwa.engine.checkpoint import find_resumption
from ctwa.engine.checks.keys import known_keys
from ctwa.engine.compose import compose_written
from ctwa.engine.keeper import tell
from ctwa.engine.plan import line
from ctwa.engine.ray_security import address_of
from ctwa.engine.recorder import Recorder, Stop
from ctwa.engine.restarts import how_to_go_on
from ctwa.engine.resumed import BOUND, changes, refuse_another, refuse_unlike, told
from ctwa.engine.secrets import written_config
from ctwa.engine.signals import end_request
from ctwa.engine.written import Written
from ctwa.report.summary import summary_text, write_summary
from ctwa.run.console import ConsoleReporter
from ctwa.run.folder import RunFolder, RunInfo
from ctwa.run.follow import following
from ctwa.run.log import quiet
from ctwa.run.text import clean_lines


def plugins(named: str) -> str:
    """What ``VERL_USE_EXTERNAL_MODULES`` is to be: the modules that the user names there, and ours."""
    return ",".join(dict.fromkeys([*filter(None, named.split(",")), "ctwa.engine.verl.plugin"]))


# verl looks for plug-ins while it is imported.
os.environ["VERL_USE_EXTERNAL_MODULES"] = PLUGINS = plugins(os.environ.get("VERL_USE_EXTERNAL_MODULES", ""))


KEPT_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
"""Lets glibc keep memory that is freed, for every thread of a process.

Else it gives every large tensor back to the kernel, which makes pages and writes zeros for the next one anew: a sixth
of the time of an update and of a completion. It keeps nothing large in the arenas that it has for further threads.
"""


def set_environment(config: DictConfig) -> None:
    """Tell verl and ray, here and in every process of the run, what they read from the environment."""
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
            "OMP_NUM_THREADS": str(config.ctwa.threads or 1),
            # Threads that wait leave the core to others: beside another busy process they would spin on its barriers.
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
            # Ray would start as many idle Python processes as it was told there are CPUs.
            "RAY_prestart_worker_first_driver": "0",
            "RAY_preload_python_modules": "ctwa.engine.process",
            "TQ_NUM_THREADS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # vLLM compiles parts of its sampler at its first step, with a C++ compiler, even where it is to be eager.
            "TORCH_COMPILE_DISABLE": str(int(config.actor_rollout_ref.rollout.enforce_eager)),
        }
    # The driver computes nothing large, and lends its environment to the processes of the reward functions.
    os.environ.update(environment | ({"OMP_NUM_THREADS": "1"} if config.trainer.device == "cpu" else {}))
    if config.trainer.device == "cpu":
        environment |= {name: os.environ.get(name, value) for name, value in KEPT_MEMORY.items()}
    OmegaConf.update(config, "ray_kwargs.ray_init.runtime_env.env_vars", environment, force_add=True)


class Job(ABC):
    """What is a command's own in the life of a run.

    Making one checks all that can be known before the run's folder is made, the cheapest first.

    Args:
        config: the resolved config, with the environment set that it wants.

    Attributes:
        command: ``train``, ``prefer`` or ``caid``.
        settings: our part of the config, validated.
        num_steps: of the run.
        num_samples: completions of a step that are kept for people.
        remarks: what is right, and yet not what one would expect: a sentence each.

    Raises:
        CtwaError: a mistake in the config, or something that this machine has not.
    """

    command: ClassVar[str]
    settings: Any
    num_steps: int
    num_samples: int
    remarks: Sequence[str] = ()

    def __init__(self, config: DictConfig) -> None:
        self.config = config
        self.check()
        #: what a resumed run has not as it was
        self.changed: list[str] = []
        if self.settings.resume:
            run = RunFolder(self.settings.run)
            written = written_config(self.config)
            refuse_another(run, self.info())
            refuse_unlike(run, written, self.bound)
            self.changed = changes(run, written, known_keys(self.command))

    @abstractmethod
    def check(self) -> None:
        """Set what :class:`Job` lists, or raise a CtwaError."""

    @property
    def bound(self) -> Sequence[str]:
        """The keys of the settings that a resumed run needs as they were."""
        return BOUND

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """Of a RunInfo: method, objectives, and what a validation measures."""

    @abstractmethod
    def plan_lines(self) -> list[str]:
        """What is wanted, on which engine (`engine_lines`), and what it costs."""

    @abstractmethod
    def run(self, recorder: Recorder) -> None:
        """Start the engine, train, and end everything that was started."""

    def engine(self) -> str:
        """What the run runs on, in words."""
        trainer, threads = self.config.trainer, self.config.ctwa.threads
        num = trainer.nnodes * trainer.n_gpus_per_node
        ranks = f"{num} rank{'s' * (num > 1)}"
        if threads is not None:
            ranks += f" with {threads} thread{'s' * (threads > 1)}"
        return f"{trainer.device}, {ranks}, {self._rollout()}"

    def _rollout(self) -> str:
        return str(self.config.actor_rollout_ref.rollout.name)

    def engine_lines(self) -> list[str]:
        """What the run runs on, as lines of a plan."""
        address = address_of(self.config.ray_kwargs.ray_init)
        joined = [line("", f"on the Ray at {address}, which the run joins")] if address != "local" else []
        return [line("engine", self.engine()), *joined, line("model", self.config.actor_rollout_ref.model.path)]

    def plan(self) -> str:
        """What the run would do, in words."""
        remarks = [line("note", remark) for remark in self.remarks]
        lines = [*self.plan_lines(), *remarks, line("run folder", self.settings.run), *self._resumed_lines()]
        return "\n".join(["plan:", *lines])

    def _resumed_lines(self) -> list[str]:
        if not self.settings.resume:
            return []
        found = find_resumption(RunFolder(self.settings.run).checkpoints)
        goes_on = f"from {found.folder.name}" if found.folder else "there is no checkpoint: from the start"
        others = found.left_behind("will be")
        return [line("goes on", goes_on + others), *(line("changed", change) for change in self.changed)]

    def info(self) -> RunInfo:
        """What runs, for the readers of the run's folder."""
        return RunInfo(
            **self.about(),
            num_steps=self.num_steps,
            engine=self.engine(),
            model=self.config.actor_rollout_ref.model.path,
            seed=self.settings.seed,
            alarms=self.settings.alarms,
            versions={package: version(package) for package in ("ctwa", "verl", "torch", "transformers", "ray")},
        )

    def make_folder(self) -> RunFolder:
        """Make the folder of the run, or continue the one that is there.

        Raises:
            CtwaError: the folder holds another run.
        """
        return RunFolder.create(
            self.config.ctwa.run,
            written_config(self.config),
            self.info(),
            resume=self.config.ctwa.resume,
            how_to_resume="ctwa.resume=true",
        )


def execute(
    kind: type[Job],
    arguments: Sequence[str],
    *,
    stop_on: Sequence[str] = (),
    dry_run: bool = False,
) -> Stop | None:
    """Run a command's job.

    Args:
        kind: the command's.
        arguments: Hydra overrides, and files of settings.
        stop_on: alarms that end the run, beside those of the key ``ctwa.stop_on``.
        dry_run: print the resolved config and the plan, and start nothing.

    Returns:
        The alarm or signal that ended the run, if one did.

    Raises:
        CtwaError: a mistake that was found before anything started.
        RunFailed: the run ended by an error, which the user has been told of.
    """
    written = Written.read(arguments, kind.command)
    config = compose_written(written, stop_on=stop_on, command=kind.command)
    set_environment(config)
    with written.naming():
        job = kind(config)
    if dry_run:
        print_plan(written, job)
        return None
    run = job.make_folder()
    tell(folder=str(run.path))
    return start(job, run)


def print_plan(written: Written, job: Job) -> None:
    """Print a job's resolved config, what of it was written where, and its plan."""
    # Else the `:train:` of `folder:train: prompt from ...` becomes a picture of a train.
    say = partial(Console().print, markup=False, emoji=False, highlight=False, soft_wrap=True)
    say(OmegaConf.to_yaml(job.config))
    say(clean_lines("\n".join([*written.lines(), job.plan()])))


def start(job: Job, run: RunFolder) -> Stop | None:
    """Train, and tell the user on the terminal how it goes and what came of it; the engine's own words go to its log.

    Returns:
        The alarm or signal that ended the run, if one did.

    Raises:
        RunFailed: the run ended by an error, which the user has been told of.
    """
    with quiet(run.engine_log, how_to_go_on=partial(how_to_go_on, run)) as terminal:
        return report(job, run, terminal)


def report(job: Job, run: RunFolder, terminal: Console) -> Stop | None:
    """Train, and tell on a terminal how it goes and what came of it; returns what ended the run early."""
    end_request.within = job.settings.stop_within
    # Not by way of the console: a signal may come while the console prints.
    end_request.say = partial(_write, terminal.file.fileno())
    reporter = ConsoleReporter(run.read_info(), terminal, folder=run.path, every=job.settings.print_every)
    with following(run, reporter):
        reporter.header()
        stopped_by = train(job, run)
    if run.metrics.stat().st_size:  # else a signal came before there was anything to sum up
        terminal.print(Text(summary_text(write_summary(run))), soft_wrap=True, highlight=False)
    return stopped_by


def train(job: Job, run: RunFolder) -> Stop | None:
    """Train, and leave all of it in the run's folder; returns the alarm or signal that ended the run, if one did."""
    settings = job.settings
    with Recorder(
        run,
        resume=settings.resume,
        num_samples=job.num_samples,
        seed=settings.seed,
        stop_on=settings.stop_on,
        watchdog=settings.watchdog,
    ) as recorder:
        for remark in job.remarks:
            recorder.event("note", remark)
        if job.changed:
            recorder.event("resume", told(job.changed))
        with recorder.watchdog.watching():
            job.run(recorder)
    return recorder.stopped_by


def _write(descriptor: int, text: str) -> None:
    with contextlib.suppress(OSError):  # a terminal that is gone is told nothing
        os.write(descriptor, f"{text}\n".encode())
