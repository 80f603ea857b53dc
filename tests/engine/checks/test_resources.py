"""What a run needs of Ray's nodes and of the machine that starts it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from ctwa.engine.checks import resources
from ctwa.engine.checks.resources import check_machine, check_placement, check_resources
from ctwa.errors import CtwaError
from tests.engine.names import ROLLOUT, Changed

JOINED = {"ray_kwargs.ray_init.num_cpus": None, "ray_kwargs.ray_init.num_gpus": None}


class TestResources:
    """Of the testbed's config: two ranks, a storage unit and the controller of the transfer queue."""

    @pytest.fixture
    def testbed_config(self, testbed_config: DictConfig) -> DictConfig:
        config = testbed_config.copy()
        config.transfer_queue.enable = True
        return config

    def test_ray_is_asked_for_the_nodes_that_are_alive(
        self, testbed_config: DictConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import ray

        nodes = [
            {"Alive": alive, "Resources": {"CPU": 64.0, "GPU": gpus}} for alive, gpus in ((True, 1.0), (False, 8.0))
        ]
        monkeypatch.setattr(ray, "nodes", lambda: nodes)

        with pytest.raises(CtwaError, match=r"Ray has 1 GPU but the run needs 2: .*trainer\.n_gpus_per_node"):
            check_resources(testbed_config)
        nodes[1]["Alive"] = True
        check_resources(testbed_config)

    @pytest.mark.parametrize(
        ("nodes", "num_nodes", "per_node", "storage"),
        [
            # (GPUs, CPUs) of Ray's nodes: 3 CPUs a rank, storage and controller one each, one to place an actor.
            ([(2, 9)], 1, 2, 1),
            ([(8, 24 + 9 + 1)], 1, 8, 8),
            ([(4, 64), (4, 64)], 2, 4, 8),
            ([(8, 64)], 2, 4, 8),  # two groups on one node
            ([(0, 16), (8, 64)], 1, 8, 8),  # a head without GPUs
            ([(4, 12 + 5 + 1), (4, 12 + 5 + 1)], 2, 4, 8),
        ],
    )
    def test_what_fits(
        self, testbed_config: DictConfig, nodes: list[tuple[int, int]], num_nodes: int, per_node: int, storage: int
    ) -> None:
        check_placement(*self.case(testbed_config, nodes, num_nodes, per_node, storage))

    @pytest.mark.parametrize(
        ("nodes", "num_nodes", "per_node", "storage", "sentence"),
        [
            ([(2, 2)], 1, 2, 1, r"Ray has 2 CPU but the run needs 9: change ray_kwargs\.ray_init\.num_cpus"),
            ([(0, 64)], 1, 2, 1, r"Ray has 0 GPU but the run needs 2: .*trainer\.n_gpus_per_node"),
            # Enough in all, and no node that holds a group: verl would wait for ever.
            ([(1, 32), (1, 32)], 1, 2, 1, r"asks for 2 GPU and 6 CPU on one node, 1 times .* room for 0: write nnodes"),
            ([(2, 32), (6, 32)], 2, 4, 8, r"have 2 GPU and 32 CPU, 6 GPU and 32 CPU, which is room for 1"),
            ([(8, 16), (0, 64)], 1, 8, 8, r"asks for 8 GPU and 24 CPU on one node"),
            # The groups alone would fit, but the transfer queue's processes come first.
            ([(4, 16), (4, 16)], 2, 4, 8, r"Ray has 32 CPU but the run needs 34"),
            ([(4, 16), (4, 64)], 2, 4, 8, r"and 6 CPU of each node for the transfer queue .* room for 1"),
            ([(0, 0), (8, 64)], 1, 8, 8, r"one of Ray's nodes has 0 CPU, and the transfer queue puts some of its 8"),
            ([], 1, 2, 1, r"Ray has 0 GPU"),
        ],
    )
    def test_what_would_wait_for_ever(
        self,
        testbed_config: DictConfig,
        nodes: list[tuple[int, int]],
        num_nodes: int,
        per_node: int,
        storage: int,
        sentence: str,
    ) -> None:
        with pytest.raises(CtwaError, match=sentence):
            check_placement(*self.case(testbed_config, nodes, num_nodes, per_node, storage))

    def test_preferences_need_no_transfer_queue(self, testbed_config: DictConfig) -> None:
        testbed_config.transfer_queue.enable = False

        check_placement([{"GPU": 2.0, "CPU": 7.0}], testbed_config)

    @staticmethod
    def case(
        config: DictConfig, nodes: list[tuple[int, int]], num_nodes: int, per_node: int, storage: int
    ) -> tuple[list[dict[str, float]], DictConfig]:
        config.trainer.nnodes, config.trainer.n_gpus_per_node = num_nodes, per_node
        config.transfer_queue.backend.SimpleStorage.num_data_storage_units = storage
        # A node without GPUs has no such key.
        return [{"CPU": float(cpus)} | ({"GPU": float(gpus)} if gpus else {}) for gpus, cpus in nodes], config


class TestMachine:
    @pytest.fixture(autouse=True)
    def gpus(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    def test_the_testbed_fits_any_machine(self, testbed_config: DictConfig) -> None:
        check_machine(testbed_config)

    def test_a_ray_that_would_ask_for_no_token(self, changed: Changed, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        with pytest.raises(CtwaError, match=r"^RAY_AUTH_MODE=disabled: .* ctwa\.trust_network=true"):
            check_machine(changed({}))
        check_machine(changed({"ctwa.trust_network": True}))

    def test_gpus_that_are_not_there(self, changed: Changed) -> None:
        with pytest.raises(CtwaError, match=r"n_gpus_per_node=2, but torch finds 1 GPUs here: write .*_per_node=1$"):
            check_machine(changed({"trainer.device": "cuda"}))

    def test_no_gpu(self, changed: Changed, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)

        with pytest.raises(CtwaError, match=r"torch finds 0 GPUs here: write engine=cpu, or start where there are"):
            check_machine(changed({"trainer.device": "cuda"}))

    @pytest.mark.parametrize(
        ("values", "missing", "sentence"),
        [
            (
                {f"{ROLLOUT}.name": "vllm"},
                "vllm",
                r"generation=vllm needs vLLM, which is not installed: run pip install ",
            ),
            (
                {"actor_rollout_ref.model.override_config": {}},
                "flash_attn",
                r"the model's attention is flash_attention_2, and flash-attn is not installed: run pip install ",
            ),
        ],
    )
    def test_a_package_that_only_gpus_need(
        self, changed: Changed, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], missing: str, sentence: str
    ) -> None:
        monkeypatch.setattr(resources, "find_spec", lambda name: None if name == missing else True)
        config = changed({"trainer.device": "cuda", "trainer.n_gpus_per_node": 1} | values)

        with pytest.raises(CtwaError, match=sentence):
            check_machine(config)

    def test_what_another_ray_has_is_asked_when_it_answers(
        self, changed: Changed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        check_machine(changed({"trainer.device": "cuda", "ray_kwargs.ray_init.address": "auto"} | JOINED))
        for address in ("auto", "10.0.0.1:6379", "head.local:6379", "[::1]:6379"):
            monkeypatch.setenv("RAY_ADDRESS", address)
            check_machine(changed({"trainer.device": "cuda"} | JOINED))
        monkeypatch.setenv("RAY_ADDRESS", "local")
        with pytest.raises(CtwaError, match="torch finds 1 GPUs here"):
            check_machine(changed({"trainer.device": "cuda"} | JOINED))

    @pytest.mark.parametrize("key", ["ray_kwargs.ray_init.address", "RAY_ADDRESS"])
    @pytest.mark.parametrize(
        ("address", "values", "sentence"),
        [
            *(
                (address, {}, " is no address of a Ray: write HOST:PORT, or auto; or leave it out")
                for address in ("nonsense", " ", "http://x:1", "x:", ":6379", "x:99999", "x:0", "a b:1", "[::1]")
            ),
            ("ray://127.0.0.1:10001", {}, " is Ray Client's, .* write HOST:PORT as `ray start` has it$"),
            ("auto", {"num_cpus": 4}, r"num_cpus=4 is for .*: write ray_kwargs\.ray_init\.num_cpus=null$"),
            ("auto", {"num_gpus": 0, "labels": {}}, r"num_gpus=null ray_kwargs\.ray_init\.labels=null$"),
        ],
    )
    def test_a_ray_that_cannot_be_joined_so(
        self,
        changed: Changed,
        monkeypatch: pytest.MonkeyPatch,
        key: str,
        address: str,
        values: dict[str, Any],
        sentence: str,
    ) -> None:
        config = changed(JOINED | {f"ray_kwargs.ray_init.{name}": value for name, value in values.items()})
        if key == "RAY_ADDRESS":
            monkeypatch.setenv(key, address)
        else:
            config.ray_kwargs.ray_init.address = address

        with pytest.raises(CtwaError, match=sentence) as refused:
            check_machine(config)
        assert f"{key}={address!r} " in str(refused.value)

    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            ({"ray_kwargs.ray_init.num_cpus": 4}, "Ray has 4 CPU but the run needs 9"),
            ({"trainer.nnodes": 2}, "Ray has 2 GPU but the run needs 4"),
            (
                {"transfer_queue.backend.SimpleStorage.num_data_storage_units": 90},
                "Ray has 64 CPU but the run needs 98",
            ),
        ],
    )
    def test_resources_that_the_run_itself_would_not_give_ray(
        self, changed: Changed, values: dict[str, Any], sentence: str
    ) -> None:
        with pytest.raises(CtwaError, match=sentence):
            check_machine(changed(values))
