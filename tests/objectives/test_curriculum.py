"""Which rows a curriculum draws, and that it draws them again after a restart."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from ctwa.batch import RewardMatrix
from ctwa.errors import CtwaError
from ctwa.objectives.curriculum import Curriculum, CurriculumSettings
from ctwa.strict import validated

SOURCES = ["math"] * 6 + ["code"] * 30 + ["unused"] * 4


def settings(**values: Any) -> CurriculumSettings:
    made: CurriculumSettings = validated(CurriculumSettings, values, under="ctwa.curriculum")
    return made


def curriculum(of_rows: list[str] = SOURCES, *, seed: int = 0, **values: Any) -> Curriculum:
    return Curriculum(settings(**values), of_rows, seed=seed)


def step(drawn_by: Curriculum, num_prompts: int, accuracy: dict[int, list[float]] | None = None) -> list[int]:
    """Draw the prompts of a step; two completions of each, whose accuracy is that of its row."""
    drawn_by.begin_step()
    rows = drawn_by.draw(num_prompts)
    values = [value for row in rows for value in (accuracy or {}).get(row, [0.0, 1.0])]
    places = [place for place in range(num_prompts) for _ in range(2)]
    drawn_by.observe(places, RewardMatrix.from_columns({"accuracy": values}))
    return rows


def test_each_source_gives_its_share_and_each_row_once_before_any_again() -> None:
    drawn_by = curriculum(sources={"math": 2, "code": 1, "unused": 0})
    drawn: list[int] = []
    for number in (1, 5, 12):
        drawn += step(drawn_by, number)
    shares = drawn_by.metrics()
    assert {key: round(12 * share) for key, share in shares.items()} == {
        "curriculum/source_share/code": 4,
        "curriculum/source_share/math": 8,
    }
    assert Counter(SOURCES[row] for row in drawn) == {"math": 12, "code": 6}
    math_rows = [row for row in drawn if SOURCES[row] == "math"]
    assert sorted(math_rows[:6]) == sorted(math_rows[6:]) == list(range(6))
    assert math_rows[:6] != math_rows[6:]
    changed = curriculum(sources={"math": 1, "code": 3, "unused": 0})
    changed.load_state_dict(drawn_by.state_dict())  # other shares count from now on
    assert Counter(SOURCES[row] for row in step(changed, 8)) == {"math": 2, "code": 6}
    in_order = Curriculum(settings(sources={"math": 1}), ["math"] * 4, seed=0, shuffle=False)
    assert in_order.draw(6) == [0, 1, 2, 3, 0, 1]


def test_a_prompt_is_drawn_by_how_near_its_solve_rate_is_to_the_target() -> None:
    """Rows 0 to 3 are never, a quarter, half and always solved, and 4 is never sampled: weights 0.2, 0.6, 1, 0.2, 1."""
    drawn_by = curriculum(["math"] * 5, difficulty={"by": "accuracy", "least": 0.2, "decay": 0})
    drawn_by.begin_step()
    rows = [row for _ in range(5) for row in drawn_by.draw(1)]
    assert sorted(rows) == [0, 1, 2, 3, 4]  # a step has all before any twice
    rates = {0: [0.0, 0.0, 0.0, 0.0], 1: [1.0, 0.0, 0.0, 0.0], 2: [0.0, 1.0, 1.0, 0.0], 3: [1.0] * 4}
    places = [place for place, row in enumerate(rows) if row in rates for _ in range(4)]
    values = [value for row in rows if row in rates for value in rates[row]]
    drawn_by.observe(places, RewardMatrix.from_columns({"accuracy": values}))
    assert drawn_by.metrics() == {"curriculum/solve_rate": 1.75 / 4, "curriculum/never_sampled_frac": 0.2}

    counts: Counter[int] = Counter()
    for _ in range(6000):
        drawn_by.begin_step()
        counts.update(drawn_by.draw(1))
    for row, weight in enumerate((0.2, 0.6, 1.0, 0.2, 1.0)):
        share = weight / 3
        assert counts[row] / 6000 == pytest.approx(share, abs=4 * math.sqrt(share / 6000)), row


def test_a_completion_is_solved_to_the_weight_of_the_objectives_that_reach_their_bounds() -> None:
    difficulty = settings(
        difficulty={"by": {"accuracy": 3, "short": 1}, "at_least": {"accuracy": 1, "short": -0.5}, "decay": 0.25}
    ).difficulty
    assert difficulty is not None
    rewards = RewardMatrix.from_columns(
        {
            "accuracy": [1.0, 1.0, 0.9, None, "not_applicable"],
            "other": [0.0] * 5,
            "short": [-1.0, -0.5, 0.0, 0.0, None],
        }
    )
    assert difficulty.solved_N(rewards)[:4].tolist() == [0.75, 1.0, 0.25, 1.0]
    assert difficulty.solved_N(rewards)[4].isnan()

    drawn_by = curriculum(["a"], difficulty=difficulty.model_dump())
    drawn_by.begin_step()
    drawn_by.draw(1)
    drawn_by.observe([0] * 5, rewards)
    drawn_by.observe([0], RewardMatrix.from_columns({"accuracy": [0.0], "short": [-1.0]}))
    drawn_by.observe([0], RewardMatrix.from_columns({"accuracy": [None], "short": [None]}))  # says nothing
    assert drawn_by.state_dict()["rates"].tolist() == [0.25 * 0.75]


def test_what_rounding_took_a_sum_below_its_bound_is_solved() -> None:
    difficulty = settings(difficulty={"by": "accuracy", "at_least": 0.8}).difficulty
    rewards = RewardMatrix.from_columns({"accuracy": [0.7 + 0.1, float(torch.tensor(0.8)), 0.8, 0.799999]})
    assert difficulty.solved_N(rewards).tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize(
    "values",
    [
        {"sources": {"math": 1, "code": 1.5, "unused": 0}},
        {"sources": {"math": 1, "code": 2, "unused": 0}, "difficulty": {"by": "accuracy", "target": 0.3}},
    ],
)
def test_a_restart_draws_what_would_have_been_drawn(tmp_path: Path, values: dict[str, Any]) -> None:
    accuracy = {row: [float(row % 2), float(row % 3 == 0)] for row in range(len(SOURCES))}
    whole, first = curriculum(**values), curriculum(**values)
    for _ in range(3):
        step(whole, 5, accuracy)
        step(first, 5, accuracy)
    torch.save(first.state_dict(), tmp_path / "data.pt")
    step(first, 5, accuracy)  # changes nothing of what was saved
    resumed = curriculum(seed=1, **values)
    resumed.load_state_dict(torch.load(tmp_path / "data.pt", weights_only=False))
    expected = [step(whole, 5, accuracy) for _ in range(5)]
    assert [step(resumed, 5, accuracy) for _ in range(5)] == expected
    assert [step(curriculum(seed=1, **values), 5, accuracy)] != expected[:1]

    with pytest.raises(CtwaError, match=r"not one of this ctwa\.curriculum"):
        curriculum(sources={"math": 1}).load_state_dict(whole.state_dict())
    with pytest.raises(CtwaError, match="is of 40 rows, and the data have 41"):
        curriculum([*SOURCES, "math"], **values).load_state_dict(whole.state_dict())


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"sources": {"math": 0}}, "all of math have weight 0"),
        ({"difficulty": {"by": {"a": 1}, "at_least": {"b": 1}}}, "at_least is of b, and by of a"),
        (
            {"difficulty": {"by": {}}},
            r"difficulty\.by: {} is neither the name of an objective nor {NAME: a weight",
        ),
        (
            {"difficulty": {"by": {"a": 0}}},
            r"^ctwa\.curriculum\.difficulty\.by: 0 is not a weight above 0",
        ),
        ({"difficulty": {"by": {"a": 1e308, "b": 1e308}}}, r"difficulty\.by.* add up to more than a number can hold"),
        (
            {"difficulty": {"by": "a", "at_least": "x"}},
            r"^ctwa.*at_least: 'x' is neither a number nor {NAME: a number",
        ),
        ({"difficulty": {"by": "a", "target": 1}}, r"difficulty\.target"),
        ({"difficulty": {"by": "a", "least": 0}}, r"difficulty\.least"),
    ],
)
def test_what_cannot_be_drawn_by_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CtwaError, match=sentence):
        settings(**values)


def test_a_source_of_which_no_row_is_left_is_refused() -> None:
    with pytest.raises(CtwaError, match=r"of 'law' no row is left \(data\.train_max_samples"):
        curriculum(sources={"math": 1, "law": 1})
