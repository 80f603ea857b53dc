"""Objectives that are read off log-probabilities: what a plan says of them, and what they cannot do."""

from __future__ import annotations

from typing import Any

import pytest

from ctwa.engine.checks.config import check_config
from ctwa.engine.train_job import TrainJob
from ctwa.errors import CtwaError
from tests.engine.names import Changed

OF_KL = {"reward_fn": "ctwa.objectives.log_probs:kl", "weight": 0.5, "target": 0.0}


class TestObjectivesOfLogProbs:
    def test_a_plan_has_the_reference_that_a_kl_is_from(self, changed: Changed) -> None:
        plan = TrainJob(changed({"ctwa.objectives.near": OF_KL})).plan()

        assert "clarity (0.334), near (0.5)\n" in plan
        assert "near: read off the log-probabilities of training steps (kl)\n" in plan
        assert "reference log-probs (1 forward)" in plan
        assert "GB to train them, 2 more copies of " in plan

    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            ({"ctwa.objectives.near": OF_KL | {"split": "val"}}, r"near\.split=val: the kl .* in training alone"),
            ({"ctwa.objectives.near": OF_KL | {"every": 2}}, r"near\.every does nothing"),
            (
                {"ctwa.objectives.near": OF_KL | {"reward_fn": "/a/ctwa/objectives/log_probs.py:kl"}},
                r"never has a value: write ctwa\.objectives\.log_probs:kl$",
            ),
            (
                {"ctwa.objectives.near": OF_KL, "ctwa.objectives.clarity.gate": {"by": "near", "at_least": 0}},
                r"clarity\.gate\.by=near: gates are set before",
            ),
            (
                {"ctwa.objectives.near": OF_KL, "ctwa.curriculum.difficulty": {"by": "near"}},
                r"\('near'\) solves no prompt",
            ),
        ],
    )
    def test_what_it_cannot_do_is_refused(self, changed: Changed, values: dict[str, Any], sentence: str) -> None:
        with pytest.raises(CtwaError, match=sentence):
            check_config(changed(values))
