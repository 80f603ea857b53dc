"""Two of Ray's nodes, both on this machine, which ask for a token: reward workers, and a run."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen
from typing import Any

import psutil
import pytest
import ray
from ray._private.authentication_test_utils import reset_auth_token_state
from ray.cluster_utils import Cluster

from ctwa.engine import ray_nodes
from ctwa.engine.ray_nodes import losses_told
from ctwa.engine.ray_start import less_of_ray
from ctwa.engine.reward_nodes import join_nodes
from ctwa.errors import CtwaError
from ctwa.models.locate import newest_complete
from ctwa.models.seal import damaged_files
from ctwa.objectives.completion import Completion
from ctwa.objectives.config import ObjectiveConfig
from ctwa.objectives.evaluator import RewardEvaluator
from ctwa.run.origin import make_secret
from tests.e2e.conftest import Run, processes_in
from tests.e2e.test_faults import read_until

REWARDS = """
import os
from pathlib import Path

HERE = Path(__file__).parent
if not (HERE / "shared").exists():
    raise RuntimeError("the file is not here")

def f(response):
    (HERE / "calls" / f"{response}-{os.getpid()}").touch()
    open(HERE / "go", "rb").close()  # waits for one who writes
    return float(response)
"""
pytestmark = pytest.mark.e2e
# Addresses of loopback; but Ray would take 127.0.0.1 for the machine's outer one.
FIRST, SECOND = "127.0.0.2", "127.0.0.3"


def settings(address: str, num_cpus: int) -> dict[str, Any]:
    return {
        "node_ip_address": address,
        "num_cpus": num_cpus,
        "num_gpus": 1,
        "object_store_memory": 10**8,
        "include_dashboard": False,
    }


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Ray of one node, to which others can be added."""
    token = tmp_path_factory.mktemp("ray") / "token"
    make_secret(token)
    with pytest.MonkeyPatch.context() as patch, less_of_ray({"address": "local", "include_dashboard": False}):
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        patch.setenv("RAY_prestart_worker_first_driver", "0")  # else as many idle processes as the node has CPUs
        reset_auth_token_state()  # which this process may have read before
        cluster = Cluster(initialize_head=True, head_node_args=settings(FIRST, 8))
        yield cluster
        cluster.shutdown()
    reset_auth_token_state()


@pytest.fixture
def driver(cluster: Cluster) -> Iterator[None]:
    """Lets this process join."""
    ray.init(address=cluster.address, log_to_driver=False)
    yield
    ray.shutdown()


def wait_until_gone(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([descriptor], [], [], 60)[0], f"process {pid} outlived its node or its run"
    os.close(descriptor)


@pytest.mark.usefixtures("driver")
def test_calls_run_on_every_node_and_again_elsewhere_where_a_node_is_lost(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = cluster.add_node(**settings(SECOND, 2))
    path, shared, calls = tmp_path / "rewards.py", tmp_path / "shared", tmp_path / "calls"
    path.write_text(REWARDS)
    calls.mkdir()
    os.mkfifo(tmp_path / "go")
    shared.touch()
    objectives = {"o": ObjectiveConfig(reward_fn=f"{path}:f", timeout=120)}
    with RewardEvaluator(objectives, num_workers=1) as evaluator:
        shared.unlink()
        with pytest.raises(CtwaError, match=rf"the node {SECOND} .* cannot run the .*: .*the file is not here"):
            join_nodes(evaluator, "auto")

    shared.touch()
    with RewardEvaluator(objectives, num_workers=1) as evaluator, ExitStack() as until_later:
        until_later.enter_context(losses_told())
        assert [pool.num_workers for pool in join_nodes(evaluator, "auto")] == [2]
        scoring = evaluator.begin(3)
        batch = [Completion(str(row), "p", "7", "d", {}, 3, None, True, {}) for row in range(3)]
        scoring.submit(range(3), batch, [0, 1, 2])
        while len(os.listdir(calls)) < 3:  # as many calls at a time as there are workers on both nodes
            scoring.check()
        pids = [int(call.name.partition("-")[2]) for call in calls.iterdir()]
        there = [pid for pid in pids if psutil.Process(pid).ppid() != os.getpid()]
        cluster.remove_node(node, allow_graceful=False)
        for pid in there:
            wait_until_gone(pid)
        go = os.open(tmp_path / "go", os.O_RDWR)
        evaluation = scoring.finish()
        os.close(go)
        monkeypatch.setattr(ray_nodes, "PATIENCE", 0.5)
        with pytest.raises(ZeroDivisionError), until_later.pop_all():
            raise ZeroDivisionError  # which is no word of the node: that has cost nothing
    assert evaluation.matrix.to_columns() == {"o": [0.0, 1.0, 2.0]}
    assert len(os.listdir(calls)) == 5  # the two of the lost node ran twice


def started_by(node: Any) -> list[psutil.Process]:
    """The processes that a node's raylet has started."""
    (raylet,) = node.all_processes["raylet"]
    found: list[psutil.Process] = psutil.Process(raylet.process.pid).children(recursive=True)
    return found


def ranks_of(node: Any) -> int:
    """How many training ranks run on a node."""
    return sum("WorkerDict" in "".join(each.cmdline()) for each in started_by(node))


def test_a_run_goes_on_on_two_nodes_and_ends_with_a_sentence_where_one_is_lost(
    cluster: Any,
    ctwa_on_two_ranks: Run,
    watched_process: Callable[..., Popen[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(ctwa_on_two_ranks.folder, folder)  # two ranks of one machine have made four steps
    node = cluster.add_node(**settings(SECOND, 8))
    before = started_by(cluster.head_node)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    running = watched_process(
        folder,
        "ctwa.resume=true",
        "trainer.nnodes=2",
        "trainer.n_gpus_per_node=1",
        "trainer.total_training_steps=500",
        "trainer.save_freq=1",
        "ctwa.rewards.num_workers=1",
        "ray_kwargs.ray_init.num_cpus=null",
        "ray_kwargs.ray_init.num_gpus=null",
    )
    read_until(running, "  7/500 ")  # 5 and 6 are saved
    assert (ranks_of(cluster.head_node), ranks_of(node)) == (1, 1)
    of_the_run = [each for each in started_by(cluster.head_node) if each not in before]
    on_the_node = started_by(node)

    lost = time.time()
    cluster.remove_node(node, allow_graceful=False)
    output, _ = running.communicate(timeout=180)

    assert running.returncode == 1, output
    by_error = rf"Ray's node {SECOND} \(\w+\) was lost: "
    by_watchdog = rf"\w+ \(process \d+ on {SECOND}\) has died: its node was lost"
    assert re.search(rf"error: ({by_error}|{by_watchdog})", output), output
    newest = newest_complete(folder / "checkpoints")
    assert newest is not None
    assert f"the newest checkpoint is {newest.name}: ctwa.resume=true goes on from there" in output
    assert int(newest.name.rpartition("_")[2]) >= 6
    assert damaged_files(newest) == ()
    last = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()][-1]
    assert last["kind"] == "error"
    assert last["time"] - lost < 90  # 8 s on a quiet machine; Ray itself takes a minute to give up a silent node
    assert processes_in(running.pid) == []
    for process in (*of_the_run, *on_the_node):
        wait_until_gone(process.pid)
