"""What `ctwa train --dry-run` says that a run would do."""

from __future__ import annotations

import re
from typing import Any

import pytest
from omegaconf import DictConfig
from verl.utils.config import omega_conf_to_dataclass

from ctwa.engine.checks.config import num_steps
from ctwa.engine.data import read_run_data
from ctwa.engine.plan import optimizer_line, validation_line
from ctwa.engine.train_job import TrainJob
from tests.engine.names import ACTOR, ROLLOUT, Changed


class TestPlan:
    def test_the_steps_are_those_of_the_epochs_where_none_are_given(self, changed: Changed) -> None:
        config = changed({"trainer.total_training_steps": None, "trainer.total_epochs": 3})

        assert num_steps(config, read_run_data(config)) == 3 * (300 // 16)

    def test_several_files_are_one_training_set(self, changed: Changed, testbed_config: DictConfig) -> None:
        files = [*testbed_config.data.train_files, *testbed_config.data.train_files]
        config = changed({"trainer.total_training_steps": None, "trainer.total_epochs": 1, "data.train_files": files})

        assert num_steps(config, read_run_data(config)) == 600 // 16

    def test_it_says_what_a_run_would_do(self, testbed_config: DictConfig) -> None:
        plan = TrainJob(testbed_config).plan()

        assert "ctwa, log-probs of the statistic: post_update" in plan
        assert "accuracy (0.333), conciseness (0.333), clarity (0.334)" in plan
        assert "steps        50, at most 614,400 tokens in all\n" in plan
        assert "16 prompts x 8 completions = 128 completions, at most 12,288 tokens" in plan
        loss = "clipped ratio (PPO), ratios clipped to [0.8, 1.2], token-mean"
        assert f"loss         advantages by grpo, {loss}, no KL term\n" in plan
        assert "optimizer    AdamW, lr 3e-05 (constant), gradients to norm 1; all weights\n" in plan
        assert (
            "validation   every 10 steps, sampled at temperature 1, as in training; checkpoint every 50 steps\n" in plan
        )

    @pytest.mark.parametrize(
        ("values", "schedule"),
        [
            ({"warmup_style": "cosine"}, "cosine"),
            ({"lr_scheduler_type": "cosine", "lr_warmup_steps": 5}, "cosine, 5 steps of warm-up"),
            ({"lr_warmup_steps_ratio": 0.1}, "constant, 5 steps of warm-up"),
            (
                {"lr_warmup_steps": 1000},
                "constant, 1000 steps of warm-up, more than the run has: it ends at 0.05 of the rate",
            ),
        ],
    )
    def test_it_says_how_the_learning_rate_goes(self, changed: Changed, values: dict[str, Any], schedule: str) -> None:
        config = changed({f"{ACTOR}.optim.{key}": value for key, value in values.items()})
        told = optimizer_line(config, 50)
        assert f" ({schedule}), gradients" in told

        # The course is the one of verl's own scheduler.
        optim = omega_conf_to_dataclass(config.actor_rollout_ref.actor.optim)
        assert told.split("(")[1].startswith(optim.lr_scheduler_type)

    @pytest.mark.parametrize(
        ("values", "told"),
        [
            ({"test_freq": 5, "save_freq": 7}, "every 5 steps, HOW; checkpoint every 7 steps"),
            ({"test_freq": -1, "save_freq": -1}, "before the first step alone, HOW; no checkpoint"),
            ({"test_freq": -1, "save_freq": -1, "val_before_train": False}, "none; no checkpoint"),
        ],
    )
    def test_it_says_how_often_a_run_validates_and_saves(
        self, changed: Changed, values: dict[str, Any], told: str
    ) -> None:
        config = changed({f"trainer.{key}": value for key, value in values.items()})
        assert validation_line(config, ", HOW").split(maxsplit=1)[1] == told
        if config.trainer.test_freq < 0:
            ends = "after the last step alone; checkpoint after the last step alone"
            assert validation_line(config, ends_with_both=True).split(maxsplit=1)[1] == ends

    def test_it_names_the_ray_that_the_run_joins(self, changed: Changed) -> None:
        given = {"address": "head:6379", "num_cpus": None, "num_gpus": None}
        plan = TrainJob(changed({f"ray_kwargs.ray_init.{key}": value for key, value in given.items()})).plan()

        assert f", transformers\n{'':15}on the Ray at head:6379, which the run joins\n" in plan

    def test_it_says_where_a_kl_penalty_is(self, changed: Changed) -> None:
        in_reward = {"algorithm.use_kl_in_reward": True, "algorithm.kl_ctrl.type": "adaptive"}
        plan = TrainJob(changed(in_reward)).plan()

        assert ", token-mean, KL 0.001 (kl, adapted to a KL of 0.1 a token) in the reward\n" in plan
        assert "reference log-probs (1 forward)" in plan
        assert "GB to train them, 2 more copies of " in plan
        both = TrainJob(changed({"algorithm.use_kl_in_reward": True, f"{ACTOR}.use_kl_loss": True})).plan()
        assert ", token-mean, KL 0.001 (low_var_kl), KL 0.001 (kl) in the reward\n" in both

    def test_it_guesses_what_memory_and_disk_are_wanted(self, testbed_config: DictConfig) -> None:
        plan = TrainJob(testbed_config).plan()
        [millions] = re.findall(r"memory       ([\d.]+) M parameters: ", plan)
        wanted = float(millions) * 16 / 1000

        assert 0.1 < float(millions) < 2
        assert float(re.findall(r"parameters: ([\d.]+) GB to train them, 1 more copies of ", plan)[0]) == pytest.approx(
            wanted, rel=0.02
        )
        assert float(re.findall(r"disk         ([\d.]+) GB a checkpoint, 3 are kept; ", plan)[0]) == pytest.approx(
            wanted, rel=0.02
        )

    def test_it_says_once_that_validations_are_greedy(self, changed: Changed) -> None:
        plan = TrainJob(
            changed({f"{ROLLOUT}.val_kwargs.do_sample": False, f"{ROLLOUT}.val_kwargs.temperature": 0})
        ).plan()

        assert "every 10 steps, completed greedily; training samples at temperature 1; checkpoint every 50" in plan

    @pytest.mark.parametrize(
        ("values", "passes"),
        [
            ({}, ["update (2 optimizer steps", "statistic after the update"]),
            ({"ctwa.method.statistic": "in_update"}, ["update (2 optimizer steps"]),
            (
                {"algorithm.rollout_correction.bypass_mode": False, "ctwa.method.statistic": "in_update"},
                ["old log-probs", "update (2 optimizer steps"],
            ),
            (
                {f"{ACTOR}.use_kl_loss": True, "ctwa.method.statistic": "in_update", f"{ACTOR}.ppo_epochs": 3},
                ["reference log-probs", "update (6 optimizer steps"],
            ),
        ],
    )
    def test_it_counts_the_passes_a_step_costs(
        self, changed: Changed, values: dict[str, Any], passes: list[str]
    ) -> None:
        config = changed(values)
        plan = TrainJob(config).plan()
        line = next(line for line in plan.splitlines() if line.strip().startswith("passes"))

        found = [part.strip() for part in line.split("passes", 1)[1].split(";")]
        assert len(found) == len(passes)
        assert all(part.startswith(start) for part, start in zip(found, passes, strict=True))
