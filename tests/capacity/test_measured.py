"""Memory and shapes, measured on models that compute here, and checkpoints that runs have saved."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, Qwen3Config

from ctwa.capacity import memory
from ctwa.capacity.shape import ModelShape, read_shape, shape_of
from ctwa.errors import CtwaError
from ctwa.gradients.store import GradientStore
from ctwa.preference.losses import PairLogProbs, SimpoLoss, objective_losses
from tests.capacity.workloads import SHAPE, SMALL, STEP, model_of, on_one_rank


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

    @pytest.mark.parametrize(
        ("targets", "excluded"),
        [
            ("all-linear", []),
            (["c_attn"], []),
            (["attn"], []),
            (r".*\.1\.mlp\.c_.*", []),
            ("all-linear", ["c_attn", "mlp.c_proj"]),
            ("all-linear", r".*\.1\..*"),
        ],
    )
    def test_an_adapter_is_counted_where_peft_puts_one(
        self, targets: str | list[str], excluded: str | list[str]
    ) -> None:
        """GPT-2's matrices are of a class of their own, and the end of a name is a whole part of it."""
        from peft import LoraConfig, get_peft_model
        from transformers import GPT2Config, GPT2LMHeadModel

        model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=64))
        shape = shape_of(model, model.config)
        trained = 0
        if targets != ["attn"]:
            adapted = get_peft_model(
                model, LoraConfig(r=4, target_modules=targets, exclude_modules=excluded or None, fan_in_fan_out=True)
            )
            trained = sum(each.numel() for each in adapted.parameters() if each.requires_grad)

        assert shape.adapter_parameters(4, targets, excluded) == trained

    def test_a_model_that_sees_images_is_counted_as_it_is_trained(self, tmp_path: Path) -> None:
        """Of the class that a run loads it with; its text's blocks are the largest, and the images' are others."""
        from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

        text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        text |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512}
        vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
        config = Qwen3VLConfig(text_config=text, vision_config=vision | {"deepstack_visual_indexes": [1]})
        model = Qwen3VLForConditionalGeneration(config)
        config.architectures = ["Qwen3VLForConditionalGeneration"]
        config.save_pretrained(tmp_path)

        shape = read_shape(tmp_path)

        assert shape.num_parameters == sum(each.numel() for each in model.parameters())
        block = sum(each.numel() for each in model.model.language_model.layers[0].parameters())
        assert (shape.num_layers, shape.num_block_parameters) == (2, block)

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
