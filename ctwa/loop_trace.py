"""The run folder of a loop of one's own: what `ctwa report`, `summary`, `compare` and `watch` read of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ctwa import metrics as key_of
from ctwa.arguments import check_count, check_kind
from ctwa.batch import RewardMatrix, Update
from ctwa.covariance import diagnostics
from ctwa.errors import CtwaError, shown
from ctwa.run.folder import ObjectiveInfo, RunFolder, RunInfo
from ctwa.run.recorder import RunRecorder
from ctwa.scalarizers import Scalarizer


class LoopTrace:
    """Writes the trace of a loop: each step's rewards, covariances and weights, its samples, and the alarms it raises.

    A context manager. Every record is on disk when ``step`` returns. Where the block ends by an error or by Ctrl-C,
    events.jsonl says which, and the report with it.

    Args:
        folder: the run folder, which is made; what else the loop keeps there is its own.
        method: what chooses the weights.
        num_steps: how many steps the run is to have.
        config: the loop's settings, for who reads the folder: plain dicts, lists, strings and numbers.
        model: the model's name.
        seed: the run's.
        resume_after: None for a new run. To continue one, the step of the checkpoint: later records are dropped, as
            their steps will be made again.
        num_samples: completions that a call of ``samples`` keeps.

    Raises:
        CtwaError: the folder holds a run and ``resume_after`` is None, or it cannot be written; or an argument is not
            what it has to be.
    """

    def __init__(
        self,
        folder: Path | str,
        method: Scalarizer,
        *,
        num_steps: int,
        config: Mapping[str, Any] | None = None,
        model: str = "",
        seed: int | None = None,
        resume_after: int | None = None,
        num_samples: int = 4,
    ) -> None:
        check_kind("method", method, Scalarizer, "what build_scalarizer made")
        num_steps, num_samples = check_count("num_steps", num_steps, 1), check_count("num_samples", num_samples, 0)
        seed = None if seed is None else check_count("seed", seed, 0)
        resume_after = None if resume_after is None else check_count("resume_after", resume_after, -1)
        check_kind("model", model, str, "its name as a text")
        check_kind("config", config, (Mapping, type(None)), "the loop's settings by name, {'learning_rate': 1e-6, ...}")
        self.method = method
        self._closed = False
        targets = method.covariance_targets
        info = RunInfo(
            method=(method.aggregator or method).method,
            objectives={
                name: ObjectiveInfo(weight=weight, target=targets.get(name))
                for name, weight in method.initial_weights.items()
            },
            num_steps=num_steps,
            engine="a loop of its own",
            model=model,
            seed=seed,
            in_python=True,
            versions={package: version(package) for package in ("ctwa", "torch")},
        )
        resume = resume_after is not None
        self.run = RunFolder.create(
            folder, config or {}, info, resume=resume, how_to_resume="resume_after=STEP", folders=()
        )
        self._recorder = RunRecorder(self.run, resume_after=resume_after, num_samples=num_samples, seed=seed or 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Note by what the block ended too early, and close the files."""
        if error is not None:
            self._recorder.failed(error, "go on from your checkpoint with resume_after=STEP")
        self._closed = True
        self._recorder.close()

    def step(self, step: int, update: Update | None, metrics: Mapping[str, Any]) -> list[str]:
        """Write the record of a step.

        Args:
            step: its number; 0 is before the first update.
            update: what it did to the policy; None at step 0. Of it come ``objective/<name>/...``, the covariances and
                the clipping.
            metrics: what the method observed, and whatever else is known: ``val/<name>`` for held-out rewards,
                ``time/step`` for seconds, names of the loop's own for the rest (docs/trace.md). They have the last
                word.

        Returns:
            The alarms that it raises, each a sentence with what to try; they are in events.jsonl as well.

        Raises:
            CtwaError: the step is no whole number or not after the last one, a metric is no number, the update is of
                other objectives, or the block has ended.
        """
        self._refuse_if_closed()
        check_kind("update", update, (Update, type(None)), "an Update, or None before the first one")
        check_kind("metrics", metrics, Mapping, "numbers by name, such as what observe_update returned")
        known: dict[str, Any] = key_of.of_weights(self.method.weights)
        if update is not None:
            if missing := [name for name in self.method.names if name not in update.rollout.rewards.names]:
                raise CtwaError(
                    f"the update has no rewards of {missing}, which the method weighs: give those of all its objectives"
                )
            known |= update.rollout.rewards.metrics() | diagnostics(update)
        return self._recorder.write(step, known | dict(metrics))

    def samples(self, step: int, prompts: Sequence[str], responses: Sequence[str], rewards: RewardMatrix) -> None:
        """Keep a few of a step's N completions, with their rewards.

        Raises:
            CtwaError: there is not one prompt, one response and one row of rewards a completion, or the block has
                ended.
        """
        self._refuse_if_closed()
        step = check_count("step", step, 0)
        check_kind("rewards", rewards, RewardMatrix, "a RewardMatrix")
        for name, texts in {"prompts": prompts, "responses": responses}.items():
            if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
                raise CtwaError(f"{name} are {shown(texts)}; pass a list of texts, one a completion")
            if len(texts) != len(rewards.rewards_NM):
                raise CtwaError(
                    f"there are {len(texts)} {name} and the rewards of {len(rewards.rewards_NM)} completions; give one "
                    "a completion"
                )
        self._recorder.keep(step, prompts, responses, rewards.to_columns(), split="train")

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise CtwaError("the trace is closed: write steps and samples inside the block of `with LoopTrace(...)`")
