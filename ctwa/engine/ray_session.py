"""Ray, for as long as a run lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ctwa.engine.checks import check_resources


@contextmanager
def ray_session(config: DictConfig, *, transfer_queue: bool) -> Iterator[None]:
    """Start Ray, and where it is asked for verl's transfer queue; end all of it at the end.

    Args:
        config: the resolved config.
        transfer_queue: whether rows are handed on through it.

    Raises:
        CtwaError: Ray has not what the run will ask of it.
    """
    import ray
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    from ctwa.engine.worker_path import WorkerPath

    ray_init: dict[str, Any] = OmegaConf.to_container(
        OmegaConf.merge({"runtime_env": get_ppo_ray_runtime_env(config)}, config.ray_kwargs.ray_init)
    )
    if transfer_queue:
        config.transfer_queue.enable = True
        ray_init["runtime_env"]["env_vars"]["TRANSFER_QUEUE_ENABLE"] = "1"
    ray.init(**ray_init, job_config=WorkerPath())
    try:
        check_resources(config)
        if not transfer_queue:
            yield
            return
        import transfer_queue as queue

        queue.init(config.transfer_queue)
        try:
            yield
        finally:
            queue.close()
    finally:
        ray.shutdown()
