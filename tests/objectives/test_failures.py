"""What each way to fail costs, and when it ends the run; through real worker processes."""

import pytest

from ctwa.errors import CtwaError
from ctwa.objectives.config import ObjectiveConfig
from ctwa.objectives.evaluator import RewardEvaluator
from tests.objectives.scoring import SHORT, Completions, RewardFile, reasons, score, values


def test_every_way_to_fail_is_masked_for_its_row_alone_and_counted(
    reward_file: RewardFile, completions: Completions
) -> None:
    path = reward_file("""
        import os, time
        def f(response):
            case = int(response.split()[1])
            if case == 1: raise KeyError("answer")
            if case == 2: time.sleep(3600)
            if case == 3: return float("nan")
            if case == 4: return "good"
            if case == 5: return [1.0]
            if case == 6: os._exit(3)
            if case == 7: return None
            if case == 8: raise SystemExit(1)
            if case == 9:
                while True: pass
            if case == 11: return Unshowable()
            if case == 12: os.kill(os.getpid(), 40)  # a signal that has no name
            return 0.5
        class Unshowable:
            def __repr__(self): raise ValueError("nothing to show")
    """)
    evaluation = score({"o": ObjectiveConfig(reward_fn=f"{path}:f", timeout=SHORT)}, completions(14))
    assert [(f.row, f.reason, f.text) for f in evaluation.failures] == [
        (1, "exception", "KeyError: 'answer' (rewards.py, line 5)"),
        (2, "timeout", "no value within 0.5 s"),
        (3, "not_finite", "returned nan; return a finite number, or None"),
        (4, "wrong_type", "returned the str 'good'; return one number, or None"),
        (5, "wrong_type", "returned the list [1.0]; return one number, or None"),
        (6, "crashed", "the call ended its process (exit status 3)"),
        (7, "none", "the function returned None"),
        (8, "exception", "SystemExit: 1 (rewards.py, line 12)"),
        (9, "timeout", "no value within 0.5 s"),
        (11, "exception", "ValueError: nothing to show (rewards.py, line 19)"),
        (12, "crashed", "the call ended its process (killed by signal 40)"),
    ]
    rewards_N, scored_N = evaluation.matrix.column("o")
    assert rewards_N.tolist() == [0.5, *[0.0] * 9, 0.5, 0.0, 0.0, 0.5]
    assert scored_N.tolist() == [True, *[False] * 9, True, False, False, True]
    metrics = evaluation.metrics()
    assert metrics.pop("objective/o/seconds") >= 2 * SHORT
    assert metrics == {
        "objective/o/mean": 0.5,
        "objective/o/std": 0.0,
        "objective/o/applicable_frac": 1.0,
        "objective/o/scored_frac": 3 / 14,
        "objective/o/timeout_frac": 2 / 14,
        "objective/o/error_frac": 8 / 14,
    }


def test_a_group_call_that_fails_costs_its_group(reward_file: RewardFile, completions: Completions) -> None:
    path = reward_file("""
        import time
        def f(group_response_tokens, ground_truth):
            if 10 in group_response_tokens: raise ValueError("no best")
            if 11 in group_response_tokens: time.sleep(3600)
            if 12 in group_response_tokens: return [1.0]
            return [n == max(group_response_tokens) for n in group_response_tokens]
    """)
    evaluation = score(
        {"o": ObjectiveConfig(reward_fn=f"{path}:f", timeout=SHORT)}, completions(8), [0, 1, 2, 3, 0, 1, 2, 3]
    )
    assert reasons(evaluation) == {
        0: "exception", 4: "exception", 1: "timeout", 5: "timeout", 2: "wrong_type", 6: "wrong_type",
    }  # fmt: skip
    assert values(evaluation) == [0, 0, 0, 0, 0, 0, 0, 1]


def test_too_many_failures_stop_with_the_objective_the_row_and_the_text(
    reward_file: RewardFile, completions: Completions
) -> None:
    path = reward_file("""
        def good(response): return 1
        def bad(response_tokens):
            if response_tokens < 13: return 1
            if response_tokens == 19: return None
            return 1 / 0
    """)
    objectives = {name: ObjectiveConfig(reward_fn=f"{path}:{name}") for name in ("good", "bad")}
    with pytest.raises(CtwaError) as error:
        score(objectives, completions(10), max_unscored=0.6)
    assert str(error.value) == (
        f"objective 'bad' ({path}:bad) could not score 7 of 10 completions (exception 6, none 1), more than "
        "max_unscored=0.6 allows; first row 3: exception: ZeroDivisionError: division by zero (rewards.py, line 6); "
        "its completion begins 'response 3'"
    )
    assert len(score(objectives, completions(10), max_unscored=0.7).failures) == 7


def test_every_objective_that_failed_too_often_has_its_line(reward_file: RewardFile, completions: Completions) -> None:
    path = reward_file("""
        def good(response): return 1
        def none(response): return None
        def nan(response): return float("nan")
    """)
    objectives = {name: ObjectiveConfig(reward_fn=f"{path}:{name}") for name in ("none", "good", "nan")}
    with pytest.raises(CtwaError) as error:
        score(objectives, completions(2), max_unscored=0.5)
    assert [line.split(" (")[0] for line in str(error.value).splitlines()] == ["objective 'none'", "objective 'nan'"]


def test_too_many_timeouts_stop_without_waiting_for_the_rest(reward_file: RewardFile, completions: Completions) -> None:
    path = reward_file("""
        import time
        def f(response): time.sleep(3600)
    """)
    with pytest.raises(CtwaError) as error:
        score({"o": ObjectiveConfig(reward_fn=f"{path}:f", timeout=SHORT)}, completions(20), max_unscored=0.1)
    assert str(error.value) == (
        f"objective 'o' ({path}:f) could not score at least 3 of 20 completions (timeout 3), more than "
        "max_unscored=0.1 allows; first row 0: timeout: no value within 0.5 s; its completion begins 'response 0'"
    )


def test_on_failure_stop_ends_at_the_first(reward_file: RewardFile, completions: Completions) -> None:
    path = reward_file("def f(response_tokens): return None if response_tokens == 14 else 1")
    with pytest.raises(CtwaError) as error:
        score({"o": ObjectiveConfig(reward_fn=f"{path}:f", on_failure="stop")}, completions(8))
    assert str(error.value) == (
        f"objective 'o' ({path}:f) could not score row 4: none: the function returned None; "
        "its completion begins 'response 4' (on_failure is 'stop')"
    )


def test_an_evaluator_is_of_use_after_it_stopped(reward_file: RewardFile, completions: Completions) -> None:
    path = reward_file("""
        import time
        def f(response_tokens):
            if response_tokens == 10: raise ValueError
            if response_tokens == 11: time.sleep(3600)
            return 1
    """)
    with RewardEvaluator({"o": ObjectiveConfig(reward_fn=f"{path}:f", on_failure="stop")}, num_workers=2) as evaluator:
        with pytest.raises(CtwaError, match="row 0"):
            evaluator.evaluate(completions(4), [0] * 4)
        assert values(evaluator.evaluate(completions(4)[2:], [0] * 2)) == [1, 1]
