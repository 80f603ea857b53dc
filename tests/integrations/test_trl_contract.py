"""What the trainer takes for granted of the TRL that is installed, held against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="TRL is not here: scripts/test.sh runs these with a folder of its own on the path")

from trl import GRPOConfig, GRPOTrainer

from ctwa.batch import Rollout
from ctwa.integrations.trl.contract import what_moved
from ctwa.integrations.trl.estimate import TrlEstimate
from ctwa.integrations.trl.loss import read_policy_loss
from ctwa.integrations.trl.window import prompts_of, read_rewards
from ctwa.policy_loss import LossTokens
from ctwa.scalarizers.base import weighted_scores
from tests.integrations import tiny_trl


def test_nothing_has_moved() -> None:
    assert what_moved(GRPOTrainer, GRPOConfig) == []


def test_what_has_moved_is_named() -> None:
    class Other:
        def _compute_loss(self, batch: Any) -> None: ...

    moved = what_moved(Other, object)

    assert "GRPOTrainer._compute_loss takes batch first, and not model, inputs" in moved
    assert {"GRPOTrainer.train is gone", "GRPOConfig.loss_type is gone"} <= set(moved)
    assert "GRPOTrainer has no _step" in what_moved(GRPOTrainer, GRPOConfig, Other())


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_the_estimate_is_trls(scale: Any, tmp_path: Path) -> None:
    trainer = tiny_trl.trainer(GRPOTrainer, tmp_path, scale_rewards=scale)
    rewards_NM: list[torch.Tensor] = []
    of_trl = trainer._calculate_rewards
    trainer._calculate_rewards = lambda *given: rewards_NM.append(of_trl(*given)) or rewards_NM[-1]
    output = trainer._generate_and_score_completions([row for row in tiny_trl.rows(num=2) for _ in range(4)])
    mask_NT = output["completion_mask"]
    rollout = Rollout(read_rewards(("digits", "early"), rewards_NM[0]), prompts_of(8, 4), mask_NT)
    scores_N = weighted_scores(rollout, {"digits": 0.7, "early": 0.3})

    advantages_NT = TrlEstimate(rollout, scale)(scores_N)

    assert output["advantages"].abs().max() > 0
    torch.testing.assert_close(advantages_NT, output["advantages"][:, None] * mask_NT, rtol=1e-4, atol=1e-5)


LOSSES: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo"},
    "dapo": {"loss_type": "dapo"},
    "dr_grpo": {"loss_type": "dr_grpo", "epsilon_high": 0.4},
    "luspo": {"loss_type": "luspo"},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "luspo by completion": {"loss_type": "luspo", "importance_sampling_level": "sequence"},
    "dapo by completion": {"loss_type": "dapo", "importance_sampling_level": "sequence"},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.1},
    "sapo": {"loss_type": "sapo", "sapo_temperature_pos": 0.8, "sapo_temperature_neg": 1.3},
    "bounded": {"loss_type": "dapo", "delta": 1.3},
    "bounded below the range": {"loss_type": "dapo", "delta": 1.1},
}


@pytest.mark.parametrize("changed", LOSSES.values(), ids=LOSSES)
def test_a_token_weighs_what_trls_loss_makes_of_it(
    changed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny_trl.trainer(GRPOTrainer, tmp_path, gradient_accumulation_steps=1, **changed)
    trainer.current_gradient_accumulation_steps = 1
    generator = torch.Generator().manual_seed(0)
    old_NT = -torch.rand(4, 6, generator=generator)
    new_NT = (old_NT + torch.randn(4, 6, generator=generator) * 0.3).requires_grad_()
    lengths_N = torch.tensor([6, 2, 4, 5])
    mask_NT = (torch.arange(6) < lengths_N[:, None]).long()
    advantages_N = torch.tensor([1.5, -0.5, -1.0, 0.7])
    inputs = {
        "prompt_ids": torch.ones(4, 1, dtype=torch.long),
        "prompt_mask": torch.ones(4, 1, dtype=torch.long),
        "completion_ids": torch.ones(4, 6, dtype=torch.long),
        "completion_mask": mask_NT,
        "advantages": advantages_N,
        "num_items_in_batch": mask_NT.sum(),
        "old_per_token_logps": old_NT,
    }
    monkeypatch.setattr(
        trainer, "_get_per_token_logps_and_entropies", lambda *_, **__: (new_NT, torch.zeros(4, 6), None)
    )

    trainer._compute_loss(trainer.model, inputs).backward()

    loss = read_policy_loss(trainer.args)
    assert loss is not None
    assert new_NT.grad is not None
    on_NT = mask_NT.bool()
    seen = (torch.where(on_NT, each.double(), 0.0) for each in (new_NT.detach(), old_NT, advantages_N[:, None] * on_NT))
    weight_NT = loss.weigh(LossTokens(*seen, on_NT)).weight_NT * loss.scale_N1(on_NT) * on_NT
    factor = float(-new_NT.grad[on_NT].double() @ weight_NT[on_NT] / weight_NT[on_NT].square().sum())
    assert (weight_NT[on_NT] == 0).any() or changed["loss_type"] in ("cispo", "sapo") or "sequence" in changed.values()
    torch.testing.assert_close(-new_NT.grad.double(), factor * weight_NT, rtol=1e-4, atol=1e-7)
