"""``ctwa train`` where every registered method takes its turn, a step each, in alphabetical order.

After two turns come steps that are not finite, for methods of each level. Saved after one step more than two turns, as
the last one of a run is, the run kills itself: the checkpoint stays without a seal.
"""

from __future__ import annotations

import copy
import math
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import OmegaConf
from torch import Tensor
from turns import BROKEN, LAST

from ctwa.aggregators.base import Aggregator
from ctwa.batch import Rollout, Update
from ctwa.cli import run
from ctwa.covariance.probe import Progress
from ctwa.engine.job import execute
from ctwa.engine.loop import Policy
from ctwa.engine.recorder import Recorder
from ctwa.engine.sampling import Sampler
from ctwa.engine.settings import read_settings
from ctwa.engine.train import MultiObjectiveTrainer, Step
from ctwa.engine.train_job import TrainJob
from ctwa.scalarizers import METHODS, Estimate, Requirements, Scalarizer

NEEDED: Mapping[str, Mapping[str, Any]] = {
    "cgpo": {"constraints": {"accuracy": 0}},
    "compromise": {"largest": {"accuracy": 99, "conciseness": 99, "clarity": 99}},
    "guard": {"bounds": {"accuracy": [-99, 99], "conciseness": [-99, 99], "clarity": [-99, 99]}},
    "lagrangian": {"objective": "accuracy", "targets": {"conciseness": 0.9, "clarity": 0.9}},
    "product": {"offset": 100},  # for rewards that are standardised have no zero
    "saw": {"lowest": {"accuracy": -100, "conciseness": -100, "clarity": -100}},
    "schedule": {
        "points": [
            {"step": 0, "weights": {"accuracy": 1, "conciseness": 1, "clarity": 1}},
            {"step": 4, "weights": {"accuracy": 2, "conciseness": 1, "clarity": 1}},
        ]
    },
    "torchjd": {"weighting": "MGDA"},
}
"""What has no default, or one that does not go with the run."""


class Rotation(Scalarizer):
    """All methods; the one whose turn it is answers.

    Args:
        methods: by type, in the order of their turns.
    """

    method: ClassVar[str] = "rotation"

    def __init__(self, methods: Mapping[str, Scalarizer]) -> None:
        super().__init__(None, next(iter(methods.values())).initial_weights)
        self._methods = dict(methods)
        self.turn(1)

    def turn(self, step: int) -> None:
        """Choose the method of a step."""
        self.broken = ""
        self._current = list(self._methods.values())[(step - 1) % len(self._methods)]
        if step > LAST:
            name, self.broken = BROKEN[step - LAST - 1]
            self._current = self._methods[name]

    @property
    def aggregator(self) -> Aggregator | None:  # type: ignore[override]
        return self._current.aggregator

    @aggregator.setter
    def aggregator(self, aggregator: Aggregator) -> None:
        self._current.aggregator = aggregator

    @property
    def requirements(self) -> Requirements:  # type: ignore[override]
        # One probe for the whole run, for the methods that steer by it.
        return Requirements(log_probs=self._current.requirements.log_probs, probe="backward")

    @property
    def weights(self) -> dict[str, float]:
        return self._current.weights

    def advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        return self._made(self._current.advantages(rollout, estimate))

    def objective_advantages(self, rollout: Rollout, estimate: Estimate) -> Tensor:
        return self._made(self._current.objective_advantages(rollout, estimate))

    def _made(self, advantages: Tensor) -> Tensor:
        if self.broken == "advantages":
            advantages[..., 0] = math.nan
        return advantages

    def losses(self, rollout: Rollout) -> Tensor | None:
        return self._current.losses(rollout)

    def observe_update(self, update: Update) -> dict[str, float]:
        return self._current.observe_update(update)

    def observe_probe(self, progress: Progress) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for method in self._methods.values():
            metrics |= method.observe_probe(progress)
        return metrics

    def observe_validation(self, step: int, scores: Mapping[str, float]) -> None:
        for method in self._methods.values():
            method.observe_validation(step, scores)

    def state_dict(self) -> dict[str, Any]:
        return {name: method.state_dict() for name, method in self._methods.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, method in self._methods.items():
            method.load_state_dict(state[name])


class DeadlyPolicy:
    """A policy after whose saving the run kills itself, where the step is one behind the two turns."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.load = policy.load

    def save(self, folder: Path, *, step: int) -> None:
        self._policy.save(folder, step=step)
        if step == LAST + 1:
            os.kill(os.getpid(), signal.SIGKILL)


class RotatingTrainer(MultiObjectiveTrainer):
    """A trainer that changes its method with every step."""

    scalarizer: Rotation

    def step(self, number: int) -> dict[str, Any]:
        self.scalarizer.turn(number)
        return super().step(number)

    def fill_in(self, step: Step) -> None:
        if self.scalarizer.broken == "log-probs":
            log_probs = step.rows.old_log_probs
            log_probs.values()[log_probs.offsets()[:-1]] = math.nan
            step.rows.write({"old_log_probs": log_probs})
        super().fill_in(step)


class RotatingJob(TrainJob):
    """Trains with it."""

    def trainer(self, sampler: Sampler, recorder: Recorder) -> RotatingTrainer:
        config, methods = copy.deepcopy(self.config), {}
        for name in sorted(METHODS):
            OmegaConf.update(config, "ctwa.method", {"type": name, **NEEDED.get(name, {})}, merge=False)
            methods[name] = read_settings(config).build_scalarizer()
        trainer = RotatingTrainer(self.config, self.settings, Rotation(methods), sampler, recorder)
        trainer.policy = DeadlyPolicy(trainer.policy)
        return trainer


if __name__ == "__main__":
    run(lambda: execute(RotatingJob, sys.argv[1:]))
