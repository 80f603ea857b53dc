"""verl's single-turn agent loop with a sampling seed for each completion.

The seed is made from the run's seed, the step, the prompt's place in the batch and the completion's index, so a
completion does not depend on the order in which requests reach a server, and a resumed run samples what the
uninterrupted one would have.
"""

from __future__ import annotations

import hashlib
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

from ctwa.engine.registry import TRANSFORMERS_ROLLOUT

SEED_FIELD = "sampling_seed"
WAVE_FIELD = "wave_size"


def completion_seed(prompt_seed: str, index: int) -> int:
    """A seed of 63 bits for one completion.

    Args:
        prompt_seed: what names the prompt within the run, e.g. ``"0/train/12/3"`` (run seed, split, step, prompt).
        index: which of the prompt's completions.
    """
    digest = hashlib.blake2b(f"{prompt_seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class SeededSingleTurnAgentLoop(SingleTurnAgentLoop):
    """One prompt, one completion, drawn from a seed of its own."""

    def __init__(self, *args: Any, hf_model_type: str | None = None, processor: Any = None, **kwargs: Any) -> None:
        # verl picks the handling of turn boundaries by the model's architecture and then asks the tokenizer for that
        # family's tokens. A single turn of text has no boundary, so an architecture under another tokenizer is fine.
        family = hf_model_type if processor is not None else None
        super().__init__(*args, hf_model_type=family, processor=processor, **kwargs)

    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any) -> AgentLoopOutput:
        """Complete one prompt; ``kwargs`` are the columns of its row, the seed and the wave's size among them."""
        sampling_params = dict(sampling_params, seed=completion_seed(kwargs[SEED_FIELD], kwargs["session_id"]))
        if self.rollout_config.name == TRANSFORMERS_ROLLOUT:
            sampling_params["wave_size"] = kwargs[WAVE_FIELD]
        return await super().run(sampling_params, priority=priority, **kwargs)
