"""The checks of scripts/gpu_smoke.sh: each a small step with a verdict, and all of them a report."""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("ctwa", "torch", "verl", "ray", "transformers", "vllm", "flash-attn", "tensordict")
LEVELS = {
    "fixed weights": "linear",
    "rewards": "tchebycheff",
    "advantages": "gdpo",
    "covariances": "ctwa",
    "gradients": "mgda",
    "probe": "probe",
}
"""Of each level of method one."""
STEPS = 3
LONGEST = 300
"""Seconds that one command may take."""
SMALL = (
    f"trainer.total_training_steps={STEPS}",
    "data.train_batch_size=8",
    "actor_rollout_ref.actor.ppo_mini_batch_size=8",
    "actor_rollout_ref.rollout.n=4",
    "trainer.val_before_train=false",
    "trainer.test_freq=-1",
    "trainer.save_freq=-1",
    "trainer.logger=[]",
)
ADAPTER = (
    "actor_rollout_ref.model.lora_rank=8",
    "actor_rollout_ref.model.target_modules=all-linear",
    "actor_rollout_ref.actor.optim.lr=1.0e-3",
)
SHARED_CARD = (
    "trainer.n_gpus_per_node=1",
    "actor_rollout_ref.rollout.gpu_memory_utilization=0.2",
    # Else vLLM measures what is free, and gives up where another process of the card gives some back meanwhile.
    "+actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_memory_bytes=1000000000",
)


class Skipped(Exception):
    """A check that says nothing here, and why."""


@dataclass
class Smoke:
    """What the checks share.

    Attributes:
        out: the folder of runs and logs.
        cpu: whether to do without a GPU.
        model: SmolLM2's folder.
        traces: of each run that ended well, its records by step.
    """

    out: Path
    cpu: bool
    model: Path | None
    traces: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def command(self, name: str, *words: str) -> str:
        """Run a command, and return what it printed.

        Raises:
            AssertionError: it failed, or took too long; the end of what it printed.
        """
        log = self.out / "logs" / f"{name}.log"
        with log.open("wb") as opened:
            try:
                code = subprocess.run(words, stdout=opened, stderr=subprocess.STDOUT, timeout=LONGEST).returncode
            except subprocess.TimeoutExpired:
                code = -1
        printed = log.read_text(errors="replace")
        last = "\n".join(printed.splitlines()[-8:])
        assert code == 0, f"`{' '.join(words)}` " + (f"did not end within {LONGEST} s" if code == -1 else last)
        return printed

    def train(self, name: str, *settings: str, engine: str | None = None) -> str:
        """Train for some steps; see that each left a record of finite numbers, and that a gradient was there."""
        run = self.out / "runs" / name
        of_testbed = ("task=testbed", f"ctwa.task_dir={self.testbed()}")
        words = ("ctwa", "train", f"engine={engine or self.engine}", *of_testbed, *SMALL, f"ctwa.run={run}")
        began = time.monotonic()
        self.command(name, *words, *settings)
        num = self.read(name, run)
        return f"{num} steps in {time.monotonic() - began:.0f} s"

    def read(self, name: str, run: Path) -> int:
        """Keep a run's records, and see that they are whole; how many steps were made."""
        records = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
        made = [record for record in records if record["step"] > 0]
        steps = [record["step"] for record in made]
        assert steps == list(range(1, len(steps) + 1)), f"the trace has the steps {steps}"
        assert len(steps) >= STEPS, f"{len(steps)} steps of {STEPS} were made"
        metrics = [record["metrics"] for record in made]
        assert all(math.isfinite(value) for each in metrics for value in each.values()), "a number is not finite"
        norms = [each.get("actor/grad_norm", 0.0) for each in metrics]
        assert any(norms), f"no step had a gradient: {norms}"
        self.traces[name] = metrics
        return len(steps)

    @property
    def engine(self) -> str:
        """The engine of the checks that need neither vLLM nor flash-attention."""
        return "cpu" if self.cpu else "one_gpu"

    def testbed(self) -> Path:
        """The folder of the testbed, made once."""
        folder = self.out / "testbed"
        if not folder.is_dir():
            self.command("testbed", "ctwa", "testbed", "make", "--preset", "D", "--out", str(folder))
        return folder


Check = Callable[[Smoke], str]


def machine(smoke: Smoke) -> str:
    """The GPU, as torch sees it."""
    import torch

    if smoke.cpu:
        return f"{platform.processor() or platform.machine()}, torch {torch.__version__}"
    assert torch.cuda.is_available(), f"torch {torch.__version__} sees no GPU: `ctwa doctor engine=one_gpu` says more"
    assert torch.cuda.is_bf16_supported(), f"{torch.cuda.get_device_name()} has no bf16"
    free, total = torch.cuda.mem_get_info()
    return f"{torch.cuda.get_device_name()}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free, CUDA {torch.version.cuda}"


def bf16(smoke: Smoke) -> str:
    """A product in bf16 is one in float64 to the precision that bf16 has."""
    import torch

    device = "cpu" if smoke.cpu else "cuda"
    torch.manual_seed(0)
    left, right = torch.randn(2, 512, 512, dtype=torch.float64)
    product = (left.to(device, torch.bfloat16) @ right.to(device, torch.bfloat16)).cpu().double()
    error = float((product - left @ right).norm() / (left @ right).norm())
    assert error < 0.01, f"a product of bf16 is off by {error:.2g}"
    return f"a product is off by {error:.1g} of its norm"


def flash_attention(smoke: Smoke) -> str:
    """flash-attention's rows, one behind the other, are those of attention in float64."""
    if smoke.cpu or find_spec("flash_attn") is None:
        raise Skipped("flash-attn is not installed" if not smoke.cpu else "flash-attn wants a GPU")
    import torch
    from flash_attn import flash_attn_varlen_func

    torch.manual_seed(0)
    lengths, heads, width = (100, 28), 4, 64
    query, key, value = torch.randn(3, sum(lengths), heads, width, device="cuda", dtype=torch.bfloat16)
    bounds = torch.tensor([0, 100, 128], device="cuda", dtype=torch.int32)
    found = flash_attn_varlen_func(query, key, value, bounds, bounds, max(lengths), max(lengths), causal=True)
    rows = []
    for begin, end in ((0, 100), (100, 128)):
        queries, keys, values = (each[begin:end].cpu().double().transpose(0, 1) for each in (query, key, value))
        later = torch.ones(end - begin, end - begin, dtype=torch.bool).triu(1)
        scores = (queries @ keys.mT / math.sqrt(width)).masked_fill(later, -math.inf)
        rows.append((scores.softmax(-1) @ values).transpose(0, 1))
    error = float((found.cpu().double() - torch.cat(rows)).abs().max())
    assert error < 0.05, f"attention is off by {error:.2g}"
    return f"off by {error:.1g} at the most"


def of_level(method: str) -> Check:
    """Three steps of a method; trainer and rollout are asked for log-probabilities of the same tokens."""

    def check(smoke: Smoke) -> str:
        more = ("ctwa.gradients.passes=shared_forward",) if method == "mgda" else ()
        return smoke.train(method, f"method={method}", "algorithm.rollout_correction.bypass_mode=false", *more)

    return check


def sequential(smoke: Smoke) -> str:
    """Gradients of one forward pass are those of several: the same first step, to the precision of the passes."""
    told = smoke.train(
        "sequential",
        *("method=mgda", "ctwa.gradients.passes=sequential", "algorithm.rollout_correction.bypass_mode=false"),
    )
    if "mgda" not in smoke.traces:
        raise Skipped("the run with one forward pass did not end well")
    shared, apart = smoke.traces["mgda"][0], smoke.traces["sequential"][0]
    keys = [key for key in shared if key.startswith(("gradient/norm/", "gradient/cosine/"))]
    assert keys, "no gradient was measured"
    worst = max(abs(shared[key] - apart[key]) / max(abs(shared[key]), 0.1) for key in keys)
    assert worst < (1e-4 if smoke.cpu else 2e-2), f"norms and cosines differ by {worst:.2g}"
    return f"{told}; norms and cosines agree to {worst:.1g}"


def log_probs(smoke: Smoke) -> str:
    """Trainer and rollout give the same tokens the same probabilities, in every run that asked both."""
    name = "training/rollout_probs_diff_mean"
    means = [record[name] for trace in smoke.traces.values() for record in trace if name in record]
    if not means:
        raise Skipped("no run ended well that asked both")
    assert max(means) < (1e-4 if smoke.cpu else 1e-2), f"the mean difference of a step is {max(means):.2g}"
    return f"probabilities differ by {max(means):.1g} on average in the worst of {len(means)} steps"


def lora(smoke: Smoke) -> str:
    """An adapter with a gradient method, whose weights the rollout gets merged."""
    return smoke.train("lora", "method=mgda", *ADAPTER)


def resume(smoke: Smoke) -> str:
    """A run goes on from its checkpoint."""
    return _and_on(smoke, "resume", smoke.engine)


def _and_on(smoke: Smoke, name: str, engine: str, *settings: str) -> str:
    """Some steps, and more of them from the checkpoint."""
    saves = ("method=ctwa", "trainer.save_freq=1", "trainer.max_actor_ckpt_to_keep=1", *settings)
    first = smoke.train(name, *saves, engine=engine)
    more = ("ctwa.resume=true", f"trainer.total_training_steps={STEPS + 2}")
    told = smoke.train(name, *saves, *more, engine=engine)
    events = (smoke.out / "runs" / name / "events.jsonl").read_text()
    assert f"continuing from global_step_{STEPS}" in events, "the run did not go on from its checkpoint"
    assert len(smoke.traces[name]) == STEPS + 2, "steps are missing"
    return f"{first}; {told}, from the checkpoint of step {STEPS}"


def preference(smoke: Smoke) -> str:
    """Three steps of `ctwa prefer` on pairs of the testbed, with the gradients of two objectives."""
    smoke.testbed()
    pairs = smoke.out / "testbed" / "pairs"
    smoke.command("pairs", "ctwa", "testbed", "pairs", "--preset", "D", "--num-train", "256", "--out", str(pairs))
    sizes = ("data.train_batch_size=16", f"trainer.total_training_steps={STEPS}", "trainer.test_freq=-1")
    weights = ("ctwa.objectives.accuracy.weight=0.8", "ctwa.objectives.conciseness.weight=0.2")
    run = smoke.out / "runs" / "preference"
    words = ("ctwa", "prefer", f"engine={smoke.engine}", "method=raco", f"ctwa.task_dir={smoke.testbed()}")
    began = time.monotonic()
    smoke.command("preference", *words, f"ctwa.run={run}", *sizes, *weights, "trainer.logger=[]")
    smoke.read("preference", run)
    return f"{STEPS} steps in {time.monotonic() - began:.0f} s"


def evaluation(smoke: Smoke) -> str:
    """`ctwa eval` of a checkpoint and its base model, sampled and scored."""
    run = smoke.out / "runs" / "resume"
    if not run.is_dir():
        raise Skipped("it is of the checkpoint that the check of resuming leaves")
    out = smoke.out / "eval"
    began = time.monotonic()
    smoke.command("eval", "ctwa", "eval", str(run), "--limit", "32", "--num-samples", "2", "--out", str(out))
    return f"two models on 32 prompts in {time.monotonic() - began:.0f} s"


def vllm(smoke: Smoke) -> str:
    """vLLM, FSDP2 and flash-attention on the same GPU, engine=gpu as it is meant: to its end, and on from there."""
    _wants_vllm(smoke)
    return _and_on(smoke, "vllm", "gpu", *SHARED_CARD)


def vllm_adapter(smoke: Smoke) -> str:
    """The same with a gradient method and an adapter."""
    _wants_vllm(smoke)
    return smoke.train("vllm-lora", "method=mgda", *ADAPTER, *SHARED_CARD, engine="gpu")


def _wants_vllm(smoke: Smoke) -> None:
    if smoke.cpu:
        raise Skipped("engine=gpu wants a GPU; tests/e2e/test_vllm.py has vLLM on a CPU")
    missing = [name for name in ("vllm", "flash_attn") if find_spec(name) is None]
    if missing:
        raise Skipped(f"{' and '.join(missing)} not installed")


def smollm2(smoke: Smoke) -> str:
    """A model that people know, on prompts with constraints that code checks."""
    if smoke.model is None:
        raise Skipped("SmolLM2 is not there: scripts/smollm2.sh makes it; --model names another folder")
    data = smoke.out / "instructions"
    if not data.is_dir():
        smoke.command("instructions", "ctwa", "instructions", "make", "--out", str(data))
    return smoke.train(
        "smollm2",
        *("task=instructions", f"ctwa.task_dir={data}", f"actor_rollout_ref.model.path={smoke.model}", "method=mgda"),
        *("data.train_batch_size=4", "actor_rollout_ref.actor.ppo_mini_batch_size=4", "data.max_response_length=64"),
    )


CHECKS: dict[str, Check] = {
    "machine": machine,
    "bf16": bf16,
    "flash-attention": flash_attention,
    **{f"method of {level}: {method}": of_level(method) for level, method in LEVELS.items()},
    "one forward pass or several": sequential,
    "LoRA": lora,
    "resume": resume,
    "ctwa prefer": preference,
    "ctwa eval": evaluation,
    "vLLM": vllm,
    "vLLM, gradients of an adapter": vllm_adapter,
    "SmolLM2": smollm2,
    "log-probabilities of rollout and trainer": log_probs,
}
"""By name, in their order."""


@dataclass(frozen=True)
class Verdict:
    """What came of a check: ``ok``, ``FAILED`` or ``skipped``, and in words."""

    name: str
    verdict: str
    text: str
    seconds: float


def judge(name: str, check: Check, smoke: Smoke) -> Verdict:
    """Run a check; whatever it raises is its verdict, and the next one's turn."""
    began = time.monotonic()
    try:
        verdict, text = "ok", check(smoke)
    except Skipped as reason:
        verdict, text = "skipped", str(reason)
    except AssertionError as error:
        verdict, text = "FAILED", str(error)
    except Exception as error:  # noqa: BLE001 - told in the report
        verdict, text = "FAILED", f"{type(error).__name__}: {error}"
    return Verdict(name, verdict, text, time.monotonic() - began)


def report(verdicts: Sequence[Verdict], smoke: Smoke) -> str:
    """The report, in Markdown."""
    failed = [each for each in verdicts if each.verdict == "FAILED"]
    rows = [f"| {each.name} | {each.verdict} | {each.seconds:.0f} | {_cell(each)} |" for each in verdicts]
    details = [f"\n## {each.name}\n\n```text\n{each.text}\n```" for each in failed]
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    return "\n".join(
        [
            f"# Smoke test of ctwa on {'a CPU' if smoke.cpu else 'a GPU'}",
            "",
            f"{len(failed)} of {len(verdicts)} checks failed. Python {platform.python_version()}, {versions}.",
            "",
            "| check | verdict | seconds | |",
            "|---|---|---|---|",
            *rows,
            *details,
            "",
            "To send: this file; of each check that failed also its log in `logs` and its folder in `runs`.",
            "They hold the testbed's problems, and none of your data.",
            "",
        ]
    )


def _cell(each: Verdict) -> str:
    return "below" if each.verdict == "FAILED" else each.text.replace("|", "/").replace("\n", " ")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


def main() -> None:
    """Run the checks, and write the report after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="do without a GPU, as far as that goes")
    parser.add_argument("--out", type=Path, default=Path("runs") / f"smoke-{time.strftime('%Y%m%d-%H%M%S')}")
    parser.add_argument("--model", type=Path, help="SmolLM2's folder")
    parser.add_argument("--minutes", type=float, default=10.0, help="what is not begun by then is not run")
    parser.add_argument("--only", action="append", default=[], choices=CHECKS, metavar="NAME")
    options = parser.parse_args()
    named: Path = options.model or Path("models/smollm2-135m")
    has_model = (named / "config.json").is_file()
    if options.model is not None and not has_model:
        sys.exit(f"error: {named} has no config.json: give the folder of a model")
    if options.out.exists():
        sys.exit(f"error: {options.out} exists already: give another folder")
    smoke = Smoke(options.out.resolve(), options.cpu, named.resolve() if has_model else None)
    (smoke.out / "logs").mkdir(parents=True)
    verdicts: list[Verdict] = []
    began = time.monotonic()
    for name, check in CHECKS.items():
        if options.only and name not in options.only:
            continue
        is_late = time.monotonic() - began > 60 * options.minutes
        late = Verdict(name, "skipped", f"the {options.minutes:g} minutes were over", 0.0)
        verdicts.append(late if is_late else judge(name, check, smoke))
        print(f"{verdicts[-1].verdict:<8} {name}: {verdicts[-1].text}", flush=True)
        (smoke.out / "report.md").write_text(report(verdicts, smoke))
    print(f"report: {smoke.out / 'report.md'}")
    sys.exit(any(each.verdict == "FAILED" for each in verdicts))


if __name__ == "__main__":
    main()
