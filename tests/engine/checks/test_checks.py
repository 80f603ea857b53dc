"""Each mistake that can be seen before a run starts, and the sentence that is said about it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import DictConfig

from ctwa.engine.checkpoint import shard_file
from ctwa.engine.checks import engine as checks
from ctwa.engine.checks import resources
from ctwa.engine.checks.config import check_config, num_steps
from ctwa.engine.checks.engine import check_with_verl
from ctwa.engine.checks.model import LORA_ALPHA
from ctwa.engine.checks.resources import check_machine, check_placement, check_resources
from ctwa.engine.checks.turns import agent_loops, check_parser, turns_line
from ctwa.engine.data import read_run_data
from ctwa.engine.train_job import TrainJob
from ctwa.errors import CtwaError
from ctwa.models.seal import seal
from tests.conftest import ROOT

Changed = Callable[[dict[str, Any]], DictConfig]

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
PACKED = {"actor_rollout_ref.model.use_remove_padding": True}  # which sequence parallelism splits
WORKER = "worker_extension_cls"
LIVE_WEIGHTS = {WORKER: "ctwa.engine.verl.rollout.vllm_cpu.LiveWeights"}


def test_the_testbed_as_it_stands_passes(testbed_config: DictConfig) -> None:
    settings = check_config(testbed_config)

    assert testbed_config.actor_rollout_ref.model.lora_alpha == LORA_ALPHA

    assert list(settings.objectives) == ["accuracy", "conciseness", "clarity"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"ctwa.rewards.max_unscored": 2}, r"ctwa\.rewards\.max_unscored: Input should be less than or equal to 1"),
        (
            {"ctwa.num_sample": 4},
            r"ctwa\.num_sample is no key of the configuration; did you mean 'num_samples'\?",
        ),
        (
            {"ctwa.method.etta": 0.1},
            r"^ctwa\.method\.etta is no key of the configuration; did you mean 'eta'\?",
        ),
        (
            {"ctwa.objectives.accuracy.wieght": 1},
            r"ctwa\.objectives\.accuracy\.wieght is no key of the configuration; did you mean 'weight'\?",
        ),
        (
            {"ctwa.method.type": "mgd"},
            r"ctwa\.method: Input tag 'mgd' .* does not match .*'linear', .*'ctwa'.*; did you mean 'mgda'\?",
        ),
        ({"algorithm.adv_estimator": "gppo"}, r"adv_estimator is 'gppo': .*; did you mean 'grpo'\?"),
        ({"ctwa.method.eta": float("nan")}, r"ctwa\.method\.eta: Input should be a finite number"),
        (
            {"ctwa.objectives.accuracy.weight": float("inf")},
            r"ctwa\.objectives\.accuracy\.weight: Input should be a finite number",
        ),
        (
            {"ctwa.objectives.accuracy.target": float("nan"), "ctwa.method": {"type": "linear"}},
            r"ctwa\.objectives\.accuracy\.target: Input should be a finite number",
        ),
        ({"ctwa.objectives.accuracy.weight": -1}, r"ctwa\.objectives\.accuracy\.weight: .*greater than or equal to 0"),
        (
            {"ctwa.objectives.acuracy.weight": 1},
            r"^ctwa\.objectives\.acuracy\.reward_fn is missing: give it a value; did you mean 'accuracy'\?$",
        ),
        ({"ctwa.method": {}}, r"ctwa\.method: Unable to extract tag"),
        ({"ctwa.stop_on": ["drops"]}, r"ctwa\.stop_on\.0: 'drops' is no alarm; .*; did you mean 'drop'\?$"),
        ({"ctwa.objectives": {}}, r"ctwa\.objectives: .*there is no objective; give at least one"),
        ({"ctwa.objectives.accuracy.reward_fn": "accuracy"}, r"reward function 'accuracy' is not of the form"),
        ({"ctwa.objectives.accuracy.reward_fn": "no/such.py:accuracy"}, r"'no/such\.py:accuracy': there is no file"),
        ({"ctwa.reference_length": {"type": "median"}}, r"ctwa\.reference_length: Input tag 'median' .*'fixed'"),
        (
            {"ctwa.method.targets": {"accuracy": 0.1, "conciseness": 0.1, "clarity": 0.1}},
            r"^ctwa\.method: a covariance target is its objective's and no option of the method: write ctwa",
        ),
        (
            {"ctwa.objectives.clarity.target": None},
            r"target of every objective, and clarity has none: write ctwa\.objectives\.clarity\.target",
        ),
        ({"ctwa.objectives.accuracy.weight": 0}, r"\['accuracy'\] have the weight 0, which CTWA can never raise"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_our_part_of_the_configuration(changed: Changed, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CtwaError, match=sentence):
        check_config(changed(values))


def test_all_mistakes_of_our_part_are_told_at_once(changed: Changed) -> None:
    with pytest.raises(CtwaError) as error:
        check_config(changed({"ctwa.print_every": 0, "ctwa.sed": 1}))

    assert "ctwa.print_every:" in str(error.value)
    assert "ctwa.sed is no key" in str(error.value)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"algorithm.adv_estimator": "gae"}, r"adv_estimator is 'gae': write one of grpo, reinforce_plus_plus, "),
        (
            {f"{ACTOR}.policy_loss.loss_mode": "clip_cov"},
            r"loss_mode=clip_cov has no weight that ctwa could measure: it drops tokens .*, or another method",
        ),
        (
            {
                f"{ACTOR}.policy_loss.loss_mode": "kl_cov",
                "ctwa.method": {"type": "linear"},
                "ctwa.diagnostics.probe": "held_out",
            },
            r"loss_mode=kl_cov has a penalty, .* write the probe 'backward', or another loss",
        ),
        ({"trainer.v1.trainer_mode": "colocate_async"}, r"trainer_mode='colocate_async': .* write sync"),
        (
            {"algorithm.use_kl_in_reward": True, "ctwa.method": {"type": "gdpo"}},
            r"use_kl_in_reward=true: gdpo estimates .* write .*use_kl_loss=true",
        ),
        (
            {"algorithm.use_kl_in_reward": True, "ctwa.method": {"type": "pama"}},
            r"use_kl_in_reward=true: pama estimates .* write .*use_kl_loss=true, or a method that combines rewards",
        ),
        ({"algorithm.filter_groups.enable": True}, r"filter_groups\.enable=true .* write false"),
        ({"reward.sandbox_fusion.url": "http://host"}, r"sandbox_fusion\.url .* write null, and reward_fns/code_tests"),
        ({"reward.reward_model.enable": True}, r"reward_model\.enable=true .* call the model from a reward function"),
        (
            {"actor_rollout_ref.model.lora_rank": 8, "actor_rollout_ref.model.lora.merge": False},
            r"lora\.merge=false: the servers of generation=transformers have no adapters, .* write true",
        ),
        (
            {"trainer.nnodes": 2, "trainer.device": "cuda"},
            r"generation=transformers with trainer\.nnodes=2: .* write generation=vllm$",
        ),
        ({f"{ROLLOUT}.name": "vllm"}, r"generation=vllm would lose the updates .* write generation=vllm_cpu"),
        (
            {f"{ROLLOUT}.name": "vllm", "trainer.device": "cuda", f"{ROLLOUT}.engine_kwargs.vllm": LIVE_WEIGHTS},
            r"generation=vllm_cpu is for the CPU: write generation=vllm",
        ),
        (
            {f"{ROLLOUT}.name": "vllm", "trainer.device": "cuda", f"{ROLLOUT}.engine_kwargs.vllm": {WORKER: "own.It"}},
            r"vllm\.worker_extension_cls=own\.It cannot be loaded \(No module named 'own'\): write the dotted name",
        ),
        (
            {f"{ROLLOUT}.prompt_length": 3},
            r"^actor_rollout_ref\.rollout\.prompt_length=3 is not data\.max_prompt_length=16, ",
        ),
        (
            {f"{ROLLOUT}.response_length": 5000},
            r"rollout\.response_length=5000 is not .*=80, from .*: write data\.max_response_length alone$",
        ),
        ({f"{ACTOR}.fsdp_config.fsdp_size": 3}, r"fsdp_config\.fsdp_size=3 does not divide the 2 ranks of .* divisor$"),
        (
            {f"{ROLLOUT}.tensor_model_parallel_size": 3},
            r"tensor_model_parallel_size x .*=3 does not divide the 2 ranks",
        ),
        (
            {f"{ACTOR}.optim.optimizer": "Adamw"},
            r"optimizer=Adamw is none of torch\.optim's: .*; did you mean 'AdamW'\?",
        ),
        ({f"{ACTOR}.optim.optimizer_impl": "no.such"}, r"optimizer_impl=no\.such: there is no such module here"),
        ({"actor_rollout_ref.model.external_lib": "nosuch"}, r"external_lib=nosuch: there is no such module here"),
        ({"trainer.logger": ["console", "swanlab"]}, r"^trainer\.logger: swanlab is not installed; install it"),
        ({"transfer_queue.enable": False}, r"transfer_queue\.enable=false: rows go .*; write true"),
        (
            {f"{ROLLOUT}.max_model_len": 90},
            r"max_model_len=90 is less than data\.max_prompt_length \+ data\.max_response_length = 96: write 96",
        ),
        (
            {f"{ACTOR}.ppo_max_token_len_per_gpu": 90},
            r"actor\.ppo_max_token_len_per_gpu=90 is less than the longest row .* = 96: write 96 or more",
        ),
        (
            {f"{ROLLOUT}.log_prob_max_token_len_per_gpu": 90},
            r"rollout\.log_prob_max_token_len_per_gpu=90 is less than the longest row .* = 96: write 96 or more",
        ),
        (
            PACKED | {f"{ACTOR}.ppo_max_token_len_per_gpu": 47, f"{ACTOR}.ulysses_sequence_parallel_size": 2},
            r"actor\.ppo_max_token_len_per_gpu=47 is less than the longest row .* = 96: write 48 or more",
        ),
        (
            {"trainer.v1.sampler.sync_refill_failed_groups": True},
            r"sync_refill_failed_groups=true would give new prompts the names of prompts in flight: write false",
        ),
        (
            {
                f"{ROLLOUT}.val_kwargs.do_sample": False,
                f"{ROLLOUT}.val_kwargs.temperature": 0,
                f"{ROLLOUT}.val_kwargs.n": 4,
            },
            r"val_kwargs\.n=4 with do_sample=false: .* all be the same greedy one; write n=1, or do_sample=true",
        ),
        (
            {f"{ROLLOUT}.val_kwargs.temperature": 0, f"{ROLLOUT}.val_kwargs.n": 4},
            r"val_kwargs\.n=4 with temperature=0: .* all be the same greedy one; .* and a temperature above 0",
        ),
        (
            {"actor_rollout_ref.model.lora_alpha": 32},
            r"lora_alpha=32 does nothing without an adapter: write actor_rollout_ref\.model\.lora_rank=32",
        ),
        (
            {f"{ROLLOUT}.val_kwargs.do_sample": False},
            r"val_kwargs\.do_sample=false with a temperature of 1, at which verl would sample: write temperature=0",
        ),
        (
            {"ctwa.reference_length": {"type": "fixed"}, "trainer.val_before_train": False},
            r"ctwa\.reference_length takes its length from the validation .* trainer\.val_before_train=true",
        ),
        (
            {
                "ctwa.method": {"type": "product"},
                "ctwa.objectives.near": {"reward_fn": "ctwa.objectives.log_probs:kl", "weight": 0.1},
            },
            r"the method product goes by a reward's zero, and near \(read off log-probabilities\) may lie",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_of_the_engine_that_a_multi_objective_run_does_not_have(
    changed: Changed, values: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(CtwaError, match=sentence):
        check_config(changed(values))


def test_vllm_on_the_cpu_is_asked_for_before_it_is_missed(changed: Changed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "find_spec", {}.get)

    with pytest.raises(CtwaError, match=r"vLLM, which is not installed: run scripts/install_vllm_cpu\.sh"):
        check_config(changed({f"{ROLLOUT}.name": "vllm", f"{ROLLOUT}.engine_kwargs.vllm": LIVE_WEIGHTS}))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"data.gen_batch_size": 6},
            r"train_batch_size=16 is not a multiple of data.gen_batch_size=6.*: write a divisor",
        ),
        ({f"{ACTOR}.ppo_mini_batch_size": 6}, r"train_batch_size=16 is not a multiple of .*=6: write 18 or another"),
        ({f"{ROLLOUT}.n": 1}, r"rollout\.n=1: covariances within a prompt need at least 2 completions"),
        (
            {f"{ACTOR}.ppo_mini_batch_size": 1, f"{ROLLOUT}.n": 3},
            r"a mini-batch of 1 prompts x 3 completions does not divide over 2 ranks",
        ),
        (
            {f"{ACTOR}.use_dynamic_bsz": False, f"{ACTOR}.ppo_micro_batch_size_per_gpu": 5},
            r"a rank's 32 rows of a mini-batch are not a multiple of ppo_micro_batch_size_per_gpu=5: write a divisor",
        ),
        (
            {"data.train_batch_size": 304},
            r"have 300 rows, less than one step's data\.train_batch_size=304: write at most",
        ),
        ({"data.train_max_samples": 8}, r"have 8 rows, less than one step's"),
        (
            {"trainer.total_epochs": 2},
            r"total_training_steps=50, but trainer\.total_epochs=2 of 300 rows in batches of 16 end after 36: write "
            r"trainer\.total_epochs=3$",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_batches_and_steps_that_do_not_come_out_even(changed: Changed, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CtwaError, match=sentence):
        check_config(changed(values))


def test_a_budget_of_tokens_is_the_longest_row_of_all_ranks_that_share_it(changed: Changed) -> None:
    check_config(changed({f"{ACTOR}.ppo_max_token_len_per_gpu": 96}))
    fixed = {f"{ACTOR}.use_dynamic_bsz": False, f"{ACTOR}.ppo_micro_batch_size_per_gpu": 4}
    check_config(changed({f"{ACTOR}.ppo_max_token_len_per_gpu": 90} | fixed))
    check_config(
        changed(
            PACKED
            | {f"{ACTOR}.ppo_max_token_len_per_gpu": 48, f"{ACTOR}.fsdp_config.ulysses_sequence_parallel_size": 2}
        )
    )


class TestRunFolder:
    @pytest.fixture
    def in_folder(self, changed: Changed) -> Callable[..., DictConfig]:
        return lambda folder, **values: changed({"ctwa.run": str(folder), **values})

    def test_a_file_or_what_is_under_one(self, in_folder: Callable[..., DictConfig], tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")

        with pytest.raises(CtwaError, match=f"^{tmp_path}/file is a file: give a folder for the run$"):
            check_config(in_folder(tmp_path / "file"))
        with pytest.raises(CtwaError, match=f"^{tmp_path}/file/a/b cannot be written, for {tmp_path}/file is a file: "):
            check_config(in_folder(tmp_path / "file" / "a" / "b"))

    def test_one_that_cannot_be_written(
        self, in_folder: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ctwa.run.disk.os.access", lambda *_: False)

        with pytest.raises(CtwaError, match=f"^{tmp_path}/run cannot be written, for {tmp_path} is not yours to: give"):
            check_config(in_folder(tmp_path / "run"))

    def test_one_that_holds_a_run(self, in_folder: Callable[..., DictConfig], tmp_path: Path) -> None:
        (tmp_path / "config.yaml").write_text("")

        with pytest.raises(CtwaError, match=r"already holds a run: write ctwa\.resume=true to continue it, or give"):
            check_config(in_folder(tmp_path))
        check_config(in_folder(tmp_path, **{"ctwa.resume": True}))

    def test_a_checkpoint_of_another_number_of_ranks(
        self, in_folder: Callable[..., DictConfig], tmp_path: Path
    ) -> None:
        resumed: dict[str, Any] = {"ctwa.resume": True}
        checkpoint = tmp_path / "checkpoints" / "global_step_4"
        policy = checkpoint / "actor"
        policy.mkdir(parents=True)
        saved_by = policy / "fsdp_config.json"

        def saved(content: str) -> DictConfig:
            saved_by.write_text(content)
            seal(checkpoint)
            return in_folder(tmp_path, **resumed)

        for rank in (0, 2):
            torch.save({}, shard_file(policy, "model", 3, rank))
        with pytest.raises(CtwaError, match=r"global_step_4 lacks what rank 1 of 3 saved: a run folder lies on a file"):
            check_config(saved('{"FSDP_version": 2, "world_size": 3}'))
        torch.save({}, shard_file(policy, "model", 3, 1))
        check_config(saved('{"FSDP_version": 2, "world_size": 3}'))

        resumed["actor_rollout_ref.actor.strategy"] = "fsdp"
        with pytest.raises(
            CtwaError, match=r"_4 was saved by 3 ranks, and the run has .* = 2: only FSDP2's .* write as many as there"
        ):
            check_config(saved('{"FSDP_version": 1, "world_size": 3}'))
        with pytest.raises(CtwaError, match=r"fsdp_config\.json cannot be read .*: restore it, or take .*_4 away$"):
            check_config(saved('{"FSDP_version": 2, "world_size": [}'))


class TestFiles:
    def test_a_task_folder_that_was_not_made(self, changed: Changed) -> None:
        with pytest.raises(
            CtwaError, match=r"^ctwa\.task_dir: nowhere/D does not exist; make it \(`ctwa testbed make`"
        ):
            check_config(changed({"ctwa.task_dir": "nowhere/D"}))

    @pytest.mark.parametrize("key", ["train_files", "val_files"])
    def test_data_that_is_not_there(self, changed: Changed, key: str, tmp_path: Path) -> None:
        with pytest.raises(CtwaError, match=f"^data.{key}: {tmp_path}/a.parquet does not exist; give a .parquet"):
            check_config(changed({f"data.{key}": [f"{tmp_path}/a.parquet"]}))
        with pytest.raises(CtwaError, match=f"^data.{key} names no file"):
            check_config(changed({f"data.{key}": []}))

    def test_data_that_is_not_parquet(self, changed: Changed, tmp_path: Path) -> None:
        (tmp_path / "a.parquet").write_text("prompt,answer\n1,2\n")

        with pytest.raises(CtwaError, match=r"a\.parquet is not a parquet file; name it .jsonl if"):
            check_config(changed({"data.train_files": [f"{tmp_path}/a.parquet"]}))

    def test_data_in_another_format(self, changed: Changed, tmp_path: Path) -> None:
        pq.write_table(pa.table({"task": ["1 + 1"], "result": ["2"]}), tmp_path / "a.parquet")

        with pytest.raises(
            CtwaError,
            match=r"^data\.val_files: .*a\.parquet has no column .*columns=\{prompt: task, ground_truth: result\}",
        ):
            check_config(changed({"data.val_files": [f"{tmp_path}/a.parquet"]}))

    def test_a_folder_is_no_file_and_a_file_no_folder(self, changed: Changed, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("")

        with pytest.raises(CtwaError, match=f"^data.train_files: {tmp_path} is a folder; give a .parquet, .jsonl"):
            check_config(changed({"data.train_files": [str(tmp_path)]}))
        with pytest.raises(
            CtwaError,
            match=f"^actor_rollout_ref.model.path: {tmp_path}/a is a file; give the folder it is in: {tmp_path}",
        ):
            check_config(changed({"actor_rollout_ref.model.path": f"{tmp_path}/a"}))
        with pytest.raises(CtwaError, match=f"^ctwa.task_dir: {tmp_path}/a is a file; make it"):
            check_config(changed({"ctwa.task_dir": f"{tmp_path}/a"}))

    def test_data_that_cannot_be_read(self, changed: Changed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def forbidden(path: Path, *_: str) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        (tmp_path / "a.parquet").write_text("")
        monkeypatch.setattr(Path, "open", forbidden)

        with pytest.raises(CtwaError, match=r"a\.parquet cannot be read \(Permission denied\); mend that"):
            check_config(changed({"data.train_files": [f"{tmp_path}/a.parquet"]}))

    @pytest.mark.parametrize("path", ["/nowhere/model", "./model", "~/model", "runs/no-such/model"])
    def test_a_model_folder_that_is_not_there(self, changed: Changed, path: str) -> None:
        with pytest.raises(
            CtwaError, match=f"^actor_rollout_ref.model.path: {path} does not exist; give a model folder"
        ):
            check_config(changed({"actor_rollout_ref.model.path": path}))

    def test_a_name_on_a_hub_is_not_looked_for_on_the_disk(self, changed: Changed) -> None:
        check_config(changed({"actor_rollout_ref.model.path": "Qwen/Qwen2.5-1.5B"}))


class TestVerl:
    def test_what_verl_refuses_is_said_as_verl_says_it(self, changed: Changed) -> None:
        config = changed({f"{ACTOR}.loss_agg_mode": "mean"})

        with pytest.raises(
            CtwaError, match=r"^verl does not accept the configuration: (?s:.*)Invalid loss_agg_mode: mean"
        ):
            check_with_verl(config)

    def test_a_rollout_setting_that_only_a_worker_would_meet(self, changed: Changed) -> None:
        config = changed({f"{ROLLOUT}.name": "vllm", f"{ROLLOUT}.pipeline_model_parallel_size": 2})

        with pytest.raises(CtwaError, match=r"^verl does not accept the configuration: (?s:.*)pipeline_model_parallel"):
            check_with_verl(config)

    def test_verls_own_remarks_stay_off_the_terminal(
        self, testbed_config: DictConfig, capfd: pytest.CaptureFixture[str]
    ) -> None:
        check_with_verl(testbed_config)

        assert capfd.readouterr().out == ""


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


class TestAgentLoops:
    TURNS: ClassVar[dict[str, Any]] = {
        f"{ROLLOUT}.name": "vllm",
        f"{ROLLOUT}.engine_kwargs.vllm": LIVE_WEIGHTS,
        f"{ROLLOUT}.multi_turn.enable": True,
        f"{ROLLOUT}.multi_turn.function_tool_path": str(ROOT / "examples/calculator/tools.py"),
        f"{ROLLOUT}.agent.default_agent_loop": "ctwa_tool_agent",
    }

    @pytest.fixture(autouse=True)
    def with_vllm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whether vLLM is installed is not the question here."""
        monkeypatch.setattr("ctwa.engine.checks.engine.find_spec", lambda _: True)

    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            (
                {f"{ROLLOUT}.name": "transformers"},
                r"multi_turn\.enable=true: .* one turn; write generation=vllm_cpu,",
            ),
            (
                {f"{ROLLOUT}.multi_turn.enable": False},
                r"default_agent_loop='ctwa_tool_agent' is none with one turn: write .*multi_turn\.enable=true, or",
            ),
            (
                {f"{ROLLOUT}.agent.default_agent_loop": "tol_agent"},
                r"no such agent loop: write one of single_turn_agent, .*; did you mean 'tool_agent'\?",
            ),
            (
                {f"{ROLLOUT}.agent.default_agent_loop": "single_turn_agent"},
                r"multi_turn\.enable=true, but .*default_agent_loop=single_turn_agent has one turn: write",
            ),
            ({f"{ROLLOUT}.multi_turn.function_tool_path": None}, r"'ctwa_tool_agent' has no tools: write .*FILE\.py"),
            (
                {f"{ROLLOUT}.multi_turn.function_tool_path": f"{ROOT}/examples/calculator/tool.py"},
                r"function_tool_path: .* is no file; .*; did you mean .*tools\.py\?",
            ),
            (
                {f"{ROLLOUT}.multi_turn.function_tool_path": f"{ROOT}/tests/objectives/answers_equal.txt"},
                r"function_tool_path: .*answers_equal\.txt cannot be loaded",
            ),
            (
                {f"{ROLLOUT}.multi_turn.tool_config_path": f"{ROOT}/examples/calculator/agent_loops.yaml"},
                r"tool_config_path: .*agent_loops\.yaml has no list of tools; write tools: \[\{class_name",
            ),
            ({f"{ROLLOUT}.agent.agent_loop_config_path": "/no/loops.yaml"}, r"loops\.yaml cannot be read"),
        ],
    )
    def test_turns_that_cannot_be_are_refused(self, changed: Changed, values: dict[str, Any], sentence: str) -> None:
        with pytest.raises(CtwaError, match=sentence):
            check_config(changed(self.TURNS | values))

    @pytest.mark.parametrize("loop", ["tool_agent", "ctwa_tool_agent"])
    def test_turns_with_tools_are_fine(self, changed: Changed, loop: str) -> None:
        config = changed(self.TURNS | {f"{ROLLOUT}.agent.default_agent_loop": loop})
        check_config(config)
        assert turns_line(config).startswith(f"by {loop}, tools: calculator; as many as")

    def test_an_own_loop_whose_module_is_not_there_is_refused(self, changed: Changed, tmp_path: Path) -> None:
        (tmp_path / "loops.yaml").write_text("[{name: mine, _target_: no_such.module.Loop}]")
        values = {f"{ROLLOUT}.agent.agent_loop_config_path": f"{tmp_path}/loops.yaml"}
        with pytest.raises(CtwaError, match=r"no module no_such\.module: put the folder it is in on PYTHONPATH"):
            check_config(changed(self.TURNS | values))

    def test_an_own_file_of_loops_leaves_those_of_ctwa_there(self, changed: Changed, tmp_path: Path) -> None:
        (tmp_path / "loops.yaml").write_text("[{name: mine, _target_: collections.Counter}]")
        config = changed(self.TURNS | {f"{ROLLOUT}.agent.agent_loop_config_path": f"{tmp_path}/loops.yaml"})
        check_config(config)
        of_ctwa = ["single_turn_agent", "ctwa_single_turn", "ctwa_tool_agent"]
        assert [loop["name"] for loop in agent_loops(config)] == [*of_ctwa, "mine"]

    def test_a_format_of_calls_that_nobody_reads_is_refused(self, changed: Changed) -> None:
        with pytest.raises(CtwaError, match=r"multi_turn\.format=hermse .*; did you mean 'hermes'\?"):
            check_parser(changed(self.TURNS | {f"{ROLLOUT}.multi_turn.format": "hermse"}))

    @pytest.mark.parametrize("loop", ["single_turn_agent", "ctwa_single_turn"])
    def test_one_turn_is_fine_with_seeds_and_without(self, changed: Changed, loop: str) -> None:
        check_config(changed({f"{ROLLOUT}.agent.default_agent_loop": loop}))

    def test_rows_may_ask_for_loops_that_are_there(
        self, changed: Changed, testbed_config: DictConfig, tmp_path: Path
    ) -> None:
        table = pq.read_table(testbed_config.data.train_files[0])
        for name, loops in (("tools", ["tool_agent"]), ("plain", ["single_turn_agent"]), ("typo", ["tol_agent"])):
            column = pa.array((["single_turn_agent"] * table.num_rows)[1:] + loops)
            pq.write_table(table.append_column("agent_name", column), tmp_path / f"{name}.parquet")
        plain, tools, typo = (
            {"data.train_files": [f"{tmp_path}/{name}.parquet"]} for name in ("plain", "tools", "typo")
        )
        turns = self.TURNS | {f"{ROLLOUT}.agent.default_agent_loop": "single_turn_agent"}

        check_config(changed(plain))
        check_config(changed(turns | tools))
        for values, sentence in (
            (tools, r"'tool_agent'; .*multi_turn\.enable=true"),
            (turns | typo, "'tol_agent'; there"),
        ):
            with pytest.raises(CtwaError, match=rf"\.parquet, row \d+ .*: its agent_name asks .* loop {sentence}"):
                check_config(changed(values))


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
        check_machine(changed({"trainer.device": "cuda", "ray_kwargs.ray_init.address": "auto"}))
        monkeypatch.setenv("RAY_ADDRESS", "auto")
        check_machine(changed({"trainer.device": "cuda"}))

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
        assert "validation   every 10 steps, sampled at temperature 1, as in training; checkpoint every 50\n" in plan

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


OF_KL = {"reward_fn": "ctwa.objectives.log_probs:kl", "weight": 0.5, "target": 0.0}


class TestObjectivesOfLogProbs:
    def test_a_plan_has_the_reference_that_a_kl_is_from(self, changed: Changed) -> None:
        plan = TrainJob(changed({"ctwa.objectives.near": OF_KL})).plan()

        assert "clarity (0.334), near (0.5)\n" in plan
        assert "near: read off the log-probabilities of training steps (kl)\n" in plan
        assert "reference log-probs (1 forward)" in plan
        assert "GB to train them, 2 more copies of " in plan

    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            ({"ctwa.objectives.near": OF_KL | {"split": "val"}}, r"near\.split=val: the kl .* in training alone"),
            ({"ctwa.objectives.near": OF_KL | {"every": 2}}, r"near\.every does nothing"),
            (
                {"ctwa.objectives.near": OF_KL | {"reward_fn": "/a/ctwa/objectives/log_probs.py:kl"}},
                r"never has a value: write ctwa\.objectives\.log_probs:kl$",
            ),
            (
                {"ctwa.objectives.near": OF_KL, "ctwa.objectives.clarity.gate": {"by": "near", "at_least": 0}},
                r"clarity\.gate\.by=near: gates are set before",
            ),
            (
                {"ctwa.objectives.near": OF_KL, "ctwa.curriculum.difficulty": {"by": "near"}},
                r"\('near'\) solves no prompt",
            ),
        ],
    )
    def test_what_it_cannot_do_is_refused(self, changed: Changed, values: dict[str, Any], sentence: str) -> None:
        with pytest.raises(CtwaError, match=sentence):
            check_config(changed(values))
