"""Generation through verl's agent loops: a conversation a completion, each of which ends when it will."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import transfer_queue as tq
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from ctwa.engine.verl.rollout.prompts import PromptTokens
from ctwa.engine.verl.rows import prompt_name
from ctwa.errors import CtwaError

SHARE = 0.1
"""Of the transfer queue's time, what looks for completions may take; the loops put theirs by the same one thread."""
SHORTEST = 0.02
"""Seconds between two looks."""


class AgentLoops:
    """verl's agent loops, watched.

    Args:
        manager: verl's manager of the loops.
        tokens: of a prompt, as the loops have them.
        poll_interval: seconds between two looks for completions, at the most.
    """

    columns = ("responses", "response_mask", "extra_fields")
    """Of a completion, what says which of it the policy wrote."""

    def __init__(self, manager: Any, tokens: PromptTokens, poll_interval: float) -> None:
        self._manager = manager
        self._tokens = tokens
        self._poll_interval = poll_interval

    def complete(self, batch: TensorDict) -> Iterator[list[str]]:
        """Complete a batch of prompts; the loops put the completions into the transfer queue.

        Yields:
            The keys of completions that are in the queue by now, a prompt's all at once; at every look, of none too.

        Raises:
            CtwaError: a prompt is longer than ``data.max_prompt_length``.
        """
        partition = "val" if tu.get_non_tensor_data(batch, "validate", default=False) else "train"
        infos = batch["extra_info"] if "extra_info" in batch else [None] * len(batch)
        prompts = dict(zip(batch["uid"], zip(batch["raw_prompt"], infos, strict=True), strict=True))
        unfinished, too_long = set(prompts), None
        self._manager.generate_sequences(batch)
        looked = 0.0
        while unfinished:
            time.sleep(self._pause(looked))
            began = time.monotonic()
            tags = tq.kv_list(partition)[partition]
            looked = time.monotonic() - began
            ended = {name for name in unfinished if tags[name]["status"] in ("finished", "failure")}
            unfinished -= ended
            keys = [key for key, tag in tags.items() if not tag.get("is_prompt") and prompt_name(key) in ended]
            yield keys
            for key in keys:
                messages, info = prompts[prompt_name(key)]
                selected = info.get("tool_selection") if isinstance(info, Mapping) else None
                try:
                    self._tokens.check_whole(messages, tags[key]["prompt_len"], selected)
                except CtwaError as error:  # raised when nothing is under way any more
                    too_long = too_long or error
        if too_long is not None:
            raise too_long

    def _pause(self, looked: float) -> float:
        """Seconds until the next look, where the last one took ``looked``: what it took then lacked the loops."""
        return min(self._poll_interval, max(SHORTEST, looked / SHARE))
