"""What a run takes of one GPU, beside what `ctwa plan` counts: bytes of the rank by setting, and its passes' rate.

    python benchmarks/gpu_plan.py [--shape benchmarks/shapes/qwen3-0.6b] [--jobs 3] [--only NAME]... [--out FOLDER]

The model has the shape's config.json and random weights, so that nothing is fetched. It hardly ever writes the end of a
sequence, so that nearly every completion has all its tokens. `engine=one_gpu` trains: torch's attention, rows with
padding, flash-attention's cross entropy where it is installed, and a server of its own process, whose bytes are not the
rank's. Measured is what torch's allocator of the rank has held at the most over some steps; CUDA's context and what
lies between tensors come on top of it. Several runs at a time share the card; seconds are measured of a run that is
alone (--jobs 1).
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ctwa.capacity import memory, seconds
from ctwa.capacity.hardware import Cluster, Gpu
from ctwa.capacity.shape import read_shape
from ctwa.capacity.workload import Workload
from ctwa.engine.compose import compose_config
from ctwa.engine.settings import read_settings
from ctwa.engine.workload import of_rewards
from ctwa.report.markdown import table

STEPS = 2
COMMON = (
    f"trainer.total_training_steps={STEPS}",
    "data.train_batch_size=16",
    "actor_rollout_ref.actor.ppo_mini_batch_size=16",
    "actor_rollout_ref.rollout.n=4",
    "data.max_response_length=448",
    "trainer.val_before_train=false",
    "trainer.test_freq=-1",
    "trainer.save_freq=-1",
    "trainer.logger=[]",
)
ATTENTION = "actor_rollout_ref.model.override_config.attn_implementation"
"""What says to the plan whether log-probabilities are flash-attention's, which verl takes wherever it is installed."""
KEPT = "actor_rollout_ref.model.enable_gradient_checkpointing=false"
SETTINGS: Mapping[str, Sequence[str]] = {
    "linear": ("method=linear",),
    "linear, 4,096 tokens": ("method=linear", "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=4096"),
    "linear, activations kept": ("method=linear", KEPT),
    "linear, adapter of rank 16": (
        *("method=linear", "actor_rollout_ref.model.lora_rank=16"),
        "actor_rollout_ref.model.target_modules=all-linear",
    ),
    "ctwa": ("method=ctwa",),
    "mgda, one forward pass": ("method=mgda", "ctwa.gradients.passes=shared_forward"),
    "mgda, a pass an objective": ("method=mgda", "ctwa.gradients.passes=sequential"),
    "probe": ("method=probe",),
}
TOO_LONG = 400
"""Seconds of a run."""
ANY_CARD = Cluster(Gpu("any", *[math.nan] * 4), 1, 1)
"""What a rank is counted to hold depends on no number of the card; one that crept in would show."""


def make_model(shape: Path, tokenizer: Path, folder: Path) -> None:
    """A model of a shape with random weights, and a tokenizer that has some of its tokens."""
    config = AutoConfig.from_pretrained(shape)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for file in tokenizer.iterdir():
        if "tokenizer" in file.name or file.suffix == ".jinja":
            shutil.copy(file, folder)
    words = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary |= {f"word{number}": number for number in range(len(vocabulary), config.vocab_size)}
    (folder / "tokenizer.json").write_text(json.dumps(words))


def counted(arguments: Sequence[str], shape: Path) -> Workload:
    """The step as `ctwa plan` counts it, with the kernel that is here, and micro-batches of one size, as verl's are."""
    kernel = () if find_spec("flash_attn") is None else (f"{ATTENTION}=flash_attention_2",)
    config = compose_config([*arguments, *kernel], command="train")
    workload = of_rewards(config, read_settings(config), read_shape(shape), ANY_CARD, None)
    num = math.ceil(workload.num_rows * workload.row_tokens / workload.micro_tokens)
    return replace(workload, micro_tokens=math.ceil(workload.num_rows / num * workload.row_tokens))


def of_rank(workload: Workload) -> float:
    """Bytes of a rank during the update: all but the server's, which is another process."""
    return sum(size for part, size in memory.updating(workload).items() if "server" not in part)


def measure(name: str, folder: Path, shape: Path) -> dict[str, float] | str:
    """Train for some steps; what they took, or how the run ended."""
    run = folder / "runs" / re.sub(r"\W+", "-", name.replace(",", ""))  # a comma would be of a list of runs
    arguments = [
        *("engine=one_gpu", "task=testbed", f"ctwa.task_dir={folder / 'testbed'}", f"ctwa.run={run}"),
        f"actor_rollout_ref.model.path={folder / 'model'}",
        *COMMON,
        *SETTINGS[name],
    ]
    log = run.with_suffix(".log")
    with log.open("wb") as opened:
        try:
            code = subprocess.run(
                ("ctwa", "train", *arguments), stdout=opened, stderr=subprocess.STDOUT, timeout=TOO_LONG
            ).returncode
        except subprocess.TimeoutExpired:
            return f"it took more than {TOO_LONG} s: {log}"
    if code:
        return f"it ended with {code}: {log}"
    records = [json.loads(line)["metrics"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [record for record in records if "actor/perf/max_memory_allocated_gb" in record]
    last, workload = steps[-1], counted(arguments, shape)
    tokens, padded = last["perf/total_num_tokens"], workload.num_rows * workload.row_tokens
    update = seconds.operations(workload, workload.passes.forwards, workload.passes.backwards)
    return {
        "counted": of_rank(workload) / 1e9,
        "allocated": last["actor/perf/max_memory_allocated_gb"] * 1.024**3,
        "reserved": last["actor/perf/max_memory_reserved_gb"] * 1.024**3,
        "filled": tokens / padded,
        "step": median(step["time/step"] for step in steps[1:]),
        "update": last["time/update_actor"],
        "update TFLOP/s": update / last["time/update_actor"] / 1e12,
        **{part: size / 1e9 for part, size in memory.updating(workload).items() if "server" not in part},
    }


def main() -> None:
    """Make the model, run the settings, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=Path, default=Path("benchmarks/shapes/qwen3-0.6b"))
    parser.add_argument("--jobs", type=int, default=3, help="runs at a time")
    parser.add_argument("--only", action="append", default=[], choices=SETTINGS, metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-plan"))
    options = parser.parse_args()
    if options.out.exists():
        sys.exit(f"error: {options.out} exists already: give another folder")
    folder = options.out.resolve()
    (folder / "runs").mkdir(parents=True)
    subprocess.run(("ctwa", "testbed", "make", "--preset", "D", "--out", str(folder / "testbed")), check=True)
    make_model(options.shape, folder / "testbed" / "model", folder / "model")
    names = options.only or list(SETTINGS)
    with ThreadPoolExecutor(options.jobs) as pool:
        found = dict(zip(names, pool.map(lambda name: measure(name, folder, options.shape), names), strict=True))
    (folder / "found.json").write_text(json.dumps(found, indent=1))
    ended = {name: result for name, result in found.items() if isinstance(result, dict)}
    columns = ("counted", "allocated", "reserved", "step", "update", "update TFLOP/s")
    rows = [
        [name, *(f"{result[column]:.2f}" for column in columns), f"{result['allocated'] / result['counted']:.2f}"]
        for name, result in ended.items()
    ]
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    print(table(["setting", *columns, "allocated / counted"], rows))
    failed = {name: result for name, result in found.items() if isinstance(result, str)}
    for name, result in failed.items():
        print(f"{name}: {result}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
