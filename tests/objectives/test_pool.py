"""Worker processes of reward functions: what they have, what ends them, and that none is left."""

import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ctwa.objectives import pool
from ctwa.objectives.config import ObjectiveConfig
from ctwa.objectives.evaluator import Evaluation, RewardEvaluator, load_contracts
from tests.objectives.scoring import SHORT, Completions, RewardFile, reasons, score, values


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
