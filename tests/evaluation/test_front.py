"""Fronts: points that are measured on the same prompts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from ctwa.evaluation.front import Fronts
from ctwa.evaluation.intervals import Ratio

EASY = np.array([1.0] * 30 + [0.0] * 30)  # all that prompts give, whichever model answers


def fronts_of(scored: dict[str, np.ndarray]) -> Fronts:
    """Of models that differ in the prompts in which they were scored, and in nothing else."""
    models: list[Any] = [SimpleNamespace(name=name) for name in scored]
    found = {
        name: {
            "objective/a/mean": Ratio(EASY * scored_P, scored_P),
            "objective/b/mean": Ratio(np.ones(60), np.ones(60)),
        }
        for name, scored_P in scored.items()
    }
    return Fronts.of(models, found)


def test_a_model_that_was_not_scored_where_prompts_are_hard_is_no_better() -> None:
    hard_left_out = (np.arange(60) < 45).astype(float)
    fronts = fronts_of({"base": np.ones(60), "whole": np.ones(60), "part": hard_left_out})

    assert [point.values["a"].value for point in fronts.points] == [30 / 45] * 3
    assert [point.is_best for point in fronts.points] == [True] * 3
    assert fronts.left_out == {"a": 15, "b": 0}
    assert "a: 15 prompts left out, in which some models were scored and others were not" in fronts.lines()
    assert fronts.as_json()["left_out"] == {"a": 15, "b": 0}


def test_a_model_without_any_score_takes_none_from_the_others() -> None:
    fronts = fronts_of({"base": np.ones(60), "whole": np.ones(60), "none": np.zeros(60)})

    assert [point.values["a"].value for point in fronts.points] == [0.5, 0.5, None]
    assert [point.is_best for point in fronts.points] == [True, True, False]
    assert fronts.left_out == {"a": 0, "b": 0}
