"""How the passes of an update are said in a plan."""

from __future__ import annotations

from omegaconf import DictConfig


def passes_text(config: DictConfig, num_forward: int, num_backward: int) -> str:
    """What so many passes are, in words: with gradient checkpointing a backward pass goes forward again."""
    text = f"{num_forward} forward and {num_backward} backward"
    if not config.actor_rollout_ref.model.enable_gradient_checkpointing:
        return text
    return f"{text} (activations computed anew in each backward)"
