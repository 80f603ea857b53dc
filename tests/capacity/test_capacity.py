"""Numbers computed by hand, measured on models that compute here, and published."""

from __future__ import annotations

import gc
import json
import re
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    FalconConfig,
    LlamaConfig,
    MixtralConfig,
    Qwen3Config,
    Qwen3NextConfig,
)
from typer.testing import CliRunner

from ctwa.capacity import memory, seconds, traffic
from ctwa.capacity.hardware import GPUS, Cluster, read_cluster
from ctwa.capacity.remedies import faults, remedies
from ctwa.capacity.seconds import Rates
from ctwa.capacity.shape import ModelShape, read_shape, shape_of
from ctwa.capacity.workload import Passes, Sampling, Workload
from ctwa.cli import app
from ctwa.engine.compose import compose_config
from ctwa.errors import CtwaError
from ctwa.gradients.store import GradientStore
from ctwa.preference.losses import PairLogProbs, SimpoLoss, objective_losses

GB = 1e9
SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "vocab_size": 512,
}
SHAPE = ModelShape(
    num_parameters=7_000_000_000,
    num_block_parameters=200_000_000,
    num_active_parameters=6_500_000_000,
    num_layers=30,
    hidden=4096,
    intermediate=11_008,
    heads=32,
    key_heads=8,
    head_width=128,
    vocabulary=100_000,
)
STEP = Workload(
    shape=SHAPE,
    cluster=Cluster(GPUS["H100"], 1, 8),
    num_rows=1024,
    row_tokens=2048,
    longest=2048,
    micro_tokens=16_384,
    passes=Passes(log_probs=2, forwards=1, backwards=1),
    num_trained=SHAPE.num_parameters,
    sampling=Sampling(prompts=128, completions=8, prompt_tokens=512, response_tokens=1536, mean_response_tokens=1536),
    shards=8,
)
PAIRS = replace(STEP, num_rows=64, longest=4096, sampling=None, has_pairs=True, passes=Passes(0, 1, 1))


def served(step: Workload, **changes: Any) -> Workload:
    """With another server."""
    return replace(step, sampling=replace(step.served, **changes))


def model_of(kind: type = LlamaConfig, **sizes: int) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(kind(**SMALL | sizes), attn_implementation="sdpa")


def on_one_rank(model: Any, tokens: int) -> Workload:
    """A pass of a model that is here, in float32, without checkpointing."""
    shape = shape_of(model, model.config)
    return replace(
        STEP,
        shape=shape,
        num_trained=shape.num_parameters,
        shards=1,
        micro_tokens=tokens,
        checkpoints_activations=False,
        compute_bytes=4,
        logits_copies=2,
    )


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


class TestMeasured:
    def test_the_gradients_of_every_objectives_pairs_are_held_at_once(self) -> None:
        """What a store holds after a forward pass over pairs and a backward pass for each of three objectives."""
        model, tokens_NT = model_of(), torch.arange(4 * 16).reshape(4, 16)
        before = _held()
        store = GradientStore(model.parameters(), 3)
        log_probs_N = model(tokens_NT).logits.log_softmax(-1)[..., 0].sum(1)
        pairs = PairLogProbs(log_probs_N[::2], log_probs_N[1::2], torch.full((2,), 16), torch.full((2,), 16))
        losses_PM = objective_losses(SimpoLoss(), pairs, torch.tensor([[1, -1, 1], [1, 1, -1]], dtype=torch.int8))
        for index in range(3):
            store.backward(index, losses_PM[:, index].mean(), retain_graph=index < 2)
        del log_probs_N, pairs, losses_PM
        held = {pointer: size for pointer, size in _held().items() if pointer not in before}

        step = replace(on_one_rank(model, 64), num_gradients=3)
        assert sum(held.values()) == memory.updating(step)["gradients"] + 3 * 8  # each loss, in float64

    def test_a_token_that_is_kept_is_a_number_of_pythons(self) -> None:
        tracemalloc.start()
        kept = tuple(torch.arange(1000, 21_000).tolist())
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert size / len(kept) == pytest.approx(memory.KEPT_TOKEN, rel=0.01)

    def test_weights_gradients_and_moments_are_those_of_a_step(self) -> None:
        model = model_of()
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.arange(32)[None]).logits.sum().backward()
        optimizer.step()
        parts = memory.updating(on_one_rank(model, 32))

        moments = [each for state in optimizer.state.values() for key, each in state.items() if key != "step"]
        for name, tensors in {
            "weights": list(model.parameters()),
            "gradients": [each.grad for each in model.parameters()],
            "optimizer": moments,
        }.items():
            assert parts[name] == sum(each.nbytes for each in tensors), name

    @pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("checkpoints", [True, False])
    def test_activations_are_what_blocks_hand_to_autograd(
        self, kind: type, dtype: torch.dtype, checkpoints: bool
    ) -> None:
        tokens, found, expected = 256, [], []
        for num_layers in (2, 4):
            model = model_of(kind, num_hidden_layers=num_layers).to(dtype).train()
            if checkpoints:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            step = on_one_rank(model, tokens)
            step = replace(step, compute_bytes=dtype.itemsize, checkpoints_activations=checkpoints)
            found.append(_handed_to_autograd(model, tokens))
            expected.append(memory.activations(step))

        assert found[1] - found[0] == pytest.approx(expected[1] - expected[0], rel=0.02)

    def test_logits_have_a_gradient_of_their_size(self) -> None:
        model = model_of()
        logits = model(torch.arange(32)[None]).logits
        logits.retain_grad()
        logits.logsumexp(-1).sum().backward()

        assert logits.grad is not None
        assert memory.logits(on_one_rank(model, 32)) == logits.nbytes + logits.grad.nbytes

    def test_a_shape_is_counted_without_weights(self, tmp_path: Path) -> None:
        from peft import LoraConfig, get_peft_model

        model = model_of()
        model.config.architectures = ["LlamaForCausalLM"]
        model.config.save_pretrained(tmp_path)
        shape = read_shape(tmp_path)
        adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))

        assert shape == shape_of(model_of(), model.config)
        trained = sum(each.numel() for each in adapted.parameters() if each.requires_grad)
        assert shape.adapter_parameters(4) == trained
        assert shape.num_active_parameters == shape.num_parameters - 512 * 64
        assert shape.num_block_parameters * 3 + 2 * 512 * 64 + 64 == shape.num_parameters

    @pytest.mark.parametrize("targets", ["all-linear", ["c_attn"], ["attn"], r".*\.1\.mlp\.c_.*"])
    def test_an_adapter_is_counted_where_peft_puts_one(self, targets: str | list[str]) -> None:
        """GPT-2's matrices are of a class of their own, and the end of a name is a whole part of it."""
        from peft import LoraConfig, get_peft_model
        from transformers import GPT2Config, GPT2LMHeadModel

        model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=64))
        shape = shape_of(model, model.config)
        trained = 0
        if targets != ["attn"]:
            adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets, fan_in_fan_out=True))
            trained = sum(each.numel() for each in adapted.parameters() if each.requires_grad)

        assert shape.adapter_parameters(4, targets) == trained

    def test_experts_are_found_by_their_shape_too(self) -> None:
        from transformers import GraniteMoeConfig, GraniteMoeForCausalLM

        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 64}
        config = GraniteMoeConfig(num_attention_heads=2, num_local_experts=8, num_experts_per_tok=2, **sizes)
        shape = shape_of(GraniteMoeForCausalLM(config), config)

        in_experts = 2 * 8 * (16 * 2 * 32 + 32 * 16)
        unused = shape.num_parameters - shape.num_active_parameters
        assert unused == in_experts * 6 // 8 + (0 if config.tie_word_embeddings else 64 * 16)

    def test_a_model_without_attention_is_refused(self, tmp_path: Path) -> None:
        from transformers import MambaConfig

        MambaConfig(num_hidden_layers=1, hidden_size=16, vocab_size=64).save_pretrained(tmp_path)
        with pytest.raises(CtwaError, match="nothing is known of what a MambaForCausalLM takes: a plan counts blocks"):
            read_shape(tmp_path)

    def test_a_checkpoint_is_what_runs_have_saved(self) -> None:
        """Bytes of two checkpoints of SmolLM2-135M, all weights and an adapter of rank 8; and of a testbed's model."""
        smol = replace(SHAPE, num_parameters=134_515_008)
        assert _saved(smol, 134_515_008) == pytest.approx(2_156_265_611, rel=0.01)
        assert _saved(smol, 2_442_240) == pytest.approx(1_110_013_332, rel=0.01)
        assert _saved(replace(SHAPE, num_parameters=600_416), 600_416) == pytest.approx(9_783_659, rel=0.1)


def _held() -> dict[int, int]:
    """Bytes of every tensor that there is, by where they are."""
    gc.collect()
    storages = [each.untyped_storage() for each in gc.get_objects() if type(each) is torch.Tensor]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def _handed_to_autograd(model: Any, tokens: int) -> int:
    """Bytes that a forward pass keeps for the backward one, beside the weights."""
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept: dict[int, tuple[int, torch.Tensor]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes(), tensor  # held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model(torch.arange(tokens)[None] % SMALL["vocab_size"], use_cache=False)
    return sum(size for size, _ in kept.values())


def _saved(shape: ModelShape, trained: int) -> float:
    return memory.checkpoint(replace(STEP, shape=shape, num_trained=trained))


def test_blocks_of_linear_attention_keep_nothing_of_a_token() -> None:
    """Of the four blocks three have a state of one size, whatever the length."""
    sizes = {"num_hidden_layers": 4, "head_dim": 16, "num_experts": 2, "moe_intermediate_size": 16}
    with torch.device("meta"):
        shape = shape_of(model := model_of(Qwen3NextConfig, **sizes), model.config)

    assert (shape.num_layers, shape.num_state_layers) == (4, 3)
    step = replace(STEP, shape=shape)
    assert memory.cache_token(step) == 2 * 1 * 2 * 16 * 2
    with_attention = replace(step, shape=replace(shape, num_state_layers=0))
    assert seconds.operations(step, 1, 0) < seconds.operations(with_attention, 1, 0)

    of_states = replace(step, shape=replace(shape, num_state_layers=4))
    assert memory.cached_rows(of_states) == of_states.served.max_rows
    assert seconds.sampling(of_states, Rates()) > 0


@pytest.mark.parametrize(
    ("kind", "sizes", "expected"),
    [
        pytest.param(
            MixtralConfig, {"num_local_experts": 8, "num_experts_per_tok": 2}, {"intermediate": 2 * 160}, id="Mixtral"
        ),
        pytest.param(
            DeepseekV3Config,
            {"n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 2, "moe_intermediate_size": 16}
            | {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 0},
            {"intermediate": (2 + 2) * 16},
            id="DeepSeek",
        ),
        pytest.param(FalconConfig, {"multi_query": True}, {"key_heads": 1}, id="Falcon 7B"),
        pytest.param(
            FalconConfig, {"new_decoder_architecture": True, "num_kv_heads": 2}, {"key_heads": 2}, id="Falcon 40B"
        ),
    ],
)
def test_families_whose_configurations_have_words_of_their_own(
    kind: type, sizes: dict[str, int], expected: dict[str, int]
) -> None:
    with torch.device("meta"):
        shape = shape_of(model := model_of(kind, **sizes), model.config)

    assert {name: getattr(shape, name) for name in expected} == expected


def test_keys_that_blocks_share_are_kept_once() -> None:
    shape = replace(SHAPE, num_sharing_layers=SHAPE.num_layers // 2)
    assert 2 * memory.cache_token(replace(STEP, shape=shape)) == memory.cache_token(STEP)


class TestPublished:
    def test_states_of_training_are_those_of_zero(self) -> None:
        """1.9 GB of 120 GB on each of 64 GPUs for 7.5 B parameters (ZeRO, arXiv 1910.02054, figure 1)."""
        shape = replace(SHAPE, num_parameters=7_500_000_000)
        parts = memory.updating(replace(STEP, shape=shape, num_trained=7_500_000_000, shards=64))
        assert sum(parts[name] for name in ("weights", "gradients", "optimizer")) == pytest.approx(1.9e9, rel=0.02)

    def test_keys_and_values_of_a_token_are_those_of_vllm(self) -> None:
        """800 KB a token of OPT-13B (PagedAttention, arXiv 2309.06180, section 3)."""
        shape = replace(SHAPE, num_layers=40, heads=40, key_heads=40, head_width=128)
        assert memory.cache_token(replace(STEP, shape=shape)) / 1024 == 800

    @pytest.mark.parametrize(
        ("kind", "sizes", "size"),
        [
            (DeepseekV3Config, {"num_hidden_layers": 61, "num_key_value_heads": 4}, 70_272),
            (Qwen3Config, {"num_hidden_layers": 80, "num_key_value_heads": 8, "head_dim": 128}, 327_680),
            (LlamaConfig, {"num_hidden_layers": 126, "num_key_value_heads": 8, "head_dim": 128}, 516_096),
        ],
        ids=["DeepSeek-V3", "Qwen2.5-72B", "Llama 3.1 405B"],
    )
    def test_what_a_server_keeps_of_a_token_is_what_deepseek_has_published(
        self, kind: type, sizes: dict[str, int], size: int
    ) -> None:
        """70.272, 327.68 and 516.096 KB (arXiv 2505.09343, table 1); a latent is copied to each GPU of a server."""
        few_experts = {"n_routed_experts": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1}
        with torch.device("meta"):
            shape = shape_of(model := model_of(kind, **sizes, **few_experts), model.config)
        on_one, on_four = (
            memory.cache_token(served(replace(STEP, shape=shape), tensor_parallel=num)) for num in (1, 4)
        )

        assert on_one == size
        assert on_four == (size if shape.latent else size / 4)

    @pytest.mark.parametrize(("billions", "num_gpus"), [(7.6, 2), (14.8, 4), (72.7, 32)])
    def test_the_fewest_gpus_of_a_model_are_those_that_verl_has_published(self, billions: float, num_gpus: int) -> None:
        """GRPO of Qwen2 on H800s with 80 GB: 7B on 2, 14B on 4, 70B on 32 (verl, docs/perf/device_tuning.rst)."""

        def fits(num: int) -> bool:
            size = int(billions * 1e9)
            shape = replace(SHAPE, num_parameters=size, num_block_parameters=size // 41, num_layers=40)
            cluster = Cluster(GPUS["H100"], max(num // 8, 1), min(num, 8))
            least = replace(STEP, shape=shape, num_trained=size, cluster=cluster, shards=num, micro_tokens=2048)
            parallel = min(num, 8) if billions > 20 else num
            least = replace(least, offloads_weights=True, offloads_optimizer=True)
            return not faults(served(least, tensor_parallel=parallel))

        assert fits(num_gpus)
        assert not fits(num_gpus // 2)


class TestRemedies:
    def test_nothing_is_to_be_changed_where_it_fits(self) -> None:
        assert not faults(STEP)
        assert remedies(STEP) == []

    def test_each_way_that_is_offered_is_enough(self) -> None:
        too_large = replace(STEP, checkpoints_activations=False, num_gradients=3)
        assert "while the policy is updated" in faults(too_large)[0]

        ways = remedies(too_large)
        settings = [way[-1].setting for way in ways]
        assert "actor_rollout_ref.model.enable_gradient_checkpointing=true" in settings
        assert "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=8192" in settings
        assert all(not faults(way[-1].workload) for way in ways)

    def test_a_server_without_room_gets_a_larger_share_or_more_gpus(self) -> None:
        no_room = served(STEP, memory_share=0.18)
        assert faults(no_room) == ["the weights do not fit into a server's share of 18%"]

        settings = [way[-1].setting for way in remedies(no_room)]
        assert "actor_rollout_ref.rollout.gpu_memory_utilization=0.8" in settings

    def test_several_settings_are_named_together_where_none_is_enough(self) -> None:
        poor = replace(
            served(STEP, memory_share=0.9),
            cluster=Cluster(GPUS["A100-40"], 1, 8),
            checkpoints_activations=False,
            micro_tokens=16_384,
        )
        [way] = remedies(poor)
        assert len(way) > 1
        assert not faults(way[-1].workload)

    def test_more_gpus_are_asked_for_at_last(self) -> None:
        huge = replace(SHAPE, num_parameters=70_000_000_000, num_block_parameters=850_000_000, num_layers=80)
        step = replace(STEP, shape=huge, num_trained=huge.num_parameters, num_gradients=3)
        assert any(way[-1].setting.startswith("--gpus ") for way in remedies(served(step, tensor_parallel=8)))

    def test_more_gpus_may_need_servers_of_several(self) -> None:
        """The weights of 7 B parameters do not fit into half of 24 GB: more of such GPUs alone are never enough."""
        step = replace(STEP, cluster=Cluster(GPUS["A10"], 1, 1), shards=1)
        [way] = remedies(step)

        assert re.fullmatch(r"--gpus \d+x8xA10 actor\S+\.tensor_model_parallel_size=2", way[-1].setting)
        assert not faults(way[-1].workload)


class TestClusters:
    def test_many_are_nodes_of_eight(self) -> None:
        assert read_cluster("8xH100") == Cluster(GPUS["H100"], 1, 8)
        assert str(read_cluster("64xh200")) == "8x8xH200"
        assert read_cluster("4x2xA100-40") == Cluster(GPUS["A100-40"], 4, 2)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("H100", "write "),
            ("8xH1000", "did you mean .H100"),
            ("12xH100", "multiple"),
            ("0xL4", "write"),
            ("8x8x8xH100", "write"),
        ],
    )
    def test_what_is_none_is_refused(self, text: str, said: str) -> None:
        with pytest.raises(CtwaError, match=said):
            read_cluster(text)


class TestCommand:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        config = LlamaConfig(
            **SMALL | {"hidden_size": 512, "intermediate_size": 2048, "architectures": ["LlamaForCausalLM"]}
        )
        config.save_pretrained(tmp_path)
        return tmp_path

    def plan(self, folder: Path, *arguments: str, task: str = "math500") -> Any:
        model = f"actor_rollout_ref.model.path={folder}"
        return CliRunner().invoke(app, ["plan", f"task={task}", model, *arguments])

    def test_it_tells_all_of_a_run_and_what_does_not_fit(self, folder: Path) -> None:
        fits = self.plan(folder, "--gpus", "2x4xA100", "method=mgda", "ctwa.gradients.gram=cross_fitted")
        assert fits.exit_code == 0, fits.output
        assert "update 1 forward and 4 backward" in fits.output
        assert "gradients (7 at once)" in fits.output  # of two halves for each of three objectives, and the KL penalty
        assert "GB into each node" in fits.output
        assert fits.output.rstrip().endswith("it fits")

        vast = "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=20000000"
        many = ("data.train_batch_size=65536", "actor_rollout_ref.actor.ppo_mini_batch_size=65536")
        fails = self.plan(folder, "--gpus", "1xL4", vast, *many)
        assert fails.exit_code == 1
        assert "it does not fit: while the policy is updated" in fails.output
        assert "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=" in fails.output.split("write", 1)[1]

    @pytest.fixture
    def task(self, folder: Path) -> Path:
        (folder / "task").mkdir()
        (folder / "task" / "model").symlink_to(folder)
        return folder / "task"

    @pytest.mark.parametrize(
        ("engine", "arguments", "said"),
        [
            ("cpu", [], "verdict      it fits"),
            ("one_gpu", [], "a plan is of a run on GPUs whose server is vLLM: write engine=gpu"),
            ("one_gpu", ["engine=gpu"], "verdict      it fits"),
        ],
    )
    def test_it_goes_by_the_folders_of_a_file(self, task: Path, engine: str, arguments: list[str], said: str) -> None:
        file = task / "mine.yaml"
        file.write_text(f"task: testbed\nengine: {engine}\nctwa: {{run: {task / 'run'}, task_dir: {task}}}\n")
        result = CliRunner().invoke(app, ["plan", "--gpus", "1xL4", str(file), *arguments])
        assert said in f"{result.output}{result.exception}"

    @pytest.mark.parametrize("targets", ["*_proj", "[none]", ".*none"])
    def test_an_adapter_of_no_matrix_is_refused(self, task: Path, targets: str) -> None:
        model = "actor_rollout_ref.model"
        adapter = [f"{model}.lora_rank=4", f"{model}.lora_alpha=8", f"{model}.target_modules='{targets}'"]
        place = [f"ctwa.task_dir={task}", f"{model}.path={task / 'model'}"]
        result = CliRunner().invoke(app, ["plan", "--gpus", "1xL4", "task=testbed", *place, *adapter])
        assert "is of no matrix of the model: write a list of the ends" in f"{result.output}{result.exception}"

    @pytest.mark.parametrize(
        ("engine", "said"),
        [
            ("gpu", "verdict      it fits"),
            ("cpu", "config.yaml is all of a run on another engine; give the settings"),
        ],
    )
    def test_a_whole_configuration_keeps_its_engine(self, task: Path, engine: str, said: str) -> None:
        config = compose_config([f"engine={engine}", f"ctwa.task_dir={task}", f"ctwa.run={task / 'run'}"])
        OmegaConf.save(config, task / "config.yaml")
        result = CliRunner().invoke(app, ["plan", "--gpus", "1xL4", str(task / "config.yaml")])
        assert said in f"{result.output}{result.exception}"

    def test_it_tells_of_a_training_on_pairs(self, folder: Path) -> None:
        own = ["--of", "prefer", "ctwa.max_length=1024", "--gpus", "1xL4"]
        fits = self.plan(folder, *own, "--response", "700", task="instructions")
        assert fits.exit_code == 0, fits.output
        assert "raco, dpo" in fits.output
        assert "8 pairs of two rows, of 700 tokens (at most 1024)" in fits.output
        assert "update 1 forward and 3 backward" in fits.output
        assert "gradients (3 at once)" in fits.output
        assert "its log-probabilities of all pairs, 1 forward" in fits.output
        assert "server" not in fits.output

        policies = "{brevity: org/brief, well_formed: org/well}"
        modpo = ["method=linear", f"ctwa.modpo={{objective: constraints, policies: {policies}}}"]
        many = ["data.train_batch_size=65536", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16384"]
        fixed = "actor_rollout_ref.actor.use_dynamic_bsz=false"
        fails = self.plan(folder, *own, *many, fixed, *modpo, task="instructions")
        assert fails.exit_code == 1, fails.output
        assert "brevity, well_formed: each up to" in fails.output
        # Neither offloading nor a server's share would help: there is no server.
        assert "use_dynamic_bsz=true actor_rollout_ref.actor.ppo_max_token_len_per_gpu=" in fails.output
        assert "offload" not in fails.output
        assert "gpu_memory_utilization" not in fails.output

    def test_it_tells_of_iterations_under_constraints(self, folder: Path) -> None:
        own = ["--of", "caid", "ctwa.caid.thresholds={brevity: 0.1}", "--gpus", "2xL4"]
        fits = self.plan(folder, *own, task="instructions")
        assert fits.exit_code == 0, fits.output
        assert "128 prompts x 16 completions = 2048, of 96 + 96 tokens (at most 96 + 96), of the ref" in fits.output
        assert "policies     at most 4, 32 steps each" in fits.output
        assert "h for the reference and 4 policies" in fits.output
        refused = self.plan(folder, *own, "data.train_batch_size=33", task="instructions")
        assert "33 pairs of a step do not divide over 2 ranks" in str(refused.exception)

    @pytest.mark.parametrize(
        ("command", "arguments", "said"),
        [
            ("caid", ["data.val_max_samples=1"], "data.val_max_samples=1: a slack has a standard error over prompts"),
            ("caid", ["data.val_max_samples=4", "data.train_batch_size=32"], "4 prompts with ctwa.pairs_per_prompt=4"),
            ("caid", ["data.val_max_samples=-1"], "a plan reads no data: write how many prompts are sampled"),
            ("caid", ["data.validation_share=0.1"], "data.validation_share: `ctwa caid` samples the prompts"),
            ("prefer", ["+ctwa.objectives.more.data=other.parquet", "data.train_batch_size=9"], "over 2 data sets"),
            ("prefer", ["ctwa.max_length=5000"], "less than ctwa.max_length = 5000"),
            ("train", ["data.max_response_length=5000"], "has places for "),
            ("train", ["method=mgda", "ctwa.gradients.last_layers=3"], "ctwa.gradients.last_layers=3, and the model"),
            ("train", ["method=gdpo", "algorithm.use_kl_in_reward=true"], "algorithm.use_kl_in_reward=true: gdpo "),
        ],
    )
    def test_it_refuses_what_a_run_is_refused_for_by_its_settings(
        self, folder: Path, command: str, arguments: list[str], said: str
    ) -> None:
        own = ["ctwa.caid.thresholds={brevity: 0.1}"] if command == "caid" else []
        budget = "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=20000"
        budgets = [budget, *(f"{budget.replace('actor.ppo', f'{each}.log_prob')}" for each in ("rollout", "ref"))]
        refused = self.plan(folder, "--of", command, *own, *budgets, *arguments, task="instructions")
        assert said in str(refused.exception)

    def test_it_wants_gpus_and_a_model_that_is_here(self, folder: Path) -> None:
        for arguments, said in (
            (["engine=cpu"], "a plan is of a run on GPUs"),
            (["engine=one_gpu"], "whose server is vLLM: write engine=gpu"),
            (["--response", "99999"], "--response 99999: write a number of tokens up to"),
            (["actor_rollout_ref.actor.ppo_max_token_len_per_gpu=64"], "less than the longest row"),
        ):
            refused = self.plan(folder, *arguments)
            assert isinstance(refused.exception, CtwaError), refused.output
            assert said in str(refused.exception)
        (folder / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))
        assert "no causal language model" in str(self.plan(folder).exception)
        assert "nothere is neither a folder nor among the downloads" in str(self.plan(Path("nothere")).exception)
