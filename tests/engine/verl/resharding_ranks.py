"""A policy that two ranks save and one goes on with, and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from engine_ranks import (
    KINDS,
    LENGTHS,
    MICRO_BATCH_SIZE,
    batch_of,
    config_of,
    join,
    leave_the_start,
    some_rows,
)
from torch import Tensor
from torch.distributed.tensor import DTensor
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import TrainingWorkerConfig

from ctwa.engine.verl.workers import PolicyWorker

WARM_UP = "actor_rollout_ref.actor.optim.lr_warmup_steps=10"


def from_ranks_to_ranks(folder: Path) -> None:
    """Two ranks take steps, save, and take another; one rank loads, saves and takes it; two ranks load that."""
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "0"}  # looked for, and not at
    rank = int(os.environ["RANK"])
    found: dict[Any, Any] = {}

    _join(folder, "first", num_ranks=2)
    for kind in KINDS:
        worker = _build(folder, kind)
        if kind == "lora":
            leave_the_start(worker.engine)
        _step(worker, 0)
        worker.keep_weights()
        kept = _policy(worker)["weights"]
        _step(worker, 1)
        worker.save_checkpoint(str(folder / kind / "by-two"))
        found[kind, "saved"] = {**_policy(worker), "kept": kept}
        _step(worker, 2)
        found[kind, "gone on with"] = _policy(worker)
    torch.distributed.destroy_process_group()

    if rank == 0:
        _join(folder, "second", num_ranks=1)
        for kind in KINDS:
            worker = _build(folder, kind)
            found[kind, "by one"] = _load(worker, folder / kind / "by-two")
            worker.save_checkpoint(str(folder / kind / "by-one"))
            _step(worker, 2)
            found[kind, "gone on with by one"] = _policy(worker)
        torch.distributed.destroy_process_group()

    _join(folder, "third", num_ranks=2)
    for kind in KINDS:
        found[kind, "by two again"] = _load(_build(folder, kind), folder / kind / "by-one")
    torch.distributed.destroy_process_group()
    if rank == 0:
        torch.save(found, folder / "resharded.pt")


def _join(folder: Path, meeting: str, *, num_ranks: int) -> None:
    os.environ["WORLD_SIZE"] = str(num_ranks)
    (folder / meeting).mkdir(exist_ok=True)
    join(folder / meeting)


def _build(folder: Path, kind: str) -> PolicyWorker:
    config = config_of(folder, *KINDS[kind], WARM_UP)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    worker = PolicyWorker(
        TrainingWorkerConfig(
            model_type="language_model",
            model_config=omega_conf_to_dataclass(config.actor_rollout_ref.model),
            engine_config=actor.engine,
            optimizer_config=actor.optim,
            checkpoint_config=actor.checkpoint,
        )
    )
    worker.reset()
    return worker


def _step(worker: PolicyWorker, seed: int) -> None:
    rank, num_ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    num_tokens = sum(LENGTHS) - len(LENGTHS)

    def loss(model_output: dict, data: Any, dp_group: Any = None) -> tuple[Any, dict]:
        del data, dp_group
        log_probs = torch.cat([row[:-1] for row in model_output["log_probs"].unbind()])
        # verl's engine wants the whole batch's mean times the number of ranks.
        return -log_probs.sum() * num_ranks / num_tokens, {}

    rows = some_rows(LENGTHS, seed=seed)[rank::num_ranks]
    with worker.engine.train_mode():
        worker.engine.train_batch(batch_of(rows, MICRO_BATCH_SIZE[num_ranks]), loss_function=loss)
        worker.engine.lr_scheduler_step()


def _load(worker: PolicyWorker, checkpoint: Path) -> dict[str, Any]:
    worker.load_checkpoint(str(checkpoint))
    found = _policy(worker)
    worker.swap_weights()
    found["kept"] = _policy(worker)["weights"]
    worker.swap_weights()
    return found


def _policy(worker: PolicyWorker) -> dict[str, Any]:
    """Whole tensors: the weights, what the optimizer knows of them, and the learning rate."""
    optimizer = worker.engine.optimizer.state_dict()
    return {
        "weights": {name: _whole(value) for name, value in worker.engine.module.state_dict().items()},
        "optimizer": {
            (index, key): _whole(value) for index, state in optimizer["state"].items() for key, value in state.items()
        },
        "rate": optimizer["param_groups"][0]["lr"],
        "generator": torch.get_rng_state(),
    }


def _whole(value: Tensor) -> Tensor:
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()
