"""Reward workers on Ray's other nodes: an actor on each, which has the same pool that the driver has on its own.

Calls go to an actor in chunks, and their outcomes come back together: one message a round. Deadlines are kept where the
calls run. A node that is lost takes no value with it, since the calls that it had are taken by the others.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Literal

from ctwa.engine.ray_nodes import node_names
from ctwa.errors import CtwaError
from ctwa.objectives.calls import Call, CallQueue, Chunk, Ended, Kind
from ctwa.objectives.contract import Contract, Outcome
from ctwa.objectives.evaluator import RewardEvaluator
from ctwa.objectives.messages import Function
from ctwa.objectives.pool import WorkerPool, module_path
from ctwa.run.cores import reward_workers

PATIENCE = 0.05
"""Seconds that an actor waits for an outcome before it asks for more calls."""
EndedIds = list[tuple[int, list[Outcome]]]


class RewardNode:
    """The Ray actor of a node: one message after the other, while a thread of its own serves the workers.

    Args:
        functions: to load.
        num_workers: processes.
        path: where they find modules.
        max_memory: GB that a process may take; half of the node's by default.

    Raises:
        CtwaError: a function cannot be loaded.
    """

    def __init__(
        self, functions: Sequence[Function], num_workers: int, path: Sequence[str], max_memory: float | None = None
    ) -> None:
        self._pool = WorkerPool(functions, num_workers, path=path, max_memory=max_memory)
        self._num_workers = num_workers
        self._changed = threading.Condition()

    def contracts(self) -> list[Contract]:
        """How each function is called."""
        return self._pool.contracts

    def begin(self, kinds: Sequence[Kind]) -> None:
        """Begin a batch."""
        self._queue = CallQueue(kinds, self._num_workers)
        self._ids: dict[int, int] = {}  # of calls here -> the driver's
        self._ended: EndedIds = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def exchange(self, calls: Mapping[int, Call]) -> EndedIds:
        """Take calls by their numbers; give outcomes of those that ended, some time before `PATIENCE` is over."""
        self._ids |= {id(call): number for number, call in calls.items()}
        self._queue.put(list(calls.values()))
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._error, timeout=PATIENCE)
            ended, self._ended = self._ended, []
        if self._error is not None:
            raise self._error
        return ended

    def end(self) -> dict[int, float]:
        """End the batch, and kill what runs of it; how long workers were busy with each function, in seconds."""
        self._queue.cancel()
        self._thread.join()
        seconds: dict[int, float] = {}
        for chunk in self._queue.chunks:
            seconds[chunk.function] = seconds.get(chunk.function, 0.0) + chunk.seconds
        return seconds

    def _serve(self) -> None:
        try:
            with closing(self._pool.run(self._queue)) as calls:
                for call, outcomes in calls:
                    with self._changed:
                        self._ended.append((self._ids.pop(id(call)), outcomes))
                        self._changed.notify()
        except BaseException as error:  # noqa: BLE001 - told to the driver
            with self._changed:
                self._error = error
                self._changed.notify()


class NodePool:
    """The driver's end of a node's workers: a :class:`~ctwa.objectives.pool.Pool`.

    Args:
        actor: the handle of its `RewardNode`.
        num_workers: of the node.
        name: of the node, for messages.
    """

    def __init__(self, actor: Any, num_workers: int, name: str) -> None:
        self._actor = actor
        self.num_workers = num_workers
        self._name = name
        self._is_lost = False

    def run(self, queue: CallQueue) -> Generator[Ended, None, None]:
        """Have calls of a queue run on the node, until it is over; nothing where the node is lost."""
        from ray.exceptions import RayActorError, RayTaskError

        if self._is_lost:
            return
        out: dict[int, Call] = {}
        try:
            yield from self._run(queue, out)
        except RayTaskError as error:
            raise CtwaError(f"the node {self._name}: {_cause(error)}") from error
        except RayActorError as error:
            self._is_lost = True
            lost = f"the reward workers of the node {self._name} are lost; their {len(out)} calls run elsewhere"
            logging.getLogger(__name__).warning("%s: %s", lost, error)
            queue.give_back(list(out.values()))

    def _run(self, queue: CallQueue, out: dict[int, Call]) -> Iterator[Ended]:
        import ray

        changed = threading.Event()
        queue.listen(changed.set)
        taken: dict[int, Chunk] = {}
        number = 0
        ray.get(self._actor.begin.remote(queue.kinds))
        try:
            while True:
                changed.clear()
                if queue.is_over or queue.is_cancelled:
                    return
                calls: dict[int, Call] = {}
                while (free := self.num_workers - len(out)) > 0 and (chunk := queue.take(free)):
                    taken[chunk.function] = chunk
                    for call in chunk.calls:
                        calls[number] = out[number] = call
                        number += 1
                if not out:
                    changed.wait()
                    continue
                for ended, outcomes in ray.get(self._actor.exchange.remote(calls)):
                    queue.finish()
                    yield out.pop(ended), outcomes
        finally:
            for function, seconds in ray.get(self._actor.end.remote()).items():
                taken[function].seconds += seconds

    def check(self, contracts: Sequence[Contract]) -> None:
        """See that the node calls the functions as the driver does.

        Raises:
            CtwaError: it cannot load them, or finds others under their names.
        """
        import ray
        from ray.exceptions import RayError

        where = "reward functions lie on a file system that all nodes share (docs/cluster.md)"
        try:
            found = ray.get(self._actor.contracts.remote())
        except RayError as error:
            raise CtwaError(
                f"the node {self._name} cannot run the reward functions: {_cause(error)}; {where}"
            ) from error
        if found != list(contracts):
            raise CtwaError(f"the node {self._name} has other reward functions than this machine; {where}")

    def close(self) -> None:
        """End the node's workers."""
        import ray

        ray.kill(self._actor)


def _cause(error: Exception) -> str:
    """The last line of what Ray tells of an error elsewhere: all before it is the way there."""
    return str(error).strip().splitlines()[-1]


def join_nodes(
    evaluator: RewardEvaluator, num_workers: int | Literal["auto"], *, max_memory: float | None = None
) -> list[NodePool]:
    """Start workers on every node of Ray's but the driver's, by its CPUs, and let them take calls.

    Args:
        evaluator: whose functions lie at the same place on each node.
        num_workers: on a node, no more than it has CPUs; ``auto`` for one a CPU, up to a bound.
        max_memory: GB that one of them may take; half of its node's by default.

    Raises:
        CtwaError: a node cannot load the functions.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    from verl.plugin.platform import get_platform

    own, names = ray.get_runtime_context().get_node_id(), node_names()
    # Ray hides every GPU from an actor that asks for none; a reward model's process is to see the node's.
    sees_devices = {"env_vars": dict.fromkeys(get_platform().ray_noset_envvars(), "1")}
    pools: list[NodePool] = []
    for node in ray.nodes():
        cpus = int(node["Resources"].get("CPU", 0))
        if node["NodeID"] not in names or node["NodeID"] == own or not cpus:
            continue
        num = min(reward_workers(num_workers, cpus), cpus)
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        actor = ray.remote(RewardNode).options(num_cpus=0, scheduling_strategy=there, runtime_env=sees_devices)
        handle = actor.remote(evaluator.functions, num, module_path(), max_memory)
        pools.append(NodePool(handle, num, names[node["NodeID"]]))
        evaluator.join(pools[-1])
    for pool in pools:
        pool.check(list(evaluator.contracts.values()))
    return pools
