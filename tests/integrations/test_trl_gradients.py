"""Trainings with TRL by methods that combine the objectives' gradients, against steps that are worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("trl", reason="TRL is not here: scripts/test.sh runs these with a folder of its own on the path")

from accelerate.launchers import debug_launcher
from accelerate.state import AcceleratorState

from ctwa.aggregators.cross_fit import CrossFittedGram, halves_of, split_gram
from ctwa.errors import CtwaError
from ctwa.gradients.settings import GradientSettings
from ctwa.integrations.trl import MultiObjectiveGRPOTrainer
from ctwa.integrations.trl.checks import check_gradients
from ctwa.integrations.trl.estimate import TrlEstimate
from ctwa.integrations.trl.window import prompts_of, read_rewards
from ctwa.methods import AGGREGATORS, Rollout, build_aggregator, build_scalarizer, method_options
from ctwa.run import read_trace
from tests.integrations import tiny_trl
from tests.integrations.tiny_trl import Recording, together

NAMES = ("digits", "early")
WEIGHTS = {"digits": 0.7, "early": 0.3}
SGD = {"optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 1e6, "lr_scheduler_type": "constant", "max_steps": 2}
"""A step is the gradient times 0.05."""
KL = {"beta": 0.5, "use_bias_correction_kl": False}


def log_probs(policy: Any, batches: list[dict[str, Tensor]]) -> Tensor:
    """Of all completions, (N, T)."""
    return together([tiny_trl.log_probs(policy, each) for each in batches])


def gradient(policy: Any, loss: Tensor) -> list[Tensor]:
    """Of a loss, by parameter."""
    return list(torch.autograd.grad(loss, list(policy.parameters())))


def steps_by_hand(recorded: list[Any], method: str, *, beta: float, is_cross_fitted: bool) -> Iterator[list[Tensor]]:
    """What each step should make of the parameters: M separate backward passes of the whole batch, in one process."""
    aggregator = build_aggregator(AGGREGATORS[method].info.config(), WEIGHTS)
    mean = CrossFittedGram(NAMES, half_life=10.0)
    first, *_ = recorded[0].policies
    for policy, batches in zip(
        recorded[0].policies, zip(*(each.batches for each in recorded), strict=True), strict=False
    ):
        rewards_NM, mask_NT = batches[0]["rewards_NM"], together([each["completion_mask"] for each in batches])
        rollout = Rollout(read_rewards(NAMES, rewards_NM), prompts_of(len(mask_NT), 4), mask_NT)
        estimate = TrlEstimate(rollout, "group")
        half_N = halves_of(rollout.group_N, torch.ones(len(mask_NT), dtype=torch.bool))
        rows: list[list[Tensor]] = []
        for half in range(2):
            for rewards_N in rewards_NM.T:
                advantages_NT = estimate(rewards_N) * (half_N == half)[:, None]
                loss = -(log_probs(policy, batches) * advantages_NT).sum() / mask_NT.sum()
                rows.append(gradient(policy, loss))
        flat_HD = torch.stack([torch.cat([each.flatten() for each in row]) for row in rows]).double()
        plain_MM, cross_MM = split_gram(flat_HD @ flat_HD.T, [int((half_N == half).sum()) for half in range(2)])
        if is_cross_fitted:
            assert cross_MM is not None
            mean.observe(cross_MM, plain_MM)
            weights_M = aggregator.solve(mean.gram_RR, errors_MM=mean.errors_RR).weights_M
        else:
            weights_M = aggregator.solve(plain_MM).weights_M
        of_reference_NT = log_probs(first, batches).detach() - log_probs(policy, batches)
        kl = ((of_reference_NT.exp() - of_reference_NT - 1) * mask_NT).sum() / mask_NT.sum()
        shared = gradient(policy, beta * kl)
        weights = [*weights_M.tolist() * 2, 1.0]
        yield [
            parameter.detach() - 0.05 * sum(w * each for w, each in zip(weights, parts, strict=True))
            for parameter, *parts in zip(policy.parameters(), *rows, shared, strict=True)
        ]


def check_steps(recorded: list[Any], method: str, *, beta: float = 0.0, is_cross_fitted: bool = False) -> None:
    """Hold every step against the one by hand, to 1e-6; the steps are no trifle."""
    expected = list(steps_by_hand(recorded, method, beta=beta, is_cross_fitted=is_cross_fitted))
    before, *after = recorded[0].policies
    assert len(expected) == len(after) == 2
    for parameters, policy in zip(expected, after, strict=True):
        for one, other in zip(parameters, policy.parameters(), strict=True):
            torch.testing.assert_close(other.detach(), one, rtol=0, atol=1e-6)
    moved = [(one - other).abs().max() for one, other in zip(before.parameters(), after[1].parameters(), strict=True)]
    assert max(moved) > 1e-3


@pytest.mark.parametrize(
    ("method", "changed"),
    {
        "plain": ("nash_mtl", {}),
        "KL of all": ("cagrad", KL),
        "checkpointed": ("upgrad", {"gradient_checkpointing": True}),
        "checkpointed anew": (
            "pcgrad",
            {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        ),
        "cross-fitted": ("common_descent", {"gradients": {"gram": "cross_fitted"}, **KL}),
    }.values(),
)
def test_a_step_is_the_one_that_separate_backward_passes_give(
    method: str, changed: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny_trl.saved(tmp_path / "model")
    trainer = tiny_trl.trainer(Recording, tmp_path / "run", model=model, method=method, **SGD | changed)
    trainer.train()

    check_steps([trainer], method, beta=changed.get("beta", 0.0), is_cross_fitted="gradients" in changed)


def _train_one_of_two(folder: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    # Three prompts, of which the second lies half in each process.
    changed = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, **KL}
    model = str(folder / "model")
    trainer = tiny_trl.trainer(Recording, folder / "run", model=model, method="mgda", **SGD | changed)
    trainer.train()
    policies = [policy.state_dict() for policy in trainer.policies]
    torch.save({"batches": trainer.batches, "policies": policies}, folder / f"{trainer.accelerator.process_index}.pt")


def test_two_processes_make_one_step(tmp_path: Path) -> None:
    tiny_trl.saved(tmp_path / "model")
    debug_launcher(_train_one_of_two, (tmp_path,), num_processes=2)

    left = [torch.load(tmp_path / f"{process}.pt") for process in range(2)]
    policies = [tiny_trl.model() for _ in left[0]["policies"]]
    for policy, one, other in zip(policies, left[0]["policies"], left[1]["policies"], strict=True):
        policy.load_state_dict(one)
        assert all(torch.equal(one[name], other[name]) for name in one)
    check_steps([SimpleNamespace(batches=each["batches"], policies=policies) for each in left], "mgda", beta=0.5)


def test_the_preference_for_weights_is_linear(tmp_path: Path) -> None:
    # Within the clip range losses are linear in the advantages.
    changed = {"scale_rewards": "none", "epsilon": 10.0, "entropy_coef": 0.1, "max_steps": 4, "num_iterations": 2}
    changed = SGD | changed
    linear = tiny_trl.trainer(Recording, tmp_path / "linear", method="linear", **changed)
    linear.train()
    # Measured in the first and the third batch, with weights that hold in between.
    method = {"type": "cagrad", "c": 0.0}
    combined = tiny_trl.trainer(
        Recording, tmp_path / "combined", method=method, gradients={"refresh_every": 2}, **changed
    )
    combined.train()

    for one, other in zip(linear.policies, combined.policies, strict=True):
        for name, parameter in one.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], parameter, rtol=0, atol=2e-6)
    records = [each["metrics"] for each in read_trace(tmp_path / "combined" / "metrics.jsonl")]
    assert [each["weight/digits"] for each in records if "weight/digits" in each] == [0.7, 0.7]
    assert ["gradient/cosine/digits:early" in each for each in records] == [False, True, False, False]
    one, other = (each.state.log_history[-2] for each in (linear, combined))
    assert [other[key] == pytest.approx(one[key], rel=1e-3) for key in ("loss", "entropy", "policy_loss")] == [True] * 3


def test_a_step_that_is_not_finite_is_left_out_and_teaches_nothing(tmp_path: Path) -> None:
    trainer = tiny_trl.trainer(Recording, tmp_path, method="mgda", **SGD | {"max_steps": 3})
    weight = trainer.model.get_input_embeddings().weight
    weight.register_hook(lambda gradient: gradient * (torch.inf if trainer.state.global_step == 1 else 1.0))
    trainer.train()

    records = [each["metrics"] for each in read_trace(tmp_path / "metrics.jsonl")]
    assert [each["gradient/skipped"] for each in records] == [0, 1, 0]
    assert ["covariance/early" in each for each in records] == [True, False, True]
    assert records[0]["weight/early"] == records[1]["weight/early"] != records[2]["weight/early"]
    states = [policy.state_dict() for policy in trainer.policies]
    moved = [any(not torch.equal(one[name], other[name]) for name in one) for one, other in pairwise(states)]
    assert moved == [True, False, True]


def test_an_adapter_alone_is_measured_and_moved(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    trainer = tiny_trl.trainer(
        MultiObjectiveGRPOTrainer, tmp_path, method="mgda", peft_config=peft.LoraConfig(r=2), max_steps=2, beta=0.1
    )
    before = {name: each.detach().clone() for name, each in trainer.model.named_parameters()}
    trainer.train()

    moved = {name for name, each in trainer.model.named_parameters() if not torch.equal(each, before[name])}
    assert moved == {name for name in before if "lora" in name}


def test_what_takes_no_gradients_one_by_one_is_refused() -> None:
    scalarizer = build_scalarizer(method_options("mgda"), WEIGHTS, scale_invariant=True)
    args: Mapping[str, Any] = {"fp16": False, "use_liger_kernel": False, "torch_compile": False, "optim": "adamw_torch"}
    refused = [
        ("FSDP keeps each process's part of one", "FSDP", {}),
        ("DEEPSPEED keeps each process's part", "DEEPSPEED", {}),
        ("use_liger_kernel writes them", "NO", {"use_liger_kernel": True}),
        ("optim='adalomo' makes its steps", "MULTI_GPU", {"optim": "adalomo"}),
    ]
    for message, distributed, changed in refused:
        with pytest.raises(CtwaError, match=message):
            check_gradients(GradientSettings(), scalarizer, SimpleNamespace(**{**args, **changed}), distributed)
    check_gradients(GradientSettings(), scalarizer, SimpleNamespace(**args), "MULTI_GPU")
