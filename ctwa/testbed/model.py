"""The testbed's language model: a Qwen2 layout small enough to fine-tune on one CPU core."""

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from ctwa.testbed.tokenizer import BOS, EOS, MAX_LENGTH, PAD, VOCABULARY


def model_config() -> Qwen2Config:
    """Three layers of width 128 with grouped queries and tied embeddings: 599,424 parameters in fp32.

    Positions are rotary and cost no parameters; 4096 of them leave room for prompts far longer than the testbed's own.
    """
    return Qwen2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LENGTH,
        rope_theta=10_000.0,
        rms_norm_eps=1e-6,
        initializer_range=0.02,
        tie_word_embeddings=True,
        use_sliding_window=False,
        bos_token_id=VOCABULARY.index(BOS),
        eos_token_id=VOCABULARY.index(EOS),
        pad_token_id=VOCABULARY.index(PAD),
        dtype="float32",
    )


def build_model(seed: int) -> Qwen2ForCausalLM:
    """Build the model with weights drawn from ``seed``; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(model_config()).to(torch.float32)
