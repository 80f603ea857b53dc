"""What adapts beside the policy, and comes back with a resumed run."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf
from verl.trainer.ppo.core_algos import get_kl_controller

from ctwa.engine.train import MultiObjectiveTrainer


def trainer(kind: str) -> Any:
    """One that has no engine."""
    control = {"type": kind, "kl_coef": 0.2, "target_kl": 0.1, "horizon": 100}
    made: Any = object.__new__(MultiObjectiveTrainer)
    made.config = OmegaConf.create({"algorithm": {"use_kl_in_reward": True, "kl_ctrl": control}})
    made.session = SimpleNamespace(kl_ctrl_in_reward=get_kl_controller(made.config.algorithm.kl_ctrl))
    nothing = SimpleNamespace(state_dict=dict, load_state_dict=lambda _: None)
    made.scalarizer, made.probe, made.sampler = nothing, nothing, nothing
    return made


@pytest.mark.parametrize(("kind", "after"), [("adaptive", 0.2 * 1.002 * 1.002), ("fixed", 0.2)])
def test_the_coefficient_of_a_kl_penalty_that_adapts_goes_on(kind: str, after: float) -> None:
    first, resumed = trainer(kind), trainer(kind)
    first.session.kl_ctrl_in_reward.update(current_kl=5.0, n_steps=1)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert resumed.session.kl_ctrl_in_reward.value == first.session.kl_ctrl_in_reward.value
    resumed.session.kl_ctrl_in_reward.update(current_kl=5.0, n_steps=1)
    assert resumed.session.kl_ctrl_in_reward.value == pytest.approx(after)
