"""Ray, for as long as a run lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ctwa.engine.checks.resources import check_resources
from ctwa.engine.keeper import end_by, tell
from ctwa.engine.ray_nodes import losses_told
from ctwa.engine.ray_security import close_to_others
from ctwa.engine.ray_servers import servers_seen
from ctwa.engine.ray_start import less_of_ray
from ctwa.engine.signals import end_request
from ctwa.engine.sockets import name_of_run
from ctwa.errors import CtwaError

PATIENCE = 30
"""Seconds that the end of a run waits for a transfer queue that is still starting."""
GRACE = 15
"""Seconds that a run without one of Ray's own processes has for its end."""


@contextmanager
def ray_session(
    config: DictConfig, *, transfer_queue: bool, say: Callable[[str], None]
) -> Iterator[Callable[[], None]]:
    """Start Ray, and where it is asked for verl's transfer queue; end all of it at the end.

    The queue's processes start while the caller starts others: what is yielded waits for them.

    Args:
        config: the resolved config.
        transfer_queue: whether rows are handed on through it.
        say: told what the user should know while the run goes on.

    Raises:
        CtwaError: Ray has not what the run will ask of it, or would let others in, or does not come up.
    """
    import ray
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    from ctwa.engine.checks.worker_path import WorkerPath

    own = OmegaConf.to_container(config.ray_kwargs.ray_init, resolve=True)
    ray_init: dict[str, Any] = OmegaConf.to_container(
        OmegaConf.merge({"runtime_env": get_ppo_ray_runtime_env(config)}, OmegaConf.create(own))
    )
    if transfer_queue:
        config.transfer_queue.enable = True
        ray_init["runtime_env"]["env_vars"]["TRANSFER_QUEUE_ENABLE"] = "1"
    ray_init["runtime_env"]["env_vars"] |= name_of_run()
    close_to_others(ray_init, trust_network=config.ctwa.trust_network)
    with less_of_ray(ray_init):
        ray.init(**ray_init, job_config=WorkerPath())
    end_request.take_signals()
    try:
        with servers_seen(_fail, say), losses_told():
            check_resources(config)
            if not transfer_queue:
                yield lambda: None
                return
            with _transfer_queue(config.transfer_queue) as wait_for_queue:
                yield wait_for_queue
    finally:
        ray.shutdown()


def _fail(fault: str) -> None:
    """End the run; or let its keeper say why it ended, where Ray is faster.

    Without the GCS the main thread may wait in Ray for a minute, where nothing reaches it.
    """
    tell(fault=fault)
    end_request.fail(fault)
    at_the_latest = threading.Timer(GRACE, end_by, [fault])
    at_the_latest.daemon = True
    at_the_latest.start()


@contextmanager
def _transfer_queue(settings: DictConfig) -> Iterator[Callable[[], None]]:
    import ray
    import transfer_queue

    from ctwa.engine.verl import queue_security

    # The queue would attach itself to one that is there, whose keys are another run's.
    if "TransferQueueController" in {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}:
        raise CtwaError(
            "another run has its transfer queue in this Ray cluster, and the two would mix their rows: wait for its "
            "end, or start a cluster for each"
        )
    keys = queue_security.share_keys()
    started: Future[None] = Future()

    def start() -> None:
        try:
            queue_security.check_closed(_addresses(transfer_queue.init(settings)), keys)
        except BaseException as error:  # noqa: BLE001 - told where it is waited for
            started.set_exception(error)
        else:
            started.set_result(None)

    # Not a pool's thread, which Python waits for at its end: Ray may never place the queue on a busy cluster.
    threading.Thread(target=start, daemon=True, name="ctwa-queue").start()
    try:
        yield started.result
    finally:
        wait([started], timeout=PATIENCE)  # an error or a signal may come while it starts
        transfer_queue.close()


def _addresses(started: DictConfig) -> list[str]:
    """Of every socket that a queue listens on."""
    units = started.backend.get("SimpleStorage", {}).get("zmq_info") or {}
    servers = [started.controller.zmq_info, *units.values()]
    return [server.to_addr(port) for server in servers for port in server.ports]
