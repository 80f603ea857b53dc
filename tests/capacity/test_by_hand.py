"""Memory, traffic and times, computed by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ctwa.capacity import memory, seconds, traffic
from ctwa.capacity.hardware import GPUS, Cluster
from ctwa.capacity.seconds import Rates
from tests.capacity.workloads import PAIRS, STEP, served


class TestByHand:
    def test_a_gpu_holds_its_shards_and_a_micro_batch(self) -> None:
        parts = memory.updating(replace(STEP, num_gradients=4))

        assert parts["weights"] == 7e9 * 4 / 8
        assert parts["gradients"] == 4 * 7e9 * 4 / 8
        assert parts["optimizer"] == 7e9 * 8 / 8
        assert parts["logits"] == 16_384 * 100_000 * 2
        # The stream before each of 30 blocks, and the insides of one.
        inside = 16 * 4096 + 4 * (32 + 8) * 128 + 8 * 11_008
        assert parts["activations"] == 16_384 * (30 * 4096 * 2 + inside)
        assert memory.activations(replace(STEP, checkpoints_activations=False)) == 16_384 * 30 * inside
        # A billion parameters are outside of the blocks; two blocks are whole, and one's gradient in two types.
        assert parts["weights gathered for a pass"] == (1e9 + 2 * 2e8) * 2 + 2e8 * 6

    def test_a_server_has_what_its_weights_leave(self) -> None:
        assert memory.cache(STEP) == 40e9 - 14e9 - memory.SERVER_SPARE
        assert memory.cache_token(STEP) == 2 * 30 * 8 * 128 * 2
        assert memory.cached_rows(STEP) == int(24e9 / (122_880 * 2048))
        assert memory.cache(served(STEP, tensor_parallel=4)) == 40e9 - 3.5e9 - memory.SERVER_SPARE
        assert memory.cache_token(served(STEP, tensor_parallel=16)) == 2 * 30 * 1 * 128 * 2  # heads are copied

    def test_what_is_offloaded_is_away_while_prompts_are_completed(self) -> None:
        assert memory.sampling(STEP) == {"weights": 3.5e9, "optimizer": 7e9, "server": 40e9}
        assert memory.sampling(replace(STEP, offloads_optimizer=True, offloads_weights=True)) == {"server": 40e9}

    def test_nodes_send_each_other_weights_and_gradients(self) -> None:
        two = replace(STEP, cluster=Cluster(GPUS["H100"], 2, 8), shards=16)

        assert two.num_micro_batches == 1024 * 2048 / 16 / 16_384 == 8
        gathered, reduced, to_servers = 7e9 * 2 * (2 + 1 + 1) * 8, 7e9 * 4 * 8, 7e9 * 4
        assert traffic.node_bytes(two) == (gathered + reduced + to_servers) / 2
        assert traffic.node_bytes(replace(two, shards=8)) == 7e9 * 4 * 8  # gradients alone, there and back
        assert traffic.node_bytes(STEP) == 0

    def test_the_driver_works_and_waits_for_the_queue(self) -> None:
        tokens = 1024 * 1536
        sent = traffic.driver_bytes(replace(STEP, num_column_objectives=3))
        assert sent == tokens * (traffic.DRIVER_TOKEN + 12)
        found = seconds.driver(STEP)
        assert found == tokens / seconds.DRIVER_RATE + tokens * traffic.DRIVER_TOKEN / seconds.QUEUE_RATE
        assert memory.driver(STEP) == memory.DRIVER_BASE + 1024 * 1536 * memory.DRIVER_TOKEN

    def test_operations_are_two_for_each_weight_of_a_token(self) -> None:
        forward = 1024 * 2048 * (2 * 6.5e9 + 4 * 30 * 32 * 128 * 1024)
        assert seconds.operations(STEP, 1, 0) == forward
        assert seconds.operations(STEP, 1, 1) == 4 * forward  # activations are computed anew
        found = seconds.step(STEP, Rates(compute=0.5))
        assert found["update"] == pytest.approx(4 * forward / (8 * 989e12 * 0.5))

    def test_a_token_is_sampled_as_fast_as_weights_and_keys_are_read(self) -> None:
        prompts = 128 * 512 * 2 * 6.5e9 / (8 * 989e12 * 0.4)
        # 128 completions a server; room for 95.4 at once, so in two rounds.
        at_once = 24e9 / (122_880 * 2048)
        token = (14e9 + at_once * 122_880 * (512 + 768)) / (3.35e12 * 0.5)
        assert seconds.sampling(STEP, Rates()) == pytest.approx(2 * 1536 * token + prompts)

    def test_a_step_on_pairs_has_no_server_and_no_queue(self) -> None:
        assert memory.sampling(PAIRS) == {}
        assert not [name for name in memory.updating(PAIRS) if "server" in name]
        assert traffic.driver_bytes(PAIRS) == 64 * 2048 * traffic.PAIR_TOKEN
        assert memory.driver(PAIRS) == memory.DRIVER_BASE
        found = seconds.step(PAIRS, Rates())
        assert [name for name, each in found.items() if each] == ["update", "driver"]

    def test_samples_serve_many_steps_on_pairs(self) -> None:
        """A step sends pairs alone, and no weights go to the servers; the driver keeps two policies' samples."""
        step = replace(PAIRS, sampling=STEP.sampling, cluster=Cluster(GPUS["H100"], 2, 8), shards=16)
        assert traffic.driver_bytes(step) == traffic.driver_bytes(PAIRS)
        assert traffic.node_bytes(step) == (7e9 * 2 * 2 + 7e9 * 4) / 2
        assert memory.driver(step) - memory.driver(STEP) == 2 * memory.KEPT_TOKEN * 1024 * 2048
        assert seconds.step(step, Rates())["sampling"] == 0
