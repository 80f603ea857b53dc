"""Completions scored by reward functions in real worker processes, and what came of it."""

from collections.abc import Callable, Sequence

from ctwa.objectives.completion import Completion
from ctwa.objectives.config import ObjectiveConfig
from ctwa.objectives.evaluator import Evaluation, RewardEvaluator

Completions = Callable[..., list[Completion]]
RewardFile = Callable[..., str]

SHORT = 0.5  # s: the deadline of calls that hang


def score(
    objectives: dict[str, ObjectiveConfig],
    completions: Sequence[Completion],
    group_N: Sequence[int] | None = None,
    *,
    num_workers: int = 1,
    max_unscored: float = 1.0,
) -> Evaluation:
    with RewardEvaluator(objectives, num_workers=num_workers, max_unscored=max_unscored) as evaluator:
        return evaluator.evaluate(completions, [0] * len(completions) if group_N is None else group_N)


def reasons(evaluation: Evaluation) -> dict[int, str]:
    return {failure.row: failure.reason for failure in evaluation.failures}


def values(evaluation: Evaluation, name: str = "o") -> list[float]:
    return evaluation.matrix.column(name)[0].tolist()
