"""What preference objectives cost: time, solver's share and memory of a step of `ctwa prefer`, for 1 and 3 objectives.

One process, the engine that a run has, a Qwen2 of random weights with a LoRA adapter; the variants take turns:

    loss weighting, M = 1 or 3    one forward pass, one backward pass
    RACO, CLAMP, M = 3            one forward pass over the shared pairs, three backward passes
    RACO, M = 3, separate pairs   a data set an objective, as many labels for each: three times the pairs

    python benchmarks/preference_costs.py [--rounds 7] [--hidden 512] [--layers 6] [--pairs 8] [--tokens 64] [--rank 8]

Prints for each variant the median time of a step, its ratio to loss weighting with one objective (median over rounds of
the ratio within a round, with quartiles), the solver's share of the step, and the most memory that tensors held during
it, weights and optimizer included.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from gradient_methods import (
    build_engine,
    held_by_tensors,
    peak_allocation,
    save_model,
)

from ctwa.engine.compose import compose_config
from ctwa.engine.job import set_environment

NAMES = ("a", "b", "c")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often each variant takes its turn")
    parser.add_argument("--hidden", type=int, default=512, help="width of the model")
    parser.add_argument("--layers", type=int, default=6, help="transformer blocks")
    parser.add_argument("--pairs", type=int, default=8, help="pairs of a step, for each data set")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a response")
    parser.add_argument("--rank", type=int, default=8, help="of the adapter; 0 trains the whole model")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, Path(folder))


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Build the engine, let the variants take turns, print."""
    config = compose_config(
        [
            f"ctwa.task_dir={folder}",
            f"ctwa.run={folder / 'run'}",
            f"actor_rollout_ref.model.path={save_model(arguments, folder / 'model')}",
            f"actor_rollout_ref.model.lora_rank={arguments.rank}",
            "actor_rollout_ref.model.target_modules=all-linear",
            "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384",
        ],
        command="prefer",
    )
    set_environment(config)
    engine, _ = build_engine(config)

    from ctwa.aggregators.cagrad_clip import CAGradClipConfig
    from ctwa.aggregators.clamp import ClampConfig
    from ctwa.aggregators.linear import FixedWeightsConfig
    from ctwa.aggregators.registry import build_aggregator
    from ctwa.engine.objective_losses import OBJECTIVE_LOSSES, ObjectiveLosses
    from ctwa.engine.pairs.objective import PairLoss
    from ctwa.gradients.plan import GradientPlan
    from ctwa.gradients.settings import GradientSettings
    from ctwa.preference import DpoLoss

    variants: dict[str, tuple[int, Any, bool]] = {
        "loss weighting, M = 1": (1, FixedWeightsConfig(), True),
        "loss weighting, M = 3": (3, FixedWeightsConfig(), True),
        "RACO, M = 3": (3, CAGradClipConfig(), True),
        "CLAMP, M = 3": (3, ClampConfig(), True),
        "RACO, M = 3, separate pairs": (3, CAGradClipConfig(), False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    solver: dict[str, list[float]] = {name: [] for name in variants}
    peaks: dict[str, int] = {}
    with engine.train_mode():
        for turn in range(arguments.rounds + 2):
            for name, (num, method, shared) in variants.items():
                aggregator = build_aggregator(method, dict.fromkeys(NAMES[:num], 1.0))
                objective = PairLoss(DpoLoss(), NAMES[:num])
                solve = not aggregator.has_fixed_weights
                engine.plan = GradientPlan(NAMES[:num], aggregator, GradientSettings(), solve=solve)

                def loss(model_output: dict, data: Any, dp_group: Any = None) -> tuple[Any, dict]:  # noqa: ARG001 - verl calls it
                    losses = objective.losses(model_output, data)  # noqa: B023 - called within this turn
                    whole = next(each for each in losses if each is not None)
                    return whole, {OBJECTIVE_LOSSES: ObjectiveLosses(losses)}

                data = batch_of(arguments, NAMES[:num], shared=shared)
                step = partial(engine.train_batch, data, loss_function=loss)
                if turn > arguments.rounds:  # watching the allocator costs time
                    peaks[name] = held_by_tensors() + peak_allocation(step)
                    continue
                began = time.perf_counter()
                step()
                if turn:  # the first turn warms up
                    seconds[name].append(time.perf_counter() - began)
                    solver[name].append(sum(record.metrics.get("time/solver", 0.0) for record in engine.plan.records))
    report(seconds, solver, peaks, sum(parameter.numel() for parameter in engine.trained()))


def batch_of(arguments: argparse.Namespace, names: tuple[str, ...], *, shared: bool) -> Any:
    """Random pairs, labelled for all objectives or, as many again for each, for one alone."""
    import torch
    from verl.utils import tensordict_utils as tu

    from ctwa.engine.pairs.batches import PairBatch, to_rows
    from ctwa.preference.tokenization import PairTokens
    from ctwa.testbed.tokenizer import VOCABULARY

    draw = random.Random(0)

    def tokens(num: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, len(VOCABULARY)) for _ in range(num))

    sets = [names] if shared else [(name,) for name in names]
    pairs = [
        PairTokens(tokens(12), tokens(arguments.tokens), tokens(arguments.tokens), dict.fromkeys(labelled, 1), row)
        for labelled in sets
        for row in range(arguments.pairs)
    ]
    reference_P2 = torch.full((len(pairs), 2), -4.0 * arguments.tokens, dtype=torch.float64)
    batch = PairBatch(pairs, [arguments.pairs] * len(sets), reference_P2)
    rows = to_rows(batch, names, num_ranks=1, pad_token_id=0)
    tu.assign_non_tensor(rows, use_dynamic_bsz=False, micro_batch_size_per_gpu=arguments.pairs)
    tu.assign_non_tensor(rows, use_remove_padding=False, use_fused_kernels=False)
    return rows


def report(
    seconds: dict[str, list[float]], solver: dict[str, list[float]], peaks: dict[str, int], parameters: int
) -> None:
    """Print the table."""
    print(f"{parameters:,} trained parameters")
    print(f"{'':30} {'median s':>9} {'ratio':>6} {'quartiles':>14} {'solver':>9} {'peak MiB':>9} {'ratio':>6}")
    base = seconds["loss weighting, M = 1"]
    for name, values in seconds.items():
        ratios = [value / other for value, other in zip(values, base, strict=True)]
        low, _, high = quantiles(ratios, n=4)
        share = median(part / whole for part, whole in zip(solver[name], values, strict=True))
        print(
            f"{name:30} {median(values):9.3f} {median(ratios):6.2f} {low:6.2f} to {high:4.2f} {share:9.2%} "
            f"{peaks[name] / 2**20:9.1f} {peaks[name] / peaks['loss weighting, M = 1']:6.3f}"
        )


if __name__ == "__main__":
    main()
