"""A step of `ctwa train` beside one of TRL's GRPOTrainer: seconds by phase, completions a second, peak memory.

    pip install --no-deps --target runs/trl trl==1.16.0
    python benchmarks/loop.py --model MODEL_FOLDER --trl runs/trl [--rounds 2] [--steps 4] [--out runs/loop]

TRL has a folder of its own: verl takes what it finds of TRL for an older version, and a run beside it does not start.

Both train the same model on the same prompts and rewards, with groups, lengths, optimizer, learning rate, precision and
number of threads alike, as programs of their own that take turns. End of sequence is a token that the model does not
write, so that every completion has all its tokens and both do the same work. Of each turn the first step is left out.
Memory is what all processes of a program hold at once, as :class:`PeakMemory` counts it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from ctwa.report.markdown import table

PROMPTS, COMPLETIONS, TOKENS, PROMPT_TOKENS = 4, 4, 96, 128
LEARNING_RATE = 1e-5
END = "<|endoftext|>"
TOPICS = ("the sea", "a mountain village", "bread", "trains", "the moon", "gardens", "old libraries", "chess", "rivers")
WORDS = ("light", "water", "old", "small", "green", "time")
WEIGHTS = {"bulleted": 0.4, "keyword": 0.3, "short": 0.3}
PHASES = ("sample", "reward", "update", "weights to the rollout", "other", "step")


# -- the rewards, as both know them -----------------------------------------------------------------------------------


def bulleted(response: str, extra_info: dict[str, Any]) -> float:
    """1 if it has as many bullets as asked for."""
    return float(sum(line.strip().startswith(("-", "*")) for line in response.splitlines()) == extra_info["bullets"])


def keyword(response: str, extra_info: dict[str, Any]) -> float:
    """1 if the word is in it."""
    return float(extra_info["word"] in response.lower())


def short(response: str) -> float:
    """Less the longer it is."""
    return max(0.0, 1 - len(response) / 800)


def write_prompts(path: Path, num: int) -> None:
    """Rows in verl's format."""
    draw = random.Random(0)
    with path.open("w") as file:
        for _ in range(num):
            info = {"bullets": draw.choice([2, 3, 4]), "word": draw.choice(WORDS)}
            text = (
                f"List exactly {info['bullets']} facts about {draw.choice(TOPICS)} as a bulleted list. "
                f"Use the word '{info['word']}' at least once."
            )
            row = {"prompt": [{"role": "user", "content": text}], "data_source": "loop", "extra_info": info}
            file.write(json.dumps(row | {"reward_model": {"style": "rule", "ground_truth": ""}}) + "\n")


def endless(model: Path, folder: Path) -> Path:
    """The model with an end of sequence that it does not write."""
    folder.mkdir(parents=True)
    for file in model.iterdir():
        if file.suffix in (".json", ".jinja"):
            (folder / file.name).write_text(file.read_text())
        else:
            (folder / file.name).symlink_to(file.resolve())
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = END
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "generation_config.json"):
        path = folder / name
        if path.is_file():
            path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": tokenizer.eos_token_id}))
    return folder


# -- the two programs -------------------------------------------------------------------------------------------------


def ctwa_command(model: Path, data: Path, out: Path, steps: int, more: list[str]) -> list[str]:
    """Of `ctwa train`."""
    objectives = {name: {"reward_fn": f"{__file__}:{name}", "weight": weight} for name, weight in WEIGHTS.items()}
    settings: dict[str, Any] = {
        "task": "custom",
        "method": "linear",
        "ctwa.run": out,
        "++ctwa.objectives": json.dumps(objectives).replace('"', ""),
        "data.train_files": data,
        "data.val_files": data,
        "data.train_batch_size": PROMPTS,
        "data.max_prompt_length": PROMPT_TOKENS,
        "data.max_response_length": TOKENS,
        "actor_rollout_ref.model.path": model,
        "actor_rollout_ref.rollout.n": COMPLETIONS,
        "actor_rollout_ref.actor.optim.lr": LEARNING_RATE,
        "actor_rollout_ref.actor.optim.weight_decay": 0.0,
        "trainer.total_training_steps": steps,
        "trainer.val_before_train": "false",
        "trainer.test_freq": -1,
        "trainer.save_freq": -1,
    }
    return ["ctwa", "train", *(f"{key}={value}" for key, value in settings.items()), *more]


def ctwa_steps(out: Path) -> list[dict[str, float]]:
    """Seconds of each step by phase, from the run's record."""
    steps = []
    for line in (out / "metrics.jsonl").read_text().splitlines():
        seconds = {key[5:]: value for key, value in json.loads(line)["metrics"].items() if key.startswith("time/")}
        if "step" in seconds:
            names = {"gen": "sample", "reward": "reward", "update_actor": "update"}
            names["update_weights"] = "weights to the rollout"
            steps.append({names[key]: seconds[key] for key in names} | {"step": seconds["step"]})
    return steps


def trl_rewards() -> list[Any]:
    """The same rewards, as TRL calls them."""

    def texts(completions: list[Any]) -> list[str]:
        return [messages[0]["content"] for messages in completions]

    def of_bullets(completions: list[Any], extra_info: list[Any], **_: Any) -> list[float]:
        return [bulleted(*each) for each in zip(texts(completions), extra_info, strict=True)]

    def of_keyword(completions: list[Any], extra_info: list[Any], **_: Any) -> list[float]:
        return [keyword(*each) for each in zip(texts(completions), extra_info, strict=True)]

    def of_length(completions: list[Any], **_: Any) -> list[float]:
        return [short(text) for text in texts(completions)]

    return [of_bullets, of_keyword, of_length]


def trl(model: str, data: str, out: str, steps: int, rows: int) -> None:
    """Train with TRL, ``rows`` at once, and write the seconds of each step."""
    from datasets import load_dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    seconds: list[dict[str, float]] = []
    marks: list[float] = []

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        seconds[-1][name] = seconds[-1].get(name, 0.0) + time.perf_counter() - began

    class Timed(GRPOTrainer):
        def _generate(self, *arguments: Any, **options: Any) -> Any:
            with phase("sample"):
                return super()._generate(*arguments, **options)

        def _calculate_rewards(self, *arguments: Any, **options: Any) -> Any:
            with phase("reward"):
                return super()._calculate_rewards(*arguments, **options)

        def _generate_and_score_completions(self, *arguments: Any, **options: Any) -> Any:
            with phase("scored"):
                return super()._generate_and_score_completions(*arguments, **options)

    class Steps(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            seconds.append({})
            marks.append(time.perf_counter())

        def on_train_end(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

    config = GRPOConfig(
        output_dir=out,
        use_cpu=True,
        bf16=False,
        max_steps=steps,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=PROMPTS * COMPLETIONS // rows,
        num_generations=COMPLETIONS,
        max_completion_length=TOKENS,
        temperature=1.0,
        beta=0.0,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        reward_weights=list(WEIGHTS.values()),
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        report_to="none",
        logging_steps=1,
        save_strategy="no",
        model_init_kwargs={"dtype": "float32", "attn_implementation": "sdpa"},
    )
    rows_of_data = load_dataset("json", data_files=data, split="train").select_columns(["prompt", "extra_info"])
    Timed(model=model, reward_funcs=trl_rewards(), args=config, train_dataset=rows_of_data, callbacks=[Steps()]).train()
    for each, (began, ended) in zip(seconds, pairwise(marks), strict=True):
        each["step"] = ended - began
        each["update"] = each["step"] - each.pop("scored")
        each["weights to the rollout"] = 0.0
    Path(out, "seconds.json").write_text(json.dumps(seconds))


# -- turns ------------------------------------------------------------------------------------------------------------


def memory_of(pid: int) -> tuple[int, int, int]:
    """What a process holds, in bytes: of its own, of files, of memory that is made to be shared."""
    held = dict.fromkeys(("RssAnon", "RssFile", "RssShmem"), 0)
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in held:
            held[name] = int(value.split()[0]) * 1024
    return held["RssAnon"], held["RssFile"], held["RssShmem"]


class PeakMemory:
    """The most that a process and those it has started held at once, in GB.

    The kernel counts what is a process's own as it goes. What processes share (programs, Ray's objects) is counted
    once, as much of it as the process has that maps most: to share it out exactly, the kernel would walk all pages,
    during which the process it looks at waits.
    """

    def __init__(self, pid: int) -> None:
        self.gigabytes = 0.0
        self._pid = pid
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        import psutil

        while not self._ends.wait(1.0):
            try:
                first = psutil.Process(self._pid)
                held = [memory_of(process.pid) for process in (first, *first.children(recursive=True))]
            except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                continue  # one ended meanwhile: the next look has the others
            own, of_files, shared = (list(each) for each in zip(*held, strict=True))
            self.gigabytes = max(self.gigabytes, (sum(own) + max(of_files) + max(shared)) / 1e9)

    def stop(self) -> float:
        """End looking; the peak."""
        self._ends.set()
        self._thread.join()
        return self.gigabytes


def turn(command: list[str], log: Path, threads: int, packages: Path | None = None) -> float:
    """Run a program to its end, with the packages of a folder beside those installed; its peak memory in GB."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    if packages is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(packages.absolute()), *sys.path])
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        memory = PeakMemory(process.pid)
        code = process.wait()
    peak = memory.stop()
    if code:
        raise SystemExit(f"{' '.join(command[:3])} ended with status {code}: {log}")
    return peak


def medians(steps: dict[str, list[dict[str, float]]], memory: dict[str, list[float]]) -> str:
    """Of the steps, in Markdown."""
    rows = []
    for each in (step for of_one in steps.values() for step in of_one):
        each["other"] = each["step"] - sum(each.get(name, 0.0) for name in PHASES[:4])
    for name in PHASES:
        cells = [f"{median(step.get(name, 0.0) for step in of_one):.2f}" for of_one in steps.values()]
        rows.append([f"{name}, s", *cells])
    num = PROMPTS * COMPLETIONS
    cells = [f"{num / median(step['step'] for step in of_one):.2f}" for of_one in steps.values()]
    rows.append(["completions a second", *cells])
    cells = [f"{num * TOKENS / median(step['sample'] for step in of_one):.0f}" for of_one in steps.values()]
    rows.append(["tokens a second while sampling", *cells])
    rows.append(["peak memory, GB", *(f"{max(of_one):.1f}" for of_one in memory.values())])
    return table(("", *steps), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/loop"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--trl", type=Path, required=True, help="the folder that TRL is in")
    parser.add_argument("--trl-rows", type=int, default=16, help="completions in one of TRL's passes")
    parser.add_argument("--only", choices=["ctwa", "trl"])
    parser.add_argument("overrides", nargs="*", help="more settings of ctwa train")
    arguments = parser.parse_args()
    out = arguments.out
    if out.exists():
        raise SystemExit(f"{out} is there already: give another folder with --out")
    model = endless(arguments.model, out / "model")
    data = out / "prompts.jsonl"
    write_prompts(data, PROMPTS * arguments.steps)
    programs = [arguments.only] if arguments.only else ["ctwa", "trl"]
    steps: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
    memory: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(arguments.rounds):
        for name in programs:
            folder = out / f"{name}-{number}"
            packages = None if name == "ctwa" else arguments.trl
            if name == "ctwa":
                command = ctwa_command(model, data, folder, arguments.steps, arguments.overrides)
            else:
                folder.mkdir()
                job = ["--trl", *map(str, (model, data, folder, arguments.steps, arguments.trl_rows))]
                command = [sys.executable, __file__, *job]
            memory[name].append(turn(command, out / f"{folder.name}.log", arguments.threads, packages))
            found = ctwa_steps(folder) if name == "ctwa" else json.loads((folder / "seconds.json").read_text())
            steps[name] += found[1:]
            print(folder.name, *(f"{step['step']:.1f}" for step in found), "s", flush=True)
    print(medians(steps, memory))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--trl"]:
        path_of_model, path_of_data, folder_of_trl, *numbers = sys.argv[2:]
        trl(path_of_model, path_of_data, folder_of_trl, int(numbers[0]), int(numbers[1]))
    else:
        main()
