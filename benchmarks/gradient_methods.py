"""What the objectives' gradients cost: time and memory of an update, against linear weights, for 1 to 8 objectives.

One process, the engine that a run has, a Qwen2 of random weights; the variants take turns, so that whatever else the
machine does falls on all of them alike:

    linear            one forward pass, one backward pass
    shared, M = m     MGDA with one forward pass and m backward passes
    sequential, M = m MGDA with m of both: what it costs to update once for each objective
    last layers       MGDA on the gradients of the last quarter of the blocks
    refresh           MGDA's weights of an earlier step: a step between two solutions
    cross-fitted      MGDA on the gradients of two halves of the prompts
    Adam's metric     the same, and inner products as the optimizer's step has them

    python benchmarks/gradient_methods.py [--rounds 7] [--hidden 256] [--layers 4] [--rows 16] [--tokens 64]
        [--only VARIANT ...]

Prints, for each variant, the median CPU time of an update, its ratio to linear (median over rounds of the ratio within
a round, with quartiles), what (1 + 2 M) / 3 would be (one forward and M backward passes, a backward pass being two
forward ones), and the most memory the allocator held during it, beyond what it held before.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from ctwa.engine.compose import compose_config
from ctwa.engine.job import set_environment

NAMES = tuple("abcdefgh")
COMPLETIONS = 4
"""Rows of a prompt, for halves of whole prompts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often each variant takes its turn")
    parser.add_argument("--hidden", type=int, default=256, help="width of the model")
    parser.add_argument("--layers", type=int, default=4, help="transformer blocks")
    parser.add_argument("--rows", type=int, default=16, help="completions of the mini-batch")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a completion")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="beside linear, those whose names begin so")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, Path(folder))


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Build the engine, let the variants take turns, print."""
    config = compose_config(
        [
            "task=testbed",
            f"ctwa.task_dir={folder}",
            f"ctwa.run={folder / 'run'}",
            f"actor_rollout_ref.model.path={save_model(arguments, folder / 'model')}",
        ]
    )
    set_environment(config)
    engine, loss_fn = build_engine(config)
    make_batch = partial(batch_of, arguments)

    import torch

    from ctwa.aggregators.cross_fit import CrossFittedGram
    from ctwa.aggregators.mgda import MgdaConfig
    from ctwa.aggregators.registry import build_aggregator
    from ctwa.gradients.plan import GradientPlan
    from ctwa.gradients.settings import GradientSettings

    def plan(num: int, solve: bool = True, **settings: Any) -> GradientPlan:
        names = NAMES[:num]
        aggregator = build_aggregator(MgdaConfig(), dict.fromkeys(names, 1.0))
        made = GradientPlan(names, aggregator, GradientSettings(**settings), solve=solve)
        if made.settings.gram == "cross_fitted":
            made.cross_fitted = CrossFittedGram(names, half_life=10.0)
            made.half_N = (torch.arange(arguments.rows) // COMPLETIONS % 2).to(torch.int8)
        return made

    quarter = max(arguments.layers // 4, 1)
    variants: dict[str, tuple[int, Callable[[], GradientPlan | None]]] = {"linear": (0, lambda: None)}
    for num in (1, 2, 3, 4, 8):
        variants[f"shared, M = {num}"] = (num, partial(plan, num))
    for num in (3, 8):
        variants[f"sequential, M = {num}"] = (num, partial(plan, num, passes="sequential"))
    variants["last layers, M = 3"] = (3, partial(plan, 3, last_layers=quarter))
    variants["refresh, M = 3"] = (3, partial(plan, 3, solve=False))
    variants["cross-fitted, M = 3"] = (3, partial(plan, 3, gram="cross_fitted"))
    variants["cross-fitted, Adam's metric, M = 3"] = (3, partial(plan, 3, gram="cross_fitted", metric="optimizer"))

    if arguments.only:
        starts = ("linear", *arguments.only)
        variants = {name: each for name, each in variants.items() if name.startswith(starts)}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    peaks: dict[str, int] = {}
    with engine.train_mode():
        for turn in range(arguments.rounds + 2):
            for name, (num, make_plan) in variants.items():
                engine.plan = make_plan()
                update = partial(engine.train_batch, make_batch(num), loss_function=loss_fn)
                if turn > arguments.rounds:  # watching the allocator costs time
                    peaks[name] = peak_allocation(update)
                    continue
                began = time.process_time()  # of one thread: what else the machine does has no part in it
                update()
                if turn:  # the first turn warms up
                    seconds[name].append(time.process_time() - began)
    report(variants, seconds, peaks, sum(p.numel() for p in engine.trained()))


def save_model(arguments: argparse.Namespace, path: Path) -> Path:
    """A Qwen2 of random weights with the testbed's tokenizer."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from ctwa.testbed.tokenizer import VOCABULARY, build_tokenizer

    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=arguments.hidden,
        intermediate_size=4 * arguments.hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.hidden // 64,
        num_key_value_heads=arguments.hidden // 64,
        vocab_size=len(VOCABULARY),
    )
    Qwen2ForCausalLM(config).save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return path


def build_engine(config: Any) -> tuple[Any, Callable]:
    """The engine and the loss, as a worker of a run has them."""
    import torch
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.engine import EngineRegistry
    from verl.workers.utils.losses import ppo_loss

    from ctwa.engine.objective_losses import OBJECTIVE_LOSSES, ObjectiveLosses, policy_losses
    from ctwa.engine.verl.cpu_platform import register_cpu_platform
    from ctwa.engine.verl.registry import register_engines

    register_cpu_platform()
    register_engines()
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    with tempfile.NamedTemporaryFile() as meeting:
        torch.distributed.init_process_group("gloo", init_method=f"file://{meeting.name}-g", rank=0, world_size=1)
    node = config.actor_rollout_ref
    actor = omega_conf_to_dataclass(node.actor)
    model = omega_conf_to_dataclass(node.model)
    engine_config = actor.engine
    engine_config.use_dynamic_bsz = True
    engine_config.max_token_len_per_gpu = node.actor.ppo_max_token_len_per_gpu
    engine_config.use_remove_padding = node.model.use_remove_padding
    model.model_type = "language_model"
    engine = EngineRegistry.new(
        model_type="language_model",
        backend=node.actor.strategy,
        model_config=model,
        engine_config=engine_config,
        optimizer_config=actor.optim,
        checkpoint_config=actor.checkpoint,
    )
    engine.initialize()
    verls = partial(ppo_loss, config=actor)

    def loss_fn(model_output: dict, data: Any, dp_group: Any = None) -> tuple[Any, dict]:
        if not engine.collects:
            return verls(model_output=model_output, data=data, dp_group=dp_group)
        losses, shared, metrics = policy_losses(verls, model_output, data, dp_group, engine.plan)
        return losses[0], {**metrics, OBJECTIVE_LOSSES: ObjectiveLosses(losses, shared)}

    return engine, loss_fn


def batch_of(arguments: argparse.Namespace, num_objectives: int) -> Any:
    """A mini-batch of random completions, as the trainer sends it."""
    import torch
    from tensordict import TensorDict
    from verl.utils import tensordict_utils as tu

    from ctwa.engine.verl.columns import ROW_COLUMN, advantages_column
    from ctwa.testbed.tokenizer import VOCABULARY

    generator = torch.Generator().manual_seed(0)
    prompt, rows = 12, arguments.rows

    def nested(make: Callable[[], torch.Tensor]) -> torch.Tensor:
        return torch.nested.as_nested_tensor([make() for _ in range(rows)], layout=torch.jagged)

    def tokens(num: int) -> torch.Tensor:
        return torch.randint(3, len(VOCABULARY), (num,), generator=generator)

    whole = prompt + arguments.tokens
    sequences = [tokens(whole) for _ in range(rows)]
    loss_mask = torch.cat([torch.zeros(prompt), torch.ones(arguments.tokens)]).long()
    per_token = partial(torch.randn, arguments.tokens, generator=generator)
    data = {
        "input_ids": torch.nested.as_nested_tensor(sequences, layout=torch.jagged),
        "prompts": torch.nested.as_nested_tensor([s[:prompt] for s in sequences], layout=torch.jagged),
        "responses": torch.nested.as_nested_tensor([s[prompt:] for s in sequences], layout=torch.jagged),
        "position_ids": nested(lambda: torch.arange(whole)),
        "loss_mask": nested(loss_mask.clone),
        "response_mask": nested(lambda: torch.ones(arguments.tokens, dtype=torch.long)),
        "old_log_probs": nested(lambda: per_token() - 4),
        "advantages": nested(per_token),
        ROW_COLUMN: torch.arange(rows),
        **{advantages_column(column): nested(per_token) for column in range(num_objectives)},
    }
    batch = TensorDict(data, batch_size=rows)
    tu.assign_non_tensor(
        batch,
        temperature=1.0,
        calculate_entropy=False,
        global_batch_size=rows,
        use_dynamic_bsz=True,
        max_token_len_per_gpu=16384,
        use_remove_padding=False,
        use_fused_kernels=False,
    )
    return batch


def peak_allocation(work: Callable[[], object]) -> int:
    """The most bytes that torch's allocator held at once during the work, beyond what it held before."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate((nbytes for _, nbytes in changes), initial=0))


def held_by_tensors() -> int:
    """The bytes of all tensors that are alive: weights, the optimizer's state."""
    import torch

    gc.collect()
    tensors = [each for each in gc.get_objects() if isinstance(each, torch.Tensor) and each.layout == torch.strided]
    local = [each.to_local() if isinstance(each, torch.distributed.tensor.DTensor) else each for each in tensors]
    storages = [each.untyped_storage() for each in local]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def report(
    variants: dict[str, tuple[int, Any]],
    seconds: dict[str, list[float]],
    peaks: dict[str, int],
    num_parameters: int,
) -> None:
    """The table."""
    from rich.console import Console
    from rich.table import Table

    gradient = num_parameters * 4 / 2**20
    table = Table(title=f"{num_parameters / 1e6:.1f} M parameters: one gradient is {gradient:.0f} MiB")
    for column in ("update", "median s", "ratio to linear", "quartiles", "(1 + 2 M) / 3", "peak MiB"):
        table.add_column(column, justify="left" if column == "update" else "right")
    for name, (num, _) in variants.items():
        ratios = [each / linear for each, linear in zip(seconds[name], seconds["linear"], strict=True)]
        low, _, high = quantiles(ratios, n=4)
        table.add_row(
            name,
            f"{median(seconds[name]):.2f}",
            f"{median(ratios):.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{(1 + 2 * max(num, 1)) / 3:.2f}" if name == "linear" or name.startswith("shared") else "-",
            f"{peaks[name] / 2**20:.1f}",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
