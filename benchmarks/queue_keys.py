"""What its keys cost verl's transfer queue: MB a second in and out, with CURVE and without, in turn.

    python benchmarks/queue_keys.py [--rounds 3]

Prints, for each size of a batch (rows of four float32 fields), the median MB/s of putting and of getting it over the
rounds, with keys and without, and the ratio of the two.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median

from rich.console import Console
from rich.table import Table

SIZES = ((256, 1024), (1024, 1024), (1024, 4096))
"""Rows, and numbers a field."""
FIELDS, REPEATS = 4, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", choices=("curve", "plain"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(with_keys=arguments.measure == "curve")
        return
    found: dict[str, list[list[list[float]]]] = {"curve": [], "plain": []}
    for _ in range(arguments.rounds):
        for kind, rounds in found.items():
            command = [sys.executable, __file__, "--measure", kind]
            output = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
            rounds.append(json.loads(output.stdout.splitlines()[-1]))
    table = Table("rows", "KB a field", "", "with keys, MB/s", "without", "ratio", box=None)
    for index, (num_rows, width) in enumerate(SIZES):
        for way, name in enumerate(("put", "get")):
            curve, plain = (median(each[index][way] for each in found[kind]) for kind in ("curve", "plain"))
            table.add_row(
                str(num_rows), f"{4 * width / 1e3:.0f}", name, f"{curve:.0f}", f"{plain:.0f}", f"{curve / plain:.2f}"
            )
    Console().print(table)


def measure(*, with_keys: bool) -> None:
    """Print the MB/s of each size as JSON: [put, get], the best of the repeats."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "TQ_NUM_THREADS": "1"}
    import ray
    import torch
    import transfer_queue as tq
    from omegaconf import OmegaConf
    from tensordict import TensorDict

    from ctwa.engine.ray_security import close_to_others

    ray_init = {"num_cpus": 8, "include_dashboard": False}
    close_to_others(ray_init, trust_network=False)
    ray.init(**ray_init)
    if with_keys:
        from ctwa.engine.verl import queue_security  # closes the queue's sockets by being imported

        queue_security.share_keys()
    storage = {"num_data_storage_units": 1, "total_storage_size": 100_000}
    tq.init(OmegaConf.create({"backend": {"storage_backend": "SimpleStorage", "SimpleStorage": storage}}))
    speeds = []
    for size, (num_rows, width) in enumerate(SIZES):
        fields = TensorDict({f"c{i}": torch.rand(num_rows, width) for i in range(FIELDS)}, batch_size=num_rows)
        megabytes, put, got = num_rows * width * 4 * FIELDS / 1e6, [], []
        for repeat in range(REPEATS):
            keys, partition = [f"{repeat}_{row}" for row in range(num_rows)], f"{size}_{repeat}"
            began = time.perf_counter()
            tq.kv_batch_put(keys=keys, partition_id=partition, fields=fields)
            put.append(time.perf_counter() - began)
            began = time.perf_counter()
            tq.kv_batch_get(keys=keys, partition_id=partition)
            got.append(time.perf_counter() - began)
            tq.kv_clear(keys=keys, partition_id=partition)
        speeds.append([megabytes / min(put), megabytes / min(got)])
    print(json.dumps(speeds))
    tq.close()
    ray.shutdown()


if __name__ == "__main__":
    main()
