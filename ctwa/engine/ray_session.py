"""Ray, for as long as a run lasts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ctwa.engine.checks.resources import check_resources
from ctwa.engine.keeper import tell
from ctwa.engine.ray_nodes import losses_told
from ctwa.engine.ray_security import close_to_others
from ctwa.engine.ray_servers import servers_seen
from ctwa.engine.signals import end_request
from ctwa.errors import CtwaError

PATIENCE = 30
"""Seconds that the end of a run waits for a transfer queue that is still starting."""
START = 180.0
"""Seconds that Ray's processes have to come up; Ray itself gives them 30, which a busy machine needs."""
_TOO_LATE = "timed out during startup"  # says Ray


@contextmanager
def ray_session(config: DictConfig, *, transfer_queue: bool) -> Iterator[Callable[[], None]]:
    """Start Ray, and where it is asked for verl's transfer queue; end all of it at the end.

    The queue's processes start while the caller starts others: what is yielded waits for them.

    Args:
        config: the resolved config.
        transfer_queue: whether rows are handed on through it.

    Raises:
        CtwaError: Ray has not what the run will ask of it, or would let others in.
    """
    import ray
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    from ctwa.engine.checks.worker_path import WorkerPath

    ray_init: dict[str, Any] = OmegaConf.to_container(
        OmegaConf.merge({"runtime_env": get_ppo_ray_runtime_env(config)}, config.ray_kwargs.ray_init)
    )
    if transfer_queue:
        config.transfer_queue.enable = True
        ray_init["runtime_env"]["env_vars"]["TRANSFER_QUEUE_ENABLE"] = "1"
    close_to_others(ray_init, trust_network=config.ctwa.trust_network)
    with _less_of_ray(ray_init), in_words():
        ray.init(**ray_init, job_config=WorkerPath())
    end_request.take_signals()
    try:
        with servers_seen(_fail), losses_told():
            check_resources(config)
            if not transfer_queue:
                yield lambda: None
                return
            with _transfer_queue(config.transfer_queue) as wait_for_queue:
                yield wait_for_queue
    finally:
        ray.shutdown()


def _fail(fault: str) -> None:
    """End the run; or let its keeper say why it ended, where Ray is faster."""
    tell(fault=fault)
    end_request.fail(fault)


@contextmanager
def in_words() -> Iterator[None]:
    """While the body starts Ray, whose processes must come up in time.

    Raises:
        CtwaError: they did not.
    """
    try:
        yield
    except Exception as error:
        if _TOO_LATE not in str(error):
            raise
        raise CtwaError(
            f"Ray's processes were not up within {START:g} s: the machine is too busy, or out of memory; start again "
            "when it is not (--max-restarts 3 does so by itself)"
        ) from error


@contextmanager
def _less_of_ray(ray_init: Mapping[str, Any]) -> Iterator[None]:
    """Start Ray without its autoscaler, and without the server of a dashboard that there is not to be.

    On a machine of its own the one has nothing to scale, and the other, which Ray starts and waits for all the same,
    nothing to serve. Both take a second to start, and the autoscaler another to end. Ray gives up early on processes
    that are slow to come up: they are given `START`.
    """
    from ray._private import services
    from ray._private.node import Node

    with ExitStack() as stack:
        if ray_init["address"] == "local":
            stack.enter_context(_replaced(Node, "start_monitor", _nothing))
            stack.enter_context(_replaced(services, "get_node", _patient(services.get_node)))
            if ray_init.get("include_dashboard") is False:
                stack.enter_context(_replaced(Node, "start_api_server", _nothing))
        yield


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _patient(get_node: Callable[..., Any]) -> Callable[..., Any]:
    """Ask for a node again and again, as long as it has to come up."""

    def ask(*arguments: Any) -> Any:
        until = time.monotonic() + START
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:  # there is no such node yet
                if time.monotonic() > until:
                    raise
            time.sleep(0.1)

    return ask


@contextmanager
def _replaced(owner: Any, name: str, by: Callable[..., Any]) -> Iterator[None]:
    """Let a function be another for a while."""
    method = getattr(owner, name)
    setattr(owner, name, by)
    try:
        yield
    finally:
        setattr(owner, name, method)


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
