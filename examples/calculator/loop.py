"""verl's loop of tools on the testbed, where a call is an equals sign: `3 + 4 =` is answered by `7`.

The testbed's model has never seen a call in JSON, and its 62 words could not write one. But it writes equations. So the
parser takes an equation for a call, the policy's turn ends at its equals sign, the calculator's digit stands behind it,
and the next turn goes on from there. The digit is in what the policy reads, and not in what it is trained on.
"""

from __future__ import annotations

import json
import re
from typing import Any

from verl.experimental.agent_loop.tool_parser import FunctionCall, ToolParser
from verl.utils.tokenizer.continuous_token import ContinuousTokenBuilder

from ctwa.engine.verl.agent_loop import SeededToolAgentLoop

CALL = re.compile(r"(\d(?: [-+*] \d)+) =$")


@ToolParser.register("equation")
class EquationParser(ToolParser):
    """Takes an equation that is still open for a call of the calculator."""

    @property
    def stop_token_ids(self) -> list[int]:
        """A turn ends at an equals sign."""
        return [self.tokenizer.convert_tokens_to_ids("=")]

    async def extract_tool_calls(
        self, responses_ids: list[int], tools: list[Any] | None = None
    ) -> tuple[str, list[FunctionCall]]:
        """The turn's text, and the call at its end; an equals sign without an expression before it is none."""
        del tools
        text: str = self.tokenizer.decode(responses_ids)
        found = CALL.search(text)
        call = found and FunctionCall(name="calculator", arguments=json.dumps({"expression": found[1]}))
        return text, [call] if call else []


class BareAnswers(ContinuousTokenBuilder):
    """A tool's answer stands behind the call as it is: the testbed's chat template has no words around it."""

    def tokenize_context_incremental_messages(
        self,
        previous_messages: list[dict[str, Any]],
        updated_messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
    ) -> list[int]:
        """The tokens of the messages that are new."""
        del tools
        new = updated_messages[len(previous_messages) :]
        return list(self.tokenizer.encode(" ".join(message["content"] for message in new), add_special_tokens=False))


class CalculatorLoop(SeededToolAgentLoop):
    """The loop: named in agent_loops.yaml."""

    def __init__(self, *args: Any, hf_model_type: str | None = None, **kwargs: Any) -> None:
        del hf_model_type  # the architecture is Qwen's, its words for the ends of turns are not the testbed's
        super().__init__(*args, **kwargs)
        self.continuous_token_builder = BareAnswers(self.tokenizer)
