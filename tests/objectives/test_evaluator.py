"""Guarded evaluation, through real worker processes."""

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ctwa.errors import CtwaError
from ctwa.objectives import pool
from ctwa.objectives.completion import Completion, Moment
from ctwa.objectives.config import ObjectiveConfig
from ctwa.objectives.evaluator import Evaluation, RewardEvaluator, Scoring, load_contracts

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


def test_a_value_is_said_once_where_a_function_forks_and_both_come_back(
    reward_file: RewardFile, completions: Completions
) -> None:
    path = reward_file("""
        import os
        def f(response):
            os.fork()
            return float(response.split()[1])
    """)
    evaluation = score({"o": ObjectiveConfig(reward_fn=f"{path}:f", timeout=30)}, completions(6))
    assert values(evaluation) == [0, 1, 2, 3, 4, 5]
    assert evaluation.matrix.column("o")[1].all()


def test_a_call_that_holds_the_interpreter_lock_is_killed_too(
    reward_file: RewardFile, completions: Completions
) -> None:
    path = reward_file("""
        import re
        def f(response_tokens):
            if response_tokens == 10: re.match(r"(a+)+$", "a" * 64 + "b")
            return 1
    """)
    evaluation = score({"o": ObjectiveConfig(reward_fn=f"{path}:f", timeout=SHORT)}, completions(3))
    assert reasons(evaluation) == {0: "timeout"}
    assert values(evaluation) == [0, 1, 1]


def test_a_segfault_is_a_crash_of_its_call(reward_file: RewardFile, completions: Completions) -> None:
    path = reward_file("""
        import os, signal
        def f(response_tokens):
            if response_tokens == 11: os.kill(os.getpid(), signal.SIGSEGV)
            return 1
    """)
    evaluation = score({"o": ObjectiveConfig(reward_fn=f"{path}:f")}, completions(3))
    assert [(f.row, f.reason, f.text) for f in evaluation.failures] == [
        (1, "crashed", "the call ended its process (killed by SIGSEGV)")
    ]


def test_async_calls_run_together_each_under_its_own_deadline(
    reward_file: RewardFile, completions: Completions
) -> None:
    # Every call waits for the last one to have started, so they end only if all of them run at a time.
    path = reward_file("""
        import asyncio
        started, all_started = [], asyncio.Event()
        async def f(response_tokens):
            started.append(response_tokens)
            if len(started) == 6: all_started.set()
            await all_started.wait()
            if response_tokens == 12: await asyncio.sleep(3600)
            if response_tokens == 13: raise TimeoutError("the judge did not answer")
            if response_tokens == 14: return "good"
            return 1
    """)
    evaluation = score({"o": ObjectiveConfig(reward_fn=f"{path}:f", timeout=SHORT)}, completions(6))
    assert [(f.row, f.reason, f.text) for f in evaluation.failures] == [
        (2, "timeout", "no value within 0.5 s"),
        (3, "exception", "TimeoutError: the judge did not answer (rewards.py, line 9)"),
        (4, "wrong_type", "returned the str 'good'; return one number, or None"),
    ]
    assert values(evaluation) == [1, 1, 0, 0, 0, 1]


def test_an_async_function_that_blocks_is_killed_and_the_calls_beside_it_run_again(
    reward_file: RewardFile, completions: Completions
) -> None:
    path = reward_file("""
        import asyncio, os, time
        async def f(response_tokens):
            await asyncio.sleep(0.01)
            if response_tokens == 11: time.sleep(3600)
            if response_tokens == 12: os._exit(4)
            await asyncio.sleep(0.01)
            return 1
    """)
    evaluation = score({"o": ObjectiveConfig(reward_fn=f"{path}:f", timeout=SHORT)}, completions(5))
    assert [(f.row, f.reason, f.text) for f in evaluation.failures] == [
        (1, "timeout", "no value within 0.5 s: it blocks the event loop; await, or write it as a plain def"),
        (2, "crashed", "the call ended its process (exit status 4)"),
    ]
    assert values(evaluation) == [1, 0, 0, 1, 1]


def test_an_async_function_whose_task_blocks_costs_the_calls_that_ran_with_it(
    reward_file: RewardFile, completions: Completions
) -> None:
    path = reward_file("""
        import asyncio, time
        async def block(): time.sleep(3600)
        async def f(response_tokens):
            if response_tokens == 10: return 1
            await asyncio.sleep(0.01)
            if response_tokens == 11: await asyncio.create_task(block())
            await asyncio.sleep(0.05)
            return 1
    """)
    evaluation = score({"o": ObjectiveConfig(reward_fn=f"{path}:f", timeout=SHORT)}, completions(3))
    text = "no value within 0.5 s: one of the calls that ran together blocked the event loop"
    assert [(f.row, f.reason, f.text) for f in evaluation.failures] == [(1, "timeout", text), (2, "timeout", text)]
    assert values(evaluation) == [1, 0, 0]


def test_an_async_function_that_refuses_to_be_cancelled_is_killed(
    reward_file: RewardFile, completions: Completions
) -> None:
    path = reward_file("""
        import asyncio
        async def f(response_tokens):
            while response_tokens == 11:
                try: await asyncio.sleep(3600)
                except asyncio.CancelledError: pass
            return 1
    """)
    evaluation = score({"o": ObjectiveConfig(reward_fn=f"{path}:f", timeout=SHORT)}, completions(3))
    assert reasons(evaluation) == {1: "timeout"}
    assert values(evaluation) == [1, 0, 1]


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


def test_an_async_function_in_a_plain_decorator_is_awaited(reward_file: RewardFile, completions: Completions) -> None:
    path = reward_file("""
        import asyncio, functools
        def plain(function):
            @functools.wraps(function)
            def wrapper(*args, **kwargs): return function(*args, **kwargs)
            return wrapper
        @plain
        async def f(response):
            await asyncio.sleep(0)
            return int(response.split()[1])
    """)
    assert values(score({"o": ObjectiveConfig(reward_fn=f"{path}:f")}, completions(3))) == [0, 1, 2]


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


def test_workers_stay_for_all_batches_and_only_a_killed_one_is_replaced(
    reward_file: RewardFile, completions: Completions
) -> None:
    path = reward_file("""
        import os, time
        def f(response_tokens):
            if response_tokens == 99: time.sleep(3600)
            return os.getpid()
    """)
    with RewardEvaluator(
        {"o": ObjectiveConfig(reward_fn=f"{path}:f", timeout=SHORT)}, num_workers=1, max_unscored=1.0
    ) as evaluator:
        first = values(evaluator.evaluate(completions(2), [0, 0]))
        assert values(evaluator.evaluate(completions(2), [0, 0])) == first
        evaluator.evaluate(completions(1, response_tokens=99), [0])
        after = values(evaluator.evaluate(completions(2), [0, 0]))
        assert len({*first, *after}) == 2


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


def test_a_function_that_takes_all_memory_fails_and_takes_no_other_with_it(
    reward_file: RewardFile, completions: Completions
) -> None:
    path = reward_file(
        """
        def greedy(response):
            if response.endswith("1"):
                bytearray(4 << 30)  # GB
            return 1.0

        def first_to_go(response):
            return float(open("/proc/self/oom_score_adj").read())
        """
    )
    objectives = {name: ObjectiveConfig(reward_fn=f"{path}:{name}") for name in ("greedy", "first_to_go")}

    with RewardEvaluator(objectives, num_workers=1, max_unscored=0.5, max_memory=1.0) as evaluator:
        matrix = evaluator.evaluate(completions(3), [0, 0, 0]).matrix

    rewards_N, scored_N = matrix.column("greedy")
    assert scored_N.tolist() == [True, False, True]
    assert rewards_N[scored_N].tolist() == [1.0, 1.0]
    # Where memory runs out all the same, the kernel ends such a process, and not one of Ray's.
    assert matrix.column("first_to_go")[0].tolist() == [1000.0] * 3


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
        ("import os; os._exit(7)", r"ended their process \(exit status 7\)"),
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


def test_what_a_function_prints_goes_to_stderr(
    reward_file: RewardFile, completions: Completions, capfd: pytest.CaptureFixture[str]
) -> None:
    path = reward_file("""
        import os
        def f(response):
            print("printed")
            os.system("echo from the shell")
            return 1
    """)
    assert values(score({"o": ObjectiveConfig(reward_fn=f"{path}:f")}, completions(1))) == [1]
    out, err = capfd.readouterr()
    assert out == ""
    assert "from the shell" in err
    assert "printed" in err


def test_a_worker_is_light_and_has_nothing_of_ray_or_the_accelerators(
    reward_file: RewardFile, completions: Completions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_JOB_ID", "01000000")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("PYTHONPATH", "/users/own")
    path = reward_file("""
        import os, sys
        def heavy(response): return len({"torch", "numpy", "pydantic", "ray", "multiprocessing"} & set(sys.modules))
        def environment(response):
            assert "RAY_JOB_ID" not in os.environ and os.environ["CUDA_VISIBLE_DEVICES"] == ""
            assert os.environ["PYTHONPATH"] == "/users/own", os.environ["PYTHONPATH"]
            return 1
    """)
    objectives = {name: ObjectiveConfig(reward_fn=f"{path}:{name}") for name in ("heavy", "environment")}
    evaluation = score(objectives, completions(1))
    assert evaluation.failures == ()
    assert values(evaluation, "heavy") == [0]


def test_a_module_is_imported_from_the_parents_path_and_the_current_directory(
    reward_file: RewardFile, completions: Completions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward_file("def f(response): return 1", "here/here_rewards.py")
    reward_file("def f(response): return 2", "path/path_rewards.py")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(tmp_path / "path")
    objectives = {name: ObjectiveConfig(reward_fn=f"{name}_rewards:f") for name in ("here", "path")}
    evaluation = score(objectives, completions(1))
    assert (values(evaluation, "here"), values(evaluation, "path")) == ([1], [2])


def test_the_parent_may_be_any_thread(reward_file: RewardFile, completions: Completions) -> None:
    path = reward_file("""
        import signal
        def f(response):
            signal.alarm(0)  # works in a main thread alone: each worker has one
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            return 1
    """)
    result: list[Evaluation] = []
    thread = threading.Thread(
        target=lambda: result.append(score({"o": ObjectiveConfig(reward_fn=f"{path}:f")}, completions(2)))
    )
    thread.start()
    thread.join()
    assert values(result[0]) == [1, 1]


def test_no_process_is_left_when_the_parent_is_killed_and_its_main_is_never_run_again(
    reward_file: RewardFile, tmp_path: Path
) -> None:
    """The parent is a script without a __main__ guard, whose worker hangs in a call that holds the interpreter lock."""
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    path = reward_file(f"""
        import os, re, subprocess
        def f(response):
            child = subprocess.Popen(["sleep", "3600"])
            with open({str(ready)!r}, "w") as file: file.write(f"{{os.getpid()}} {{child.pid}}")
            re.match(r"(a+)+$", "a" * 64 + "b")
    """)
    script = reward_file(
        f"""
        from ctwa.objectives.completion import Completion
        from ctwa.objectives.config import ObjectiveConfig
        from ctwa.objectives.evaluator import RewardEvaluator
        completion = Completion("r", "p", "7", "d", {{}}, 1, None, True, {{}})
        evaluator = RewardEvaluator({{"o": ObjectiveConfig(reward_fn="{path}:f", timeout=3600)}}, num_workers=1)
        evaluator.evaluate([completion], [0])
        """,
        "train.py",
    )
    parent = subprocess.Popen([sys.executable, script])
    with open(ready) as file:
        pids = [int(pid) for pid in file.read().split()]
    assert len(pids) == 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for pid in pids:
        _wait_until_gone(pid)


def _wait_until_gone(pid: int) -> None:
    """Return once the process has ended (or is a zombie nobody reaps); a pidfd becomes readable at that moment."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended, _, _ = select.select([descriptor], [], [], 20)
    os.close(descriptor)
    assert ended, f"process {pid} outlived its parent"


def test_close_ends_the_workers_and_what_they_started(reward_file: RewardFile, completions: Completions) -> None:
    path = reward_file("""
        import os, subprocess
        def worker(response): return os.getpid()
        def child(response): return subprocess.Popen(["sleep", "3600"]).pid
    """)
    objectives = {name: ObjectiveConfig(reward_fn=f"{path}:{name}") for name in ("worker", "child")}
    evaluation = score(objectives, completions(1))
    for name in objectives:
        _wait_until_gone(int(values(evaluation, name)[0]))


def test_who_waits_for_a_slow_import_is_told_what_for(
    reward_file: RewardFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool, "SLOW_START", 0.0)
    spec = f"{reward_file('def f(response): return 1')}:f"

    assert load_contracts({"o": ObjectiveConfig(reward_fn=spec)}).keys() == {"o"}

    assert [record.getMessage() for record in caplog.records] == [
        f"still loading the reward functions {spec} after 0 s: an import is slow, or waits for something; "
        "they have 180 s"
    ]


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
