"""The single-turn agent loop of verl with a sampling seed for each completion, for rollouts behind agent loops."""

from __future__ import annotations

from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

from ctwa.engine.verl.columns import SEED_COLUMN
from ctwa.models.seeds import completion_seed


class SeededSingleTurnAgentLoop(SingleTurnAgentLoop):
    """One prompt, one completion, drawn from a seed of its own."""

    def __init__(self, *args: Any, hf_model_type: str | None = None, processor: Any = None, **kwargs: Any) -> None:
        # verl picks the handling of turn boundaries by the model's architecture and then asks the tokenizer for that
        # family's tokens. A single turn of text has no boundary, so an architecture under another tokenizer is fine.
        family = hf_model_type if processor is not None else None
        super().__init__(*args, hf_model_type=family, processor=processor, **kwargs)

    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any) -> AgentLoopOutput:
        """Complete one prompt; ``kwargs`` are the columns of its row, the prompt's seed among them."""
        seed = completion_seed(kwargs[SEED_COLUMN], kwargs["session_id"])
        return await super().run(dict(sampling_params, seed=seed), priority=priority, **kwargs)
