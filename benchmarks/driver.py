"""What a step takes of the driver alone: everything between the last completion and the update, without an engine.

    python benchmarks/driver.py --model MODEL_FOLDER [--prompts 1024] [--completions 8] [--tokens 2048] [--method ctwa]

The trainer, the sampler and verl's own steps are the real ones. The transfer queue is a dictionary, and the workers
answer at once with random log-probabilities, so that the seconds are those of the driver's own work; what went through
the queue is counted instead. Prints seconds by stage, columns and bytes, the peak of memory, and a digest of all that
the step found and wrote: equal digests are equal results, to the bit.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "VERL_USE_EXTERNAL_MODULES": "ctwa.engine.verl.plugin"}
os.environ |= {"VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def brief(response_tokens: int) -> float:
    """A reward that costs nothing."""
    return 1 - response_tokens / 4096


def long_words(response: str) -> float:
    """A reward that reads the text."""
    return len(response) / (1 + response.count(" ")) % 1


def vowels(response: str) -> float:
    """Another."""
    return response.count("e") / (1 + len(response))


class MemoryQueue:
    """Stands where driver and workers have the transfer queue: whole columns in the order of their keys."""

    def __init__(self) -> None:
        self.columns: dict[str, Any] = {}
        self.place: dict[str, int] = {}
        self.keys: list[str] = []
        self.tags: list[Any] = []
        self.bytes = self.num_read = self.num_written = 0

    def fill(self, keys: Sequence[str], columns: Mapping[str, Any], tags: list[Any]) -> None:
        """What workers wrote: it does not go by way of the driver."""
        self.keys, self.columns, self.tags = list(keys), dict(columns), tags
        self.place = {key: place for place, key in enumerate(keys)}

    def kv_batch_get(self, keys: Sequence[str], partition_id: str, select_fields: Sequence[str]) -> Any:
        from tensordict import TensorDict

        del partition_id  # there is one
        found = {name: self.columns[name] for name in select_fields if name in self.columns}
        if list(keys) != self.keys:
            places = [self.place[key] for key in keys]
            found = {name: self._some(each, places) for name, each in found.items()}
        self.num_read += len(found)
        self.bytes += sum(_size(each) for each in found.values())
        return TensorDict(found, batch_size=len(keys))

    def kv_batch_put(self, keys: Sequence[str], partition_id: str, fields: Any = None, tags: Any = None) -> Any:
        del partition_id, tags
        if fields is not None:
            assert list(keys) == self.keys
            self.columns |= {name: fields[name] for name in fields.keys()}  # noqa: SIM118 - it is no dict
            self.num_written += len(fields.keys())
            self.bytes += sum(_size(fields[name]) for name in fields.keys())  # noqa: SIM118
        return self.meta(keys)

    def meta(self, keys: Sequence[str]) -> Any:
        from verl.utils.transferqueue_utils import KVBatchMeta

        return KVBatchMeta(
            keys=list(keys), tags=self.tags, partition_id="train", fields=list(self.columns), extra_info={}
        )

    def kv_clear(self, keys: Sequence[str], partition_id: str) -> None:
        pass

    def _some(self, column: Any, places: list[int]) -> Any:
        import torch

        if not getattr(column, "is_nested", False):
            return column[torch.tensor(places)] if isinstance(column, torch.Tensor) else column[places]
        if places == list(range(places[0], places[0] + len(places))):
            offsets = column.offsets()[places[0] : places[0] + len(places) + 1]
            values = column.values()[offsets[0] : offsets[-1]]
            return torch.nested.nested_tensor_from_jagged(
                values, offsets - offsets[0], max_seqlen=int(offsets.diff().max())
            )
        rows = column.unbind()
        return torch.nested.as_nested_tensor([rows[place] for place in places], layout=torch.jagged)


def _size(column: Any) -> int:
    if not hasattr(column, "element_size"):
        return sum(len(text) for each in column for text in each.values())
    values = column.values() if getattr(column, "is_nested", False) else column
    return int(values.numel() * values.element_size())


class Stages:
    """Seconds of this process on a CPU, by stage: what else the machine does is none of it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a folder with a tokenizer")
    parser.add_argument("--prompts", type=int, default=1024)
    parser.add_argument("--completions", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--method", default="ctwa")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(arguments, Path(folder))


def configuration(arguments: argparse.Namespace, folder: Path) -> Any:
    """A run of engine=gpu of that size."""
    from ctwa.engine.compose import compose_config

    weights = "{reward_fn: '%s:%s', weight: 0.3, target: 0.1}"
    objectives = ", ".join(
        f"{name}: {weights % (Path(__file__).resolve(), name)}" for name in ("brief", "long_words", "vowels")
    )
    return compose_config(
        [
            *("task=custom", "engine=gpu", f"method={arguments.method}", f"ctwa.run={folder / 'run'}"),
            *("data.train_files=-", "data.val_files=-", f"actor_rollout_ref.model.path={arguments.model}"),
            *(f"data.train_batch_size={arguments.prompts}", f"data.max_response_length={arguments.tokens}"),
            *(
                f"actor_rollout_ref.rollout.n={arguments.completions}",
                "trainer.logger=[]",
                "data.max_prompt_length=512",
            ),
            f"actor_rollout_ref.actor.ppo_mini_batch_size={arguments.prompts}",
            f"++ctwa.objectives={{{objectives}}}",
        ]
    )


def run(arguments: argparse.Namespace, folder: Path) -> None:
    """One step, stage by stage."""
    import torch
    from transformers import AutoTokenizer
    from verl.trainer.ppo.v1 import trainer_base

    from ctwa.engine.recorder import Recorder
    from ctwa.engine.sampling import Sampler
    from ctwa.engine.settings import Settings, read_settings
    from ctwa.engine.train import MultiObjectiveTrainer, Step
    from ctwa.engine.verl import rows as rows_of
    from ctwa.engine.verl import session as sessions
    from ctwa.engine.verl import transfer
    from ctwa.objectives.completion import Moment
    from ctwa.objectives.evaluator import RewardEvaluator
    from ctwa.run.folder import RunFolder, RunInfo

    config = configuration(arguments, folder)
    settings: Settings = read_settings(config)
    queue = MemoryQueue()
    for module in (transfer, trainer_base):
        vars(module)["tq"] = queue
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    torch.manual_seed(0)
    num = arguments.prompts * arguments.completions
    session = _session(sessions.Session, config, tokenizer)
    keys, tags = _fill(queue, arguments, num, tokenizer)
    session.actor_rollout_wg = _Workers(queue, num)
    info = RunInfo(method=arguments.method, objectives={}, num_steps=1, engine="", model="", seed=0, versions={})
    made = RunFolder.create(str(folder / "run"), {}, info, resume=False, how_to_resume="")
    stages, recorder = Stages(), Recorder(made, resume=False, num_samples=4, seed=0)
    with RewardEvaluator(settings.objectives, num_workers=1) as evaluator:
        sampler = Sampler(session, settings, evaluator, max_missing=0.0)
        trainer = MultiObjectiveTrainer(config, settings, settings.build_scalarizer(), sampler, recorder)
        step = Step(1, recorder.watchdog)
        sampler._prompts.name(
            {"raw_prompt": [[{"role": "user", "content": "Say more."}]] * arguments.prompts}, "train", 1, "s"
        )
        sampler._begin(Moment.of_run("train", 0, 1), arguments.completions)
        looks = iter(keys)
        while look := list(islice(looks, 32 * arguments.completions)):
            with stages("arrive: tokens, texts, calls"):
                sampler._submit(look, "train")
        began = time.perf_counter()
        assert sampler._scoring is not None
        sampler._scoring._queue.complete()  # the functions' own time is no work of the driver
        waited = time.perf_counter() - began
        step.batch = queue.meta(keys)
        with stages("score: matrix, metrics, samples"):
            trainer.score(step)
        with stages("deal"):
            size = rows_of.mini_batches(step.rows.bounds.diff().tolist(), num_completions=num, num_ranks=8)[0]
            rows_of.deal_rows([tag["seq_len"] for tag in tags], rows_per_minibatch=size, num_ranks=8)
        with stages("old log-probabilities (verl's)"):
            step.batch = session.old_log_probs(step.batch, step.metrics)
        with stages("advantages"):
            trainer.estimate_advantages(step)
        with stages("statistic"):
            trainer.observe(step)
        with stages("metrics (verl's)"):
            seconds = dict.fromkeys(("gen", "update_actor", "step", "adv"), 1.0)
            step.metrics = session.with_metrics(step.batch, step.metrics, seconds, step=1)
    recorder.close()
    _tell(stages, queue, step, waited, num)


class _Workers:
    """Answers at once, as if ranks had gone over the rows."""

    def __init__(self, queue: MemoryQueue, num_rows: int) -> None:
        self.queue, self.num_rows = queue, num_rows

    def compute_log_prob(self, batch: Any) -> Any:
        return batch

    def take_update(self) -> list[Any]:
        import torch

        from ctwa.engine.verl.rows import RowValues

        column = self.queue.columns["rollout_log_probs"]
        values, lengths_N = column.values() - 0.01, column.offsets().diff()
        return [RowValues(torch.arange(self.num_rows), lengths_N, values)]


def _session(kind: Any, config: Any, tokenizer: Any) -> Any:
    """A session without processes."""
    session = kind.__new__(kind)
    session.config, session.tokenizer = config, tokenizer
    session.generation = SimpleNamespace(columns=("responses", "response_mask", "extra_fields"))
    session.curriculum, session.total_training_steps, session.steps_per_epoch = None, 1, 1
    session.use_critic = session.use_reference_policy = False
    session._rollout_moe_lb_metrics_accumulator = None
    session.resource_pool_manager = SimpleNamespace(get_n_gpus=lambda: 8)
    session.end_tokens = lambda: {tokenizer.eos_token_id}
    return session


def _fill(queue: MemoryQueue, arguments: argparse.Namespace, num: int, tokenizer: Any) -> tuple[list[str], list[Any]]:
    """Completions of random tokens, between half of the longest and the longest."""
    import torch
    from tensordict import NonTensorStack

    lengths_N = torch.randint(arguments.tokens // 2, arguments.tokens + 1, (num,))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths_N.cumsum(0)])
    total, prompt = int(offsets[-1]), 64

    def nested(values: Any, at: Any = offsets) -> Any:
        return torch.nested.nested_tensor_from_jagged(values, at, max_seqlen=int(at.diff().max()))

    whole = offsets + prompt * torch.arange(num + 1)
    log_probs = -torch.rand(total)
    tags = [
        {"seq_len": length + prompt, "min_global_steps": 1, "max_global_steps": 1, "global_steps": 1}
        for length in lengths_N.tolist()
    ]
    responses = nested(torch.randint(100, len(tokenizer) - 100, (total,)))
    # As the agent loops hand it over.
    texts = tokenizer.batch_decode([each.tolist() for each in responses.unbind()], skip_special_tokens=True)
    queue.fill(
        [f"train000001-{row // arguments.completions:05d}_{row % arguments.completions}_0" for row in range(num)],
        {
            "prompts": nested(torch.ones(num * prompt, dtype=torch.int64), prompt * torch.arange(num + 1)),
            "responses": responses,
            "extra_fields": NonTensorStack(*({"response": text} for text in texts)),
            "response_mask": nested(torch.ones(total, dtype=torch.int64)),
            "rollout_log_probs": nested(log_probs),
            "log_probs": nested(-torch.rand(int(whole[-1])), whole),
            "entropy": nested(torch.rand(int(whole[-1])), whole),
            "num_turns": torch.full((num,), 2),
        },
        tags,
    )
    return queue.keys, tags


def _tell(stages: Stages, queue: MemoryQueue, step: Any, waited: float, num: int) -> None:
    tokens = int(queue.columns["responses"].values().numel())
    digest = hashlib.sha256()
    for name in sorted(queue.columns):
        if "advantages" in name or name in ("returns", "rm_scores", "old_log_probs"):
            column = queue.columns[name]
            digest.update((column.values() if column.is_nested else column).contiguous().numpy().tobytes())
    kept = {key: value for key, value in step.metrics.items() if "second" not in key and "perf" not in key}
    digest.update(repr(sorted((key, float(value)) for key, value in kept.items() if "tim" not in key)).encode())
    for name, seconds in stages.seconds.items():
        print(f"{name:<34} {seconds:8.2f} s")
    total = sum(stages.seconds.values())
    print(f"{'all':<34} {total:8.2f} s")
    print(f"{num} completions, {tokens:,} tokens: {tokens / total / 1e6:.2f} M tokens a second")
    each = queue.bytes / tokens
    print(f"queue: {queue.num_read} columns read, {queue.num_written} written, {each:.0f} bytes a token")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"peak of memory {peak:.2f} GB; waited for rewards {waited:.1f} s")
    print(f"digest {digest.hexdigest()[:16]}")


if __name__ == "__main__":
    main()
