"""verl's agent loops, which decode what they have completed; and with a sampling seed for each completion."""

from __future__ import annotations

from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.experimental.agent_loop.tool_agent_loop import AgentData, AgentState, ToolAgentLoop

from ctwa.engine.verl.columns import SEED_COLUMN
from ctwa.engine.verl.turns import MESSAGES, RESPONSE
from ctwa.models.seeds import completion_seed


class DecodedSingleTurnAgentLoop(SingleTurnAgentLoop):
    """One prompt, one completion, whose text is decoded here, in as many processes as there are loops.

    The driver would decode one completion after another.
    """

    def __init__(self, *args: Any, hf_model_type: str | None = None, processor: Any = None, **kwargs: Any) -> None:
        # verl picks the handling of turn boundaries by the model's architecture and then asks the tokenizer for that
        # family's tokens. A single turn of text has no boundary, so an architecture under another tokenizer is fine.
        family = hf_model_type if processor is not None else None
        super().__init__(*args, hf_model_type=family, processor=processor, **kwargs)

    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any) -> AgentLoopOutput:
        """Complete one prompt; ``kwargs`` are the columns of its row."""
        output = await super().run(sampling_params, priority=priority, **kwargs)
        output.extra_fields[RESPONSE] = self.tokenizer.decode(output.response_ids, skip_special_tokens=True)
        return output


class SeededSingleTurnAgentLoop(DecodedSingleTurnAgentLoop):
    """The same, drawn from a seed of its own."""

    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any) -> AgentLoopOutput:
        """Complete one prompt; ``kwargs`` are the columns of its row, the prompt's seed among them."""
        seed = completion_seed(kwargs[SEED_COLUMN], kwargs["session_id"])
        return await super().run(dict(sampling_params, seed=seed), priority=priority, **kwargs)


class SeededToolAgentLoop(ToolAgentLoop):
    """One prompt, turns with tools, each turn drawn from a seed of its own; the output has the messages, too.

    verl makes a loop for each completion.
    """

    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any) -> AgentLoopOutput:
        """Complete one prompt; ``kwargs`` are the columns of its row, the prompt's seed among them."""
        self._seed = completion_seed(kwargs[SEED_COLUMN], kwargs["session_id"])
        self._messages: list[dict[str, Any]] = []
        output = await super().run(sampling_params, priority=priority, **kwargs)
        output.extra_fields[MESSAGES] = self._messages
        return output

    async def _handle_generating_state(
        self, agent_data: AgentData, sampling_params: dict[str, Any], ignore_termination: bool = False
    ) -> AgentState:
        own = {
            "seed": completion_seed(str(self._seed), agent_data.assistant_turns),
            # verl cuts what exceeds the response's length, and would leave messages that the policy never ended.
            "max_tokens": self.response_length - len(agent_data.response_mask),
        }
        state = await super()._handle_generating_state(agent_data, sampling_params | own, ignore_termination)
        content = self.tokenizer.decode(agent_data.response_ids, skip_special_tokens=True)
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if state is AgentState.PROCESSING_TOOLS:
            message["tool_calls"] = agent_data.messages[-1]["tool_calls"]
        self._messages.append(message)
        return state

    async def _handle_processing_tools_state(self, agent_data: AgentData) -> AgentState:
        num_before = len(agent_data.messages)
        state = await super()._handle_processing_tools_state(agent_data)
        if state is AgentState.GENERATING:  # else there was no room, and the policy was not told
            self._messages += agent_data.messages[num_before:]
        return state
