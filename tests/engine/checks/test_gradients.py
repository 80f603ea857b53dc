"""What of verl's engine does not stand the objectives' gradients or a probe, and what passes cost."""

from __future__ import annotations

from typing import Any

import pytest

from ctwa.engine.checks.config import check_config
from ctwa.engine.train_job import TrainJob
from ctwa.errors import CtwaError
from tests.engine.names import ACTOR, MODEL, Changed

GRADIENTS = [{"ctwa.method": {"type": "mgda"}}, {"ctwa.diagnostics.gradients_every": 5}]
LIGER_OUTPUT = {f"{MODEL}.use_fused_kernels": True, f"{MODEL}.fused_kernel_options.impl_backend": "liger"}

ONE_FORWARD = [
    ({f"{MODEL}.use_liger": True}, "use_liger=true: several .* write ctwa.gradients.passes=sequential"),
    ({f"{MODEL}.enable_activation_offload": True}, "enable_activation_offload=true: .*passes=sequential"),
    (LIGER_OUTPUT, "impl_backend=liger: .*passes=sequential"),
]
ALWAYS = [
    ({f"{ACTOR}.strategy": "fsdp"}, "write fsdp2"),
    ({f"{ACTOR}.fsdp_config.offload_policy": True}, "offload_policy=true .* write param_offload=true"),
    ({f"{ACTOR}.fsdp_config.mixed_precision.param_dtype": "fp16"}, "write bf16"),
    ({"ctwa.gradients.metric": "optimizer", f"{ACTOR}.optim.optimizer": "SGD"}, "torch.optim.SGD: write .*=AdamW"),
    ({"ctwa.gradients.gram": "cross_fitted", f"{ACTOR}.ppo_mini_batch_size": 1}, "ppo_mini_batch_size=1: write 2"),
    (
        {
            "ctwa.gradients.gram": "cross_fitted",
            f"{ACTOR}.use_dynamic_bsz": False,
            f"{ACTOR}.ppo_micro_batch_size_per_gpu": 1,
        },
        "write actor_rollout_ref.actor.use_dynamic_bsz=true",
    ),
]


@pytest.mark.parametrize("wants", GRADIENTS, ids=["method", "diagnostics"])
@pytest.mark.parametrize(("values", "sentence"), ONE_FORWARD + ALWAYS)
def test_what_does_not_stand_several_backward_passes(
    changed: Changed, values: dict[str, Any], sentence: str, wants: dict[str, Any]
) -> None:
    with pytest.raises(CtwaError, match=sentence):
        check_config(changed(values | wants))


@pytest.mark.parametrize("wants", GRADIENTS, ids=["method", "diagnostics"])
@pytest.mark.parametrize(("values", "_"), ONE_FORWARD)
def test_by_passes_one_after_the_other_it_is_right(
    changed: Changed, values: dict[str, Any], _: str, wants: dict[str, Any]
) -> None:
    check_config(changed(values | wants | {"ctwa.gradients.passes": "sequential"}))


@pytest.mark.parametrize(("values", "_"), ONE_FORWARD + ALWAYS)
def test_without_gradients_of_objectives_all_of_it_is_verls_matter(
    changed: Changed, values: dict[str, Any], _: str
) -> None:
    check_config(changed({key: value for key, value in values.items() if not key.startswith("ctwa.")}))


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_output_layers_that_keep_what_they_saved_are_let_through(changed: Changed, backend: str) -> None:
    check_config(changed(LIGER_OUTPUT | {f"{MODEL}.fused_kernel_options.impl_backend": backend} | GRADIENTS[0]))


@pytest.mark.parametrize("wants", [{"ctwa.diagnostics.probe": "backward"}, {"ctwa.method": {"type": "probe"}}])
def test_the_probe_that_exchanges_weights_wants_shards_of_each_parameter(
    changed: Changed, wants: dict[str, Any]
) -> None:
    with pytest.raises(CtwaError, match=r"the probe 'backward' .* write fsdp2"):
        check_config(changed({f"{ACTOR}.strategy": "fsdp", **wants}))


@pytest.mark.parametrize(
    ("values", "cost"),
    [
        ({"ctwa.method": {"type": "linear"}}, "1 forward and 1 backward of the batch"),
        (
            {"ctwa.method": {"type": "linear"}, f"{MODEL}.enable_gradient_checkpointing": True},
            "1 forward and 1 backward (activations computed anew in each backward) of the batch",
        ),
        ({}, "1 forward and 3 backward of the batch"),
        ({"ctwa.gradients.passes": "sequential"}, "3 forward and 3 backward of the batch"),
        ({f"{ACTOR}.use_kl_loss": True}, "1 forward and 4 backward of the batch"),
        ({f"{ACTOR}.entropy_coeff": 0.01, "ctwa.gradients.passes": "sequential"}, "4 forward and 4 backward"),
        (
            {f"{MODEL}.enable_gradient_checkpointing": True},
            "1 forward and 3 backward (activations computed anew in each backward) of the batch",
        ),
        (
            {"ctwa.gradients.last_layers": 1, f"{ACTOR}.use_kl_loss": True},
            "1 forward and 4 backward through 1 layers, then 1 forward and 1 backward",
        ),
        ({}, "inner products within each mini-batch"),
        (
            {"ctwa.gradients.gram": "cross_fitted", "ctwa.gradients.metric": "optimizer"},
            "inner products across halves of the prompts, half-life 10 mini-batches, in Adam's metric",
        ),
    ],
)
def test_the_plan_says_what_an_update_costs(changed: Changed, values: dict[str, Any], cost: str) -> None:
    config = changed({"ctwa.method": {"type": "mgda"}} | values)
    assert cost in TrainJob(config).plan()
