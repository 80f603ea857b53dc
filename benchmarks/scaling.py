"""What a step costs on more and more GPUs, and what part of it the driver's own work is: the tables of docs/scaling.md.

    python benchmarks/scaling.py [--method ctwa]

Prints, for a model of 7 and one of 70 billion parameters on 8, 64 and 512 H100s, seconds of a step by phase from the
formulas of `ctwa plan`: of 8,192 completions on all of them, and of 128 completions for each GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from ctwa.capacity import seconds, traffic
from ctwa.capacity.hardware import GPUS, Cluster
from ctwa.capacity.remedies import faults
from ctwa.capacity.seconds import Rates
from ctwa.capacity.shape import ModelShape, read_shape
from ctwa.capacity.workload import Passes, Sampling, Workload
from ctwa.report.markdown import table

SHAPES = Path(__file__).parent / "shapes"
MODELS = {"7B": ("qwen2.5-7b", 1), "70B": ("llama-3.1-70b", 8)}
"""The folder of its shape, and GPUs of a vLLM server."""
COMPLETIONS = 8
PASSES = {"ctwa": Passes(log_probs=2, forwards=1, backwards=1), "mgda": Passes(log_probs=1, forwards=1, backwards=3)}
"""Of a step without a KL penalty: old log-probabilities and ctwa's statistic; three objectives' gradients."""


def step_of(shape: ModelShape, num_gpus: int, num_rows: int, *, method: str, server: int) -> Workload:
    """A step on nodes of eight; a model that fits into a node is sharded within one, and copied between nodes."""
    cluster = Cluster(GPUS["H100"], num_gpus // 8, 8)
    is_small = shape.num_parameters < 20e9
    return Workload(
        shape=shape,
        cluster=cluster,
        num_rows=num_rows,
        row_tokens=512 + 1536,
        longest=512 + 2048,
        micro_tokens=16_384,
        passes=PASSES[method],
        num_trained=shape.num_parameters,
        num_gradients=3 if method == "mgda" else 1,
        logits_copies=2 if method == "mgda" else 1,
        shards=8 if is_small else num_gpus,
        sampling=Sampling(
            prompts=num_rows // COMPLETIONS,
            completions=COMPLETIONS,
            prompt_tokens=512,
            response_tokens=2048,
            mean_response_tokens=1536,
            tensor_parallel=server,
        ),
        offloads_optimizer=not is_small,
        offloads_weights=not is_small,
        num_column_objectives=3 if method == "mgda" else 0,
    )


HEADS = ("model", "GPUs", "completions", "sampling", "log-probs", "update", "between nodes", "driver", "its share")


def rows(shapes: dict[str, ModelShape], method: str) -> Iterator[list[object]]:
    """The rows of the table."""
    sizes = [(num, 8192) for num in (8, 64, 512)] + [(512, 65_536)]
    for name, shape in shapes.items():
        for num_gpus, num_rows in sizes:
            work = step_of(shape, num_gpus, num_rows, method=method, server=MODELS[name][1])
            where = [name, num_gpus, f"{num_rows:,}"]
            if wrong := faults(work):
                yield [*where, f"does not fit: {wrong[0]}", *[""] * 5]
                continue
            found = seconds.step(work, Rates())
            share = found["driver"] / sum(found.values())
            yield [*where, *(f"{each:.3g}" for each in found.values()), f"{share:.1%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--method", choices=PASSES, default="ctwa")
    arguments = parser.parse_args()
    shapes = {name: read_shape(SHAPES / folder) for name, (folder, _) in MODELS.items()}
    print(table(HEADS, rows(shapes, arguments.method)))
    largest = step_of(shapes["7B"], 512, 65_536, method=arguments.method, server=1)
    print(f"\nthrough the driver: {traffic.driver_bytes(largest) / 1e9:.0f} GB a step of 65,536 completions")


if __name__ == "__main__":
    main()
