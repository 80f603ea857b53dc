"""An untrained model made on the spot, and its completions."""

from __future__ import annotations

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from ctwa.models.decoding import Generated, Sampling, generate_batch

VOCABULARY, EOS, PAD = 23, 1, 0
PROMPTS = [[2, 5, 7], [2, 9], [2, 5, 7, 11, 3], [2, 4], [2, 13, 6], [2, 8, 8]]
SEEDS = [101, 102, 103, 104, 105, 106]
SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=-1, max_tokens=12)


def build(seed: int = 0, *, tied: bool = True) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.3,  # far from uniform, so that a wrong distribution shows
        tie_word_embeddings=tied,
        bos_token_id=2,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config).eval()


def generate(
    model: Qwen2ForCausalLM,
    prompts: list[list[int]] = PROMPTS,
    seeds: list[int] = SEEDS,
    *,
    eos_ids: frozenset[int] = frozenset({EOS}),
    **sampling: float,
) -> list[Generated]:
    settings = Sampling(**{**vars(SAMPLING), **sampling})
    return generate_batch(model, prompts, settings, seeds, set(eos_ids), PAD)
