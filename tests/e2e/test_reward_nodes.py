"""Reward workers on two of Ray's nodes, both on this machine."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from ctwa.engine.reward_nodes import join_nodes
from ctwa.errors import CtwaError
from ctwa.objectives.completion import Completion
from ctwa.objectives.config import ObjectiveConfig
from ctwa.objectives.evaluator import RewardEvaluator

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
NODE = {"object_store_memory": 10**8, "include_dashboard": False}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A Ray of one node, with this process as its driver."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **NODE})
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def wait_until_gone(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    assert select.select([descriptor], [], [], 60)[0], f"process {pid} outlived its node"
    os.close(descriptor)


def test_calls_run_on_every_node_and_again_elsewhere_where_a_node_is_lost(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=2, **NODE)
    cluster.wait_for_nodes()
    path, shared, calls = tmp_path / "rewards.py", tmp_path / "shared", tmp_path / "calls"
    path.write_text(REWARDS)
    calls.mkdir()
    os.mkfifo(tmp_path / "go")
    shared.touch()
    objectives = {"o": ObjectiveConfig(reward_fn=f"{path}:f", timeout=120)}
    with RewardEvaluator(objectives, num_workers=1) as evaluator:
        shared.unlink()
        with pytest.raises(CtwaError, match=r"the node .* cannot run the reward functions: .*the file is not here"):
            join_nodes(evaluator, "auto")

    shared.touch()
    with RewardEvaluator(objectives, num_workers=1) as evaluator:
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
    assert evaluation.matrix.to_columns() == {"o": [0.0, 1.0, 2.0]}
    assert len(os.listdir(calls)) == 5  # the two of the lost node ran twice
