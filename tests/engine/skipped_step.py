"""Two updates of the engine, the first with a gradient that is not finite; run as a script: skipped_step.py FOLDER."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.engine import EngineRegistry

from ctwa.aggregators.mgda import MgdaConfig
from ctwa.aggregators.registry import build_aggregator
from ctwa.engine.cpu_platform import register_cpu_platform
from ctwa.engine.gradients import GradientPlan
from ctwa.engine.launch import compose_config
from ctwa.engine.registry import register_engines
from ctwa.engine.settings import GradientSettings
from ctwa.testbed.model import build_model
from ctwa.testbed.tokenizer import build_tokenizer

NAMES = ("a", "b")


def main(folder: Path) -> None:
    build_model(seed=0).save_pretrained(folder / "model")
    build_tokenizer().save_pretrained(folder / "model")
    config = compose_config([f"ctwa.task_dir={folder}", f"ctwa.run={folder / 'run'}"])
    register_cpu_platform()
    register_engines()
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=0, world_size=1)
    node = config.actor_rollout_ref
    actor, model = omega_conf_to_dataclass(node.actor), omega_conf_to_dataclass(node.model)
    model.model_type = "language_model"
    engine = EngineRegistry.new(
        model_type="language_model",
        backend="fsdp2",
        model_config=model,
        engine_config=actor.engine,
        optimizer_config=actor.optim,
        checkpoint_config=actor.checkpoint,
    )
    engine.initialize()
    aggregator = build_aggregator(MgdaConfig(), dict.fromkeys(NAMES, 1.0))
    reports = []
    for factor in (float("inf"), 1.0):
        before = [parameter.detach().clone() for parameter in engine.trained()]
        engine.plan = GradientPlan(NAMES, aggregator, GradientSettings())

        def loss(model_output: dict, data: Any, dp_group: Any = None, factor: float = factor) -> tuple[Any, dict]:
            del data, dp_group
            log_probs = model_output["log_probs"].values()
            engine.losses = ([-log_probs.mean(), factor * log_probs.square().mean()], None)
            return engine.losses[0][0], {}

        with engine.train_mode():
            engine.train_batch(batch(), loss_function=loss)
        moved = sum(float((new - old).abs().sum()) for new, old in zip(engine.trained(), before, strict=True))
        (record,) = engine.plan.records
        reports.append({"moved": moved, "skipped": record.skipped, "num_skipped": aggregator.num_skipped})
    (folder / "reports.json").write_text(json.dumps(reports))


def batch() -> TensorDict:
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, 30, (length,), generator=generator) for length in (6, 9)]

    def nested(parts: list[torch.Tensor]) -> torch.Tensor:
        return torch.nested.as_nested_tensor(parts, layout=torch.jagged)

    data = TensorDict(
        {
            "input_ids": nested(rows),
            "position_ids": nested([torch.arange(len(row)) for row in rows]),
            "loss_mask": nested([torch.ones_like(row) for row in rows]),
        },
        batch_size=2,
    )
    tu.assign_non_tensor(
        data,
        temperature=1.0,
        use_dynamic_bsz=False,
        micro_batch_size_per_gpu=1,
        use_remove_padding=False,
        use_fused_kernels=False,
    )
    return data


if __name__ == "__main__":
    main(Path(sys.argv[1]))
