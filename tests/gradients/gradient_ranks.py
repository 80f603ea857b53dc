"""A tiny model and three losses of it; run as a script, one of two ranks: gradient_ranks.py RANK FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, init_device_mesh
from transformers import Qwen2Config, Qwen2ForCausalLM

from ctwa.aggregators.mgda import MgdaConfig
from ctwa.aggregators.registry import build_aggregator
from ctwa.gradients.plan import solve_once
from ctwa.gradients.store import GradientStore

NUM_OBJECTIVES = 3
PREFERENCE = {"accuracy": 0.5, "clarity": 0.2, "conciseness": 0.3}


def small_model(*, lora: bool) -> nn.Module:
    torch.manual_seed(0)  # float64, so that a gradient that is not summed right cannot hide behind rounding
    config = Qwen2Config(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=11,
    )
    config._attn_implementation = "sdpa"
    model = Qwen2ForCausalLM(config).double()
    if lora:
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    return model


def losses_of(model: nn.Module, tokens_NT: Tensor) -> list[Tensor]:
    """Three losses that differ in the tokens they look at; sums, so that batches add up."""
    log_probs_NTV = model(input_ids=tokens_NT).logits.log_softmax(dim=-1)
    return [-log_probs_NTV[:, part::NUM_OBJECTIVES, 3 * part + 1].sum() for part in range(NUM_OBJECTIVES)]


def measure(model: nn.Module, batches: list[Tensor], scale: float) -> tuple[Tensor, dict[str, Tensor]]:
    """Accumulate over micro-batches; the Gram matrix, and the gradient that MGDA makes of it, by parameter."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    store = GradientStore(trained.values(), NUM_OBJECTIVES + 1)
    for tokens_NT in batches:
        losses = losses_of(model, tokens_NT)
        for index, loss in enumerate(losses):
            store.backward(index, loss * scale, retain_graph=index < NUM_OBJECTIVES - 1)
    gram_MM = store.gram(NUM_OBJECTIVES)
    weights_M = build_aggregator(MgdaConfig(), PREFERENCE).solve(gram_MM).weights_M
    store.combine([*weights_M.tolist(), 1.0])
    combined = {}
    for name, parameter in trained.items():
        gradient = parameter.grad
        if gradient is not None:
            combined[name] = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
    return gram_MM, combined


def measure_shards(folder: Path, rank: int, *, lora: bool) -> tuple:
    """This rank's half of the tokens, in two micro-batches."""
    model = small_model(lora=lora)
    mesh = init_device_mesh("cpu", (2,))
    for module in model.modules():
        if type(module).__name__ == "Qwen2DecoderLayer":
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    own_NT = torch.load(folder / "tokens.pt")[rank::2]
    # FSDP averages over ranks: twice the loss of each rank's half is the loss of the whole.
    gram_MM, combined = measure(model, list(own_NT.split(2)), scale=2.0)
    # A rank whose processor finds something else, here that the gradients are not finite.
    found_MM = gram_MM * (1.0 if rank == 0 else float("nan"))
    aggregator, solution, _ = solve_once(build_aggregator(MgdaConfig(), PREFERENCE), found_MM, None, learning_rate=0.1)
    return gram_MM, combined, (solution.weights_M, solution.skipped, aggregator.state_dict())


def main() -> None:
    """Measure with all weights trained and with an adapter, and save what came of it."""
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save({lora: measure_shards(folder, rank, lora=lora) for lora in (False, True)}, folder / f"rank{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
