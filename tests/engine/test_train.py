"""Parts of the step and of the state of a training, without an engine."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from verl.trainer.ppo.core_algos import get_kl_controller
from verl.trainer.ppo.utils import need_reference_policy

from ctwa.batch import RewardMatrix, Rollout
from ctwa.engine.dynamic_sampling import known_weights
from ctwa.engine.sampling import with_reference
from ctwa.engine.train import MultiObjectiveTrainer, Step
from ctwa.objectives.config import ObjectiveConfig
from ctwa.objectives.shaping import Shaping


def trainer(kind: str) -> Any:
    """One that has no engine."""
    control = {"type": kind, "kl_coef": 0.2, "target_kl": 0.1, "horizon": 100}
    made: Any = object.__new__(MultiObjectiveTrainer)
    made.config = OmegaConf.create({"algorithm": {"use_kl_in_reward": True, "kl_ctrl": control}})
    made.session = SimpleNamespace(kl_ctrl_in_reward=get_kl_controller(made.config.algorithm.kl_ctrl))
    nothing = SimpleNamespace(state_dict=dict, load_state_dict=lambda _: None)
    made.scalarizer, made.probe, made.sampler, made.cross_fitted = nothing, nothing, nothing, None
    return made


@pytest.mark.parametrize(("kind", "after"), [("adaptive", 0.2 * 1.002 * 1.002), ("fixed", 0.2)])
def test_the_coefficient_of_a_kl_penalty_that_adapts_goes_on(kind: str, after: float) -> None:
    first, resumed = trainer(kind), trainer(kind)
    first.session.kl_ctrl_in_reward.update(current_kl=5.0, n_steps=1)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert resumed.session.kl_ctrl_in_reward.value == first.session.kl_ctrl_in_reward.value
    resumed.session.kl_ctrl_in_reward.update(current_kl=5.0, n_steps=1)
    assert resumed.session.kl_ctrl_in_reward.value == pytest.approx(after)


def test_verl_has_a_reference_for_a_kl_that_it_knows_nothing_of(testbed_config: DictConfig) -> None:
    """The copy that it reads says so; the trainer, which goes by the original, penalises nothing."""
    of_verl = with_reference(testbed_config)
    assert (need_reference_policy(testbed_config), need_reference_policy(of_verl)) == (False, True)
    assert not testbed_config.algorithm.use_kl_in_reward


def test_a_step_fills_in_what_is_read_off_log_probabilities() -> None:
    """A filter of prompts does not ask it; shaping acts on it; its metrics are those of any objective."""
    objectives = {
        "near": ObjectiveConfig(reward_fn="ctwa.objectives.log_probs:kl", scale=2.0, weight=0.5),
        "right": ObjectiveConfig(reward_fn="rewards.py:right", weight=0.5),
    }
    log_probs = {"old_log_probs": [[-1.0, -2.0], [-0.5]], "ref_log_prob": [[-1.5, -2.25], [-0.25]]}
    nested = {
        name: torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)
        for name, rows in log_probs.items()
    }
    data = TensorDict(nested, batch_size=2)
    training: Any = object.__new__(MultiObjectiveTrainer)
    training.settings = SimpleNamespace(from_log_probs={"near": "kl"}, objectives=objectives)
    training.sampler = SimpleNamespace(shaping=Shaping(objectives))
    scored = RewardMatrix.from_columns({"near": ["not_applicable"] * 2, "right": [1.0, 0.0]})
    rollout = Rollout(scored, torch.tensor([0, 0]), torch.tensor([[1, 1], [1, 0]]))
    rows: Any = SimpleNamespace(read=lambda *names: data.select(*names))
    step = Step(1, cast("Any", None), {"objective/near/applicable_frac": 0.0}, rows=rows, rollout=rollout)

    training.fill_in(step)

    assert step.rollout.rewards.to_columns() == {"near": [-0.75, 0.5], "right": [1.0, 0.0]}
    assert step.metrics["objective/near/mean"] == -0.0625
    assert step.metrics["objective/near/shaped_mean"] == -0.125
    assert step.metrics["objective/near/applicable_frac"] == step.metrics["objective/near/scored_frac"] == 1
    assert known_weights(training.settings) == {"near": 0.0, "right": 0.5}
