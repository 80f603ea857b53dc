"""Our engine in one process, without Ray; a script: one_rank.py JOB FOLDER."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from engine_ranks import (
    KINDS,
    PREFERENCE,
    batch_of,
    build_engine,
    cross_fitted_steps,
    join,
    leave_the_start,
    measure_every_method,
    some_rows,
    two_steps_of_ctwa,
)
from in_place_kernels import flash_attention_cross_entropy
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils import torch_functional

from ctwa.aggregators.cagrad_clip import CAGradClipConfig
from ctwa.aggregators.linear import FixedWeightsConfig
from ctwa.aggregators.mgda import MgdaConfig
from ctwa.aggregators.registry import build_aggregator
from ctwa.engine.objective_losses import OBJECTIVE_LOSSES, ObjectiveLosses
from ctwa.engine.pairs.objective import PairLoss
from ctwa.engine.verl.multi_objective_engine import MultiObjectiveEngine
from ctwa.engine.verl.workers import PolicyWorker
from ctwa.errors import CtwaError
from ctwa.gradients.plan import GradientPlan
from ctwa.gradients.settings import GradientSettings
from ctwa.preference.losses import DpoLoss

NAMES = tuple(PREFERENCE)
LENGTHS = [6, 9, 7, 8]
LIKE_A_GPU = [
    "actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype=bf16",
    "actor_rollout_ref.model.enable_gradient_checkpointing=true",
]
PACKED = ["actor_rollout_ref.model.override_config.attn_implementation=ctwa_packed"]
OUTSIDE_THE_BLOCKS = "+actor_rollout_ref.actor.fsdp_config.wrap_policy.transformer_layer_cls_to_wrap=[Qwen2MLP]"
"""FSDP2 then wraps an adapter in the attention with the whole model alone, as one between an encoder and the blocks."""
LAYOUTS = {"padded": False, "packed": True}
Losses = Callable[[dict[str, Any], TensorDict], list[Tensor]]


def take_step(
    engine: MultiObjectiveEngine, data: TensorDict, loss: Callable, plan: GradientPlan | None = None
) -> dict[str, Any]:
    """Go over a mini-batch with flash-attention's cross entropy; as verl does where there is no plan.

    Returns:
        ``gradient``: what the optimizer would have found, (D,); ``gram`` and ``weights`` of the plan's record;
        ``in_place``: whether each call of the cross entropy was to go backward in place.
    """
    engine.plan = plan
    with engine.train_mode(), flash_attention_cross_entropy() as in_place:
        engine.forward_backward_batch(data.clone(recurse=False), loss)
        gradients = [parameter.grad for parameter in engine.trained()]
        found = [gradient.to_local().flatten() for gradient in gradients if gradient is not None]
        gradient_D = torch.cat(found).double()
    engine.optimizer.zero_grad()
    engine.plan = None
    step: dict[str, Any] = {"gradient": gradient_D, "in_place": in_place}
    if plan is not None:
        (record,) = plan.records
        step |= {"gram": record.gram_MM, "weights": record.weights_M}
    return step


def policy_losses(model_output: dict[str, Any], data: TensorDict) -> list[Tensor]:
    """Three losses of the tokens' log-probabilities."""
    del data
    # A row's last value is of the next row's first token, and verl's own loss masks it.
    log_probs = torch.cat([row[:-1] for row in model_output["log_probs"].unbind()])
    return [-log_probs.mean(), log_probs.square().mean(), log_probs.exp().mean()]


def plain(losses: Losses, weights: list[float]) -> Callable:
    """verl's loss function of the weighted sum."""

    def loss(model_output: dict, data: TensorDict, dp_group: Any = None) -> tuple[Tensor, dict]:
        del dp_group
        each = losses(model_output, data)
        return sum(w * value for w, value in zip(weights, each, strict=True)), {}  # type: ignore[return-value]

    return loss


def collecting(losses: Losses, shared: Losses | None = None) -> Callable:
    """A loss function that returns each objective's loss, and perhaps a shared one, as the engine wants them."""

    def loss(model_output: dict, data: TensorDict, dp_group: Any = None) -> tuple[Tensor, dict]:
        del dp_group
        each = losses(model_output, data)
        both = ObjectiveLosses(each, None if shared is None else shared(model_output, data)[0])
        return each[0], {OBJECTIVE_LOSSES: both}

    return loss


def plan_of(passes: str, *, measure_only: bool = False, config: Any = None) -> GradientPlan:
    aggregator = None if measure_only else build_aggregator(config or MgdaConfig(), PREFERENCE)
    return GradientPlan(NAMES, aggregator, GradientSettings(passes=passes), first_only=measure_only)


def several_backwards(engine: MultiObjectiveEngine, layout: bool) -> dict[str, Any]:
    """Objectives' gradients by each way there is, of a policy's losses and of preference pairs."""
    data = batch_of(some_rows(LENGTHS, seed=0), micro_batch_size=2, use_remove_padding=layout)
    unit = torch.eye(len(NAMES)).tolist()
    whole = list(PREFERENCE.values())
    found: dict[str, Any] = {
        "plain": [take_step(engine, data, plain(policy_losses, weights)) for weights in unit],
        "step": take_step(engine, data, plain(policy_losses, whole)),
    }
    for passes in ("shared_forward", "sequential"):
        found[passes] = take_step(engine, data, collecting(policy_losses), plan_of(passes))

        def whole_loss(model_output: dict, rows: TensorDict) -> list[Tensor]:
            return [plain(policy_losses, whole)(model_output, rows)[0]]

        measured = collecting(policy_losses, whole_loss)
        found[f"diagnostics/{passes}"] = take_step(engine, data, measured, plan_of(passes, measure_only=True))

    pairs = pair_batch(layout)
    objective = PairLoss(DpoLoss(), NAMES, skip_absent=False)
    worker = object.__new__(PolicyWorker)  # its start is the engine's, which is here
    worker.engine = engine
    worker.set_preference(objective)

    def preference_losses(model_output: dict, rows: TensorDict) -> list[Tensor]:
        return objective.losses(model_output, rows)  # type: ignore[return-value]

    found["preference/plain"] = [take_step(engine, pairs, plain(preference_losses, weights)) for weights in unit]
    for passes in ("shared_forward", "sequential"):
        plan = plan_of(passes, config=FixedWeightsConfig())
        found[f"preference/{passes}"] = take_step(engine, pairs, worker.loss_fn, plan)
    # Fixed weights need no gradient measured, and RACO without a radius has linear's.
    for name, config in {"linear": FixedWeightsConfig(), "raco": CAGradClipConfig(c=0)}.items():
        fixed = replace(plan_of("shared_forward", config=config), solve=False)
        found[f"preference/fixed/{name}"] = take_step(engine, pairs, worker.loss_fn, fixed)
    return found


def pair_batch(layout: bool) -> TensorDict:
    """Four rows as two pairs, labelled for every objective."""
    data = batch_of(some_rows(LENGTHS, seed=1), micro_batch_size=2, use_remove_padding=layout)
    data["pair"] = torch.tensor([0, 0, 1, 1])
    data["labels"] = torch.tensor([[1, -1, 1], [1, 1, -1]]).repeat_interleave(2, 0)
    data["labelled"] = torch.ones(4, 3, dtype=torch.bool)
    data["reference"] = torch.linspace(-30, -20, 4, dtype=torch.float64)
    tu.assign_non_tensor(data, num_labelled=(2, 2, 2))
    return data


def compiled_entropy(engine: MultiObjectiveEngine) -> list[dict[str, Any]]:
    """M objectives and an entropy bonus that is compiled, as it is on a GPU: by one forward pass and by many."""
    entropy = torch_functional.entropy_from_logits
    engine.compute_entropy_from_logits = torch.compile(entropy, dynamic=True, backend="aot_eager")
    data = batch_of(some_rows(LENGTHS, seed=0), 4, use_remove_padding=True, calculate_entropy=True)

    def bonus(model_output: dict, rows: TensorDict) -> list[Tensor]:
        del rows
        return [-0.1 * model_output["entropy"].values().mean()]

    loss = collecting(policy_losses, bonus)
    return [take_step(engine, data, loss, plan_of(passes)) for passes in ("shared_forward", "sequential")]


def fused_output(folder: Path) -> list[dict[str, Any]]:
    """The output layer that makes log-probabilities of hidden states, by one forward pass and by many."""
    engine = build_engine(folder, "actor_rollout_ref.model.use_fused_kernels=true")
    data = batch_of(some_rows(LENGTHS, seed=0), 2, use_remove_padding=True, use_fused_kernels=True)
    loss = collecting(policy_losses)
    return [take_step(engine, data, loss, plan_of(passes)) for passes in ("shared_forward", "sequential")]


def after_a_pass_without_gradients(engine: MultiObjectiveEngine) -> dict[str, Any]:
    """What the engine finds once such a pass has, or has not, left all weights gathered.

    Returns:
        ``last_layers``: a step by the gradients of the last layer; ``log_probs``: of the weights as they were, of
        others, and of those that were kept, which are the first.
    """
    data = batch_of(some_rows(LENGTHS, seed=0), 4)

    def log_probs() -> Tensor:
        with engine.eval_mode():
            (output,) = engine.forward_backward_batch(data.clone(recurse=False), None, forward_only=True)[
                "model_output"
            ].values()
        values: Tensor = output.values()
        return values

    worker = object.__new__(PolicyWorker)  # its start is the engine's, which is here
    worker.engine, worker._previous = engine, None
    found = [log_probs()]
    worker.keep_weights()
    with torch.no_grad():
        for parameter in engine.trained():
            parameter.mul_(1.3)
    engine.reshard()
    for _ in range(2):
        found.append(log_probs())
        worker.swap_weights()
    plan = plan_of("shared_forward")
    plan.settings = GradientSettings(last_layers=1)
    worker.swap_weights()
    log_probs()
    return {"last_layers": take_step(engine, data, collecting(policy_losses), plan), "log_probs": found}


def skipped_step(engine: MultiObjectiveEngine) -> list[dict[str, Any]]:
    """Three updates: one with an objective's gradient that is not finite, one with what all share, and a sound one."""
    aggregator = build_aggregator(MgdaConfig(), {"a": 1.0, "b": 1.0})
    reports = []
    for factor, of_shared in ((math.inf, 1.0), (1.0, math.nan), (1.0, 1.0)):
        before = [parameter.detach().clone() for parameter in engine.trained()]
        engine.plan = GradientPlan(("a", "b"), aggregator, GradientSettings())
        engine.num_left_out = 0

        def losses(model_output: dict, data: TensorDict, factor: float = factor) -> list[Tensor]:
            del data
            log_probs = model_output["log_probs"].values()
            return [-log_probs.mean(), factor * log_probs.square().mean()]

        def shared(model_output: dict, data: TensorDict, factor: float = of_shared) -> list[Tensor]:
            del data
            return [factor * model_output["log_probs"].values().exp().mean()]

        with engine.train_mode():
            engine.train_batch(batch_of(some_rows([6, 9], seed=0), 1), loss_function=collecting(losses, shared))
        moved = sum(float((new - old).abs().sum()) for new, old in zip(engine.trained(), before, strict=True))
        (record,), aggregator = engine.plan.records, engine.plan.aggregator
        counts = {"num_left_out": engine.num_left_out, "num_skipped": aggregator.num_skipped}
        weights = aggregator.last_weights_M.tolist()
        reports.append({"moved": moved, "skipped": record.skipped, **counts, "weights": weights})
    return reports


def save_of_a_weight_that_is_not_finite(engine: MultiObjectiveEngine) -> str:
    """What is said where such a policy is to be saved."""
    worker = object.__new__(PolicyWorker)
    worker.engine = engine
    (weight, *_), told = engine.trained(), ""
    before = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.mul_(math.nan)
        worker.save_checkpoint("nowhere")
    except CtwaError as error:
        told = str(error)
    with torch.no_grad():
        weight.copy_(before)
    return told


def weights_for_the_rollout(engine: MultiObjectiveEngine) -> dict[str, Any]:
    """What a rollout without adapters is sent, and the trainer's own weights before and after."""

    def own() -> dict[str, Tensor]:
        return {name: weight.full_tensor().clone() for name, weight in engine.module.state_dict().items()}

    before = own()
    weights, _ = engine.get_per_tensor_param()
    return {"before": before, "sent": dict(weights), "after": own()}


def rows_of_prompts(folder: Path, *overrides: str) -> dict[str, Any]:
    """A pass over completions of two prompts, four of one and two of the other: log-probs, entropy, gradient."""
    engine = build_engine(folder, *overrides)
    prompts, responses = some_rows([5, 4], seed=2), some_rows([6, 1, 3, 8, 2, 7], seed=3)
    rows = [torch.cat([prompts[index // 4], response]) for index, response in enumerate(responses)]
    data = batch_of(rows, micro_batch_size=3, temperature=0.7, calculate_entropy=True)
    masks = [torch.arange(len(row)) >= len(prompts[index // 4]) for index, row in enumerate(rows)]
    data["loss_mask"] = torch.nested.as_nested_tensor([mask.long() for mask in masks], layout=torch.jagged)
    of_responses: list[Tensor] = []

    def loss(model_output: dict[str, Any], data: TensorDict, dp_group: Any = None) -> tuple[Tensor, dict]:
        del dp_group
        chosen = data["loss_mask"].values().roll(-1).bool()  # a position's value is of the token behind it
        chosen[data["input_ids"].offsets()[1:] - 1] = False
        log_probs, entropy = (model_output[name].values()[chosen] for name in ("log_probs", "entropy"))
        of_responses.extend([log_probs.detach(), entropy.detach()])
        return -log_probs.square().mean() - 0.1 * entropy.mean(), {}

    step = take_step(engine, data, loss)
    return {"values": torch.cat(of_responses), "gradient": step["gradient"]}


def all_of_it(folder: Path) -> None:
    """What the tests of one rank look at, and what several ranks are compared with."""
    join(folder)
    measured = measure_every_method(folder, 0, 1)
    measured["cross-fitted"] = cross_fitted_steps(folder, 0, 1)
    found: dict[Any, Any] = {}
    for kind, overrides in {**KINDS, "lora, bf16, checkpoints": KINDS["lora"] + LIKE_A_GPU}.items():
        engine = build_engine(folder, *overrides)
        if kind != "full":
            leave_the_start(engine)
        for layout, packed in LAYOUTS.items():
            found[kind, layout] = several_backwards(engine, packed)
        if kind == "lora":
            found["for the rollout"] = weights_for_the_rollout(engine)
            outside = build_engine(folder, *overrides, OUTSIDE_THE_BLOCKS)
            leave_the_start(outside)
            found["for the rollout, outside"] = weights_for_the_rollout(outside)
        if kind == "full":
            found["compiled entropy"] = compiled_entropy(engine)
            found["gathered", False] = after_a_pass_without_gradients(engine)
            found["skipped step"] = skipped_step(engine)
            found["broken weight"] = save_of_a_weight_that_is_not_finite(engine)
    found["rows of prompts"] = [rows_of_prompts(folder, *overrides) for overrides in ([], PACKED)]
    stays = build_engine(folder, "actor_rollout_ref.actor.fsdp_config.reshard_after_forward=false")
    found["gathered", True] = after_a_pass_without_gradients(stays)
    # Last: they change the attention of this process, and the model's class.
    measured["sequence parallel"] = two_steps_of_ctwa(folder, 1)
    found["fused output"] = fused_output(folder)
    torch.save(measured, folder / "measured-0of1.pt")
    torch.save(found, folder / "one_rank.pt")
    torch.distributed.destroy_process_group()


JOBS = {job.__name__: job for job in (all_of_it,)}

if __name__ == "__main__":
    JOBS[sys.argv[1]](Path(sys.argv[2]))
