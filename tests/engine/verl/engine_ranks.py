"""Our engine as one rank or two, without Ray: what the scripts one_rank.py and two_ranks.py are made of."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from pydantic import TypeAdapter
from tensordict import TensorDict
from torch import Tensor
from torch.distributed.tensor import distribute_tensor
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import TrainingWorkerConfig
from verl.workers.engine import EngineRegistry
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import response_from_nested

from ctwa.aggregators.common_descent import CommonDescentConfig
from ctwa.aggregators.cross_fit import CrossFittedGram
from ctwa.aggregators.linear import FixedWeightsConfig
from ctwa.aggregators.registry import GRADIENT_METHODS, AggregatorConfig, build_aggregator
from ctwa.batch import RewardMatrix, Rollout, Update
from ctwa.engine.compose import compose_config
from ctwa.engine.objective_losses import OBJECTIVE_LOSSES, ObjectiveLosses, policy_losses
from ctwa.engine.verl.columns import ROW_COLUMN, advantages_column
from ctwa.engine.verl.cpu_platform import register_cpu_platform
from ctwa.engine.verl.multi_objective_engine import MultiObjectiveEngine
from ctwa.engine.verl.registry import register_engines
from ctwa.engine.verl.rows import in_order
from ctwa.engine.verl.workers import PolicyWorker
from ctwa.gradients.plan import GradientPlan, gradient_metrics
from ctwa.gradients.settings import WARM_UP, GradientSettings
from ctwa.policy_loss import Vanilla
from ctwa.scalarizers import build_scalarizer
from ctwa.scalarizers.ctwa import CtwaConfig
from ctwa.testbed.model import build_model
from ctwa.testbed.tokenizer import build_tokenizer

OUR_METHODS = [name for name in GRADIENT_METHODS if name != "torchjd"]
"""The gradient methods, but for what a library makes of a difference in the last digit."""
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


def run_ranks(job: str, folder: Path, num_ranks: int, *, script: str) -> None:
    """Run a script's job as that many ranks, and wait. The engine's registries and the process group are global."""
    environment = os.environ | {"VERL_USE_EXTERNAL_MODULES": "ctwa.engine.verl.plugin", "VERL_PLATFORM": "cpu"}
    environment |= {"WORLD_SIZE": str(num_ranks), "LOCAL_RANK": "0"}
    command = [sys.executable, script, job, str(folder)]
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


def config_of(folder: Path, *overrides: str) -> DictConfig:
    """A run's, on the folder's model."""
    return copy.deepcopy(_composed(folder, *overrides))


@cache  # takes about a second
def _composed(folder: Path, *overrides: str) -> DictConfig:
    return compose_config([f"ctwa.task_dir={folder}", f"ctwa.run={folder / 'run'}", *overrides])


def build_engine(folder: Path, *overrides: str) -> MultiObjectiveEngine:
    """The engine that a run with these settings trains the folder's model with, among the ranks that have joined."""
    config = config_of(folder, *overrides)
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


def batch_of(rows: list[Tensor], micro_batch_size: int, **more: Any) -> TensorDict:
    """Token sequences as a mini-batch of this rank, with more of verl's options."""

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
    tu.assign_non_tensor(data, **options | more)
    return data


def some_rows(lengths: list[int], *, seed: int) -> list[Tensor]:
    """Random token sequences."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 30, (length,), generator=generator) for length in lengths]


def every_method(folder: Path) -> None:
    """Save what :func:`measure_every_method`, :func:`cross_fitted_steps` and :func:`two_steps_of_ctwa` find."""
    rank, num_ranks = join(folder)
    measured = measure_every_method(folder, rank, num_ranks)
    measured["cross-fitted"] = cross_fitted_steps(folder, rank, num_ranks)
    measured["sequence parallel"] = two_steps_of_ctwa(folder, num_ranks)
    torch.save(measured, folder / f"measured-{rank}of{num_ranks}.pt")
    torch.distributed.destroy_process_group()


def measure_every_method(folder: Path, rank: int, num_ranks: int) -> dict[Any, Any]:
    """For each kind and method what the mini-batches measured, how it was weighed, and the step's gradient."""
    measured: dict[Any, Any] = {}
    for kind, overrides in KINDS.items():
        engine = build_engine(folder, *overrides)
        if kind == "lora":
            leave_the_start(engine)
        for method in OUR_METHODS:
            measured[kind, method] = two_mini_batches(engine, method, rank, num_ranks)
    return measured


def cross_fitted_steps(folder: Path, rank: int, num_ranks: int) -> dict[str, Any]:
    """Two steps whose four prompts are halved, the second in Adam's metric; each of two ranks has one half alone.

    Returns:
        Of each step the Gram matrix of the six gradients that the halves have, taken without halves, and what the step
        found: the plain matrix, the mean and its state, the weights, the metrics, the gradient's norm.
    """
    engine = build_engine(folder)
    loss_fn = partial(ppo_loss, config=omega_conf_to_dataclass(config_of(folder).actor_rollout_ref.actor))

    def loss(model_output: dict, data: TensorDict, dp_group: Any = None) -> tuple[Any, dict]:
        assert engine.plan is not None
        losses, shared, metrics = policy_losses(loss_fn, model_output, data, dp_group, engine.plan)
        return losses[0], {**metrics, OBJECTIVE_LOSSES: ObjectiveLosses(losses, shared)}

    half_N = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1], dtype=torch.int8)
    own = list(range(8)) if num_ranks == 1 else (half_N == rank).nonzero().flatten().tolist()
    names = tuple(PREFERENCE)
    statistic = CrossFittedGram(names, half_life=10.0)
    found: dict[str, Any] = {}
    for metric in ("euclidean", "optimizer"):
        settings = GradientSettings(metric=metric)
        for state in engine.optimizer.state.values():
            state["step"].fill_(WARM_UP)
        data = policy_rows(half_N, own)
        six = dict.fromkeys("abcdef", 1.0)
        engine.plan = whole = GradientPlan(tuple(six), build_aggregator(FixedWeightsConfig(), six), settings)
        with engine.train_mode():
            engine.forward_backward_batch(data.clone(recurse=False), loss)
        engine.optimizer.zero_grad()

        solver = build_aggregator(CommonDescentConfig(), PREFERENCE)
        engine.plan = plan = GradientPlan(names, solver, settings, cross_fitted=statistic, half_N=half_N)
        for column in range(len(names)):
            first, second = (data[advantages_column(column + half * len(names))] for half in (0, 1))
            whole_T = first.values() + second.values()
            data[advantages_column(column)] = torch.nested.nested_tensor_from_jagged(whole_T, first.offsets())
        with engine.train_mode():
            output = engine.train_batch(data, loss_function=loss)
        found[metric] = {
            "six": whole.records[0].gram_MM,
            "plain": plan.records[0].gram_MM,
            "weights": plan.records[0].weights_M,
            "metrics": gradient_metrics(plan),
            "gram": statistic.gram_RR,
            "state": statistic.state_dict(),
            "norm": output["metrics"]["grad_norm"],
        }
    return found


def policy_rows(half_N: Tensor, own: list[int]) -> TensorDict:
    """Some of eight completions with random advantages of three objectives: columns 0 to 2 are of one half."""
    generator = torch.Generator().manual_seed(3)
    rows, prompt = some_rows(LENGTHS, seed=0), 3
    responses = [len(row) - prompt for row in rows]
    data = batch_of(
        [rows[row] for row in own],
        len(own),
        use_dynamic_bsz=True,
        max_token_len_per_gpu=24,
        global_batch_size=len(rows),
        calculate_entropy=False,
    )

    def nested(values: list[Tensor]) -> Tensor:
        return torch.nested.as_nested_tensor([values[row] for row in own], layout=torch.jagged)

    data["prompts"] = nested([row[:prompt] for row in rows])
    data["responses"] = nested([row[prompt:] for row in rows])
    data["response_mask"] = nested([torch.ones(length, dtype=torch.long) for length in responses])
    data["loss_mask"] = nested([(torch.arange(len(row)) >= prompt).long() for row in rows])
    data["old_log_probs"] = nested([torch.full((length,), -3.0) for length in responses])
    data["advantages"] = nested([torch.zeros(length) for length in responses])
    for column in range(6):
        scores = torch.randn(len(rows), generator=generator) * (half_N == column // 3)
        data[advantages_column(column)] = nested(
            [score.expand(length).clone() for score, length in zip(scores, responses, strict=True)]
        )
    data[ROW_COLUMN] = torch.tensor(own)
    return data


def two_steps_of_ctwa(folder: Path, num_ranks: int) -> list[dict[str, Any]]:
    """Two steps with the statistic of the updated policy, on ranks that share the rows of one sequence parallel group.

    It changes the attention of this process.

    Returns:
        Of each step the places of the rows that this rank sent, the log-probs after it, CTWA's weights, the gradient's
        norm on the rank that answers.
    """
    os.environ.setdefault("MASTER_ADDR", "localhost")  # what verl's worker looks for and, with the group there, not at
    os.environ.setdefault("MASTER_PORT", "0")
    parallel = [f"actor_rollout_ref.actor.ulysses_sequence_parallel_size={num_ranks}"] if num_ranks > 1 else []
    config = config_of(folder, "actor_rollout_ref.model.use_remove_padding=true", *parallel)
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    model = omega_conf_to_dataclass(config.actor_rollout_ref.model)
    worker = PolicyWorker(
        TrainingWorkerConfig(
            model_type="language_model",
            model_config=model,
            engine_config=actor.engine,
            optimizer_config=actor.optim,
            checkpoint_config=actor.checkpoint,
        )
    )
    worker.reset()
    worker.set_loss_fn(partial(ppo_loss, config=actor))

    lengths_N, prompt, num_rows = [7, 9, 6, 8], 3, 4
    responses = [length - prompt for length in lengths_N]
    rewards = RewardMatrix.from_columns({"accuracy": [1.0, 0.0, 1.0, 1.0], "clarity": [0.1, 0.7, 0.9, 0.2]})
    mask_NT = (torch.arange(max(responses)) < torch.tensor(responses)[:, None]).long()
    rollout = Rollout(rewards, torch.tensor([0, 0, 1, 1]), mask_NT)
    targets = {"accuracy": 0.3, "clarity": 0.2}
    weights = dict.fromkeys(targets, 0.5)
    method = build_scalarizer(CtwaConfig(eta=1.0), weights, targets=targets, scale_invariant=False)

    class Centred:
        scale_invariant = False

        def __call__(self, scores_N: Tensor) -> Tensor:
            means_N = scores_N.view(2, 2).mean(1).repeat_interleave(2)
            return (scores_N - means_N)[:, None].expand(mask_NT.shape).float()

    def nested(values_NT: Tensor) -> Tensor:
        rows = [row[:length] for row, length in zip(values_NT, responses, strict=True)]
        return torch.nested.as_nested_tensor(rows, layout=torch.jagged)

    steps = []
    for step in range(2):
        rows = some_rows(lengths_N, seed=step)
        data = batch_of(rows, 2, use_remove_padding=True, mini_batch_size=num_rows, global_batch_size=num_rows)
        data["prompts"] = torch.nested.as_nested_tensor([row[:prompt] for row in rows], layout=torch.jagged)
        data["responses"] = torch.nested.as_nested_tensor([row[prompt:] for row in rows], layout=torch.jagged)
        data["response_mask"], data[ROW_COLUMN] = nested(mask_NT), torch.arange(num_rows)
        advantages_NT = method.advantages(rollout, Centred()) * mask_NT

        before = worker.infer_batch(tu_copy(data, compute_loss=False))
        answers: list[Any] = [None] * num_ranks
        torch.distributed.all_gather_object(
            answers, None if before is None else response_from_nested(before["log_probs"], data["response_mask"])
        )
        data["old_log_probs"] = next(answer for answer in answers if answer is not None)
        data["advantages"] = nested(advantages_NT)
        worker.record_update("post_update")
        output = worker.train_mini_batch(data)
        sent = worker.take_update()
        torch.distributed.all_gather_object(answers, sent)
        offsets = data["response_mask"].offsets()
        values = in_order(answers, offsets.diff())
        new_NT = torch.nested.nested_tensor_from_jagged(values, offsets, max_seqlen=mask_NT.shape[1]).to_padded_tensor(
            0
        )
        old_NT = data["old_log_probs"].to_padded_tensor(0.0)
        method.observe_update(Update(rollout, advantages_NT, old_NT, new_NT, Vanilla(0.2, 0.2, 3.0)))
        steps.append(
            {
                "sent": sent.rows_R.tolist(),
                "moved": new_NT - old_NT,
                "log_probs": new_NT,
                "weights": method.weights,
                "norm": None if output is None else tu.get(output, "metrics")["grad_norm"],
            }
        )
    return steps


def tu_copy(data: TensorDict, **options: Any) -> TensorDict:
    """The rows with other options."""
    copy = data.clone(recurse=False)
    tu.assign_non_tensor(copy, **options)
    return copy


def leave_the_start(engine: MultiObjectiveEngine) -> None:
    """An adapter begins with one factor at zero, so that the other has no gradient."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in engine.trained():
            whole = 0.1 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(distribute_tensor(whole, parameter.device_mesh, parameter.placements))


def two_mini_batches(engine: MultiObjectiveEngine, method: str, rank: int, num_ranks: int) -> list[dict[str, Any]]:
    """Both at the same weights of the model: those of a step would carry its rounding on."""
    config = TypeAdapter(AggregatorConfig).validate_python({"type": method})
    engine.plan = plan = GradientPlan(tuple(PREFERENCE), build_aggregator(config, PREFERENCE), GradientSettings())
    num_tokens = sum(LENGTHS) - len(LENGTHS)

    def loss(model_output: dict, data: Any, dp_group: Any = None) -> tuple[Any, dict]:
        del data, dp_group
        # A row's last value is of the next row's first token, and verl's own loss masks it.
        log_probs = torch.cat([row[:-1] for row in model_output["log_probs"].unbind()])
        each = [-log_probs, log_probs.square(), log_probs.exp()]
        # verl's engine wants the whole batch's mean times the number of ranks.
        losses = [value.sum() * num_ranks / num_tokens for value in each]
        return losses[0], {OBJECTIVE_LOSSES: ObjectiveLosses(losses)}

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
