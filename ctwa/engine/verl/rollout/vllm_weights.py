"""The two ends of the socket by which vLLM's workers are given the weights, where only their run's processes find it.

verl calls the socket after Ray's job, so that jobs beside each other do not meet, and puts it into /tmp. But a run of
ours has a Ray of its own, of which it is the first job: all runs of a machine would bind one path, take each other's
weights, or wait for ever. And a path of /tmp may be another user's, whose message vLLM's workers would unpickle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from verl.workers.rollout.vllm_rollout import ServerAdapter
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

from ctwa.engine.sockets import address


def _of_this_run(handle: str) -> str:
    """The address that verl gives, which has the job, the server and the rank in its name, among this run's sockets."""
    return address(Path(handle).name)


class Sender(ServerAdapter):
    """The trainer's end: binds the socket whenever it sends."""

    zmq_handle: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.zmq_handle = _of_this_run(self.zmq_handle)


class Receiver(vLLMColocateWorkerExtension):
    """vLLM's end; vLLM makes it a base of its worker because the config names it (``worker_extension_cls``)."""

    def _get_zmq_handle(self) -> str:
        return _of_this_run(super()._get_zmq_handle())
