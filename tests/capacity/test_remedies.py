"""What is to be changed where a workload does not fit."""

from __future__ import annotations

import re
from dataclasses import replace

from ctwa.capacity.hardware import GPUS, Cluster
from ctwa.capacity.remedies import faults, remedies
from tests.capacity.workloads import SHAPE, STEP, served


class TestRemedies:
    def test_nothing_is_to_be_changed_where_it_fits(self) -> None:
        assert not faults(STEP)
        assert remedies(STEP) == []

    def test_each_way_that_is_offered_is_enough(self) -> None:
        too_large = replace(STEP, checkpoints_activations=False, num_gradients=3)
        assert "while the policy is updated" in faults(too_large)[0]

        ways = remedies(too_large)
        settings = [str(way) for way in ways]
        assert "actor_rollout_ref.model.enable_gradient_checkpointing=true" in settings
        assert "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=8192" in settings
        assert all(not faults(way.workload) for way in ways)

    def test_a_server_without_room_gets_a_larger_share_or_more_gpus(self) -> None:
        no_room = served(STEP, memory_share=0.18)
        assert faults(no_room) == ["the weights do not fit into a server's share of 18%"]

        settings = [str(way) for way in remedies(no_room)]
        assert "actor_rollout_ref.rollout.gpu_memory_utilization=0.8" in settings

    def test_several_settings_are_named_together_where_none_is_enough(self) -> None:
        poor = replace(
            served(STEP, memory_share=0.9),
            cluster=Cluster(GPUS["A100-40"], 1, 8),
            checkpoints_activations=False,
            micro_tokens=16_384,
        )
        [way] = remedies(poor)
        assert len(way.settings) > 1
        assert not faults(way.workload)

    def test_more_gpus_are_asked_for_at_last(self) -> None:
        huge = replace(SHAPE, num_parameters=70_000_000_000, num_block_parameters=850_000_000, num_layers=80)
        step = replace(STEP, shape=huge, num_trained=huge.num_parameters, num_gradients=3)
        assert any("--gpus" in way.settings for way in remedies(served(step, tensor_parallel=8)))

    def test_more_gpus_may_need_servers_of_several(self) -> None:
        """The weights of 7 B parameters do not fit into half of 24 GB: more of such GPUs alone are never enough."""
        step = replace(STEP, cluster=Cluster(GPUS["A10"], 1, 1), shards=1)
        [way] = remedies(step)

        assert re.fullmatch(r"--gpus \d+x8xA10 actor\S+\.tensor_model_parallel_size=2", str(way))
        assert not faults(way.workload)
