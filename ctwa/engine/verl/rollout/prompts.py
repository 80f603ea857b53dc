"""Prompts as tokens, and those that are too long for a run."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf
from verl.utils import normalize_token_ids

from ctwa.errors import CtwaError, one_line


class PromptTokens:
    """The tokens of prompts.

    Args:
        config: the resolved config.
        tokenizer: turns messages into tokens with its chat template.
        tools: as the chat template writes them into a prompt.
    """

    def __init__(self, config: DictConfig, tokenizer: Any, tools: list[dict[str, Any]] | None = None) -> None:
        self._limit = int(config.actor_rollout_ref.rollout.prompt_length)
        self._template_kwargs = OmegaConf.to_container(config.data.apply_chat_template_kwargs)
        self._tokenizer = tokenizer
        self._tools = tools or []

    def __call__(self, messages: Any, tool_selection: list[str] | None = None) -> list[int]:
        """The tokens of a prompt.

        Args:
            messages: of the prompt.
            tool_selection: the names of its tools; None for all.

        Raises:
            CtwaError: it is longer than ``data.max_prompt_length``, or the chat template refuses it.
        """
        tools = [
            tool for tool in self._tools if tool_selection is None or tool["function"]["name"] in tool_selection
        ] or None
        try:
            tokens = self._tokenizer.apply_chat_template(
                list(messages),
                tools=tools,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                **self._template_kwargs,
            )
        except Exception as error:  # a template raises what it likes
            raise CtwaError(
                f"the model's chat template cannot render a prompt ({one_line(error)}): write messages that it takes "
                f"({str(messages)[:80]}...)"
            ) from error
        found: list[int] = normalize_token_ids(tokens)
        if len(found) > self._limit:
            raise CtwaError(
                f"a prompt has {len(found)} tokens, data.max_prompt_length is {self._limit}: write a larger one, or "
                f"data.filter_overlong_prompts=true ({str(messages)[:80]}...)"
            )
        return found

    def check_whole(self, messages: Any, num_tokens: int, tool_selection: list[str] | None = None) -> None:
        """See that a prompt that was completed had its beginning: verl's agent loops cut off what exceeds the limit.

        Args:
            messages: of the prompt.
            num_tokens: that it had.
            tool_selection: the names of its tools; None for all.

        Raises:
            CtwaError: it had not.
        """
        if num_tokens >= self._limit:
            self(messages, tool_selection)
