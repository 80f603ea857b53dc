"""Runs that take turns on one engine: its processes start once, and each run finds them as a start would leave them.

Most of a short run's time is the start of its processes. Here the policy is saved before its first step, and that
checkpoint is what the next run begins with: model, optimizer and random numbers are reset as on resuming a run, and all
that the driver holds of a run (method, data order, rows, trace) is made anew. A run has the bits that it has alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

from omegaconf import DictConfig, OmegaConf

from ctwa.engine.checks.bounds import leaves
from ctwa.engine.compose import compose_config
from ctwa.engine.job import set_environment
from ctwa.engine.train_job import TrainJob
from ctwa.errors import CtwaError

if TYPE_CHECKING:
    from ctwa.engine.recorder import Recorder
    from ctwa.engine.sampling import Sampler

_OF_A_RUN = (
    "ctwa.run",
    "ctwa.resume",
    "ctwa.method",
    "ctwa.alarms",
    "ctwa.conditioning",
    "ctwa.diagnostics",
    "ctwa.gradients",
    "ctwa.num_samples",
    "ctwa.print_every",
    "ctwa.stop_on",
    "ctwa.stop_within",
    "ctwa.watchdog",
    # By default named after the run's folder. The loops' own traces, where there are some, keep the first run's name.
    "trainer.experiment_name",
    "actor_rollout_ref.rollout.trace.experiment_name",
    # What verl writes into a config that it has been started with.
    "actor_rollout_ref.actor.optim.total_training_steps",
    "critic.optim.total_training_steps",
)
"""The driver alone reads them."""
_OF_AN_OBJECTIVE = ("weight", "target")
"""Likewise, of each objective."""


class Series:
    """An engine for jobs that ask the same of it, one after another. A context manager; the first job starts it."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._sampler: Sampler | None = None
        self._recorder: Recorder | None = None  # of the job that goes on
        self._asked: dict[str, Any] = {}
        self._origin = Path()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @contextmanager
    def sampler(self, job: TrainJob, recorder: Recorder) -> Iterator[Sampler]:
        """The engine as a start would leave it, and the reward functions, for a job.

        Raises:
            CtwaError: the job asks something else of the engine than the first one did.
        """
        from ctwa.engine.left_processes import left_metrics
        from ctwa.engine.ray_servers import processes

        self._recorder = recorder
        sampler = self._start(job, recorder) if self._sampler is None else self._begin_again(job, recorder)
        with recorder.watchdog.sees(processes, lambda: left_metrics(sampler.evaluator.processes)):
            yield sampler

    def _start(self, job: TrainJob, recorder: Recorder) -> Sampler:
        from ctwa.engine.sampling import sampling_engine

        self._asked = _asked_of_engine(job.config)
        engine = sampling_engine(
            job.config,
            job.settings,
            job.data,
            recorder,
            max_missing=job.settings.rollout.max_missing,
            say=self._say,
        )
        self._sampler = self._stack.enter_context(engine)
        self._origin = Path(self._stack.enter_context(TemporaryDirectory()))
        self._sampler.session.save_policy(self._origin, step=0)
        return self._sampler

    def _say(self, text: str) -> None:
        assert self._recorder is not None
        self._recorder.watchdog.say(text)

    def _begin_again(self, job: TrainJob, recorder: Recorder) -> Sampler:
        from ctwa.engine.by_source import has_several_sources
        from ctwa.engine.sampling import Sampler, handed_over, note_overlong

        assert self._sampler is not None
        _check_alike(self._asked, _asked_of_engine(job.config))
        settings, session = job.settings, self._sampler.session
        config = handed_over(job.config, settings, job.data, recorder)
        session.begin_again(config, settings.curriculum, self._origin, poll_interval=settings.poll_interval)
        note_overlong(session, job.data, recorder)
        return Sampler(
            session,
            settings,
            self._sampler.evaluator,
            max_missing=settings.rollout.max_missing,
            has_several_sources=has_several_sources(job.data),
        )

    @staticmethod
    def refuse_unlike(configs: Sequence[DictConfig]) -> None:
        """Refuse configs that ask not the same of an engine as the first of them.

        Raises:
            CtwaError: the key, and both values.
        """
        first = _asked_of_engine(configs[0])
        for config in configs[1:]:
            _check_alike(first, _asked_of_engine(config))


class SeriesJob(TrainJob):
    """A training on rewards on the engine of a series.

    Args:
        config: the resolved config, with the environment set that it wants.
        series: the engine.
    """

    @classmethod
    def of(cls, overrides: Sequence[str], series: Series) -> Self:
        """From the settings of `ctwa train`."""
        config = compose_config(overrides)
        set_environment(config)
        return cls(config, series)

    def __init__(self, config: DictConfig, series: Series) -> None:
        super().__init__(config)
        self.series = series

    def run(self, recorder: Recorder) -> None:
        """Train on the engine, which stays up."""
        with self.series.sampler(self, recorder) as sampler:
            self.trainer(sampler, recorder).fit()


def _check_alike(first: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    key = next((key for key in sorted({**first, **wanted}) if first.get(key) != wanted.get(key)), None)
    if key is not None:
        raise CtwaError(
            f"{key} is {wanted.get(key)!r} here and was {first.get(key)!r} in the run that started the engine: "
            "start another engine for this run"
        )


def _asked_of_engine(config: DictConfig) -> dict[str, Any]:
    """The settings that processes start with, by key."""
    container = OmegaConf.to_container(config, resolve=True)
    names = [f"ctwa.objectives.{name}.{key}" for name in config.ctwa.objectives for key in _OF_AN_OBJECTIVE]
    of_a_run = (*_OF_A_RUN, *names)
    # What else is called after the run's folder (checkpoints, TensorBoard's events) the driver sees to.
    run = str(config.ctwa.run)
    return {
        key: value.replace(run, "RUN") if isinstance(value, str) else value
        for key, value in leaves(container)
        if not any(key == each or key.startswith(f"{each}.") for each in of_a_run)
    }
