"""Our engine in processes of its own, as one rank or two, without Ray; a script: engine_ranks.py JOB FOLDER."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from tensordict import TensorDict
from torch import Tensor
from torch.distributed.tensor import distribute_tensor
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.engine import EngineRegistry

from ctwa.aggregators.mgda import MgdaConfig
from ctwa.aggregators.registry import GRADIENT_METHODS, GradientMethodConfig, build_aggregator
from ctwa.engine.compose import compose_config
from ctwa.engine.cpu_platform import register_cpu_platform
from ctwa.engine.gradients import GradientPlan
from ctwa.engine.multi_objective_engine import MultiObjectiveEngine
from ctwa.engine.registry import register_engines
from ctwa.engine.settings import GradientSettings
from ctwa.testbed.model import build_model
from ctwa.testbed.tokenizer import build_tokenizer

PREFERENCE = {"accuracy": 0.5, "clarity": 0.2, "conciseness": 0.3}
LENGTHS = [6, 9, 7, 12, 5, 8, 11, 10]
KINDS = {
    "full": [],
    "lora": ["actor_rollout_ref.model.lora_rank=4", "actor_rollout_ref.model.target_modules=all-linear"],
}
MICRO_BATCH_SIZE = {1: len(LENGTHS), 2: 2}  # one rank does at once what each of two does in two micro-batches


def save_model(folder: Path) -> None:
    """A testbed's model, of random weights, where ``build_engine`` looks for it."""
    build_model(seed=0).save_pretrained(folder / "model")
    build_tokenizer().save_pretrained(folder / "model")


def run_ranks(job: str, folder: Path, num_ranks: int) -> None:
    """Run a job as that many ranks, and wait for them. The engine's registries and the process group are global."""
    environment = os.environ | {"VERL_USE_EXTERNAL_MODULES": "ctwa.engine.plugin", "VERL_PLATFORM": "cpu"}
    environment |= {"WORLD_SIZE": str(num_ranks), "LOCAL_RANK": "0"}
    command = [sys.executable, __file__, job, str(folder)]
    logs = [folder / f"{job}-{rank}of{num_ranks}.log" for rank in range(num_ranks)]
    ranks = []
    for rank, log in enumerate(logs):
        with log.open("wb") as file:
            variables = environment | {"RANK": str(rank)}
            ranks.append(subprocess.Popen(command, env=variables, stdout=file, stderr=subprocess.STDOUT))
    codes = [rank.wait() for rank in ranks]
    assert codes == [0] * num_ranks, "\n".join(log.read_text()[-3000:] for log in logs)


def join(folder: Path) -> tuple[int, int]:
    """Meet the other ranks: this rank's number, and how many there are."""
    rank, num_ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    meeting = f"file://{folder}/meeting-of-{num_ranks}"
    torch.distributed.init_process_group(
        "gloo",
        init_method=meeting,
        rank=rank,
        world_size=num_ranks,
        timeout=timedelta(minutes=3),  # for a rank that has died
    )
    torch.set_num_threads(1)
    register_cpu_platform()
    register_engines()
    return rank, num_ranks


def build_engine(folder: Path, *overrides: str) -> MultiObjectiveEngine:
    """The engine that a run with these settings trains the folder's model with, among the ranks that have joined."""
    config = compose_config([f"ctwa.task_dir={folder}", f"ctwa.run={folder / 'run'}", *overrides])
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    model = omega_conf_to_dataclass(config.actor_rollout_ref.model)
    model.model_type = "language_model"
    engine: MultiObjectiveEngine = EngineRegistry.new(
        model_type="language_model",
        backend="fsdp2",
        model_config=model,
        engine_config=actor.engine,
        optimizer_config=actor.optim,
        checkpoint_config=actor.checkpoint,
    )
    engine.initialize()
    return engine


def batch_of(rows: list[Tensor], micro_batch_size: int) -> TensorDict:
    """Token sequences as a mini-batch of this rank."""

    def nested(parts: list[Tensor]) -> Tensor:
        return torch.nested.as_nested_tensor(parts, layout=torch.jagged)

    data = TensorDict(
        {
            "input_ids": nested(rows),
            "position_ids": nested([torch.arange(len(row)) for row in rows]),
            "loss_mask": nested([torch.ones_like(row) for row in rows]),
        },
        batch_size=len(rows),
    )
    options: dict[str, Any] = {"temperature": 1.0, "micro_batch_size_per_gpu": micro_batch_size}
    options |= dict.fromkeys(["use_dynamic_bsz", "use_remove_padding", "use_fused_kernels"], False)
    tu.assign_non_tensor(data, **options)
    return data


def some_rows(lengths: list[int], *, seed: int) -> list[Tensor]:
    """Random token sequences."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 30, (length,), generator=generator) for length in lengths]


def every_method(folder: Path) -> None:
    """Save, for each kind and method, what the mini-batches measured, how it was weighed, and the step's gradient."""
    rank, num_ranks = join(folder)
    measured = {}
    for kind, overrides in KINDS.items():
        engine = build_engine(folder, *overrides)
        if kind == "lora":
            leave_the_start(engine)
        for method in GRADIENT_METHODS:
            measured[kind, method] = two_mini_batches(engine, method, rank, num_ranks)
    torch.save(measured, folder / f"measured-{rank}of{num_ranks}.pt")
    torch.distributed.destroy_process_group()


def leave_the_start(engine: MultiObjectiveEngine) -> None:
    """An adapter begins with one factor at zero, so that the other has no gradient."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in engine.trained():
            whole = 0.1 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(distribute_tensor(whole, parameter.device_mesh, parameter.placements))


def two_mini_batches(engine: MultiObjectiveEngine, method: str, rank: int, num_ranks: int) -> list[dict[str, Any]]:
    """Both at the same weights of the model: those of a step would carry its rounding on."""
    config = TypeAdapter(GradientMethodConfig).validate_python({"type": method})
    engine.plan = plan = GradientPlan(tuple(PREFERENCE), build_aggregator(config, PREFERENCE), GradientSettings())
    num_tokens = sum(LENGTHS) - len(LENGTHS)

    def loss(model_output: dict, data: Any, dp_group: Any = None) -> tuple[Any, dict]:
        del data, dp_group
        # A row's last value is of the next row's first token, and verl's own loss masks it.
        log_probs = torch.cat([row[:-1] for row in model_output["log_probs"].unbind()])
        each = [-log_probs, log_probs.square(), log_probs.exp()]
        # verl's engine wants the whole batch's mean times the number of ranks.
        engine.losses = ([value.sum() * num_ranks / num_tokens for value in each], None)
        return engine.losses[0][0], {}

    norms = []
    for seed in (0, 1):
        rows = some_rows(LENGTHS, seed=seed)[rank::num_ranks]
        before = [parameter.detach().clone() for parameter in engine.trained()]
        with engine.train_mode():
            output = engine.train_batch(batch_of(rows, MICRO_BATCH_SIZE[num_ranks]), loss_function=loss)
        norms.append(output["metrics"]["grad_norm"])
        with torch.no_grad():
            for parameter, value in zip(engine.trained(), before, strict=True):
                parameter.copy_(value)
    return [
        {"gram": record.gram_MM, "weights": record.weights_M, "norm": norm}
        for record, norm in zip(plan.records, norms, strict=True)
    ]


def skipped_step(folder: Path) -> None:
    """Two updates, the first with a gradient that is not finite."""
    join(folder)
    engine = build_engine(folder)
    aggregator = build_aggregator(MgdaConfig(), {"a": 1.0, "b": 1.0})
    reports = []
    for factor in (float("inf"), 1.0):
        before = [parameter.detach().clone() for parameter in engine.trained()]
        engine.plan = GradientPlan(("a", "b"), aggregator, GradientSettings())

        def loss(model_output: dict, data: Any, dp_group: Any = None, factor: float = factor) -> tuple[Any, dict]:
            del data, dp_group
            log_probs = model_output["log_probs"].values()
            engine.losses = ([-log_probs.mean(), factor * log_probs.square().mean()], None)
            return engine.losses[0][0], {}

        with engine.train_mode():
            engine.train_batch(batch_of(some_rows([6, 9], seed=0), micro_batch_size=1), loss_function=loss)
        moved = sum(float((new - old).abs().sum()) for new, old in zip(engine.trained(), before, strict=True))
        (record,) = engine.plan.records
        reports.append({"moved": moved, "skipped": record.skipped, "num_skipped": aggregator.num_skipped})
    (folder / "reports.json").write_text(json.dumps(reports))


JOBS = {job.__name__: job for job in (every_method, skipped_step)}

if __name__ == "__main__":
    JOBS[sys.argv[1]](Path(sys.argv[2]))
