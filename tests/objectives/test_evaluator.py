"""Guarded evaluation, through real worker processes: what is scored, and when."""

from pathlib import Path
from typing import Any

import pytest

from ctwa.errors import CtwaError
from ctwa.objectives.completion import Moment
from ctwa.objectives.config import ObjectiveConfig
from ctwa.objectives.evaluator import RewardEvaluator, Scoring
from tests.objectives.scoring import Completions, RewardFile, reasons, score, values


def test_rewards_come_in_row_order_whatever_order_the_calls_end_in(
    reward_file: RewardFile, completions: Completions
) -> None:
    path = reward_file("""
        import asyncio, time
        def number(response): return int(response.split()[1])
        def slow_first(response_tokens):
            if response_tokens == 10: time.sleep(0.05)
            return response_tokens
        async def reversed_order(response_tokens):
            await asyncio.sleep((60 - response_tokens) / 1000)
            return -response_tokens
        def share(group_response_tokens): return [n / sum(group_response_tokens) for n in group_response_tokens]
    """)
    names = ("number", "slow_first", "reversed_order", "share")
    objectives = {name: ObjectiveConfig(reward_fn=f"{path}:{name}") for name in names}
    group_N = [i % 2 for i in range(40)]
    evaluation = score(objectives, completions(40), group_N, num_workers=2)
    assert evaluation.matrix.names == names
    assert evaluation.failures == ()
    assert values(evaluation, "number") == list(range(40))
    assert values(evaluation, "slow_first") == [10 + i for i in range(40)]
    assert values(evaluation, "reversed_order") == [-10 - i for i in range(40)]
    totals = [sum(10 + i for i in range(40) if i % 2 == parity) for parity in (0, 1)]
    assert values(evaluation, "share") == [(10 + i) / totals[i % 2] for i in range(40)]


def test_completions_may_come_prompt_by_prompt_in_any_order(reward_file: RewardFile, completions: Completions) -> None:
    path = reward_file("""
        def number(response_tokens): return None if response_tokens == 12 else response_tokens
        def share(group_response_tokens): return [n / sum(group_response_tokens) for n in group_response_tokens]
    """)
    objectives = {name: ObjectiveConfig(reward_fn=f"{path}:{name}") for name in ("number", "share")}
    batch, group_N = completions(9), [0, 0, 0, 1, 1, 1, 2, 2, 2]
    with RewardEvaluator(objectives, num_workers=2, max_unscored=1.0) as evaluator:
        at_once = evaluator.evaluate(batch, group_N)
        scoring = evaluator.begin(12)  # the last prompt is lost
        for start in (6, 0, 3):
            rows = range(start, start + 3)
            scoring.submit(rows, batch[start : start + 3], [group_N[start]] * 3)
        streamed = scoring.finish()
    assert streamed.matrix.to_columns() == at_once.matrix.to_columns()
    assert streamed.failures == at_once.failures
    assert reasons(streamed) == {2: "none"}
    assert min(streamed.hidden_seconds, streamed.waited_seconds) > 0


def test_what_ends_a_batch_is_raised_before_the_last_completion_is_there(
    reward_file: RewardFile, completions: Completions
) -> None:
    path = reward_file("def f(response): return None")
    with RewardEvaluator({"o": ObjectiveConfig(reward_fn=f"{path}:f", on_failure="stop")}) as evaluator:
        scoring = evaluator.begin(1000)
        scoring.submit([7], completions(1), [0])
        with pytest.raises(CtwaError, match="could not score row 7: none"):
            check_until_it_raises(scoring)


def check_until_it_raises(scoring: Scoring) -> None:
    while True:
        scoring.check()


def test_a_batch_that_is_given_up_makes_room_for_the_next(reward_file: RewardFile, completions: Completions) -> None:
    path = reward_file("""
        import time
        def f(response_tokens):
            if response_tokens == 10: time.sleep(3600)
            return response_tokens
    """)
    objectives = {"o": ObjectiveConfig(reward_fn=f"{path}:f", timeout=3600)}
    with RewardEvaluator(objectives, num_workers=1) as evaluator:
        evaluator.begin(2).submit([0, 1], completions(2), [0, 0])
        assert values(evaluator.evaluate(completions(2)[1:], [0])) == [11]


def test_what_does_not_apply_is_no_failure_and_in_no_share(reward_file: RewardFile, completions: Completions) -> None:
    path = reward_file("""
        import ctwa
        def says(response):
            case = int(response.split()[1])
            if case in (1, 2): return ctwa.NOT_APPLICABLE if case == 1 else {"score": "not_applicable"}
            if case in (3, 4): return None
            return case
        def of_group(group_response): return [len(group_response)] * len(group_response)
        def never(group_response): return "not_applicable"
        def fails(response): raise AssertionError("called on a row that is another's")
    """)
    rows = [*completions(4, data_source="gsm8k"), *completions(6, data_source="math")[4:]]
    objectives = {
        "failing": ObjectiveConfig(reward_fn=f"{path}:says"),
        "lenient": ObjectiveConfig(reward_fn=f"{path}:says", none="not_applicable", on_failure="stop"),
        "group": ObjectiveConfig(reward_fn=f"{path}:of_group", applies_to={"data_source": "gsm8k"}),
        "never": ObjectiveConfig(reward_fn=f"{path}:never"),
        "other": ObjectiveConfig(reward_fn=f"{path}:fails", applies_to={"data_source": "aime"}),
    }

    evaluation = score(objectives, rows, [0, 0, 1, 1, 1, 1])

    away = "not_applicable"
    assert evaluation.matrix.to_columns() == {
        "failing": [0, away, away, None, None, 5],
        "lenient": [0, away, away, away, away, 5],
        "group": [2, 2, 2, 2, away, away],  # those of a prompt that it applies to
        "never": [away] * 6,
        "other": [away] * 6,
    }
    assert [(failure.objective, failure.row) for failure in evaluation.failures] == [("failing", 3), ("failing", 4)]
    metrics = evaluation.metrics()
    assert metrics["objective/failing/applicable_frac"] == pytest.approx(4 / 6)
    assert metrics["objective/failing/scored_frac"] == 0.5  # of the four that it applies to
    assert (metrics["objective/lenient/mean"], metrics["objective/lenient/scored_frac"]) == (2.5, 1)
    assert {key for key in metrics if key.startswith("objective/never/")} == {
        "objective/never/applicable_frac",
        "objective/never/seconds",
    }
    with pytest.raises(CtwaError, match=r"'failing' .* could not score 2 of 4 completions \(none 2\)"):
        score(objectives, rows, [0, 0, 1, 1, 1, 1], max_unscored=0.4)  # 2 of 6 would be less


def test_an_objective_is_scored_when_it_is_due(reward_file: RewardFile, completions: Completions) -> None:
    path = reward_file("def one(response): return 1")
    objectives = {
        "always": ObjectiveConfig(reward_fn=f"{path}:one"),
        "rare": ObjectiveConfig(reward_fn=f"{path}:one", every=3),
        "held_out": ObjectiveConfig(reward_fn=f"{path}:one", split="val"),
    }
    with RewardEvaluator(objectives) as evaluator:

        def scored_at(moment: Moment) -> dict[str, bool]:
            matrix = evaluator.evaluate(completions(2, moment=moment), [0, 0]).matrix
            return {name: bool(matrix.column(name)[1].all()) for name in matrix.names}

        steps = [scored_at(Moment("train", step)) for step in range(1, 8)]
        assert [step["rare"] for step in steps] == [True, False, False, True, False, False, True]
        assert all(step.keys() == {"always", "rare"} and step["always"] for step in steps)
        assert scored_at(Moment("val", 2)) == dict.fromkeys(objectives, True)
        assert scored_at(Moment()) == dict.fromkeys(objectives, True)  # outside of a run


def test_calls_share_nothing_a_function_could_change(reward_file: RewardFile, completions: Completions) -> None:
    path = reward_file("""
        def f(extra_info, row, ground_truth, names):
            total = sum(len(x) for x in (extra_info, row, ground_truth, names))
            extra_info["seen"] = row["seen"] = True
            ground_truth.append(1); names.append(1)
            return total
    """)
    shared: dict[str, Any] = {"extra_info": {"index": 1}, "row": {"level": 2}, "ground_truth": ["7"]}
    objective = ObjectiveConfig(reward_fn=f"{path}:f", kwargs={"names": ["x"]})
    with RewardEvaluator({"a": objective, "b": objective}, num_workers=1) as evaluator:
        for _ in range(2):
            evaluation = evaluator.evaluate(completions(3, **shared), [0, 0, 0])
            assert values(evaluation, "a") == values(evaluation, "b") == [4, 4, 4]
    assert shared == {"extra_info": {"index": 1}, "row": {"level": 2}, "ground_truth": ["7"]}


def test_a_check_beside_a_function_is_of_its_kwargs_or_left_alone(
    reward_file: RewardFile, completions: Completions
) -> None:
    path = reward_file("""
        def check_f(text): return float(len(text))
        def f(response, word="x"): return check_f(response)
        def check_g(word): raise ValueError(f"{word} is no word")
        def g(response, word): return 1.0
    """)
    assert values(score({"o": ObjectiveConfig(reward_fn=f"{path}:f", kwargs={"word": "y"})}, completions(1))) == [10]
    with pytest.raises(CtwaError, match="y is no word"):
        RewardEvaluator({"o": ObjectiveConfig(reward_fn=f"{path}:g", kwargs={"word": "y"})})


def test_kwargs_reach_the_function(reward_file: RewardFile, completions: Completions) -> None:
    path = reward_file("""
        def f(response_tokens, bonus): return response_tokens + bonus
        def verl(data_source, solution_str, ground_truth, extra_info=None, **kwargs): return kwargs["bonus"]
    """)
    objectives = {name: ObjectiveConfig(reward_fn=f"{path}:{name}", kwargs={"bonus": 0.5}) for name in ("f", "verl")}
    evaluation = score(objectives, completions(1))
    assert (values(evaluation, "f"), values(evaluation, "verl")) == ([10.5], [0.5])


def test_an_objective_that_scores_nothing_has_no_mean(reward_file: RewardFile, completions: Completions) -> None:
    path = reward_file("def f(response): return None")
    metrics = score({"o": ObjectiveConfig(reward_fn=f"{path}:f")}, completions(2)).metrics()
    assert "objective/o/mean" not in metrics
    assert metrics["objective/o/scored_frac"] == 0
    assert metrics["objective/o/error_frac"] == 0


def test_mean_and_std_are_over_what_was_scored(reward_file: RewardFile, completions: Completions) -> None:
    path = reward_file("def f(response_tokens): return None if response_tokens == 10 else response_tokens")
    metrics = score({"o": ObjectiveConfig(reward_fn=f"{path}:f")}, completions(3)).metrics()
    assert (metrics["objective/o/mean"], metrics["objective/o/std"]) == (11.5, 0.5)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise RuntimeError('no licence')", "importing .* failed with RuntimeError: no licence"),
        ("def g(response): ...", "has no function 'f', it has 'g'"),
        ("def f(answer): ...", "requires 'answer', which is not offered; .*; did you mean 'ground_truth'[?] A column"),
        ("import os; os._exit(7)", r"f ended the worker process \(exit status 7\); see what its file does when"),
    ],
)
def test_a_function_that_cannot_be_called_is_an_error_at_construction(
    reward_file: RewardFile, source: str, message: str
) -> None:
    path = reward_file(source)
    with pytest.raises(CtwaError, match=message):
        RewardEvaluator({"o": ObjectiveConfig(reward_fn=f"{path}:f")})


@pytest.mark.parametrize(
    ("arguments", "message"), [({"max_unscored": 5}, "max_unscored is 5"), ({"num_workers": 0}, "num_workers is 0")]
)
def test_mistakes_in_the_arguments(reward_file: RewardFile, arguments: dict[str, Any], message: str) -> None:
    path = reward_file("def f(response): return 1")
    with pytest.raises(CtwaError, match=message):
        RewardEvaluator({"o": ObjectiveConfig(reward_fn=f"{path}:f")}, **arguments)


def test_objectives_that_take_a_key_each_of_one_function_share_its_calls(
    reward_file: RewardFile, completions: Completions, tmp_path: Path
) -> None:
    path = reward_file(f"""
        def compute_score(response, response_tokens):
            with open({str(tmp_path / "calls")!r}, "a") as calls:
                calls.write("x")
            if response_tokens == 12: raise RuntimeError("no")
            parts = {{"right": 1.0, "short": -response_tokens, "score": 7}}
            return parts | ({{"rare": 5}} if response_tokens > 12 else {{}})
    """)
    fields: dict[str, Any] = {"reward_fn": f"{path}:compute_score"}
    objectives = {name: ObjectiveConfig(key=name, **fields) for name in ("right", "short", "rare")}
    evaluation = score(objectives, completions(4))

    assert (tmp_path / "calls").read_text() == "xxxx"
    assert evaluation.matrix.to_columns() == {
        "right": [1, 1, None, 1],
        "short": [-10, -11, None, -13],
        "rare": [None, None, None, 5],
    }
    assert [(each.objective, each.row, each.reason) for each in evaluation.failures] == [
        *[("right", 2, "exception"), ("short", 2, "exception")],
        *[("rare", 0, "wrong_type"), ("rare", 1, "wrong_type"), ("rare", 2, "exception")],
    ]
    assert "without 'rare'" in evaluation.failures[2].text
    # Where anything but the key differs, or it is the whole that counts, it is another call.
    others = objectives | {"slow": ObjectiveConfig(key="right", timeout=20, **fields), "all": ObjectiveConfig(**fields)}
    evaluation = score(others, completions(1))
    assert (tmp_path / "calls").read_text() == "xxxx" + "xxx"
    assert (values(evaluation, "slow"), values(evaluation, "all")) == ([1], [7])
