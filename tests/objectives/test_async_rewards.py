"""Async reward functions: their calls run together, and one that blocks is found out."""

from ctwa.objectives.config import ObjectiveConfig
from tests.objectives.scoring import SHORT, Completions, RewardFile, reasons, score, values


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
